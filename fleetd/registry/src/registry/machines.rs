//! What an operator says of a machine: its record, that it will not come back, that it is off.

use fleet_core::records::{ConfirmedDead, EventNote, MachineRecord, SCHEMA, Stamp, Versioned};
use fleet_core::{MachineId, Revision};

use super::batch::{Asked, Batch, Item, Outcome};
use super::{ATTEMPTS, ClusterFence, Registry, RegistryError, typed};
use crate::codec::encode;
use crate::keys::{Area, Key};
use crate::store::{Compare, Op, Txn};

/// How an operator's word about a machine was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Done(Revision),
    /// It had been said before.
    Already,
    /// The machine's lease lives, so that it is there: refused.
    Present,
    /// No machine of this id is known.
    NotFound,
    /// The store is held or was re-anchored: judge again.
    Fenced,
}

impl Registry {
    /// Writes an operator's record of a machine over the one of revision `expected` (0: there was none).
    pub async fn set_machine_record(
        &self,
        fence: ClusterFence,
        machine: &MachineId,
        expected: Revision,
        record: &MachineRecord,
        note: EventNote,
        asked: &Asked,
    ) -> Outcome {
        let key = Key::Machine(machine.clone());
        let item = Item {
            compares: vec![self.compare_modified(&key, expected)],
            ops: vec![Op::put(self.key(&key), encode(record))],
            note: Some(note),
        };
        let batch = Batch {
            fence: self.compare_cluster(fence),
            lead: Vec::new(),
            asked: Some(asked.clone()),
            items: vec![item],
        };
        self.run(batch).await.pop().unwrap_or(Outcome::Skipped)
    }

    /// Removes a machine that will not come back: its orders, state rows, lost marker and witness; a marker stays in
    /// place of its record. Refused while it is present. Idempotent.
    ///
    /// # Errors
    /// `Store`; `Codec` if its record cannot be read; `Contended`.
    pub async fn forget_machine(
        &self,
        fence: ClusterFence,
        machine: &MachineId,
        stamp: &Stamp,
        asked: &Asked,
    ) -> Result<Said, RegistryError> {
        let forget = |record: MachineRecord| {
            record.forgotten.is_none().then(|| {
                let marker = MachineRecord {
                    v: SCHEMA,
                    first_seen: record.first_seen,
                    forgotten: Some(stamp.clone()),
                    ..MachineRecord::default()
                };
                let gone = [Area::OrdersOf(machine.clone()), Area::StatesOf(machine.clone())];
                let mut ops: Vec<Op> =
                    gone.iter().map(|area| Op::Delete { keys: self.keys.area(area) }).collect();
                let keys = [Key::Lost(machine.clone()), Key::Witness(machine.clone())];
                ops.extend(keys.iter().map(|key| Op::delete(self.key(key))));
                (marker, ops)
            })
        };
        self.say("forgetting a machine", "machine-forgotten", fence, machine, stamp, asked, forget).await
    }

    /// Takes the operator's word that a machine is off: its units move at once. Refused while it is present; ends with
    /// its next presence. Idempotent.
    ///
    /// # Errors
    /// As [`Registry::forget_machine`].
    pub async fn confirm_dead(
        &self,
        fence: ClusterFence,
        machine: &MachineId,
        stamp: &Stamp,
        asked: &Asked,
    ) -> Result<Said, RegistryError> {
        let confirm = |record: MachineRecord| {
            record.confirmed_dead.is_none().then(|| {
                let confirmed_dead = Some(ConfirmedDead { stamp: stamp.clone() });
                (MachineRecord { confirmed_dead, ..record }, Vec::new())
            })
        };
        let doing = "taking a machine as off";
        self.say(doing, "machine-confirmed-dead", fence, machine, stamp, asked, confirm).await
    }

    /// `change` makes the new record and further steps; `None`: it had been said before.
    async fn say(
        &self,
        doing: &'static str,
        kind: &str,
        fence: ClusterFence,
        machine: &MachineId,
        stamp: &Stamp,
        asked: &Asked,
        change: impl Fn(MachineRecord) -> Option<(MachineRecord, Vec<Op>)>,
    ) -> Result<Said, RegistryError> {
        let keys = [Key::Machine(machine.clone()), Key::Presence(machine.clone()), Key::Cluster, Key::Hold];
        for _ in 0..ATTEMPTS {
            let (_, found) = self.look(doing, &keys).await?;
            let at = |index: usize| found.get(index).and_then(Option::as_ref);
            let is_held = at(3).is_some();
            if is_held || at(2).map(|kv| typed(kv.mod_revision)) != Some(fence.cluster) {
                return Ok(Said::Fenced);
            }
            let record: Option<Versioned<MachineRecord>> = self.decoded(doing, &keys[0], at(0))?;
            let Some(record) = record else { return Ok(Said::NotFound) };
            if at(1).is_some() {
                return Ok(Said::Present);
            }
            let modified = record.modified;
            let Some((record, mut ops)) = change(record.value) else { return Ok(Said::Already) };
            ops.push(Op::put(self.key(&keys[0]), encode(&record)));
            let note = EventNote {
                kind: kind.to_owned(),
                unit: None,
                machine: Some(machine.clone()),
                why: stamp.why.clone(),
            };
            ops.extend(self.log(asked, vec![note]));
            let mut compares = self.compare_cluster(fence);
            compares.push(self.compare_modified(&keys[0], modified));
            compares.push(Compare::absent(self.key(&keys[1])));
            let reply = self.txn(doing, Txn::of(ops).when(compares)).await?;
            if reply.succeeded {
                return Ok(Said::Done(typed(reply.header.revision)));
            }
        }
        Err(RegistryError::Contended { doing, key: keys[0].clone(), attempts: ATTEMPTS })
    }
}
