//! What can be read of a world: by a plan, by the API's explanations, and by tests. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use unit_files::UnitName;

use super::{Dirty, MachineView, World};
use crate::ids::{MachineId, Revision};
use crate::records::{BrakeRecord, ClusterRecord, HoldRecord, Order, Placement, UnitRecord, Versioned};
use crate::time::Timestamp;

impl World {
    #[must_use]
    pub fn cluster(&self) -> Option<&Versioned<ClusterRecord>> {
        self.cluster.as_ref()
    }
    #[must_use]
    pub fn hold(&self) -> Option<&Versioned<HoldRecord>> {
        self.hold.as_ref()
    }
    #[must_use]
    pub fn brake(&self) -> Option<&Versioned<BrakeRecord>> {
        self.brake.as_ref()
    }
    #[must_use]
    pub fn units(&self) -> &BTreeMap<UnitName, Versioned<UnitRecord>> {
        &self.units
    }
    #[must_use]
    pub fn placements(&self) -> &BTreeMap<UnitName, Versioned<Placement>> {
        &self.placements
    }
    #[must_use]
    pub fn machines(&self) -> &BTreeMap<MachineId, MachineView> {
        &self.machines
    }
    /// Machines that run the unit without an order.
    pub fn orphans_of(&self, unit: &UnitName) -> impl Iterator<Item = &MachineId> {
        self.orphans.get(unit).into_iter().flatten()
    }
    /// Machines that hold an order for the unit, tombstones included.
    pub fn orders_of(&self, unit: &UnitName) -> impl Iterator<Item = &MachineId> {
        self.orders_of.get(unit).into_iter().flatten()
    }
    #[must_use]
    pub fn order(&self, machine: &MachineId, unit: &UnitName) -> Option<&Versioned<Order>> {
        self.machines.get(machine)?.orders().get(unit)
    }
    #[must_use]
    pub fn followers(&self, unit: &UnitName) -> Option<&BTreeSet<UnitName>> {
        self.followers.get(unit.as_str())
    }
    #[must_use]
    pub fn globals(&self) -> &BTreeSet<UnitName> {
        &self.globals
    }
    #[must_use]
    pub fn replacers(&self) -> &BTreeSet<UnitName> {
        &self.replacers
    }
    #[must_use]
    pub fn lost(&self) -> &BTreeSet<MachineId> {
        &self.lost
    }
    #[must_use]
    pub fn unmarked(&self) -> &BTreeSet<MachineId> {
        &self.unmarked
    }
    /// Units that have orders and no record: nothing is done to them.
    #[must_use]
    pub fn frozen(&self) -> &BTreeSet<UnitName> {
        &self.frozen
    }
    /// How many orders say that a unit is to be on a machine; a global unit counts on each.
    #[must_use]
    pub fn placed(&self) -> usize {
        self.placed
    }
    #[must_use]
    pub fn dirty(&self) -> &Dirty {
        &self.dirty
    }
    #[must_use]
    pub fn is_evicting(&self, machine: &MachineId) -> bool {
        self.evicting.contains(machine)
    }
    pub(crate) fn open(&self) -> &BTreeSet<UnitName> {
        &self.open
    }
    /// Open units that a refusal keeps waiting, with the earliest end.
    pub(crate) fn held(&self) -> &BTreeMap<UnitName, Timestamp> {
        &self.held
    }
    /// Modification revision of the unit record, 0 if there is none.
    #[must_use]
    pub fn unit_revision(&self, unit: &UnitName) -> Revision {
        self.units.get(unit).map_or(Revision(0), |u| u.modified)
    }
    /// Modification revision of the placement, 0 if there is none.
    #[must_use]
    pub fn placement_revision(&self, unit: &UnitName) -> Revision {
        self.placements.get(unit).map_or(Revision(0), |p| p.modified)
    }
}
