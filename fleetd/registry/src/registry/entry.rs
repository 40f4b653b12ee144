//! Keys with their records, and changes of keys, in typed form. Every value that the registry reads passes here.

use bytes::Bytes;
use fleet_core::records::{
    BrakeCause, BrakeRecord, BrakeState, ClusterRecord, EventRecord, Extra, HoldRecord, ImportRecord,
    LeaderRecord, LostRecord, MachineRecord, Order, Placement, PresenceRecord, SCHEMA, StateRow, UnitRecord,
    Versioned, WitnessRecord,
};
use fleet_core::world::Event;
use fleet_core::{MachineId, Revision, Timestamp};
use unit_files::{ContentHash, UnitName};

use super::{typed, versioned};
use crate::codec::{CodecError, Record, Undecodable, decode};
use crate::keys::{EventId, Key, Keys};
use crate::store::{KeyValue, WatchEvent};

/// A key and its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Cluster(Box<Versioned<ClusterRecord>>),
    Hold(Box<Versioned<HoldRecord>>),
    Import(Box<Versioned<ImportRecord>>),
    Brake(Box<Versioned<BrakeRecord>>),
    Leader(Box<Versioned<LeaderRecord>>),
    Unit(UnitName, Box<Versioned<UnitRecord>>),
    /// Bytes as submitted, not checked against the hash.
    Content(ContentHash, Versioned<Bytes>),
    Machine(MachineId, Box<Versioned<MachineRecord>>),
    Presence(MachineId, Box<Versioned<PresenceRecord>>),
    Lost(MachineId, Box<Versioned<LostRecord>>),
    Witness(MachineId, Box<Versioned<WitnessRecord>>),
    Placement(UnitName, Box<Versioned<Placement>>),
    Order(MachineId, UnitName, Box<Versioned<Order>>),
    State(MachineId, UnitName, Box<Versioned<StateRow>>),
    Event(EventId, Box<Versioned<EventRecord>>),
}

/// What happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    /// Gone since revision `at`.
    Deleted {
        key: Key,
        at: Revision,
    },
    /// Written by somebody whose records this release cannot read: unknown, not absent.
    Undecodable(Undecodable),
}

/// `None` for a key that this release does not know.
pub(super) fn read(keys: &Keys, kv: &KeyValue) -> Option<Result<Entry, Undecodable>> {
    let key = keys.parse(&kv.key)?;
    Some(entry(&key, kv).map_err(|error| Undecodable { key, modified: typed(kv.mod_revision), error }))
}

pub(super) fn change(keys: &Keys, event: &WatchEvent) -> Option<Change> {
    match event {
        WatchEvent::Put { kv, .. } => Some(match read(keys, kv)? {
            Ok(entry) => Change::Put(entry),
            Err(undecodable) => Change::Undecodable(undecodable),
        }),
        WatchEvent::Delete { kv, .. } => {
            Some(Change::Deleted { key: keys.parse(&kv.key)?, at: typed(kv.mod_revision) })
        }
    }
}

fn entry(key: &Key, kv: &KeyValue) -> Result<Entry, CodecError> {
    fn boxed<R: Record>(key: &Key, kv: &KeyValue) -> Result<Box<Versioned<R>>, CodecError> {
        Ok(Box::new(versioned(kv, decode(key, &kv.value)?)))
    }
    Ok(match key {
        Key::Cluster => Entry::Cluster(boxed(key, kv)?),
        Key::Hold => Entry::Hold(boxed(key, kv)?),
        Key::Import => Entry::Import(boxed(key, kv)?),
        Key::Brake => Entry::Brake(boxed(key, kv)?),
        Key::Leader => Entry::Leader(boxed(key, kv)?),
        Key::Unit(unit) => Entry::Unit(unit.clone(), boxed(key, kv)?),
        Key::Content(hash) => Entry::Content(*hash, versioned(kv, kv.value.clone())),
        Key::Machine(id) => Entry::Machine(id.clone(), boxed(key, kv)?),
        Key::Presence(id) => Entry::Presence(id.clone(), boxed(key, kv)?),
        Key::Lost(id) => Entry::Lost(id.clone(), boxed(key, kv)?),
        Key::Witness(id) => Entry::Witness(id.clone(), boxed(key, kv)?),
        Key::Placement(unit) => Entry::Placement(unit.clone(), boxed(key, kv)?),
        Key::Order(id, unit) => Entry::Order(id.clone(), unit.clone(), boxed(key, kv)?),
        Key::State(id, unit) => Entry::State(id.clone(), unit.clone(), boxed(key, kv)?),
        Key::Event(event) => Entry::Event(event.clone(), boxed(key, kv)?),
    })
}

impl Entry {
    /// What it means to the engine's world; `None` for what the world does not hold.
    #[must_use]
    pub fn into_world_event(self, read_at: Timestamp) -> Option<Event> {
        Some(match self {
            Entry::Cluster(record) => Event::Cluster(Some(*record)),
            Entry::Hold(record) => Event::Hold(Some(*record)),
            Entry::Brake(record) => Event::Brake(Some(*record)),
            Entry::Unit(unit, record) => Event::Unit(unit, Some(*record)),
            Entry::Placement(unit, record) => Event::Placement(unit, Some(*record)),
            Entry::Machine(id, record) => Event::Machine(id, Some(*record)),
            Entry::Presence(id, record) => Event::Presence(id, Some(*record)),
            Entry::Lost(machine, record) => Event::Lost { machine, record: Some(*record), read_at },
            Entry::Order(id, unit, order) => Event::Order(id, unit, Some(*order)),
            Entry::State(id, unit, row) => Event::State(id, unit, Some(*row)),
            Entry::Import(_)
            | Entry::Leader(_)
            | Entry::Content(..)
            | Entry::Witness(..)
            | Entry::Event(..) => return None,
        })
    }
}

impl Change {
    /// What it means to the engine's world; `None` for what the world does not hold.
    #[must_use]
    pub fn into_world_event(self, read_at: Timestamp) -> Option<Event> {
        match self {
            Change::Put(entry) => entry.into_world_event(read_at),
            Change::Deleted { key, .. } => deletion(key, read_at),
            Change::Undecodable(undecodable) => stand_in(&undecodable),
        }
    }

    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Change::Put(entry) => entry.key(),
            Change::Deleted { key, .. } => key.clone(),
            Change::Undecodable(undecodable) => undecodable.key.clone(),
        }
    }
}

impl Entry {
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Entry::Cluster(_) => Key::Cluster,
            Entry::Hold(_) => Key::Hold,
            Entry::Import(_) => Key::Import,
            Entry::Brake(_) => Key::Brake,
            Entry::Leader(_) => Key::Leader,
            Entry::Unit(unit, _) => Key::Unit(unit.clone()),
            Entry::Content(hash, _) => Key::Content(*hash),
            Entry::Machine(id, _) => Key::Machine(id.clone()),
            Entry::Presence(id, _) => Key::Presence(id.clone()),
            Entry::Lost(id, _) => Key::Lost(id.clone()),
            Entry::Witness(id, _) => Key::Witness(id.clone()),
            Entry::Placement(unit, _) => Key::Placement(unit.clone()),
            Entry::Order(id, unit, _) => Key::Order(id.clone(), unit.clone()),
            Entry::State(id, unit, _) => Key::State(id.clone(), unit.clone()),
            Entry::Event(event, _) => Key::Event(event.clone()),
        }
    }
}

fn deletion(key: Key, read_at: Timestamp) -> Option<Event> {
    Some(match key {
        Key::Cluster => Event::Cluster(None),
        Key::Hold => Event::Hold(None),
        Key::Brake => Event::Brake(None),
        Key::Unit(unit) => Event::Unit(unit, None),
        Key::Placement(unit) => Event::Placement(unit, None),
        Key::Machine(id) => Event::Machine(id, None),
        Key::Presence(id) => Event::Presence(id, None),
        Key::Lost(machine) => Event::Lost { machine, record: None, read_at },
        Key::Order(id, unit) => Event::Order(id, unit, None),
        Key::State(id, unit) => Event::State(id, unit, None),
        Key::Import | Key::Leader | Key::Content(_) | Key::Witness(_) | Key::Event(_) => return None,
    })
}

/// What the engine assumes of a record that it cannot read. A unit's is missing, which freezes its orders; a hold or a
/// brake is one. Of everything else the last readable record stays, or none: each write compares the revision of
/// what it was decided from, so that nothing can be decided over the unreadable one.
fn stand_in(undecodable: &Undecodable) -> Option<Event> {
    Some(match &undecodable.key {
        Key::Cluster => Event::Cluster(None),
        Key::Hold => Event::Hold(Some(unreadable_hold(undecodable))),
        Key::Brake => Event::Brake(Some(unreadable_brake(undecodable))),
        Key::Unit(unit) => Event::Unit(unit.clone(), None),
        _ => return None,
    })
}

/// A hold that cannot be read still holds.
pub(super) fn unreadable_hold(undecodable: &Undecodable) -> Versioned<HoldRecord> {
    let value = HoldRecord {
        v: SCHEMA,
        by: MachineId::parse("unknown").expect("a word is an id"),
        since: Timestamp(0),
        why: undecodable.error.to_string(),
        extra: Extra::new(),
    };
    Versioned { value, created: undecodable.modified, modified: undecodable.modified }
}

fn unreadable_brake(undecodable: &Undecodable) -> Versioned<BrakeRecord> {
    let value = BrakeRecord {
        v: SCHEMA,
        cause: BrakeCause::MassLoss,
        state: BrakeState::Engaged,
        since: Timestamp(0),
        text: undecodable.error.to_string(),
        machines: std::collections::BTreeSet::new(),
        held: 0,
        sample: Vec::new(),
        released: None,
        extra: Extra::new(),
    };
    Versioned { value, created: undecodable.modified, modified: undecodable.modified }
}
