//! The engine's decision: from a world to groups of writes, a reason for each action and each refusal.
//!
//! A pass settles what is lost, obeys conflicts and pins, and places what stands nowhere. It looks at what is dirty
//! and at nothing else; over a world with everything dirty it comes to the same plan. It is deterministic: units in
//! the order of their names, machines by load and id.

mod board;
mod brake;
mod choose;
mod draft;
mod fit;
mod globals;
mod group;
mod lost;
mod orphans;
mod placing;
#[cfg(test)]
mod tests;
mod why;
mod worklist;

use std::collections::{BTreeMap, BTreeSet};

use unit_files::UnitName;

pub use board::Slot;
pub use fit::{Ineligible, Purpose};
pub use group::{Compare, Group, Plan, Policy, Write};
pub use why::{Explanation, MachineVerdict, explain};

use crate::records::{DesiredState, Reason, Settings, Wanted};
use crate::time::Timestamp;
use crate::world::World;
use brake::Brake;
use draft::Draft;
use globals::Misfit;
use placing::{Cause, Movers, is_mass_change};
use worklist::Worklist;

/// Plans one pass. Pure: the same world, policy and time give the same plan. Nothing is planned while the store is on
/// hold or the cluster record has not been read.
#[must_use]
pub fn plan(world: &World, policy: &Policy, now: Timestamp) -> Plan {
    let on = |unit: &UnitName| world.orders_of(unit).cloned().collect::<Vec<_>>();
    let frozen = world.frozen().iter().flat_map(|unit| on(unit).into_iter().map(|id| (id, unit.clone())));
    let idle = Plan { next_sequence: policy.first_sequence, frozen: frozen.collect(), ..Plan::default() };
    let Some(cluster) = world.cluster().filter(|_| world.hold().is_none()) else {
        return idle;
    };
    let settings = &cluster.value.settings;
    if let Some(next_look) = worklist::nothing_to_do(world, now) {
        return Plan { next_look, ..idle };
    }
    let mut draft = Draft::new(world, policy, cluster.value.epoch, now);
    draft.plan.frozen = idle.frozen;
    lost::mark(&mut draft);
    let brake = Brake::assess(world, settings, now);
    let due = lost::due(&mut draft, &brake);
    let worklist = Worklist::of(&draft, due);

    // First, because it compares placements that later groups change.
    for name in &worklist.units {
        if let Some(unit) = draft.board.unit(name) {
            orphans::send_off(&mut draft, name, unit);
        }
    }
    withdrawals(&mut draft, &worklist);
    announce(&mut draft, &worklist);
    let misfits = globals(&mut draft, &worklist);
    let movers = standing(&mut draft, &worklist);
    let movers = hold_back(&mut draft, &brake, settings, misfits, movers);
    place(&mut draft, movers);
    for (name, slot) in std::mem::take(&mut draft.stays) {
        if let Some(unit) = draft.board.unit(&name) {
            placing::refresh(&mut draft, &name, unit, slot);
        }
    }
    draft.finish()
}

/// What nobody wants any more goes first: it makes room.
fn withdrawals(draft: &mut Draft<'_>, worklist: &Worklist) {
    for name in &worklist.units {
        // Without a record its orders are frozen.
        let Some(unit) = draft.board.unit(name) else { continue };
        if unit.desired.wants_a_machine() {
            continue;
        }
        let has_orders = draft.world.orders_of(name).next().is_some();
        if unit.is_global() && has_orders {
            let word = if unit.desired == DesiredState::Destroyed { "destroyed" } else { "inactive" };
            let reason = Reason::new(word, format!("target state {word}, asked for by {}", unit.changed.by));
            globals::forget_placement(draft, name);
            globals::withdraw_everywhere(draft, name, &reason);
        } else {
            placing::withdraw(draft, name, unit);
        }
    }
}

/// A unit whose text changed keeps out what it conflicts with from now on, not only from its next order on: else one
/// that comes in the same pass would be started beside it and stopped again.
fn announce(draft: &mut Draft<'_>, worklist: &Worklist) {
    for name in &worklist.units {
        let Some(unit) = draft.board.unit(name).filter(|unit| unit.desired.wants_a_machine()) else {
            continue;
        };
        let globs = unit.requirements().conflicts.as_slice();
        for id in draft.world.orders_of(name) {
            let order = draft.world.order(id, name).map(|order| &order.value);
            let is_news = order.is_some_and(|order| {
                order.wanted != Wanted::Gone && order.uid == unit.uid && order.conflicts != globs
            });
            if let Some(slot) = draft.board.slot(id.as_str()).filter(|_| is_news) {
                draft.board.announce(slot, name, globs);
            }
        }
    }
}

fn globals(draft: &mut Draft<'_>, worklist: &Worklist) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    let world = draft.world;
    for name in world.globals() {
        let Some(unit) = draft.board.unit(name).filter(|u| u.desired.wants_a_machine()) else { continue };
        if worklist.units.contains(name) {
            globals::forget_placement(draft, name);
            let slots = draft.board.slots();
            globals::examine(draft, name, unit, slots, &mut misfits);
        } else if !worklist.machines.is_empty() {
            globals::examine(draft, name, unit, worklist.machines.iter().copied(), &mut misfits);
        }
    }
    misfits
}

/// Units that have to leave their machine or have none.
fn standing(draft: &mut Draft<'_>, worklist: &Worklist) -> Movers {
    let mut movers = Movers::new();
    for name in &worklist.units {
        let Some(unit) = draft.board.unit(name).filter(|u| u.desired.wants_a_machine() && !u.is_global())
        else {
            continue;
        };
        placing::examine(draft, name, unit, &mut movers);
    }
    movers
}

/// Applies the brake to what only a change of machines asks for.
fn hold_back(
    draft: &mut Draft<'_>,
    brake: &Brake,
    settings: &Settings,
    misfits: Vec<Misfit>,
    mut movers: Movers,
) -> Movers {
    let is_change = |cause: &Cause| matches!(cause, Cause::Misfit(why) if is_mass_change(why));
    let changed: Vec<UnitName> =
        movers.iter().filter(|(_, (_, cause))| is_change(cause)).map(|(name, _)| name.clone()).collect();
    let changes = changed.len() + misfits.len();
    let mut held: BTreeSet<UnitName> = BTreeSet::new();
    if Brake::holds_changes(draft.world, settings, changes) {
        held.extend(changed);
        held.extend(misfits.into_iter().map(|misfit| misfit.unit));
        movers.retain(|name, _| !held.contains(name));
        draft.plan.again.extend(held.iter().cloned());
    } else {
        for misfit in misfits {
            globals::withdraw(draft, &misfit.unit, misfit.slot, &misfit.reason);
        }
    }
    let held: Vec<UnitName> = held.into_iter().collect();
    brake.record(draft, &held, changes, settings);
    movers
}

/// Units without peers first, then each behind those that it has to be beside: they may take it along.
fn place(draft: &mut Draft<'_>, movers: Movers) {
    let mut depths = BTreeMap::new();
    let mut in_turn: Vec<(usize, UnitName, Option<Slot>)> = movers
        .into_iter()
        .map(|(name, (from, _))| (depth(draft.world, name.as_str(), &mut depths), name, from))
        .collect();
    in_turn.sort();
    for (_, name, from) in in_turn {
        if let Some(unit) = draft.board.unit(&name) {
            placing::settle(draft, &name, unit, from);
        }
    }
}

/// Length of the longest chain of `MachineOf=` that begins in the unit. Circles are refused at submit; one that is there
/// all the same counts as far as it was walked.
fn depth<'w>(world: &'w World, name: &str, known: &mut BTreeMap<&'w str, usize>) -> usize {
    let Some((key, unit)) = world.units().get_key_value(name) else { return 0 };
    if let Some(depth) = known.get(key.as_str()) {
        return *depth;
    }
    known.insert(key.as_str(), 0);
    let peers = &unit.value.requirements().machine_of;
    let longest = peers.iter().map(|peer| 1 + depth(world, peer, known)).max().unwrap_or(0);
    known.insert(key.as_str(), longest);
    longest
}
