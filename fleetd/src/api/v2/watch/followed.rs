//! What a client follows: the records, which rows of lists are made from which of them, and how a row is shown.
//!
//! Called by the client's session alone. It knows nothing of what was told.

use std::collections::{BTreeMap, BTreeSet};

use fleet_api::v2::{Deleted, MachineState, StateView, UnitView, WatchKind};
use fleet_core::records::ClusterRecord;
use fleet_core::requests::change::live;
use fleet_core::{MachineId, Timestamp};
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::entry::Entry;
use fleet_registry::registry::snapshot::Snapshot;
use serde::Serialize;
use unit_files::UnitName;

use super::super::super::views;
use super::super::machines;
use super::hash_of;

/// One row of a list. Their order is the one in which they are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Row {
    Machine(MachineId),
    Unit(UnitName),
    State(UnitName, MachineId),
}

impl Row {
    pub fn kind(&self) -> WatchKind {
        match self {
            Row::Machine(_) => WatchKind::Machine,
            Row::Unit(_) => WatchKind::Unit,
            Row::State(..) => WatchKind::State,
        }
    }

    pub fn deleted(&self) -> Deleted {
        let (name, machine) = match self {
            Row::Machine(id) => (id.to_string(), None),
            Row::Unit(unit) => (unit.to_string(), None),
            Row::State(unit, id) => (unit.to_string(), Some(id.to_string())),
        };
        Deleted { kind: self.kind(), name, machine }
    }
}

/// A row as it is sent, and the hash of what does not change with time alone.
pub(super) struct Shown {
    pub json: String,
    pub hash: u64,
}

/// What has to be followed for some lists.
pub(super) fn areas(kinds: &BTreeSet<WatchKind>) -> Vec<Area> {
    let mut areas = BTreeSet::from([Area::One(Key::Cluster), Area::Orders, Area::Presence, Area::Lost]);
    for kind in kinds {
        areas.extend(match kind {
            WatchKind::Unit => vec![Area::Units, Area::Placements, Area::States],
            WatchKind::State => vec![Area::States],
            WatchKind::Machine => vec![Area::Machines, Area::One(Key::Leader)],
        });
    }
    areas.into_iter().collect()
}

pub(super) struct Followed {
    kinds: BTreeSet<WatchKind>,
    snapshot: Snapshot,
    /// The machines that were told or say something of each unit.
    on: BTreeMap<UnitName, BTreeSet<MachineId>>,
}

impl Followed {
    pub fn new(kinds: BTreeSet<WatchKind>) -> Followed {
        Followed { kinds, snapshot: Snapshot::default(), on: BTreeMap::new() }
    }

    pub fn at(kinds: BTreeSet<WatchKind>, snapshot: Snapshot) -> Followed {
        let mut followed = Followed::new(kinds);
        let orders =
            snapshot.orders.iter().flat_map(|(id, orders)| orders.keys().map(move |unit| (unit, id)));
        let states = snapshot.states.iter().flat_map(|(id, rows)| rows.keys().map(move |unit| (unit, id)));
        for (unit, id) in orders.chain(states) {
            followed.on.entry(unit.clone()).or_default().insert(id.clone());
        }
        followed.snapshot = snapshot;
        followed
    }

    pub fn clear(&mut self) {
        self.snapshot = Snapshot::default();
        self.on.clear();
    }

    pub fn put(&mut self, entry: Entry) {
        if let Entry::Order(id, unit, _) | Entry::State(id, unit, _) = &entry {
            self.on.entry(unit.clone()).or_default().insert(id.clone());
        }
        self.snapshot.insert(entry);
    }

    pub fn remove(&mut self, key: &Key) {
        self.snapshot.remove(key);
        let (Key::Order(id, unit) | Key::State(id, unit)) = key else { return };
        let has_order = self.snapshot.orders.get(id).is_some_and(|orders| orders.contains_key(unit));
        let has_state = self.snapshot.states.get(id).is_some_and(|rows| rows.contains_key(unit));
        if has_order || has_state {
            return;
        }
        if let Some(machines) = self.on.get_mut(unit) {
            machines.remove(id);
            if machines.is_empty() {
                self.on.remove(unit);
            }
        }
    }

    /// Whose registry this is, as far as it can be read.
    pub fn cluster(&self) -> Option<&ClusterRecord> {
        self.snapshot.cluster.as_ref().map(|cluster| &cluster.value)
    }

    /// Every row that there may be.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let machines = self.snapshot.machines.keys().chain(self.snapshot.presence.keys()).cloned();
        let units = self.snapshot.units.keys().cloned();
        let states = self.snapshot.states.iter();
        let states =
            states.flat_map(|(id, rows)| rows.keys().map(|unit| Row::State(unit.clone(), id.clone())));
        let rows = machines.map(Row::Machine).chain(units.map(Row::Unit)).chain(states);
        rows.filter(|row| self.kinds.contains(&row.kind()))
    }

    /// The rows that this key has a part in, as far as they are known before or after its change.
    pub fn rows_of(&self, key: &Key, rows: &mut BTreeSet<Row>) {
        let mut add = |row: Row| {
            if self.kinds.contains(&row.kind()) {
                rows.insert(row);
            }
        };
        match key {
            Key::Unit(unit) | Key::Placement(unit) => add(Row::Unit(unit.clone())),
            Key::Order(id, unit) => {
                add(Row::Unit(unit.clone()));
                add(Row::State(unit.clone(), id.clone()));
                add(Row::Machine(id.clone()));
            }
            Key::State(id, unit) => {
                add(Row::Unit(unit.clone()));
                add(Row::State(unit.clone(), id.clone()));
            }
            Key::Machine(id) => add(Row::Machine(id.clone())),
            // Whether a machine is there changes what is known of all that it runs.
            Key::Presence(id) | Key::Lost(id) => {
                add(Row::Machine(id.clone()));
                for unit in self.snapshot.states.get(id).into_iter().flat_map(BTreeMap::keys) {
                    add(Row::Unit(unit.clone()));
                    add(Row::State(unit.clone(), id.clone()));
                }
                let is_there = |unit: &&UnitName| {
                    let placement = self.snapshot.placements.get(*unit);
                    placement.is_some_and(|placement| placement.value.machine.as_ref() == Some(id))
                };
                let placed = self.snapshot.placements.keys().filter(is_there);
                placed.for_each(|unit| add(Row::Unit(unit.clone())));
            }
            Key::Leader => {
                let leader = self.snapshot.leader.as_ref();
                leader.into_iter().for_each(|leader| add(Row::Machine(leader.value.machine.clone())));
            }
            Key::Cluster
            | Key::Hold
            | Key::Import
            | Key::Brake
            | Key::Content(_)
            | Key::Witness(_)
            | Key::Event(_) => {}
        }
    }

    /// The row as its list shows it; none if it is not in the list.
    pub fn show(&self, row: &Row, now: Timestamp) -> Option<Shown> {
        match row {
            Row::Machine(id) => {
                let known =
                    self.snapshot.machines.contains_key(id) || self.snapshot.presence.contains_key(id);
                let view = known.then(|| machines::view(&self.snapshot, id))?;
                (view.state != MachineState::Forgotten).then(|| shown(view, |_| Vec::new()))
            }
            Row::Unit(name) => {
                let record = self.snapshot.units.get(name)?;
                live(Some(&record.value))?;
                let on = self.on.get(name).into_iter().flatten();
                let view = views::unit_on(&self.snapshot, now, name, record, on);
                let ages = |view: &mut UnitView| view.states.iter_mut().map(take_age).collect();
                Some(shown(view, ages))
            }
            Row::State(name, id) => {
                let row = self.snapshot.states.get(id)?.get(name)?;
                if views::has_left(&self.snapshot, id, name) {
                    return None;
                }
                let view = views::state(&self.snapshot, id, name, &row.value, now);
                Some(shown(view, |view| vec![take_age(view)]))
            }
        }
    }
}

fn take_age(state: &mut StateView) -> u64 {
    std::mem::take(&mut state.age_ms)
}

/// `take_ages` takes out what grows by itself; a row that only aged is none that changed.
fn shown<T: Serialize + Clone>(view: T, take_ages: impl Fn(&mut T) -> Vec<u64>) -> Shown {
    let encode =
        |view: &T| serde_json::to_string(view).expect("wire types have string keys and no fallible fields");
    let mut ageless = view.clone();
    let has_aged = take_ages(&mut ageless).iter().any(|age| *age > 0);
    let text = encode(&ageless);
    let hash = hash_of(&text);
    Shown { json: if has_aged { encode(&view) } else { text }, hash }
}
