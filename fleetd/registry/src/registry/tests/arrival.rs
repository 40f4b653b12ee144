//! A machine's record and its units in another cluster.

use std::collections::BTreeSet;

use fleet_core::records::{Counters, HoldRecord, MachineRecord};

use super::super::RegistryError;
use super::super::arrival::{Coming, Merged};
use super::super::document::Export;
use super::export::{TEXT, empty, everything, one_machine};
use super::*;
use crate::codec::encode;
use crate::memory::{Fault, Injection};
use crate::store::{Operation, StoreError};

fn hold() -> HoldRecord {
    of(json!({"by": "m2", "since": 1, "why": "a backup was put back"}))
}

async fn theirs() -> (MemoryStore, Registry) {
    let (store, new) = empty().await;
    new.create_cluster(&cluster_record("theirs")).await.unwrap();
    (store, new)
}

async fn put(store: &MemoryStore, registry: &Registry, key: &Key, value: impl Into<Vec<u8>>) {
    let put = Op::put(registry.keys().key(key), value.into());
    assert!(store.txn(Txn::of(vec![put])).await.unwrap().succeeded);
}

/// An export of `cluster` in which a.service is `unit`.
async fn with_unit(cluster: &Fixture<MemoryStore>, record: &UnitRecord) -> Export {
    cluster.put(&Key::Unit(unit("a.service")), encode(record)).await;
    cluster.registry.export().await.unwrap().unwrap()
}

#[tokio::test]
async fn a_machines_units_are_taken_into_another_cluster_once() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let (store, new) = empty().await;
    let none = new.take_in(&export, &machine("m1"), Coming::All, &asked("me")).await.unwrap();
    assert_eq!(none, Merged::NoCluster);
    new.create_cluster(&cluster_record("theirs")).await.unwrap();
    let raised = new.raise_epoch(Epoch(4), &asked("me")).await.unwrap().unwrap();
    assert_eq!(raised.value.epoch, Epoch(5));
    assert_eq!(new.raise_epoch(Epoch(4), &asked("me")).await.unwrap().unwrap().value.epoch, Epoch(5));
    let done = new.take_in(&export, &machine("m1"), Coming::All, &asked("me")).await.unwrap();
    assert_eq!(done, Merged::Done { units: 2 });
    let after = everything(&new).await;
    assert_eq!(after.units.len(), 2);
    assert_eq!(after.orders[&machine("m1")].len(), 2);
    assert_eq!(after.cluster.unwrap().value.id.as_str(), "theirs");
    let again = new.take_in(&export, &machine("m1"), Coming::All, &asked("me")).await.unwrap();
    assert_eq!(again, Merged::Done { units: 0 });
    let mut other = unit_record(TEXT);
    other.uid = fleet_core::UnitUid::parse("u2").unwrap();
    let key = new.keys().key(&Key::Unit(unit("a.service")));
    assert!(store.txn(Txn::of(vec![Op::put(key, encode(&other))])).await.unwrap().succeeded);
    let taken = new.take_in(&export, &machine("m1"), Coming::All, &asked("me")).await.unwrap();
    assert_eq!(taken, Merged::Taken { names: vec![unit("a.service")] });
}

#[tokio::test]
async fn no_unit_counts_as_taken_in_that_is_not_there() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    // A hold comes between the look and the first unit, or between the units.
    for after in [2, 3] {
        let (store, new) = theirs().await;
        let late = Injection::next(Fault::Fail(StoreError::Unavailable {
            operation: Operation::Txn,
            detail: "refused".into(),
        }));
        store.inject(late.on(Operation::Txn).after(after));
        let broke_off = new.take_in(&export, &machine("m1"), Coming::All, &asked("me")).await;
        assert!(broke_off.is_err(), "after {after}: {broke_off:?}");
        put(&store, &new, &Key::Hold, encode(&hold())).await;
        let held = new.take_in(&export, &machine("m1"), Coming::All, &asked("me")).await.unwrap_err();
        assert!(matches!(&held, RegistryError::OnHold { .. }), "{held}");
        assert!(held.to_string().contains("a backup was put back"), "{held}");
    }
    let (store, new) = theirs().await;
    put(&store, &new, &Key::Hold, encode(&hold())).await;
    let held = new.raise_epoch(Epoch(4), &asked("me")).await.unwrap_err();
    assert!(matches!(held, RegistryError::OnHold { .. }), "{held}");
}

#[tokio::test]
async fn what_was_asked_of_a_unit_after_an_export_comes_with_the_machine() {
    let old = one_machine().await;
    let before = unit_record(TEXT);
    let (store, new) = theirs().await;
    put(&store, &new, &Key::Unit(unit("a.service")), encode(&before)).await;
    // Stopped meanwhile in the store that it comes from.
    let stopped = UnitRecord {
        counters: Counters { stop: 1, ..Counters::default() },
        changed: stamp("stopped"),
        ..before.clone()
    };
    let export = with_unit(&old, &stopped).await;
    let done = new.take_in(&export, &machine("m1"), Coming::All, &asked("me")).await.unwrap();
    assert_eq!(done, Merged::Done { units: 2 });
    let there = everything(&new).await;
    assert_eq!(there.units[&unit("a.service")].value, stopped);
    assert!(!there.orders[&machine("m1")].contains_key(&unit("a.service")), "its order is the engine's");
    // Asked of it there since then: that is the later word.
    let later = Stamp { at: Timestamp(NOW.0 + 1), ..stamp("started again") };
    let started = UnitRecord {
        counters: Counters { start: 1, stop: 1, ..Counters::default() },
        changed: later,
        ..before
    };
    put(&store, &new, &Key::Unit(unit("a.service")), encode(&started)).await;
    let again = new.take_in(&export, &machine("m1"), Coming::All, &asked("me")).await.unwrap();
    assert_eq!(again, Merged::Done { units: 0 });
    assert_eq!(everything(&new).await.units[&unit("a.service")].value, started);
}

#[tokio::test]
async fn a_copy_of_a_store_is_known_by_units_that_stand_elsewhere() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let (_, new) = theirs().await;
    new.take_in(&export, &machine("m1"), Coming::All, &asked("me")).await.unwrap();
    assert!(new.elsewhere(&export, &machine("m1")).await.unwrap().is_empty());
    let copy = export.to_document().replace("/m1/", "/m2/").replace("\\\"m1\\\"", "\\\"m2\\\"");
    let copy = Export::from_document(&copy).unwrap();
    let names = new.elsewhere(&copy, &machine("m2")).await.unwrap();
    assert_eq!(names, [unit("a.service"), unit("b.service")]);
}

#[tokio::test(start_paused = true)]
async fn a_machines_cordon_is_there_before_the_machine() {
    let old = one_machine().await;
    let record = json!({"v": 1, "cordon": true, "metadata": {"rack": "3", "disk": "ssd"}});
    old.put(&Key::Machine(machine("m1")), record.to_string()).await;
    let export = old.registry.export().await.unwrap().unwrap();
    let new = cluster().await;
    new.registry.announce_arrival(&export, &machine("m1"), &asked("me")).await.unwrap();
    let record = |there: super::super::snapshot::Snapshot| there.machines[&machine("m1")].value.clone();
    let there = record(everything(&new.registry).await);
    assert!(there.cordon && there.expected.is_some(), "not lost before it has come: {there:?}");
    new.present("m1").await;
    let there = record(everything(&new.registry).await);
    assert!(there.cordon && there.expected.is_none() && there.metadata["rack"] == "3", "{there:?}");
    // What the cluster says of it stays.
    let said = MachineRecord { metadata: [("rack".to_owned(), "4".to_owned())].into(), ..there };
    new.put(&Key::Machine(machine("m1")), encode(&said)).await;
    new.registry.announce_arrival(&export, &machine("m1"), &asked("me")).await.unwrap();
    let there = record(everything(&new.registry).await);
    assert_eq!((there.metadata["rack"].as_str(), there.metadata["disk"].as_str()), ("4", "ssd"));
}

#[tokio::test]
async fn p1_a_unit_that_was_destroyed_since_an_import_does_not_come_back_with_the_machine_unless_it_is_named()
{
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let (a, b) = (unit("a.service"), unit("b.service"));
    let (store, new) = theirs().await;
    let of = Coming::Named(&BTreeSet::new());
    // What is there is brought up to date, and b.service was destroyed.
    put(&store, &new, &Key::Unit(a.clone()), encode(&unit_record(TEXT))).await;
    assert_eq!(new.missing(&export).await.unwrap(), std::slice::from_ref(&b));
    let done = new.take_in(&export, &machine("m1"), of, &asked("me")).await.unwrap();
    assert_eq!(done, Merged::Done { units: 0 });
    let there = everything(&new).await;
    assert!(!there.units.contains_key(&b) && there.orders.is_empty() && there.placements.is_empty());
    // Or destroyed and made anew: that one is another, and is in nobody's way.
    let mut other = unit_record(TEXT);
    other.uid = fleet_core::UnitUid::parse("u2").unwrap();
    put(&store, &new, &Key::Unit(b.clone()), encode(&other)).await;
    assert_eq!(new.missing(&export).await.unwrap(), std::slice::from_ref(&b));
    let done = new.take_in(&export, &machine("m1"), of, &asked("me")).await.unwrap();
    assert_eq!(done, Merged::Done { units: 0 });
    assert_eq!(everything(&new).await.units[&b].value, other);
    // Named, it is a name that is taken, and comes when that is free.
    let named = BTreeSet::from([b.clone()]);
    let of = Coming::Named(&named);
    let taken = new.take_in(&export, &machine("m1"), of, &asked("me")).await.unwrap();
    assert_eq!(taken, Merged::Taken { names: vec![b.clone()] });
    let gone = Txn::of(vec![Op::delete(new.keys().key(&Key::Unit(b.clone())))]);
    assert!(store.txn(gone).await.unwrap().succeeded);
    let done = new.take_in(&export, &machine("m1"), of, &asked("me")).await.unwrap();
    assert_eq!(done, Merged::Done { units: 1 });
    assert!(everything(&new).await.orders[&machine("m1")].contains_key(&b));
}
