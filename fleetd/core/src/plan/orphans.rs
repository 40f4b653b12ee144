//! Copies that run without an order: what a machine brings back that was forgotten, or a store that was restored.
//!
//! A copy whose unit is wanted and stands nowhere is adopted where it runs (see [`choose`](super::choose)); one whose
//! unit stands elsewhere, or is not wanted any more, gets a tombstone like any other. Without a unit record it is left
//! alone and listed: nobody here knows what it is.

use unit_files::UnitName;

use super::board::Slot;
use super::draft::{Draft, note};
use super::group::{Compare, Group, Write};
use crate::ids::Revision;
use crate::records::{Order, Reason, UnitRecord, Wanted};

/// Present machines that run the unit without an order.
fn at(draft: &Draft<'_>, name: &UnitName) -> Vec<Slot> {
    let slots = draft.world.orphans_of(name).filter_map(|id| draft.board.slot(id.as_str()));
    slots.filter(|slot| draft.board.view(*slot).is_present()).collect()
}

/// The machine where a wanted unit already runs as it is wanted.
pub fn home(draft: &Draft<'_>, name: &UnitName, unit: &UnitRecord) -> Option<Slot> {
    at(draft, name).into_iter().find(|slot| {
        let row = draft.board.view(*slot).states().get(name);
        row.is_some_and(|row| row.value.running == Some(unit.placed().run_hash))
    })
}

/// Whether some copy still has to be told to go before the unit's record may.
pub fn linger(draft: &Draft<'_>, name: &UnitName) -> bool {
    !at(draft, name).is_empty()
}

/// Tells the copies of a unit that stands elsewhere, or is not wanted, to go.
pub fn send_off(draft: &mut Draft<'_>, name: &UnitName, unit: &UnitRecord) {
    let stands_on = draft.placed_at(name, unit).filter(|_| unit.desired.wants_a_machine());
    let reason = if unit.desired.wants_a_machine() {
        // A global unit stands nowhere else: where it fits it gets an order, and with that is adopted.
        if unit.is_global() {
            return;
        }
        let Some(stands_on) = stands_on else { return };
        Reason::new(
            "elsewhere",
            format!("it runs without an order and stands on {}", draft.board.id(stands_on)),
        )
    } else {
        Reason::new("unwanted", "it runs without an order and is not wanted")
    };
    for slot in at(draft, name) {
        // Where it stands it gets its order: a unit that came from another fleet is placed before it has one.
        if Some(slot) == stands_on {
            continue;
        }
        if draft.board.wanted_at(name, slot).is_some() {
            continue;
        }
        let Some(row) = draft.board.view(slot).states().get(name).map(|row| &row.value) else { continue };
        let machine = draft.board.id(slot).clone();
        let mut group = Group::default();
        draft.compare_unit(&mut group, name);
        draft.compare_present(&mut group, slot);
        group.compares.push(Compare::Order(machine.clone(), name.clone(), Revision(0)));
        let order = Order {
            uid: row.uid.clone(),
            generation: row.generation,
            wanted: Wanted::Gone,
            counters: row.counters,
            conflicts: Vec::new(),
            ..draft.new_order(unit, reason.clone())
        };
        group.writes.push(Write::PutOrder(machine.clone(), name.clone(), Box::new(order)));
        group.note = note("orphan-withdrawn", Some(name), Some(&machine), &reason.text);
        draft.board.put(slot, name, Wanted::Gone, &[]);
        draft.emit(group);
    }
}
