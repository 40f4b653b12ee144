//! One machine as the engine sees it: its records, its orders, its reports.

use std::collections::{BTreeMap, BTreeSet};

use unit_files::UnitName;

use crate::ids::Revision;
use crate::records::{
    LostRecord, MachineRecord, Order, PresenceRecord, StateRow, Versioned, Wanted, effective_metadata,
};
use crate::time::{Span, Timestamp};

/// A lost marker and when this engine first read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub record: Versioned<LostRecord>,
    /// Evictions are counted from here.
    pub counted_from: Timestamp,
    waited_again: bool,
}

impl Lost {
    /// From this moment on its units may be placed elsewhere.
    #[must_use]
    pub fn evict_at(&self) -> Timestamp {
        self.counted_from.plus(self.record.value.grace)
    }

    /// Takes over what an earlier view of the same marker had counted.
    pub(super) fn counts_on_from(&mut self, before: &Lost) {
        self.counted_from = before.counted_from;
        self.waited_again = before.waited_again;
    }

    /// An election of the store resets its leases: what was lost may have been away for that reason only. Waits once
    /// more, and only once, so that an election storm cannot keep a dead machine alive. Tells whether it waits.
    pub(super) fn wait_again(&mut self, now: Timestamp) -> bool {
        let waits = !self.waited_again;
        if waits {
            self.waited_again = true;
            self.counted_from = now;
        }
        waits
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineView {
    record: Option<Versioned<MachineRecord>>,
    presence: Option<Versioned<PresenceRecord>>,
    pub(super) lost: Option<Lost>,
    orders: BTreeMap<UnitName, Versioned<Order>>,
    states: BTreeMap<UnitName, Versioned<StateRow>>,
    /// Units here that name others in `Conflicts=`.
    guards: BTreeSet<UnitName>,
    /// Units that are to stay here: what "least loaded" counts.
    load: u32,
    metadata: BTreeMap<String, String>,
    /// The detection time that it published; kept when its presence is gone.
    pub(super) agent_ttl: Option<Span>,
}

impl MachineView {
    pub(super) fn set_record(&mut self, record: Option<Versioned<MachineRecord>>) {
        self.record = record;
        self.merge_metadata();
    }

    pub(super) fn set_presence(&mut self, presence: Option<Versioned<PresenceRecord>>) {
        if let Some(presence) = &presence {
            self.agent_ttl = Some(presence.value.agent_ttl);
        }
        self.presence = presence;
        self.merge_metadata();
    }

    fn merge_metadata(&mut self) {
        self.metadata = effective_metadata(
            self.presence.as_ref().map(|p| &p.value),
            self.record.as_ref().map(|r| &r.value),
        );
    }

    pub(super) fn set_lost(&mut self, record: Option<Versioned<LostRecord>>, read_at: Timestamp) {
        self.lost = match (record, self.lost.take()) {
            (None, _) => None,
            (Some(record), Some(old)) if old.record.created == record.created => Some(Lost { record, ..old }),
            (Some(record), _) => Some(Lost { record, counted_from: read_at, waited_again: false }),
        };
    }

    pub(super) fn set_order(&mut self, unit: &UnitName, order: Option<Versioned<Order>>) {
        if let Some(old) = self.orders.remove(unit) {
            self.load -= u32::from(old.value.wanted != Wanted::Gone);
        }
        self.guards.remove(unit);
        if let Some(order) = order {
            self.load += u32::from(order.value.wanted != Wanted::Gone);
            if !order.value.conflicts.is_empty() {
                self.guards.insert(unit.clone());
            }
            self.orders.insert(unit.clone(), order);
        }
    }

    pub(super) fn set_state(&mut self, unit: &UnitName, row: Option<Versioned<StateRow>>) {
        match row {
            Some(row) => self.states.insert(unit.clone(), row),
            None => self.states.remove(unit),
        };
    }

    pub(super) fn is_empty(&self) -> bool {
        self.record.is_none()
            && self.presence.is_none()
            && self.lost.is_none()
            && self.orders.is_empty()
            && self.states.is_empty()
    }

    /// Without presence, not marked as lost, and neither forgotten nor expected.
    pub(super) fn needs_marker(&self) -> bool {
        self.presence.is_none() && self.lost.is_none() && !self.is_forgotten() && !self.is_expected()
    }

    #[must_use]
    pub fn record(&self) -> Option<&Versioned<MachineRecord>> {
        self.record.as_ref()
    }
    #[must_use]
    pub fn presence(&self) -> Option<&Versioned<PresenceRecord>> {
        self.presence.as_ref()
    }
    #[must_use]
    pub fn lost(&self) -> Option<&Lost> {
        self.lost.as_ref()
    }
    #[must_use]
    pub fn orders(&self) -> &BTreeMap<UnitName, Versioned<Order>> {
        &self.orders
    }
    #[must_use]
    pub fn states(&self) -> &BTreeMap<UnitName, Versioned<StateRow>> {
        &self.states
    }
    #[must_use]
    pub fn guards(&self) -> &BTreeSet<UnitName> {
        &self.guards
    }
    #[must_use]
    pub fn load(&self) -> u32 {
        self.load
    }
    /// Published metadata overlaid by the operator's.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
    /// What the engine waits between its lost marker and the first eviction: the last third of the detection time that
    /// the machine has configured, if this engine has seen it.
    #[must_use]
    pub fn own_grace(&self) -> Option<Span> {
        self.agent_ttl.map(|ttl| Span(ttl.0 / 3))
    }
    /// Its lease lives and nobody has marked it as lost.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.presence.is_some() && self.lost.is_none() && !self.is_forgotten()
    }
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.record.as_ref().is_some_and(|r| r.value.forgotten.is_some())
    }
    #[must_use]
    pub fn is_cordoned(&self) -> bool {
        self.record.as_ref().is_some_and(|r| r.value.cordon)
    }
    /// It has not been here since its records were imported, and nobody says that it is off: it cannot be lost.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        let record = self.record.as_ref().map(|r| &r.value);
        record.is_some_and(|r| r.expected.is_some() && r.confirmed_dead.is_none()) && self.presence.is_none()
    }
    /// The operator vouches that it is off; holds only while there is no presence.
    #[must_use]
    pub fn is_confirmed_dead(&self) -> bool {
        self.presence.is_none() && self.record.as_ref().is_some_and(|r| r.value.confirmed_dead.is_some())
    }
    /// Modification revision of the machine record, 0 if there is none.
    #[must_use]
    pub fn record_revision(&self) -> Revision {
        self.record.as_ref().map_or(Revision(0), |r| r.modified)
    }
    /// From when on its units may be placed elsewhere; `None` while it is present or not yet marked.
    #[must_use]
    pub fn evict_at(&self) -> Option<Timestamp> {
        if self.presence.is_some() {
            return None;
        }
        if self.is_forgotten() {
            return Some(Timestamp(0));
        }
        let lost = self.lost.as_ref()?;
        Some(if self.is_confirmed_dead() { Timestamp(0) } else { lost.evict_at() })
    }
}
