//! Writing a plan: the engine's groups as compares and operations on keys.
//!
//! Called by the engine's executor. Obeys; decides nothing. After a conflict or an unknown outcome the engine reads
//! again and plans anew: a group that was written after all then conflicts, so that nothing is placed twice.

use fleet_core::plan::{Compare as Condition, Group, Write};

use super::batch::{Asked, Batch, Item, Outcome};
use super::leader::LeaderFence;
use super::{Registry, raw};
use crate::codec::encode;
use crate::keys::Key;
use crate::store::{Compare, Op};

impl Registry {
    /// Writes the groups in order, as many as fit in one transaction, with one event for each transaction. Outcomes
    /// are in the order of the groups.
    ///
    /// `Fenced` means that this leader is none any more, or that the store is held or re-anchored: drop leadership's
    /// work. `Conflict` is the group's own.
    pub async fn apply_groups(&self, fence: LeaderFence, groups: &[Group], asked: &Asked) -> Vec<Outcome> {
        let items = groups.iter().map(|group| self.item(group)).collect();
        let batch =
            Batch { fence: self.compare_leader(fence), lead: Vec::new(), asked: Some(asked.clone()), items };
        self.run(batch).await
    }

    fn item(&self, group: &Group) -> Item {
        Item {
            compares: group.compares.iter().map(|compare| self.compare(compare)).collect(),
            ops: group.writes.iter().map(|write| self.op(write)).collect(),
            note: group.note.clone(),
        }
    }

    fn compare(&self, condition: &Condition) -> Compare {
        let (key, revision) = match condition {
            Condition::Unit(unit, revision) => (Key::Unit(unit.clone()), revision),
            Condition::Placement(unit, revision) => (Key::Placement(unit.clone()), revision),
            Condition::Machine(id, revision) => (Key::Machine(id.clone()), revision),
            Condition::Presence(id, revision) => (Key::Presence(id.clone()), revision),
            Condition::Lost(id, revision) => (Key::Lost(id.clone()), revision),
            Condition::Order(id, unit, revision) => (Key::Order(id.clone(), unit.clone()), revision),
            Condition::Brake(revision) => (Key::Brake, revision),
        };
        Compare::mod_revision(self.key(&key), raw(*revision))
    }

    fn op(&self, write: &Write) -> Op {
        match write {
            Write::PutOrder(id, unit, order) => {
                Op::put(self.key(&Key::Order(id.clone(), unit.clone())), encode(&**order))
            }
            Write::PutPlacement(unit, placement) => {
                Op::put(self.key(&Key::Placement(unit.clone())), encode(&**placement))
            }
            Write::DeletePlacement(unit) => Op::delete(self.key(&Key::Placement(unit.clone()))),
            Write::DeleteUnit(unit) => Op::delete(self.key(&Key::Unit(unit.clone()))),
            Write::PutLost(id, record) => Op::put(self.key(&Key::Lost(id.clone())), encode(record)),
            Write::PutBrake(record) => Op::put(self.key(&Key::Brake), encode(record)),
            Write::DeleteBrake => Op::delete(self.key(&Key::Brake)),
        }
    }
}
