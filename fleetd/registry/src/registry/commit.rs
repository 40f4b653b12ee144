//! What an agent writes back: state rows, and acknowledgements that something is gone.
//!
//! Every write compares the machine's own presence, so that a machine that was declared lost, or a clone, writes
//! nothing. What belongs to a pass over orders also compares that the store is still the one the orders came from.

use fleet_core::records::{StateRow, WitnessRecord};
use fleet_core::{MachineId, Revision};
use unit_files::UnitName;

use super::batch::{Batch, Item, Outcome};
use super::{ClusterFence, Registry};
use crate::codec::encode;
use crate::keys::Key;
use crate::store::Op;

/// That a unit is gone from this machine, as the order of this revision said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    pub unit: UnitName,
    /// Modification revision of the order that was carried out: a newer order survives.
    pub order: Revision,
}

/// The writes of one pass, or of one report between passes.
#[derive(Clone, Debug)]
pub struct AgentCommit {
    pub machine: MachineId,
    /// Create revision of the own presence, from [`announce`](Registry::announce).
    pub presence: Revision,
    /// For the acknowledgements and rows of a pass; `None` for a report of states alone.
    pub pass: Option<ClusterFence>,
    /// Raised in the transaction that writes the pass's first acknowledgement or row. Copy it to disk once the report
    /// says that it is written.
    pub witness: Option<WitnessRecord>,
    /// The last row of each unit; `None` deletes it. A row of a unit that is also acknowledged is dropped.
    pub rows: Vec<(UnitName, Option<StateRow>)>,
    pub acknowledgements: Vec<Acknowledgement>,
}

/// What became of a commit; outcomes in the order of what was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitReport {
    pub rows: Vec<(UnitName, Outcome)>,
    /// A conflict means that a newer order exists, which is told by the followed orders.
    pub acknowledgements: Vec<(UnitName, Outcome)>,
    /// Revision of the newest transaction that was applied.
    pub revision: Option<Revision>,
    /// The witness is in the store.
    pub is_witness_written: bool,
}

impl CommitReport {
    /// Presence lost, or store held or re-anchored: announce or judge again before the next commit.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        let mut outcomes = self.acknowledgements.iter().chain(&self.rows).map(|(_, outcome)| outcome);
        outcomes.any(|outcome| *outcome == Outcome::Fenced)
    }
}

impl Registry {
    /// Writes acknowledgements first, then rows, as many as fit in one transaction. Idempotent: rows and witness may be
    /// written again, and an acknowledgement that was applied conflicts without harm.
    pub async fn commit(&self, commit: AgentCommit) -> CommitReport {
        let AgentCommit { machine, presence, pass, witness, rows, acknowledgements } = commit;
        let mut fence = self.compare_held(&Key::Presence(machine.clone()), presence);
        fence.extend(pass.into_iter().flat_map(|pass| self.compare_cluster(pass)));
        let is_raised = witness.is_some();
        let lead = witness
            .map(|witness| Op::put(self.key(&Key::Witness(machine.clone())), encode(&witness)))
            .into_iter()
            .collect();
        let state = |unit: &UnitName| self.key(&Key::State(machine.clone(), unit.clone()));
        let mut items = Vec::new();
        for acknowledgement in &acknowledgements {
            let order = Key::Order(machine.clone(), acknowledgement.unit.clone());
            items.push(Item {
                compares: vec![self.compare_modified(&order, acknowledgement.order)],
                ops: vec![Op::delete(self.key(&order)), Op::delete(state(&acknowledgement.unit))],
                note: None,
            });
        }
        let is_acknowledged = |unit: &UnitName| acknowledgements.iter().any(|a| a.unit == *unit);
        let rows: Vec<_> = rows.into_iter().filter(|(unit, _)| !is_acknowledged(unit)).collect();
        for (unit, row) in &rows {
            let op = match row {
                Some(row) => Op::put(state(unit), encode(row)),
                None => Op::delete(state(unit)),
            };
            items.push(Item { compares: Vec::new(), ops: vec![op], note: None });
        }
        let mut outcomes = self.run(Batch { fence, lead, asked: None, items }).await;
        let of_rows = outcomes.split_off(acknowledgements.len());
        let revision = outcomes.iter().chain(&of_rows).filter_map(Outcome::revision).max();
        CommitReport {
            acknowledgements: acknowledgements.into_iter().map(|a| a.unit).zip(outcomes).collect(),
            rows: rows.into_iter().map(|(unit, _)| unit).zip(of_rows).collect(),
            revision,
            is_witness_written: is_raised && revision.is_some(),
        }
    }
}
