//! Imports that break off, that meet each other, and that meet whoever creates a cluster.

use super::super::document::Export;
use super::super::export::portable;
use super::super::import::Imported;
use super::super::snapshot::Snapshot;
use super::export::{empty, everything, one_machine};
use super::*;
use crate::memory::{Fault, Injection};
use crate::store::{Operation, StoreError};
use fleet_core::records::MachineRecord;

fn refused() -> Fault {
    Fault::Fail(StoreError::Unavailable { operation: Operation::Txn, detail: "refused".into() })
}

#[tokio::test(start_paused = true)]
async fn an_import_that_broke_off_is_no_cluster_and_can_be_repeated() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    // Two looks, the claim, the entries, the cluster.
    for calls in 0..5 {
        let (store, new) = empty().await;
        let fault = Fault::DropReply;
        let lost = Injection::next(fault).on(Operation::Txn);
        store.inject(lost.after(calls));
        let first = new.import(&export, &asked("me")).await;
        store.clear_faults();
        let second = new.import(&export, &asked("me")).await.unwrap();
        // The last transaction may have been done without an answer; everything else is done again.
        let is_done = match &second {
            Imported::Done { .. } => first.is_err(),
            Imported::Exists { found } => *found == export.cluster.id,
            _ => false,
        };
        assert!(is_done, "after {calls}: {first:?} {second:?}");
        assert_eq!(everything(&new).await.units.len(), 2);
    }
}

/// The same units as lives of another cluster: `export` with other ids.
fn elsewhere(export: &Export) -> Export {
    let document = export.to_document().replace("u1", "u9").replace("\"ours\"", "\"theirs\"");
    Export::from_document(&document.replace("\\\"ours\\\"", "\\\"theirs\\\"")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn p1_two_imports_at_once_never_mix() {
    let old = one_machine().await;
    let first = old.registry.export().await.unwrap().unwrap();
    let second = elsewhere(&first);
    assert_ne!(first.cluster.id, second.cluster.id);
    for calls in 0..6 {
        let (store, new) = empty().await;
        let slow = Registry::new(Arc::new(store.client("slow")), new.keys().clone(), 2);
        let late = Injection::next(Fault::Delay(Duration::from_secs(1)));
        store.inject(late.of_client("slow").on(Operation::Txn).after(calls));
        let (by_me, by_you) = (asked("me"), asked("you"));
        let (slow, fast) = tokio::join!(slow.import(&first, &by_me), new.import(&second, &by_you));
        let done = |ended: &Result<Imported, _>| matches!(ended, Ok(Imported::Done { .. }));
        assert!(done(&slow) != done(&fast), "after {calls}: {slow:?} {fast:?}");
        let winner = if done(&slow) { &first } else { &second };
        let there = new.export().await.unwrap().unwrap();
        assert_eq!(there.cluster.id, winner.cluster.id, "after {calls}");
        for (key, value) in
            there.entries.iter().filter(|(key, _)| !matches!(key, Key::Event(_) | Key::Machine(_)))
        {
            assert_eq!(*value, portable(key, &winner.entries[key]), "after {calls}: {key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p1_no_cluster_is_created_around_half_an_import() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    for calls in 0..4 {
        let (store, new) = empty().await;
        let late = Injection::next(Fault::Delay(Duration::from_secs(1)));
        // The import's looks, its claim and its entries are late, one after the other.
        store.inject(late.of_client("slow").on(Operation::Txn).after(calls));
        let creates = Registry::new(Arc::new(store.client("slow")), new.keys().clone(), 2);
        let (imported, created) = (asked("me"), cluster_record("new"));
        let (imported, _) = tokio::join!(creates.import(&export, &imported), new.create_cluster(&created));
        let there = everything(&new).await;
        let is_imported = matches!(imported, Ok(Imported::Done { .. }));
        let cluster = there.cluster.map(|cluster| cluster.value.id);
        if is_imported {
            assert_eq!(cluster, Some(export.cluster.id.clone()), "after {calls}");
        } else {
            assert!(there.units.is_empty() && cluster.is_some(), "after {calls}: {imported:?}");
        }
    }
    // The other way round: the one that creates is late between its look and its write.
    let (store, new) = empty().await;
    let late = Injection::next(Fault::Delay(Duration::from_secs(1)));
    store.inject(late.of_client("slow").on(Operation::Txn));
    let creates = Registry::new(Arc::new(store.client("slow")), new.keys().clone(), 2);
    let stuck = Injection::next(refused());
    // The import breaks off before its last transaction.
    store.inject(stuck.of_client("import").on(Operation::Txn).after(4));
    let import = Registry::new(Arc::new(store.client("import")), new.keys().clone(), 3);
    let (by_me, record) = (asked("me"), cluster_record("new"));
    let (created, imported) = tokio::join!(creates.create_cluster(&record), import.import(&export, &by_me));
    assert!(imported.is_err() && !matches!(created, Ok(Created::Done(_))), "{imported:?} {created:?}");
    assert!(everything(&new).await.cluster.is_none());
    let again = import.import(&export, &by_me).await.unwrap();
    assert!(matches!(again, Imported::Done { .. }), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn an_imported_machine_is_expected_until_it_announces_itself() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let (store, new) = empty().await;
    let Imported::Done { revision, .. } = new.import(&export, &asked("me")).await.unwrap() else {
        panic!("the store was empty")
    };
    let record = |there: Snapshot| there.machines[&machine("m1")].value.clone();
    let before = record(everything(&new).await);
    assert_eq!(before.expected.as_ref().map(|begun| begun.by.as_str()), Some("me"));
    let moved = Fixture { store, registry: new.clone(), fence: ClusterFence { cluster: revision } };
    moved.present("m1").await;
    let after = record(everything(&new).await);
    assert_eq!(after, MachineRecord { expected: None, ..before });
}

#[tokio::test]
async fn an_import_that_another_has_begun_says_whose_it_is() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let (store, new) = empty().await;
    let stuck = Injection::next(refused());
    store.inject(stuck.on(Operation::Txn).after(3));
    assert!(new.import(&export, &asked("me")).await.is_err());
    let refused = new.import(&elsewhere(&export), &asked("you")).await.unwrap();
    let Imported::Underway { by } = refused else { panic!("{refused:?}") };
    assert_eq!((by.cluster, by.begun.by.as_str()), (export.cluster.id.clone(), "me"));
    assert!(matches!(new.import(&export, &asked("me")).await.unwrap(), Imported::Done { .. }));
}

#[tokio::test]
async fn a_registry_that_holds_something_else_is_not_imported_into() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let (store, new) = empty().await;
    let txn = Txn::of(vec![Op::put("/elsewhere/units/c.service", "{}")]);
    assert!(store.txn(txn).await.unwrap().succeeded);
    let refused = new.import(&export, &asked("me")).await.unwrap();
    assert_eq!(refused, Imported::NotEmpty { sample: "/elsewhere/units/c.service".into() });
}
