//! What is looked at again, and when: at once, when a burst of changes is over, or not at all.
//!
//! The observer tells it what it learns and asks it what a look is for. It knows nothing of jobs and reads nothing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fleet_core::reconcile::Observed;
use fleet_systemd::UnitState;
use tokio::time::Instant;
use unit_files::UnitName;

/// A change that no job of ours explains may be one of a dozen that follow each other: look when they are over.
pub(super) const SOFT_DELAY: Duration = Duration::from_millis(100);
/// The same while a job of ours is under way.
pub(super) const JOB_DELAY: Duration = Duration::from_secs(1);
/// systemd does not tell when the last process ends that a stop left behind; whoever waits for that looks again.
pub(super) const LEFTOVERS_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Due {
    dirty: BTreeSet<UnitName>,
    /// To be looked at when the delay is over, unless this is what is known by then.
    soft: BTreeMap<UnitName, Option<UnitState>>,
    soft_due: Option<Instant>,
    is_all_dirty: bool,
}

impl Due {
    /// Nothing has been looked at yet.
    pub(super) fn everything() -> Due {
        Due { dirty: BTreeSet::new(), soft: BTreeMap::new(), soft_due: None, is_all_dirty: true }
    }

    /// Something is to be looked at without delay.
    pub(super) fn is_now(&self) -> bool {
        self.is_all_dirty || !self.dirty.is_empty()
    }

    /// When the delay of what was put off is over.
    pub(super) fn at(&self) -> Option<Instant> {
        self.soft_due
    }

    pub(super) fn mark(&mut self, unit: UnitName) {
        self.dirty.insert(unit);
    }

    pub(super) fn mark_all(&mut self) {
        self.is_all_dirty = true;
    }

    /// systemd has told that `name`, of which `cell` is known, is in `state` now; none: in some other one.
    pub(super) fn changed(
        &mut self,
        name: &UnitName,
        state: Option<UnitState>,
        cell: &Observed,
        has_job: bool,
    ) {
        if is_known(cell, state.as_ref()) {
            return;
        }
        // A start is a dozen changes, and its end is announced: each look before that would only delay it.
        let due = Instant::now() + if has_job { JOB_DELAY } else { SOFT_DELAY };
        self.put_off(name, state, due);
    }

    /// Processes of `name` outlive its stop.
    pub(super) fn has_leftovers(&mut self, name: &UnitName) {
        self.put_off(name, None, Instant::now() + LEFTOVERS_DELAY);
    }

    fn put_off(&mut self, name: &UnitName, state: Option<UnitState>, due: Instant) {
        match self.soft.entry(name.clone()) {
            Entry::Vacant(entry) => drop(entry.insert(state)),
            // What had to be looked at whatever the state still has to be.
            Entry::Occupied(mut entry) if entry.get().is_some() => drop(entry.insert(state)),
            Entry::Occupied(_) => {}
        }
        self.soft_due = Some(self.soft_due.map_or(due, |known| known.min(due)));
    }

    /// If the delay is over, what it was for is looked at now, unless it has been seen meanwhile.
    pub(super) fn harden(&mut self, now: Instant, observed: &BTreeMap<UnitName, Observed>) {
        if self.soft_due.is_some_and(|due| due <= now) {
            let is_news = |(name, state): &(UnitName, Option<UnitState>)| {
                !observed.get(name).is_some_and(|cell| is_known(cell, state.as_ref()))
            };
            let soft = std::mem::take(&mut self.soft).into_iter();
            self.dirty.extend(soft.filter(is_news).map(|(name, _)| name));
            self.soft_due = None;
        }
    }

    /// The units of a look that begins now, and whether it is at everything. Of `names`, which are all that matter, those
    /// that nothing is known of are looked at in any case.
    pub(super) fn take(
        &mut self,
        names: &BTreeSet<UnitName>,
        observed: &BTreeMap<UnitName, Observed>,
    ) -> (BTreeSet<UnitName>, bool) {
        let (mut units, is_full) = (std::mem::take(&mut self.dirty), std::mem::take(&mut self.is_all_dirty));
        if is_full {
            units.extend(names.iter().cloned());
            units.extend(observed.keys().cloned());
            self.soft.clear();
            self.soft_due = None;
        } else {
            units.extend(names.iter().filter(|name| !observed.contains_key(*name)).cloned());
            self.soft.retain(|name, _| !units.contains(name));
        }
        (units, is_full)
    }

    /// The look failed.
    pub(super) fn give_back(&mut self, units: BTreeSet<UnitName>, is_full: bool) {
        self.dirty.extend(units);
        self.is_all_dirty |= is_full;
    }
}

/// The last change of a start is announced after its job, and has been seen by then: a look at every unit again would
/// be half of all that is asked of systemd.
fn is_known(cell: &Observed, state: Option<&UnitState>) -> bool {
    cell.job.is_none()
        && cell.loaded.as_ref().zip(state).is_some_and(|(loaded, state)| {
            // Processes that a stop left behind end without another state.
            let has_leftovers = state.active.is_at_rest() && loaded.has_control_group;
            !has_leftovers
                && loaded.active == state.active.as_str()
                && loaded.sub == state.sub
                && loaded.state_change == state.state_change
        })
}
