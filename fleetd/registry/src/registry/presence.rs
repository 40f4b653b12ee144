//! A machine's presence: announcing it, taking it over after a restart, seeing that somebody else holds it.
//!
//! Called by the agent, with a lease that another thread keeps alive.

use fleet_core::records::{LostRecord, MachineRecord, PresenceRecord, SCHEMA, Versioned, WitnessRecord};
use fleet_core::{Revision, Timestamp};

use super::{ATTEMPTS, ClusterFence, Registry, RegistryError, typed};
use crate::codec::encode;
use crate::keys::Key;
use crate::store::{Compare, KeyValue, LeaseId, Op, Txn};

/// What a machine announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub record: PresenceRecord,
    pub lease: LeaseId,
    /// Of the `cluster` record that was judged: nothing is announced in another store. A hold does not keep a machine
    /// from being present.
    pub cluster: Revision,
    /// The witness as the machine's disk has it: written if the store has none and the machine is new or was forgotten,
    /// so that disk and store agree from then on.
    pub witness: WitnessRecord,
    pub now: Timestamp,
}

/// How an announcement ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The machine is present. `created` is what its commits compare.
    Present {
        created: Revision,
        revision: Revision,
        /// fleetd was restarted in the same boot: the units' states are what they were.
        is_takeover: bool,
        /// The engine had marked it as lost.
        was_lost: Option<Box<LostRecord>>,
        /// Its record is new, or it had been forgotten.
        is_new: bool,
    },
    /// Another holder's presence, or this machine's of its last boot: touch nothing and watch the lease with
    /// [`lease_ttl`](crate::store::Store::lease_ttl). If it is renewed, another machine has this id; if it runs out, announce again.
    /// `holder` is `None` if its record cannot be read.
    HeldByOther { holder: Option<Box<Versioned<PresenceRecord>>>, lease: Option<LeaseId> },
    /// The store's `cluster` record is not the one that was judged: judge again.
    Fenced,
}

impl Registry {
    /// Creates the machine's presence, or takes it over from the same run of the same boot; in the same transaction
    /// deletes its lost marker, and creates its record or takes `expected` and the operator's words `forgotten` and
    /// `confirm-dead` off it. Idempotent.
    ///
    /// # Errors
    /// `Store`, a dead lease included; `Contended`.
    pub async fn announce(&self, announcement: &Announcement) -> Result<Announced, RegistryError> {
        const DOING: &str = "announcing this machine";
        let id = announcement.record.machine.clone();
        let keys = [
            Key::Presence(id.clone()),
            Key::Machine(id.clone()),
            Key::Lost(id.clone()),
            Key::Witness(id.clone()),
            Key::Cluster,
        ];
        for _ in 0..ATTEMPTS {
            let (_, found) = self.look(DOING, &keys).await?;
            let [presence, machine, lost, witness, cluster] = &found[..] else {
                continue;
            };
            if cluster.as_ref().map(|kv| typed(kv.mod_revision)) != Some(announcement.cluster) {
                return Ok(Announced::Fenced);
            }
            if let Some(held) = presence.as_ref().and_then(|kv| self.held_by_other(announcement, kv)) {
                return Ok(held);
            }
            let record: Result<Option<Versioned<MachineRecord>>, _> =
                self.decoded(DOING, &keys[1], machine.as_ref());
            // A record that cannot be read is left as it is.
            let is_readable = record.is_ok();
            let record = record.ok().flatten();
            let is_new = is_readable && record.as_ref().is_none_or(|r| r.value.forgotten.is_some());
            let mut ops = vec![
                Op::put_leased(self.key(&keys[0]), encode(&announcement.record), announcement.lease),
                Op::delete(self.key(&keys[2])),
            ];
            if let Some(record) =
                welcomed(record.as_ref().map(|r| &r.value), announcement.now).filter(|_| is_readable)
            {
                ops.push(Op::put(self.key(&keys[1]), encode(&record)));
            }
            if is_new && witness.is_none() {
                ops.push(Op::put(self.key(&keys[3]), encode(&announcement.witness)));
            }
            let same = |key: &Key, kv: &Option<KeyValue>| {
                let revision = kv.as_ref().map_or(crate::store::Revision(0), |kv| kv.mod_revision);
                Compare::mod_revision(self.key(key), revision)
            };
            // The marker is deleted whatever it says, and a witness that is there is left alone.
            let is_compared = |key: &Key| match key {
                Key::Lost(_) => false,
                Key::Witness(_) => is_new,
                _ => true,
            };
            let read = keys.iter().zip(&found).filter(|(key, _)| is_compared(key));
            let compares = read.map(|(key, kv)| same(key, kv)).collect();
            let reply = self.txn(DOING, Txn::of(ops).when(compares)).await?;
            if reply.succeeded {
                let revision = typed(reply.header.revision);
                let was_lost = self.decoded(DOING, &keys[2], lost.as_ref()).ok().flatten();
                return Ok(Announced::Present {
                    created: presence.as_ref().map_or(revision, |kv| typed(kv.create_revision)),
                    revision,
                    is_takeover: presence.is_some(),
                    was_lost: was_lost.map(|lost: Versioned<LostRecord>| Box::new(lost.value)),
                    is_new,
                });
            }
        }
        Err(RegistryError::Contended { doing: DOING, key: keys[0].clone(), attempts: ATTEMPTS })
    }

    /// `None`: the same run of the same boot, which is fleetd before its restart.
    fn held_by_other(&self, announcement: &Announcement, kv: &KeyValue) -> Option<Announced> {
        let key = Key::Presence(announcement.record.machine.clone());
        let holder: Option<Versioned<PresenceRecord>> = self.decoded("", &key, Some(kv)).ok().flatten();
        let is_same = holder.as_ref().is_some_and(|holder| {
            holder.value.nonce == announcement.record.nonce && holder.value.boot == announcement.record.boot
        });
        (!is_same).then(|| Announced::HeldByOther { holder: holder.map(Box::new), lease: kv.lease })
    }

    /// Publishes changed metadata, addresses or versions. `false`: the presence is not this machine's any more,
    /// announce again. Idempotent.
    ///
    /// # Errors
    /// `Store`, a dead lease included.
    pub async fn update_presence(
        &self,
        record: &PresenceRecord,
        lease: LeaseId,
        created: Revision,
    ) -> Result<bool, RegistryError> {
        let id = &record.machine;
        let presence = self.key(&Key::Presence(id.clone()));
        let compares = self.compare_held(&Key::Presence(id.clone()), created);
        // Every write of presence deletes the marker.
        let ops = vec![
            Op::put_leased(presence, encode(record), lease),
            Op::delete(self.key(&Key::Lost(id.clone()))),
        ];
        let reply = self.txn("updating this machine's presence", Txn::of(ops).when(compares)).await?;
        Ok(reply.succeeded)
    }

    /// Writes the witness anew after the cluster was re-anchored, or when a machine joins. The revision to keep as
    /// seen, from which [`seen`](Registry::seen) counts anew; `None`: the store is held or was re-anchored again, judge
    /// again. Idempotent.
    ///
    /// # Errors
    /// `Store`.
    pub async fn reanchor_witness(
        &self,
        machine: &fleet_core::MachineId,
        witness: &WitnessRecord,
        fence: ClusterFence,
    ) -> Result<Option<Revision>, RegistryError> {
        let put = Op::put(self.key(&Key::Witness(machine.clone())), encode(witness));
        let txn = Txn::of(vec![put]).when(self.compare_cluster(fence));
        let reply = self.txn("writing this machine's witness anew", txn).await?;
        Ok(reply.succeeded.then(|| {
            self.reset_seen(reply.header);
            typed(reply.header.revision)
        }))
    }
}

/// The machine record to write for a machine that is present; `None`: as it is.
fn welcomed(record: Option<&MachineRecord>, now: Timestamp) -> Option<MachineRecord> {
    match record {
        None => Some(MachineRecord { v: SCHEMA, first_seen: now, ..MachineRecord::default() }),
        Some(record)
            if record.forgotten.is_some() || record.confirmed_dead.is_some() || record.expected.is_some() =>
        {
            let mut record = record.clone();
            if record.forgotten.take().is_some() {
                record.first_seen = now;
            }
            (record.confirmed_dead, record.expected) = (None, None);
            Some(record)
        }
        Some(_) => None,
    }
}
