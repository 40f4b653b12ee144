//! What a leader did to placements, counted for monitoring under the names of fleet 1.0.
//!
//! Called by the leader around each write of a plan. It only counts.

use fleet_core::plan::{Group, Plan, Write};
use fleet_core::world::World;
use fleet_registry::registry::Outcome;

/// Since this process began; of units that are not global.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    pub scheduled: Task,
    pub unscheduled: Task,
    /// Units taken from machines that were lost.
    pub machine_away: u64,
    /// Decisions that no machine can take a unit.
    pub unplaceable: u64,
}

/// Units that were given to a machine, or taken from one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    pub done: u64,
    /// The registry did not take it; it is planned again.
    pub failed: u64,
}

impl Task {
    fn count(&mut self, is_done: bool) {
        let counter = if is_done { &mut self.done } else { &mut self.failed };
        *counter += 1;
    }
}

/// What one write does to a placement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Effect {
    schedules: bool,
    unschedules: bool,
    was_lost: bool,
    is_unplaceable: bool,
}

/// Of each group of a plan, what its writes do; judged before they are written.
pub(super) struct Effects(Vec<Vec<Effect>>);

impl Effects {
    pub fn of(plan: &Plan, world: &World) -> Effects {
        let of_group =
            |group: &Group| group.writes.iter().filter_map(|write| effect(write, world)).collect::<Vec<_>>();
        Effects(plan.groups.iter().map(of_group).collect())
    }
}

fn effect(write: &Write, world: &World) -> Option<Effect> {
    let (unit, next) = match write {
        Write::PutPlacement(unit, placement) => (unit, Some(placement)),
        Write::DeletePlacement(unit) => (unit, None),
        _ => return None,
    };
    if world.units().get(unit).is_some_and(|unit| unit.value.is_global()) {
        return None;
    }
    let before = world.placements().get(unit).and_then(|placement| placement.value.machine.as_ref());
    let after = next.and_then(|placement| placement.machine.as_ref());
    let is_unplaceable = next.is_some_and(|placement| placement.decision.reason.code == "unplaceable");
    let has_moved = before != after;
    Some(Effect {
        schedules: has_moved && after.is_some(),
        unschedules: has_moved && before.is_some(),
        was_lost: has_moved && before.is_some_and(|machine| world.lost().contains(machine)),
        is_unplaceable,
    })
}

impl TaskCounts {
    pub(super) fn count(&mut self, effects: &Effects, outcomes: &[Outcome]) {
        for (effects, outcome) in effects.0.iter().zip(outcomes) {
            // Not tried, because an earlier one failed.
            if matches!(outcome, Outcome::Skipped) {
                continue;
            }
            let is_done = outcome.is_applied();
            for effect in effects {
                if effect.schedules {
                    self.scheduled.count(is_done);
                }
                if effect.unschedules {
                    self.unscheduled.count(is_done);
                }
                self.machine_away += u64::from(effect.was_lost && is_done);
                self.unplaceable += u64::from(effect.is_unplaceable && is_done);
            }
        }
    }
}
