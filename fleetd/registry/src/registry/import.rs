//! A registry made from a document: how a cluster moves from one store to another. Machines go on without a restart of
//! any unit, because records and orders arrive as they were; the higher epoch makes each of them anchor anew.
//!
//! Called by the API and by the shell's `join`. An import claims the store before it writes anything else, and compares
//! that claim in every transaction: two of them never mix, and no cluster is created around half of one. A claim takes
//! the place of a cluster that holds nothing but the machine that imports: fleetd makes one as soon as it can, also on a
//! machine whose backup is about to be put back.

use bytes::Bytes;
use fleet_core::records::{
    ClusterRecord, Extra, ImportRecord, MachineRecord, SCHEMA, Stamp, UnitRecord, Versioned,
};
use fleet_core::{ClusterId, Epoch, MachineId, Revision, Timestamp};

use super::batch::Asked;
use super::document::{Export, is_exported};
use super::export::{batches, contended, next, note, portable};
use super::{Registry, RegistryError, typed};
use crate::codec::{decode, encode};
use crate::keys::Key;
use crate::store::{Compare, KeyValue, Op, Select, Txn};

const DOING: &str = "importing the cluster";

/// Who imports.
#[derive(Clone, Debug)]
pub struct Importer<'a> {
    pub machine: &'a MachineId,
    /// The cluster that the machine's disk says it belongs to, and its epoch there.
    pub member: Option<(ClusterId, Epoch)>,
    pub asked: &'a Asked,
}

/// How an import ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    Done {
        epoch: Epoch,
        revision: Revision,
    },
    /// The registry has a cluster already, with something in it.
    Exists {
        found: ClusterId,
    },
    /// The registry holds something that is not of this document. Names one of the keys.
    NotEmpty {
        sample: String,
    },
    /// Another document is being imported, or was when that broke off: of another cluster, or of this one at another
    /// time. Nothing of this document was written.
    Underway {
        by: Box<ImportRecord>,
        /// A key which that import has written and this document has not, if both are of one cluster.
        sample: Option<String>,
    },
    /// The machine that imports belongs to another cluster than the document's, and not to one that is given up for it.
    OtherMember {
        cluster: ClusterId,
    },
}

/// That this import, and no other, fills the store.
#[derive(Clone, Debug)]
pub struct Claim {
    begun: Stamp,
    compares: Vec<Compare>,
    /// The importing machine belongs to the cluster that the document's takes the place of: it has to belong to this one
    /// before the import ends, or it stands before a foreign store. Below the epoch that the import gives it, so that the
    /// machine anchors anew, and a repetition comes to the same.
    pub belongs: Option<(ClusterId, Epoch)>,
}

/// Whether an import may go on.
#[derive(Clone, Debug)]
pub enum Begun {
    Claimed(Claim),
    /// What is there is as it was.
    Refused(Imported),
}

/// What may be in a store beside the claim.
#[derive(Clone, Copy, Debug)]
enum Beside {
    /// What earlier attempts of this import have written.
    Attempts,
    /// What the importing machine has made of an empty store: a cluster of its own.
    Machine,
    Both,
}

impl Beside {
    fn claim(replaces: bool) -> Beside {
        if replaces { Beside::Both } else { Beside::Attempts }
    }
}

/// A store as an import finds it.
struct Found {
    cluster: Option<Versioned<ClusterRecord>>,
    before: Option<Versioned<ImportRecord>>,
}

impl Registry {
    /// Makes the cluster of a document in a registry that has none, or none with anything in it; under an epoch above
    /// the document's and the importing machine's. Nobody acts on any of it before the last transaction, which writes
    /// the cluster record. What an earlier attempt left is written over; should that attempt still be under way, it ends
    /// without another write.
    ///
    /// # Errors
    /// `Store`; `Codec`; `Contended`: another import of the same cluster, or whoever made a cluster, was faster.
    /// Repeat the call; nothing that it wrote is in the way.
    pub async fn import(&self, export: &Export, by: &Importer<'_>) -> Result<Imported, RegistryError> {
        match self.begin_import(export, by).await? {
            Begun::Claimed(claim) => self.finish_import(export, claim, by).await,
            Begun::Refused(refused) => Ok(refused),
        }
    }

    /// Why an import would be refused now; `None`: it would not. Writes nothing.
    ///
    /// # Errors
    /// `Store`; `Codec`.
    pub async fn refuses_import(
        &self,
        export: &Export,
        by: &Importer<'_>,
    ) -> Result<Option<Imported>, RegistryError> {
        let found = self.before_import().await?;
        self.refusal(export, by, &found).await
    }

    /// The first half of an import: the store is this one's to fill. Repeat it, if the import broke off.
    ///
    /// # Errors
    /// As [`Registry::import`].
    pub async fn begin_import(&self, export: &Export, by: &Importer<'_>) -> Result<Begun, RegistryError> {
        let found = self.before_import().await?;
        // An earlier claim that replaced a cluster is never undone here: half an import may stand behind it, and whoever
        // made that cluster would take its units for their own.
        if let Some(refused) = self.refusal(export, by, &found).await? {
            return Ok(Begun::Refused(refused));
        }
        let Found { cluster, before } = found;
        // Claimed as it was found: what came up since then was written by whoever has the claim now, or is a cluster.
        let at = |modified: Option<Revision>| modified.unwrap_or(Revision(0));
        let compares = vec![
            self.compare_modified(&Key::Cluster, at(cluster.as_ref().map(|cluster| cluster.modified))),
            self.compare_modified(&Key::Import, at(before.as_ref().map(|before| before.modified))),
        ];
        let begun = Stamp { at: by.asked.at, by: by.asked.by.clone(), why: "imported".to_owned() };
        let is_replaced_now = cluster.is_some();
        let replaces = match cluster {
            Some(cluster) => Some(Box::new(cluster.value)),
            None => before.as_ref().and_then(|before| before.value.replaces.clone()),
        };
        let record = ImportRecord {
            v: SCHEMA,
            cluster: export.cluster.id.clone(),
            begun: begun.clone(),
            replaces: replaces.clone(),
            extra: Extra::new(),
        };
        // Without its record nobody writes into a cluster any more.
        let ops = vec![Op::put(self.key(&Key::Import), encode(&record)), Op::delete(self.key(&Key::Cluster))];
        let claimed = self.txn(DOING, Txn::of(ops).when(compares)).await?;
        if !claimed.succeeded {
            return Err(contended(DOING, 1));
        }
        let compares = vec![
            Compare::absent(self.key(&Key::Cluster)),
            Compare::mod_revision(self.key(&Key::Import), claimed.header.revision),
        ];
        if let Some(old) = replaces.as_ref().filter(|_| is_replaced_now) {
            if self.foreign_key(export, by.machine, Beside::Machine).await?.is_some() {
                return Ok(Begun::Refused(self.give_back(old, compares).await?));
            }
        } else if let Some(before) = before {
            // Who had the claim before may have written until it was taken. The cluster that was replaced does not come
            // back around half an import.
            let beside = Beside::claim(replaces.is_some());
            if let Some(sample) = self.foreign_key(export, by.machine, beside).await? {
                // In the name of whose half it is, who is to repeat it. That one is fenced all the same: the key changed.
                let put = vec![Op::put(self.key(&Key::Import), encode(&before.value))];
                self.txn(DOING, Txn::of(put).when(compares)).await?;
                return Ok(Begun::Refused(self.in_the_way(Some(&before.value), sample)));
            }
        }
        let is_of_another = by.member.as_ref().is_some_and(|(id, _)| *id != export.cluster.id);
        let below = Epoch(by.epoch_of(export).0 - 1);
        let belongs = is_of_another.then(|| (export.cluster.id.clone(), below));
        Ok(Begun::Claimed(Claim { begun, compares, belongs }))
    }

    /// The second half of an import.
    ///
    /// # Errors
    /// As [`Registry::import`].
    pub async fn finish_import(
        &self,
        export: &Export,
        claim: Claim,
        by: &Importer<'_>,
    ) -> Result<Imported, RegistryError> {
        let puts = export.entries.iter();
        let puts = puts.map(|(key, value)| Op::put(self.key(key), imported(key, value, &claim.begun)));
        for batch in batches(puts.map(|op| vec![op]).collect()) {
            let reply = self.txn(DOING, Txn::of(batch).when(claim.compares.clone())).await?;
            if !reply.succeeded {
                return Err(contended(DOING, 1));
            }
        }
        let record = ClusterRecord { epoch: by.epoch_of(export), ..export.cluster.clone() };
        let mut ops = vec![
            Op::put(self.key(&Key::Cluster), encode(&record)),
            Op::delete(self.key(&Key::Import)),
            // What a replaced cluster held back is no word on this one's.
            Op::delete(self.key(&Key::Brake)),
        ];
        let why = format!("from an export of epoch {}, now epoch {}", export.cluster.epoch, record.epoch);
        ops.extend(self.log(by.asked, vec![note("cluster-imported", why)]));
        let reply = self.txn(DOING, Txn::of(ops).when(claim.compares)).await?;
        if !reply.succeeded {
            return Err(contended(DOING, 1));
        }
        Ok(Imported::Done { epoch: record.epoch, revision: typed(reply.header.revision) })
    }

    async fn before_import(&self) -> Result<Found, RegistryError> {
        let (_, found) = self.look(DOING, &[Key::Cluster, Key::Import]).await?;
        let at = |index: usize| found.get(index).and_then(Option::as_ref);
        Ok(Found {
            cluster: self.decoded(DOING, &Key::Cluster, at(0))?,
            before: self.decoded(DOING, &Key::Import, at(1))?,
        })
    }

    async fn refusal(
        &self,
        export: &Export,
        by: &Importer<'_>,
        found: &Found,
    ) -> Result<Option<Imported>, RegistryError> {
        let before = found.before.as_ref().map(|before| &before.value);
        if let Some(other) = before.filter(|before| before.cluster != export.cluster.id) {
            return Ok(Some(Imported::Underway { by: Box::new(other.clone()), sample: None }));
        }
        let there = found.cluster.as_ref().map(|cluster| &cluster.value);
        let replaced = there.or_else(|| before.and_then(|before| before.replaces.as_deref()));
        let is_given_up = |id: &ClusterId| replaced.is_some_and(|replaced| replaced.id == *id);
        let other = by.member.as_ref().map(|(id, _)| id).filter(|id| **id != export.cluster.id);
        if let Some(other) = other.filter(|other| !is_given_up(other)) {
            return Ok(Some(Imported::OtherMember { cluster: other.clone() }));
        }
        let beside = match (there, replaced) {
            (Some(_), _) => Beside::Machine,
            (None, replaced) => Beside::claim(replaced.is_some()),
        };
        let foreign = self.foreign_key(export, by.machine, beside).await?;
        Ok(match (there, foreign) {
            (Some(there), Some(_)) => Some(Imported::Exists { found: there.id.clone() }),
            // It was imported before, without units.
            (Some(there), None) if there.id == export.cluster.id => {
                Some(Imported::Exists { found: there.id.clone() })
            }
            (None, Some(sample)) => Some(self.in_the_way(before, sample)),
            (_, None) => None,
        })
    }

    /// Of a store without a cluster. Beside a claim nobody writes but who has it: what an export may hold is that one's.
    fn in_the_way(&self, before: Option<&ImportRecord>, sample: String) -> Imported {
        let is_of_an_export = self.keys.parse(sample.as_bytes()).is_some_and(|key| is_exported(&key));
        match before.filter(|_| is_of_an_export) {
            Some(by) => Imported::Underway { by: Box::new(by.clone()), sample: Some(sample) },
            None => Imported::NotEmpty { sample },
        }
    }

    /// A key that is there and in the way.
    async fn foreign_key(
        &self,
        export: &Export,
        machine: &MachineId,
        beside: Beside,
    ) -> Result<Option<String>, RegistryError> {
        let (_, there) = self.list(DOING, &[self.keys.whole()], Select::KeysOnly).await?;
        let is_of_machine = |key: &Key| match key {
            Key::Cluster | Key::Leader | Key::Brake | Key::Event(_) | Key::Content(_) => true,
            Key::Machine(id)
            | Key::Presence(id)
            | Key::Lost(id)
            | Key::Witness(id)
            // What runs there without an order.
            | Key::State(id, _) => id == machine,
            _ => false,
        };
        let is_foreign = |kv: &&KeyValue| {
            let Some(key) = self.keys.parse(&kv.key) else { return true };
            let is_expected = match beside {
                Beside::Attempts => export.entries.contains_key(&key),
                Beside::Machine => is_of_machine(&key),
                Beside::Both => export.entries.contains_key(&key) || is_of_machine(&key),
            };
            key != Key::Import && !is_expected
        };
        let other = there.iter().find(is_foreign);
        Ok(other.map(|kv| String::from_utf8_lossy(&kv.key).into_owned()))
    }

    /// Somebody was faster: the cluster that was to be replaced has something in it, and stays.
    async fn give_back(
        &self,
        old: &ClusterRecord,
        compares: Vec<Compare>,
    ) -> Result<Imported, RegistryError> {
        let ops = vec![Op::put(self.key(&Key::Cluster), encode(old)), Op::delete(self.key(&Key::Import))];
        self.txn(DOING, Txn::of(ops).when(compares)).await?;
        Ok(Imported::Exists { found: old.id.clone() })
    }
}

impl Importer<'_> {
    /// Above every order that a machine of the document's cluster, or the importing one, may have.
    #[must_use]
    pub fn epoch_of(&self, export: &Export) -> Epoch {
        let seen = self.member.as_ref().map_or(Epoch(0), |(_, epoch)| *epoch);
        next(export.cluster.epoch.max(seen))
    }
}

impl Export {
    /// When what it holds was changed last, as far as it says.
    #[must_use]
    pub fn newest(&self) -> Timestamp {
        let at = |(key, value): (&Key, &Bytes)| match key {
            Key::Event(event) => event.at,
            Key::Unit(_) => decode::<UnitRecord>(key, value).map_or(Timestamp(0), |unit| unit.changed.at),
            _ => Timestamp(0),
        };
        self.entries.iter().map(at).max().unwrap_or_default().max(self.cluster.created.at)
    }
}

/// Machines come one after the other, each when it is told of the new store: until then they are not lost. That one was
/// off holds for one boot only, and that may be over: whoever still knows says so again.
fn imported(key: &Key, value: &Bytes, begun: &Stamp) -> Bytes {
    let Key::Machine(_) = key else { return portable(key, value) };
    match decode::<MachineRecord>(key, value) {
        Ok(record) if record.forgotten.is_none() => {
            let expected = Some(begun.clone());
            Bytes::from(encode(&MachineRecord { expected, confirmed_dead: None, ..record }))
        }
        _ => value.clone(),
    }
}
