//! Machines that went away: their markers, and when their units may move.

use unit_files::UnitName;

use super::brake::Brake;
use super::draft::{Draft, note};
use super::group::{Compare, Group, Write};
use crate::ids::Revision;
use crate::records::{Extra, LostRecord, SCHEMA};

/// Writes a marker for every known machine whose presence is gone.
pub fn mark(draft: &mut Draft<'_>) {
    let world = draft.world;
    for id in world.unmarked() {
        let Some(slot) = draft.board.slot(id.as_str()) else { continue };
        let grace = draft.board.view(slot).own_grace().unwrap_or(draft.policy().default_grace);
        let record = LostRecord { v: SCHEMA, since: draft.now, grace, extra: Extra::new() };
        let mut group = Group {
            compares: vec![
                Compare::Presence(id.clone(), Revision(0)),
                Compare::Lost(id.clone(), Revision(0)),
            ],
            writes: vec![Write::PutLost(id.clone(), record)],
            note: note("machine-lost", None, Some(id), "its presence lease ran out"),
        };
        draft.compare_record(&mut group, slot);
        draft.emit(group);
    }
}

/// Units of the machines whose time has run out since the last look, and when to look for the others.
pub fn due(draft: &mut Draft<'_>, brake: &Brake) -> Vec<UnitName> {
    let world = draft.world;
    let mut due = Vec::new();
    let away = draft.board.slots().filter(|slot| draft.board.view(*slot).evict_at().is_some());
    for slot in away.collect::<Vec<_>>() {
        let (id, view) = (draft.board.id(slot), draft.board.view(slot));
        let Some(at) = view.evict_at() else { continue };
        if at > draft.now {
            draft.plan.look_at(at);
        } else if !brake.holds(id) {
            draft.evicted.insert(slot);
            if !world.is_evicting(id) {
                due.extend(view.orders().keys().cloned());
                draft.plan.evicting.push(id.clone());
            }
        }
    }
    due
}
