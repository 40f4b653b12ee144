//! Any bytes as keys and records of the registry.
//!
//! Holds: nothing panics; a key is parsed back to the bytes it stands for; a record that is read is written as it was
//! read, under this release's schema or the later one it came with, and with every field that this release does not
//! know; what cannot be read is unknown and never absent; and an engine plans over whatever records there are, and plans
//! the same twice.
//!
//! An input is a small registry: a line with a key without its prefix, a line with its value, and so on.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use fleet_core::plan::{Policy, plan};
use fleet_core::records::{
    BrakeRecord, ClusterRecord, EventRecord, HoldRecord, ImportRecord, LeaderRecord, LostRecord,
    MachineRecord, Order, Placement, PresenceRecord, SCHEMA, StateRow, UnitRecord, WitnessRecord,
};
use fleet_core::world::World;
use fleet_core::{Span, Term, Timestamp};
use fleet_registry::Registry;
use fleet_registry::codec::{Record, decode, decode_content, encode};
use fleet_registry::keys::{Area, DEFAULT_PREFIX, EventId, Key, Keys};
use fleet_registry::memory::MemoryStore;
use fleet_registry::registry::snapshot::Snapshot;
use fleet_registry::store::{Op, Store, Txn};
use serde_json::Value;
use unit_files::ContentHash;

/// An engine's pass and all records of this many keys are still tried thousands of times in a second.
const MAX_KEYS: usize = 12;

/// Judges each key and each value of `bytes`, and what an engine makes of them together.
pub fn check(bytes: &[u8]) {
    let keys = Keys::new(DEFAULT_PREFIX).expect("the default prefix is legal");
    let mut found = BTreeMap::new();
    let mut lines = bytes.split(|byte| *byte == b'\n').take(2 * MAX_KEYS);
    while let Some(name) = lines.next() {
        let value = lines.next().unwrap_or_default();
        let key = parsed(&keys, &[DEFAULT_PREFIX.as_bytes(), name].concat());
        parsed(&keys, name);
        prefix(name);
        every_record(value);
        content(value);
        found.extend(key.map(|key| (key, value)));
    }
    if !found.is_empty() {
        together(&stored(&keys, &found), &found);
    }
}

fn content(value: &[u8]) {
    let hash = ContentHash::of(value);
    assert_eq!(decode_content(&hash, value).is_ok(), std::str::from_utf8(value).is_ok());
    let other = ContentHash::of(b"another text");
    assert!(decode_content(&other, value).is_err() || hash == other);
}

/// The key that these bytes are, if they are one.
fn parsed(keys: &Keys, bytes: &[u8]) -> Option<Key> {
    let key = keys.parse(bytes)?;
    assert_eq!(keys.key(&key), bytes, "{key:?}");
    assert!(keys.whole().contains(bytes));
    assert!(keys.area(&Area::One(key.clone())).contains(bytes));
    let areas = [Area::all(), vec![Area::Contents, Area::Events]].concat();
    let within = areas.iter().filter(|area| keys.area(area).contains(bytes)).count();
    assert_eq!(
        within,
        usize::from(!matches!(key, Key::Import | Key::Witness(_))),
        "{key:?} lies in one area"
    );
    if let Key::Event(id) = &key {
        assert_eq!(EventId::parse(&id.to_string()).as_ref(), Ok(id));
    }
    Some(key)
}

fn prefix(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(keys) = Keys::new(text) else { return };
    assert!(keys.prefix().starts_with('/') && keys.prefix().ends_with('/'));
    assert_eq!(Keys::new(keys.prefix()).as_ref(), Ok(&keys));
    assert_eq!(keys.parse(&keys.key(&Key::Cluster)), Some(Key::Cluster));
}

fn every_record(value: &[u8]) {
    record::<ClusterRecord>(value);
    record::<HoldRecord>(value);
    record::<ImportRecord>(value);
    record::<BrakeRecord>(value);
    record::<LeaderRecord>(value);
    record::<UnitRecord>(value);
    record::<MachineRecord>(value);
    record::<PresenceRecord>(value);
    record::<LostRecord>(value);
    record::<WitnessRecord>(value);
    record::<Placement>(value);
    record::<Order>(value);
    record::<StateRow>(value);
    record::<EventRecord>(value);
}

fn record<R: Record + PartialEq + Debug>(bytes: &[u8]) {
    let key = Key::Cluster;
    let read = match decode::<R>(&key, bytes) {
        Ok(read) => read,
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("cluster: ") && text.contains(R::KIND), "{text}");
            return;
        }
    };
    let written = encode(&read);
    let mut raised = read.clone();
    let (v, _) = raised.versioned_parts();
    *v = SCHEMA.max(*v);
    assert_eq!(
        decode::<R>(&key, &written),
        Ok(raised),
        "as it was read, under this release's schema or a later one"
    );
    keeps_unknown_fields(bytes, &read);
}

/// A newer release writes one field more: whatever this record holds, once again.
fn keeps_unknown_fields<R: Record + PartialEq + Debug>(bytes: &[u8], read: &R) {
    const NEW: &str = "from_the_future";
    let known: Value = serde_json::from_slice(&encode(read)).expect("a record is JSON");
    // What a record skips is not looked at closely: bytes that are no text may stand in a field of a field.
    let Ok(mut newer) = serde_json::from_slice::<Value>(bytes) else { return };
    let inner = newer.clone();
    newer[NEW] = inner.clone();
    let newer = serde_json::to_vec(&newer).expect("a value is JSON");
    // One level more may be deeper than JSON is read.
    if serde_json::from_slice::<Value>(&newer).is_err() {
        return;
    }
    let again = decode::<R>(&Key::Cluster, &newer).expect("one field more hinders nobody");
    let mut again: Value = serde_json::from_slice(&encode(&again)).expect("a record is JSON");
    assert_eq!(again[NEW], inner, "a field that this release does not know");
    again.as_object_mut().expect("a record is an object").remove(NEW);
    let mut known = known;
    known.as_object_mut().expect("a record is an object").remove(NEW);
    assert_eq!(again, known);
}

/// What is read of a store with these keys.
fn stored(keys: &Keys, found: &BTreeMap<Key, &[u8]>) -> Snapshot {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    runtime.block_on(async {
        let store = MemoryStore::new(7);
        let puts = found.iter().map(|(key, value)| Op::put(keys.key(key), value.to_vec()));
        assert!(store.txn(Txn::of(puts.collect())).await.expect("the store is open").succeeded);
        let registry = Registry::new(Arc::new(store), keys.clone(), 1);
        registry.read_all().await.expect("what cannot be read is no error of the reader")
    })
}

fn together(snapshot: &Snapshot, found: &BTreeMap<Key, &[u8]>) {
    let is_read =
        |key: &&Key| !matches!(key, Key::Import | Key::Content(_) | Key::Event(_) | Key::Witness(_));
    let is_alone = |key: &&Key| matches!(key, Key::Cluster | Key::Hold | Key::Brake | Key::Leader);
    let unreadable: Vec<&Key> = snapshot.undecodable.iter().map(|one| &one.key).collect();
    assert!(unreadable.iter().all(|key| found.contains_key(key)));
    let readable = found.keys().filter(is_read).filter(|key| !unreadable.contains(key) && !is_alone(key));
    let events = snapshot.clone().into_events(Timestamp(1));
    // Cluster, hold, brake and the raft term are said in any case.
    assert_eq!(events.len(), 4 + readable.count());
    assert!(!found.contains_key(&Key::Hold) || snapshot.fence().is_none(), "an unreadable hold holds");
    let policy = Policy { term: Term(8), first_sequence: 1, default_grace: Span::from_secs(5) };
    let world = World::from_events(events);
    for now in [Timestamp(0), Timestamp(1_700_000_000_000), Timestamp(u64::MAX)] {
        let first = plan(&world, &policy, now);
        assert_eq!(format!("{first:?}"), format!("{:?}", plan(&world, &policy, now)));
        assert!(world.hold().is_none() || first.groups.is_empty(), "nothing is planned under a hold");
    }
}
