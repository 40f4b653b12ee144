//! Global units: one order for every machine that fits.
//!
//! New content and restarts reach the machines one after the other, the next when the last one is active again; a
//! machine without presence keeps its order whatever its metadata say, because nobody knows them now.

use unit_files::UnitName;

use super::board::Slot;
use super::draft::{Draft, note};
use super::fit::{Ineligible, Purpose, verdict};
use super::group::{Compare, Group, Write};
use super::placing::is_mass_change;
use crate::ids::Revision;
use crate::records::{Order, Reason, RowPhase, RunKind, StateRow, UnitRecord, Versioned, Wanted};

/// A stop on a machine that no longer fits; the brake counts these before they are carried out.
#[derive(Debug)]
pub struct Misfit {
    pub unit: UnitName,
    pub slot: Slot,
    pub reason: Ineligible,
}

/// A unit that became global stands on no single machine any more.
pub fn forget_placement(draft: &mut Draft<'_>, name: &UnitName) {
    if draft.placement(name).is_some() {
        let mut group = draft.group_for(name);
        group.writes.push(Write::DeletePlacement(name.clone()));
        draft.emit(group);
    }
}

/// Looks at one global unit on the given machines.
pub fn examine<'w>(
    draft: &mut Draft<'w>,
    name: &UnitName,
    unit: &'w UnitRecord,
    slots: impl Iterator<Item = Slot>,
    misfits: &mut Vec<Misfit>,
) {
    let mut waiting = false;
    let mut turn: Option<bool> = None;
    for slot in slots {
        let view = draft.board.view(slot);
        let order = view.orders().get(name);
        let live = order.filter(|o| o.value.wanted != Wanted::Gone);
        if view.is_forgotten() {
            continue;
        }
        let outdated =
            live.is_none_or(|o| draft.is_outdated(&o.value, unit)) || draft.is_overtaken(slot, name);
        let disturbs = live.is_some_and(|o| disturbs(&o.value, unit));
        if !view.is_present() {
            if live.is_none() {
                renew_tombstone(draft, name, slot);
            } else if outdated && !disturbs {
                put(draft, name, unit, slot, order);
            }
            continue;
        }
        let purpose = if live.is_some() { Purpose::Stay } else { Purpose::Place };
        match verdict(&draft.board, slot, name, unit, purpose, draft.now) {
            Ok(()) if !outdated => {}
            Ok(()) if disturbs && !unit.all_at_once => {
                waiting = true;
                if *turn.get_or_insert_with(|| !is_rolling(draft, name, unit)) {
                    put(draft, name, unit, slot, order);
                    turn = Some(false);
                }
            }
            Ok(()) => put(draft, name, unit, slot, order),
            Err(reason) if live.is_some() && is_mass_change(&reason) => {
                misfits.push(Misfit { unit: name.clone(), slot, reason });
            }
            Err(reason) if live.is_some() => withdraw(draft, name, slot, &reason),
            Err(_) => renew_tombstone(draft, name, slot),
        }
    }
    if waiting {
        draft.plan.again.push(name.clone());
    }
}

/// Takes a global unit off a machine that does not fit it.
pub fn withdraw(draft: &mut Draft<'_>, name: &UnitName, slot: Slot, reason: &Ineligible) {
    let machine = draft.board.id(slot);
    let mut group = Group::default();
    compare(draft, &mut group, name, slot);
    let reason = Reason::new(reason.code(), reason.to_string());
    draft.gone(&mut group, slot, name, &reason);
    group.note = note("unit-withdrawn", Some(name), Some(machine), &reason.text);
    draft.emit(group);
}

/// Issues a tombstone from before a re-anchoring anew.
fn renew_tombstone(draft: &mut Draft<'_>, name: &UnitName, slot: Slot) {
    let mut group = Group::default();
    compare(draft, &mut group, name, slot);
    draft.gone(&mut group, slot, name, &Reason::default());
    draft.emit(group);
}

/// Takes a global unit off every machine: nobody wants it any more.
pub fn withdraw_everywhere(draft: &mut Draft<'_>, name: &UnitName, reason: &Reason) {
    let slots: Vec<Slot> =
        draft.world.orders_of(name).filter_map(|id| draft.board.slot(id.as_str())).collect();
    for slot in slots {
        let machine = draft.board.id(slot);
        let mut group = Group::default();
        compare(draft, &mut group, name, slot);
        draft.gone(&mut group, slot, name, reason);
        group.note = note("unit-withdrawn", Some(name), Some(machine), &reason.text);
        draft.emit(group);
    }
}

fn put<'w>(
    draft: &mut Draft<'w>,
    name: &UnitName,
    unit: &'w UnitRecord,
    slot: Slot,
    old: Option<&Versioned<Order>>,
) {
    let mut group = Group::default();
    compare(draft, &mut group, name, slot);
    if draft.board.view(slot).is_present() {
        draft.compare_present(&mut group, slot);
    }
    let is_new = old.is_none_or(|o| o.value.wanted == Wanted::Gone || o.value.uid != unit.uid);
    let reason = if is_new {
        Reason::new("global", "a global unit runs on every machine that fits")
    } else {
        Reason::new("changed", format!("asked for by {}", unit.changed.by))
    };
    group.note =
        is_new.then(|| note("unit-placed", Some(name), Some(draft.board.id(slot)), &reason.text)).flatten();
    draft.order(&mut group, slot, name, unit, reason);
    draft.emit(group);
}

fn compare(draft: &Draft<'_>, group: &mut Group, name: &UnitName, slot: Slot) {
    let machine = draft.board.id(slot);
    let order = draft.world.order(machine, name).map_or(Revision(0), |order| order.modified);
    group.compares.push(Compare::Unit(name.clone(), draft.world.unit_revision(name)));
    group.compares.push(Compare::Order(machine.clone(), name.clone(), order));
}

/// Whether the change takes a running unit down for a moment.
fn disturbs(order: &Order, unit: &UnitRecord) -> bool {
    order.wanted == Wanted::Launched
        && unit.desired == crate::records::DesiredState::Launched
        && (order.uid != unit.uid
            || order.run_hash != unit.placed().run_hash
            || order.counters.restart < unit.counters.restart
            || order.counters.stop < unit.counters.stop)
}

/// Whether some present machine has the new order but is not active under it yet.
fn is_rolling(draft: &Draft<'_>, name: &UnitName, unit: &UnitRecord) -> bool {
    draft.world.orders_of(name).filter_map(|id| draft.world.machines().get(id)).any(|view| {
        let Some(order) = view.orders().get(name).map(|o| &o.value) else { return false };
        view.is_present()
            && order.wanted == Wanted::Launched
            && !draft.is_outdated(order, unit)
            && !view.states().get(name).is_some_and(|row| {
                let is_current = view.presence().is_none_or(|p| row.value.is_of_boot(&p.value));
                is_current && is_back(&row.value, order)
            })
    })
}

fn is_back(row: &StateRow, order: &Order) -> bool {
    let is_applied = row.applied.is_some_and(|number| number >= order.number);
    let is_up = row.active == "active" || (order.run == RunKind::Oneshot && row.active == "inactive");
    is_applied && row.phase == RowPhase::Settled && is_up
}
