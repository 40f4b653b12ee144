//! What a pass looks at.

use std::collections::BTreeSet;

use unit_files::UnitName;

use super::board::Slot;
use super::brake;
use super::draft::Draft;
use crate::time::Timestamp;
use crate::world::World;

#[derive(Debug, Default)]
pub struct Worklist {
    pub units: BTreeSet<UnitName>,
    /// Machines on which every global unit is looked at.
    pub machines: BTreeSet<Slot>,
}

/// When nothing is dirty and no time has run out: the next moment that time alone will matter, if there is one.
#[expect(
    clippy::option_option,
    reason = "outer: whether there is nothing to do; inner: whether time will bring work"
)]
pub fn nothing_to_do(world: &World, now: Timestamp) -> Option<Option<Timestamp>> {
    if !world.dirty().is_empty() || !world.unmarked().is_empty() {
        return None;
    }
    let mut next: Option<Timestamp> = None;
    let mut at = |time: Timestamp| next = Some(next.map_or(time, |next| next.min(time)));
    for until in world.held().values() {
        at(*until);
    }
    for id in world.lost().iter().filter(|id| !world.is_evicting(id)) {
        if let Some(evict_at) = world.machines().get(id).and_then(|view| view.evict_at()) {
            at(evict_at);
        }
    }
    if let (Some(brake), Some(cluster)) = (world.brake(), world.cluster())
        && let Some(until) = brake::released_until(&brake.value, &cluster.value.settings, now)
    {
        at(until);
    }
    if next.is_some_and(|next| next <= now) { None } else { Some(next) }
}

impl Worklist {
    pub fn of(draft: &Draft<'_>, due: Vec<UnitName>) -> Worklist {
        let world = draft.world;
        let dirty = world.dirty();
        let mut list = Worklist::default();
        list.units.extend(due);
        if dirty.all {
            list.units.extend(world.units().keys().cloned());
            for view in world.machines().values() {
                list.units
                    .extend(view.orders().keys().filter(|name| !world.units().contains_key(*name)).cloned());
            }
            return list;
        }
        list.units.extend(dirty.units.iter().cloned());
        for machine in dirty.machines.iter().chain(&dirty.freed) {
            if let Some(slot) = draft.board.slot(machine.as_str()) {
                list.machines.insert(slot);
            }
        }
        for view in dirty.machines.iter().filter_map(|id| world.machines().get(id)) {
            list.units.extend(view.orders().keys().cloned());
            list.units
                .extend(view.states().keys().filter(|name| !view.orders().contains_key(*name)).cloned());
        }
        if dirty.open {
            list.units.extend(world.open().iter().cloned());
        }
        let held = world.held().iter().filter(|(_, until)| **until <= draft.now);
        list.units.extend(held.map(|(name, _)| name.clone()));
        list
    }
}
