//! The engine's view of the registry, kept up to date event by event.
//!
//! [`World::apply`] keeps the records, the indices that [`plan`](crate::plan) walks, and the dirty set: what nothing
//! touched is not looked at again. A property test holds every history of events against a world rebuilt from the
//! same records, and the plan over the dirty set against the plan over everything.

mod dirty;
mod machine;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use unit_files::UnitName;

pub use dirty::Dirty;
pub use machine::{Lost, MachineView};

use crate::ids::MachineId;
use crate::plan::Plan;
use crate::records::{
    BrakeRecord, ClusterRecord, HoldRecord, LostRecord, MachineRecord, Order, Placement, PresenceRecord,
    RowPhase, StateRow, UnitRecord, Versioned,
};
use crate::time::Timestamp;

/// A change of one key. `None` means that the key is gone.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "an event is taken apart as soon as it is made")]
pub enum Event {
    Cluster(Option<Versioned<ClusterRecord>>),
    Hold(Option<Versioned<HoldRecord>>),
    Brake(Option<Versioned<BrakeRecord>>),
    Unit(UnitName, Option<Versioned<UnitRecord>>),
    Placement(UnitName, Option<Versioned<Placement>>),
    Machine(MachineId, Option<Versioned<MachineRecord>>),
    Presence(MachineId, Option<Versioned<PresenceRecord>>),
    /// `read_at` is when this engine first read it: a new leader counts from its own first read.
    Lost {
        machine: MachineId,
        record: Option<Versioned<LostRecord>>,
        read_at: Timestamp,
    },
    Order(MachineId, UnitName, Option<Versioned<Order>>),
    State(MachineId, UnitName, Option<Versioned<StateRow>>),
    /// The store's raft term, from any answer. Growth means an election, which resets every lease.
    RaftTerm {
        term: u64,
        read_at: Timestamp,
    },
}

/// Everything the engine knows, at one revision.
#[derive(Debug, Default)]
pub struct World {
    cluster: Option<Versioned<ClusterRecord>>,
    hold: Option<Versioned<HoldRecord>>,
    brake: Option<Versioned<BrakeRecord>>,
    raft_term: u64,
    units: BTreeMap<UnitName, Versioned<UnitRecord>>,
    placements: BTreeMap<UnitName, Versioned<Placement>>,
    machines: BTreeMap<MachineId, MachineView>,
    /// Machines that hold an order for the unit.
    orders_of: BTreeMap<UnitName, BTreeSet<MachineId>>,
    /// Machines that run the unit without an order.
    orphans: BTreeMap<UnitName, BTreeSet<MachineId>>,
    /// Units that name the key in `MachineOf=`.
    followers: BTreeMap<String, BTreeSet<UnitName>>,
    globals: BTreeSet<UnitName>,
    replacers: BTreeSet<UnitName>,
    /// Units that want a machine and have none, or stand on one that is lost and cannot be moved.
    open: BTreeSet<UnitName>,
    /// Earliest end of a refusal that keeps an open unit waiting.
    held: BTreeMap<UnitName, Timestamp>,
    lost: BTreeSet<MachineId>,
    /// Known machines without presence and without marker.
    unmarked: BTreeSet<MachineId>,
    /// Lost machines whose units have been looked at since their time ran out.
    evicting: BTreeSet<MachineId>,
    /// Units that have orders and no record.
    frozen: BTreeSet<UnitName>,
    /// Orders that are not tombstones.
    placed: usize,
    dirty: Dirty,
}

impl World {
    /// A world from a snapshot, with everything dirty.
    #[must_use]
    pub fn from_events(events: impl IntoIterator<Item = Event>) -> World {
        let mut world = World::default();
        for event in events {
            world.apply(event);
        }
        world.dirty = Dirty { all: true, ..Dirty::default() };
        world
    }

    /// The same engine's world after a relist: what it has been counting for machines that are still lost goes on, and
    /// an election that it learns of only now makes them wait once more.
    #[must_use]
    pub fn rebuilt(&self, events: impl IntoIterator<Item = Event>) -> World {
        let mut read_at = None;
        let events = events.into_iter().inspect(|event| {
            if let Event::RaftTerm { read_at: at, .. } = event {
                read_at = Some(*at);
            }
        });
        let mut world = World::from_events(events);
        for (id, view) in &mut world.machines {
            let Some(before) = self.machines.get(id) else { continue };
            view.agent_ttl = view.agent_ttl.or(before.agent_ttl);
            if let (Some(lost), Some(before)) = (view.lost.as_mut(), before.lost.as_ref())
                && lost.record.created == before.record.created
            {
                lost.counts_on_from(before);
            }
        }
        let term = std::mem::replace(&mut world.raft_term, self.raft_term);
        world.raft_term_seen(term, read_at.unwrap_or_default());
        world
    }

    /// The wall clock jumped from one time to the other. What this engine has counted off goes on: a step of the clock
    /// is neither a reason to move a unit nor one to wait longer.
    pub fn clock_stepped(&mut self, from: Timestamp, to: Timestamp) {
        for lost in self.machines.values_mut().filter_map(|view| view.lost.as_mut()) {
            lost.counted_from =
                Timestamp(lost.counted_from.plus(to.since(from)).0.saturating_sub(from.since(to).0));
        }
    }

    /// Takes one change in. Idempotent: the same event twice is one.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Cluster(record) => {
                self.cluster = record;
                self.dirty.all = true;
            }
            Event::Hold(record) => {
                self.hold = record;
                self.dirty.all = true;
            }
            Event::Brake(record) => {
                self.brake = record;
                self.evicting.clear();
                self.dirty.all = true;
            }
            Event::Unit(name, record) => self.apply_unit(name, record),
            Event::Placement(name, record) => self.apply_placement(name, record),
            Event::Machine(id, record) => {
                self.view_mut(&id).set_record(record);
                self.machine_changed(id);
            }
            Event::Presence(id, record) => {
                self.view_mut(&id).set_presence(record);
                self.machine_changed(id);
            }
            Event::Lost { machine, record, read_at } => {
                self.view_mut(&machine).set_lost(record, read_at);
                self.machine_changed(machine);
            }
            Event::Order(machine, unit, order) => self.apply_order(machine, unit, order),
            Event::State(machine, unit, row) => self.apply_state(&machine, unit, row),
            Event::RaftTerm { term, read_at } => self.raft_term_seen(term, read_at),
        }
    }

    fn raft_term_seen(&mut self, term: u64, read_at: Timestamp) {
        if term > self.raft_term && self.raft_term != 0 {
            for id in &self.lost {
                if let Some(lost) = self.machines.get_mut(id).and_then(|m| m.lost.as_mut())
                    && lost.wait_again(read_at)
                {
                    // Its time has to run out once more, and its units be looked at then.
                    self.evicting.remove(id);
                }
            }
        }
        self.raft_term = self.raft_term.max(term);
    }

    /// Forgets what the plan has looked at, and remembers what it wants to see again. Call it when every group of
    /// the plan has been carried out; after a conflict mark what is unknown with [`World::mark_everything`].
    pub fn settle(&mut self, plan: &Plan) {
        self.dirty = Dirty::default();
        self.dirty.units.extend(plan.again.iter().cloned());
        self.evicting.extend(plan.evicting.iter().cloned());
        for (name, until) in &plan.waiting {
            self.open.insert(name.clone());
            match until {
                Some(until) => self.held.insert(name.clone(), *until),
                None => self.held.remove(name),
            };
        }
    }

    /// The next plan looks at everything, as the audit does.
    pub fn mark_everything(&mut self) {
        self.dirty.all = true;
    }

    fn apply_unit(&mut self, name: UnitName, record: Option<Versioned<UnitRecord>>) {
        if let Some(old) = self.units.get(&name) {
            for peer in &old.value.requirements().machine_of {
                if let Some(set) = self.followers.get_mut(peer) {
                    set.remove(&name);
                    if set.is_empty() {
                        self.followers.remove(peer);
                    }
                }
            }
            if !old.value.requirements().conflicts.is_empty() || !old.value.requirements().replaces.is_empty()
            {
                // It may conflict with less than before, or replace less: somebody may fit now.
                self.dirty.open = true;
            }
        }
        self.globals.remove(&name);
        self.replacers.remove(&name);
        match record {
            Some(record) => {
                let requirements = record.value.requirements();
                for peer in &requirements.machine_of {
                    self.followers.entry(peer.clone()).or_default().insert(name.clone());
                }
                if requirements.global {
                    self.globals.insert(name.clone());
                }
                if !requirements.replaces.is_empty() {
                    self.replacers.insert(name.clone());
                    self.mark_replaced_by(&name, &record.value);
                }
                self.units.insert(name.clone(), record);
            }
            None => {
                self.units.remove(&name);
            }
        }
        self.reopen(&name);
        self.freeze(&name);
        self.unit_changed(name);
    }

    fn apply_placement(&mut self, name: UnitName, record: Option<Versioned<Placement>>) {
        match record {
            Some(record) => {
                self.placements.insert(name.clone(), record);
            }
            None => {
                self.placements.remove(&name);
            }
        }
        self.reopen(&name);
        self.unit_changed(name);
    }

    fn apply_order(&mut self, machine: MachineId, unit: UnitName, order: Option<Versioned<Order>>) {
        let view = self.view_mut(&machine);
        // What an order occupies, or how, has changed: somebody may fit now, or be kept out for another reason.
        let changes = view.orders().get(&unit).is_some_and(|old| {
            order.as_ref().is_none_or(|new| {
                new.value.wanted != old.value.wanted || new.value.conflicts != old.value.conflicts
            })
        });
        // A unit that stands beside it under its old text may have to leave now.
        let globs = order.as_ref().map_or(&[][..], |order| &order.value.conflicts);
        let is_guarded_anew =
            !globs.is_empty() && view.orders().get(&unit).is_none_or(|old| old.value.conflicts != globs);
        let beside = view.orders().keys().filter(|_| is_guarded_anew);
        let in_the_way = beside.filter(|name| globs.iter().any(|glob| glob.matches(name.as_str())));
        let in_the_way: Vec<UnitName> = in_the_way.cloned().collect();
        let present = order.is_some();
        let load = view.load();
        view.set_order(&unit, order);
        let placed = view.load() as usize;
        self.placed = self.placed + placed - load as usize;
        if present {
            self.orders_of.entry(unit.clone()).or_default().insert(machine.clone());
        } else if let Some(set) = self.orders_of.get_mut(&unit) {
            set.remove(&machine);
            if set.is_empty() {
                self.orders_of.remove(&unit);
            }
        }
        self.note_orphan(&machine, &unit);
        self.forget_empty(&machine);
        self.freeze(&unit);
        self.dirty.units.extend(in_the_way);
        if changes {
            self.dirty.open = true;
            self.dirty.freed.insert(machine);
        }
        if let Some(record) = self.units.get(&unit).filter(|r| !r.value.requirements().replaces.is_empty()) {
            let record = record.value.clone();
            self.mark_replaced_by(&unit, &record);
        }
        self.unit_changed(unit);
    }

    fn apply_state(&mut self, machine: &MachineId, unit: UnitName, row: Option<Versioned<StateRow>>) {
        let is_global = self.globals.contains(&unit);
        let view = self.view_mut(machine);
        let matters = {
            let old = view.states().get(&unit).map(|r| &r.value);
            let new = row.as_ref().map(|r| &r.value);
            let refusal = |r: Option<&StateRow>| r.and_then(|r| r.refused.as_ref().map(|x| x.number));
            let progress = |r: Option<&StateRow>| r.map(|r| (r.applied, r.active == "active", r.phase));
            refusal(old) != refusal(new) || (is_global && progress(old) != progress(new))
        };
        view.set_state(&unit, row);
        self.note_orphan(machine, &unit);
        self.forget_empty(machine);
        if matters {
            self.dirty.units.insert(unit);
        }
    }

    /// Whether the machine runs the unit without an order may have changed.
    fn note_orphan(&mut self, machine: &MachineId, unit: &UnitName) {
        let is_orphan = self.machines.get(machine).is_some_and(|view| {
            let row = view.states().get(unit);
            row.is_some_and(|row| row.value.phase == RowPhase::Orphan) && !view.orders().contains_key(unit)
        });
        let was_orphan = self.orphans.get(unit).is_some_and(|machines| machines.contains(machine));
        if is_orphan == was_orphan {
            return;
        }
        let machines = self.orphans.entry(unit.clone()).or_default();
        set(machines, machine, is_orphan);
        if machines.is_empty() {
            self.orphans.remove(unit);
        }
        self.dirty.units.insert(unit.clone());
    }

    fn freeze(&mut self, unit: &UnitName) {
        let is_frozen = self.orders_of.contains_key(unit) && !self.units.contains_key(unit);
        set(&mut self.frozen, unit, is_frozen);
    }

    fn view_mut(&mut self, id: &MachineId) -> &mut MachineView {
        self.machines.entry(id.clone()).or_default()
    }

    fn forget_empty(&mut self, id: &MachineId) {
        if self.machines.get(id).is_some_and(MachineView::is_empty) {
            self.machines.remove(id);
        }
    }

    fn machine_changed(&mut self, id: MachineId) {
        self.forget_empty(&id);
        let (is_lost, is_unmarked) =
            self.machines.get(&id).map_or((false, false), |view| (view.lost.is_some(), view.needs_marker()));
        set(&mut self.lost, &id, is_lost);
        set(&mut self.unmarked, &id, is_unmarked);
        self.evicting.remove(&id);
        self.dirty.open = true;
        self.dirty.machines.insert(id);
    }

    fn unit_changed(&mut self, name: UnitName) {
        if let Some(followers) = self.followers.get(name.as_str()) {
            self.dirty.units.extend(followers.iter().cloned());
        }
        self.dirty.units.insert(name);
    }

    fn mark_replaced_by(&mut self, name: &UnitName, record: &UnitRecord) {
        let Some(on) = self.orders_of.get(name) else { return };
        for view in on.iter().filter_map(|id| self.machines.get(id)) {
            for other in view.orders().keys() {
                if record.requirements().replaces.iter().any(|glob| glob.matches(other.as_str())) {
                    self.dirty.units.insert(other.clone());
                }
            }
        }
    }

    fn reopen(&mut self, name: &UnitName) {
        let placement = self.placements.get(name).map(|p| &p.value);
        let unit = self.units.get(name).map(|u| &u.value);
        let is_open = unit.is_some_and(|unit| {
            unit.desired.wants_a_machine()
                && !unit.is_global()
                && placement.is_none_or(|p| p.machine.is_none() || p.uid != unit.uid)
        });
        set(&mut self.open, name, is_open);
        let until = placement.filter(|_| is_open).and_then(|p| p.refusals.iter().map(|r| r.until).min());
        match until {
            Some(until) => {
                self.held.insert(name.clone(), until);
            }
            None => {
                self.held.remove(name);
            }
        }
    }
}

fn set<T: Ord + Clone>(set: &mut BTreeSet<T>, item: &T, is_member: bool) {
    if is_member {
        set.insert(item.clone());
    } else {
        set.remove(item);
    }
}
