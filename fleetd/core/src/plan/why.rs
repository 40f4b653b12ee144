//! The full answer to "why is it where it is, and where could it run?", by the same rules as the plan.

use unit_files::UnitName;

use super::board::{Board, Slot};
use super::fit::{Ineligible, Purpose, verdict};
use crate::ids::MachineId;
use crate::records::{Decision, UnitRecord, Wanted};
use crate::time::Timestamp;
use crate::world::World;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The engine's last word, if it has spoken.
    pub decision: Option<Decision>,
    /// Whether that word judged the unit record as it is now.
    pub is_current: bool,
    pub placed_on: Option<MachineId>,
    pub machines: Vec<MachineVerdict>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineVerdict {
    pub machine: MachineId,
    /// Units on it now.
    pub load: u32,
    /// It has an order for the unit: what that wants.
    pub ordered: Option<Wanted>,
    /// The first reason against it.
    pub against: Option<Ineligible>,
}

/// Judges every machine that is not forgotten. None if there is no such unit.
#[must_use]
pub fn explain(world: &World, name: &UnitName, now: Timestamp) -> Option<Explanation> {
    let unit: &UnitRecord = &world.units().get(name)?.value;
    let board = Board::new(world);
    let placement = world.placements().get(name).map(|p| &p.value).filter(|p| p.uid == unit.uid);
    let judge = |slot: Slot| {
        let ordered = board.wanted_at(name, slot);
        let purpose = if ordered.is_some_and(|w| w != Wanted::Gone) { Purpose::Stay } else { Purpose::Place };
        MachineVerdict {
            machine: board.id(slot).clone(),
            load: board.load(slot),
            ordered,
            against: verdict(&board, slot, name, unit, purpose, now).err(),
        }
    };
    let machines = board.slots().filter(|slot| !board.view(*slot).is_forgotten()).map(judge).collect();
    Some(Explanation {
        decision: placement.map(|p| p.decision.clone()),
        is_current: placement.is_some_and(|p| p.decision.judged >= world.unit_revision(name)),
        placed_on: placement.and_then(|p| p.machine.clone()),
        machines,
    })
}
