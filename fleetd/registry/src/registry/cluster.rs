//! What concerns the cluster as a whole: making it, trusting its store, holding it, adopting it, releasing the brake.

use fleet_core::records::{
    BrakeRecord, BrakeState, ClusterRecord, EventNote, HoldRecord, ImportRecord, MachineRecord, Stamp,
    Versioned, WitnessRecord,
};
use fleet_core::store_trust::StoreView;
use fleet_core::{Epoch, MachineId, Revision};

use super::batch::Asked;
use super::{ATTEMPTS, ClusterFence, Registry, RegistryError, entry, typed};
use crate::codec::{CodecError, Undecodable, encode};
use crate::keys::Key;
use crate::store::{Compare, Op, Range, Select, Txn};

/// One linearizable read of what a machine needs to trust the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustView {
    pub revision: Revision,
    pub cluster: Option<Versioned<ClusterRecord>>,
    /// Also present when the hold in the registry cannot be read.
    pub hold: Option<Versioned<HoldRecord>>,
    pub witness: Option<Versioned<WitnessRecord>>,
    pub machine: Option<Versioned<MachineRecord>>,
}

impl TrustView {
    /// For [`judge`](fleet_core::store_trust::judge).
    #[must_use]
    pub fn view(&self) -> StoreView<'_> {
        StoreView {
            cluster: self.cluster.as_ref().map(|c| &c.value),
            hold: self.hold.as_ref().map(|h| &h.value),
            witness: self.witness.as_ref().map(|w| &w.value),
            is_forgotten: self.machine.as_ref().is_some_and(|m| m.value.forgotten.is_some()),
            revision: self.revision,
        }
    }

    /// What writes compare; `None` without a cluster record or under a hold.
    #[must_use]
    pub fn fence(&self) -> Option<ClusterFence> {
        let cluster = self.cluster.as_ref().filter(|_| self.hold.is_none())?;
        Some(ClusterFence { cluster: cluster.modified })
    }
}

/// How making a cluster ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    Done(Revision),
    /// Another machine was first.
    Exists(Box<Versioned<ClusterRecord>>),
    /// A document is being imported, or was when that broke off.
    Importing(Box<ImportRecord>),
    /// The prefix holds something, but no cluster: not ours to fill. Names one of the keys.
    NotEmpty {
        keys: u64,
        sample: String,
    },
}

/// How a hold was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Done(Revision),
    /// Somebody found it first.
    Already(Box<Versioned<HoldRecord>>),
    /// The store's `cluster` record is not the one that was judged: judge again.
    Fenced,
}

/// How an adoption ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    Done {
        epoch: Epoch,
        revision: Revision,
    },
    /// There is no hold: nothing to adopt.
    NotHeld,
    /// There is no cluster in this store: restore a backup.
    NoCluster,
}

/// How releasing the brake ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumed {
    Done(Revision),
    /// It had been released before.
    Already,
    /// There is no brake.
    NotBraked,
}

impl Registry {
    /// Creates the cluster in an empty prefix. Idempotent for the same record: a repetition after an unknown outcome
    /// finds its own.
    ///
    /// # Errors
    /// `Store`; `Codec` if a cluster exists that cannot be read.
    pub async fn create_cluster(&self, record: &ClusterRecord) -> Result<Created, RegistryError> {
        const DOING: &str = "creating the cluster";
        let cluster = self.key(&Key::Cluster);
        let found: Option<Versioned<ClusterRecord>> = self.read_record(DOING, &Key::Cluster).await?;
        if let Some(found) = found {
            return Ok(exists(record, found));
        }
        let any = self.range(DOING, Range::new(self.keys.whole()).limit(1).select(Select::KeysOnly)).await?;
        if let Some(kv) = any.kvs.first() {
            match self.read_record::<ImportRecord>(DOING, &Key::Import).await {
                Ok(Some(by)) => return Ok(Created::Importing(Box::new(by.value))),
                // One that cannot be read is something else that is there.
                Ok(None) | Err(RegistryError::Codec { .. }) => {}
                Err(error) => return Err(error),
            }
            let sample = String::from_utf8_lossy(&kv.key).into_owned();
            return Ok(Created::NotEmpty { keys: any.count, sample });
        }
        // Whoever writes anything else first compares the cluster record, or the claim of an import, so that their
        // absence is enough.
        let compares = vec![Compare::absent(cluster.clone()), Compare::absent(self.key(&Key::Import))];
        let txn = Txn::of(vec![Op::put(cluster.clone(), encode(record))])
            .when(compares)
            .otherwise(vec![Op::range(Range::key(cluster))]);
        let reply = self.txn(DOING, txn).await?;
        if reply.succeeded {
            return Ok(Created::Done(typed(reply.header.revision)));
        }
        let kv = super::snapshot::values(&reply.replies).next();
        match self.decoded(DOING, &Key::Cluster, kv)? {
            Some(found) => Ok(exists(record, found)),
            None => Err(RegistryError::Contended { doing: DOING, key: Key::Cluster, attempts: 1 }),
        }
    }

    /// Reads what [`judge`](fleet_core::store_trust::judge) needs, in one linearizable transaction.
    ///
    /// # Errors
    /// `Store`; `Codec` if the cluster's or the witness's record cannot be read: then the store is not to be judged,
    /// and nothing may be applied or written.
    pub async fn read_trust_view(&self, machine: &MachineId) -> Result<TrustView, RegistryError> {
        const DOING: &str = "reading what this store is";
        let keys = [Key::Cluster, Key::Hold, Key::Witness(machine.clone()), Key::Machine(machine.clone())];
        let (header, found) = self.look(DOING, &keys).await?;
        let at = |index: usize| found.get(index).and_then(Option::as_ref);
        let hold = match self.decoded(DOING, &Key::Hold, at(1)) {
            Err(RegistryError::Codec { error, .. }) => Some(unreadable_hold(error, at(1))),
            other => other?,
        };
        Ok(TrustView {
            revision: typed(header.revision),
            cluster: self.decoded(DOING, &keys[0], at(0))?,
            hold,
            witness: self.decoded(DOING, &keys[2], at(2))?,
            // Whether it was forgotten is not known then; the witness decides.
            machine: self.decoded(DOING, &keys[3], at(3)).ok().flatten(),
        })
    }

    /// Says to everybody that the store was rolled back. `cluster` is the modification revision of the record that was
    /// judged. Idempotent.
    ///
    /// # Errors
    /// `Store`.
    pub async fn put_hold(&self, record: &HoldRecord, cluster: Revision) -> Result<Held, RegistryError> {
        const DOING: &str = "putting the hold";
        let hold = self.key(&Key::Hold);
        let compares = vec![Compare::absent(hold.clone()), self.compare_modified(&Key::Cluster, cluster)];
        let txn = Txn::of(vec![Op::put(hold.clone(), encode(record))])
            .when(compares)
            .otherwise(vec![Op::range(Range::key(hold))]);
        let reply = self.txn(DOING, txn).await?;
        if reply.succeeded {
            return Ok(Held::Done(typed(reply.header.revision)));
        }
        let kv = super::snapshot::values(&reply.replies).next();
        match self.decoded(DOING, &Key::Hold, kv) {
            Ok(None) => Ok(Held::Fenced),
            Ok(Some(found)) => Ok(Held::Already(Box::new(found))),
            Err(RegistryError::Codec { error, .. }) => {
                Ok(Held::Already(Box::new(unreadable_hold(error, kv))))
            }
            Err(error) => Err(error),
        }
    }

    /// Re-anchors the cluster on what its store holds now: raises the epoch above the store's and above `seen` (the
    /// highest that the asking machine knows), and deletes the hold. After an unknown outcome a repetition says
    /// `NotHeld` if it was applied.
    ///
    /// # Errors
    /// `Store`; `Codec` if the cluster record cannot be read; `Contended`.
    pub async fn adopt(&self, seen: Epoch, asked: &Asked) -> Result<Adopted, RegistryError> {
        const DOING: &str = "adopting the cluster";
        for _ in 0..ATTEMPTS {
            let (_, found) = self.look(DOING, &[Key::Cluster, Key::Hold]).await?;
            let cluster: Option<Versioned<ClusterRecord>> =
                self.decoded(DOING, &Key::Cluster, found.first().and_then(Option::as_ref))?;
            let Some(cluster) = cluster else { return Ok(Adopted::NoCluster) };
            let Some(hold) = found.get(1).and_then(Option::as_ref) else { return Ok(Adopted::NotHeld) };
            let mut record = cluster.value;
            record.epoch = Epoch(record.epoch.max(seen).0 + 1);
            let mut ops =
                vec![Op::put(self.key(&Key::Cluster), encode(&record)), Op::delete(self.key(&Key::Hold))];
            let why = format!("the store is taken as it is, epoch {}", record.epoch);
            ops.extend(self.log(asked, vec![note("cluster-adopted", why)]));
            let compares = vec![
                self.compare_modified(&Key::Cluster, cluster.modified),
                self.compare_modified(&Key::Hold, typed(hold.mod_revision)),
            ];
            let reply = self.txn(DOING, Txn::of(ops).when(compares)).await?;
            if reply.succeeded {
                return Ok(Adopted::Done { epoch: record.epoch, revision: typed(reply.header.revision) });
            }
        }
        Err(RegistryError::Contended { doing: DOING, key: Key::Cluster, attempts: ATTEMPTS })
    }

    /// The operator's word that what the brake holds back shall go on. Idempotent.
    ///
    /// # Errors
    /// `Store`; `Codec` if the brake cannot be read; `Contended`.
    pub async fn resume_brake(&self, stamp: &Stamp, asked: &Asked) -> Result<Resumed, RegistryError> {
        const DOING: &str = "releasing the brake";
        for _ in 0..ATTEMPTS {
            let found: Option<Versioned<BrakeRecord>> = self.read_record(DOING, &Key::Brake).await?;
            let Some(brake) = found else { return Ok(Resumed::NotBraked) };
            if brake.value.state == BrakeState::Released {
                return Ok(Resumed::Already);
            }
            let record =
                BrakeRecord { state: BrakeState::Released, released: Some(stamp.clone()), ..brake.value };
            let mut ops = vec![Op::put(self.key(&Key::Brake), encode(&record))];
            ops.extend(self.log(asked, vec![note("brake-released", stamp.why.clone())]));
            let compares = vec![self.compare_modified(&Key::Brake, brake.modified)];
            let reply = self.txn(DOING, Txn::of(ops).when(compares)).await?;
            if reply.succeeded {
                return Ok(Resumed::Done(typed(reply.header.revision)));
            }
        }
        Err(RegistryError::Contended { doing: DOING, key: Key::Brake, attempts: ATTEMPTS })
    }
}

fn exists(asked: &ClusterRecord, found: Versioned<ClusterRecord>) -> Created {
    if found.value.id == asked.id { Created::Done(found.modified) } else { Created::Exists(Box::new(found)) }
}

fn note(kind: &str, why: String) -> EventNote {
    EventNote { kind: kind.to_owned(), unit: None, machine: None, why }
}

fn unreadable_hold(error: CodecError, kv: Option<&crate::store::KeyValue>) -> Versioned<HoldRecord> {
    let modified = kv.map_or(Revision(0), |kv| typed(kv.mod_revision));
    entry::unreadable_hold(&Undecodable { key: Key::Hold, modified, error })
}
