//! Imports that break off, that meet each other, and that meet whoever creates a cluster.

use super::super::RegistryError;
use super::super::document::Export;
use super::super::export::portable;
use super::super::import::{Begun, Imported, Importer};
use super::super::snapshot::Snapshot;
use super::export::{empty, everything, importer, one_machine};
use super::*;
use crate::memory::{Fault, Injection};
use crate::store::{Operation, StoreError};
use fleet_core::ClusterId;
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
        let first = new.import(&export, &importer(&asked("me"))).await;
        store.clear_faults();
        let second = new.import(&export, &importer(&asked("me"))).await.unwrap();
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
        let (by_me, by_you) = (importer(&by_me), importer(&by_you));
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
        let slow = Registry::new(Arc::new(store.client("slow")), new.keys().clone(), 2);
        let (me, record) = (asked("me"), cluster_record("new"));
        let by_me = importer(&me);
        let (imported, _) = tokio::join!(slow.import(&export, &by_me), new.create_cluster(&record));
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
    let (me, record) = (asked("me"), cluster_record("new"));
    let by_me = importer(&me);
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
    let Imported::Done { revision, .. } = new.import(&export, &importer(&asked("me"))).await.unwrap() else {
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

#[tokio::test(start_paused = true)]
async fn p1_neither_an_old_word_that_a_machine_is_off_nor_the_replaced_clusters_brake_outlives_an_import() {
    let (m1, me) = (machine("m1"), asked("me"));
    let (export, new) = restored().await;
    let mut export = export;
    let off = json!({"v": 1, "cordon": true, "confirmed_dead": {"stamp": {"at": 1, "by": "me", "why": "power cut"}}});
    export.entries.insert(Key::Machine(machine("m2")), off.to_string().into());
    let brake = json!({"cause": "mass-loss", "state": "released", "since": 1, "text": "m2 went away"});
    new.put(&Key::Brake, brake.to_string()).await;
    assert!(everything(&new.registry).await.brake.is_some());
    let done = new.registry.import(&export, &of_new(&m1, &me)).await.unwrap();
    assert!(matches!(done, Imported::Done { .. }), "{done:?}");
    let there = everything(&new.registry).await;
    let m2 = &there.machines[&machine("m2")].value;
    assert!(m2.confirmed_dead.is_none() && m2.expected.is_some() && m2.cordon, "{m2:?}");
    assert_eq!(there.brake, None);
}

#[tokio::test]
async fn an_import_that_another_has_begun_says_whose_it_is() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let (store, new) = empty().await;
    let stuck = Injection::next(refused());
    store.inject(stuck.on(Operation::Txn).after(3));
    assert!(new.import(&export, &importer(&asked("me"))).await.is_err());
    let created = new.create_cluster(&cluster_record("new")).await.unwrap();
    assert!(matches!(&created, Created::Importing(by) if by.begun.by == "me"), "{created:?}");
    let refused = new.import(&elsewhere(&export), &importer(&asked("you"))).await.unwrap();
    let Imported::Underway { by, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((by.cluster, by.begun.by.as_str()), (export.cluster.id.clone(), "me"));
    assert!(matches!(new.import(&export, &importer(&asked("me"))).await.unwrap(), Imported::Done { .. }));
}

/// `export` as it was when b.service was not there yet.
fn earlier(export: &Export) -> Export {
    let mut earlier = export.clone();
    earlier.entries.retain(|key, _| !key.to_string().ends_with("/b.service"));
    assert!(earlier.entries.len() < export.entries.len());
    earlier
}

#[tokio::test]
async fn half_of_another_document_of_the_same_cluster_is_an_import_under_way_and_a_stray_key_is_not() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    for stray in [None, Some("/elsewhere/0-stray")] {
        let (store, new) = empty().await;
        // Everything but the cluster's record is there.
        store.inject(Injection::next(refused()).on(Operation::Txn).after(4));
        assert!(new.import(&export, &importer(&asked("me"))).await.is_err());
        if let Some(key) = stray {
            assert!(store.txn(Txn::of(vec![Op::put(key, "{}")])).await.unwrap().succeeded);
        }
        let refused = new.import(&earlier(&export), &importer(&asked("you"))).await.unwrap();
        match (stray, &refused) {
            (None, Imported::Underway { by, sample: Some(sample) }) => {
                assert_eq!((by.cluster.clone(), by.begun.by.as_str()), (export.cluster.id.clone(), "me"));
                assert!(sample.ends_with("b.service"), "{sample}");
            }
            (Some(key), Imported::NotEmpty { sample }) => assert_eq!(sample, key),
            _ => panic!("{refused:?}"),
        }
    }
}

#[tokio::test]
async fn a_registry_that_holds_something_else_is_not_imported_into() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let (store, new) = empty().await;
    let txn = Txn::of(vec![Op::put("/elsewhere/units/c.service", "{}")]);
    assert!(store.txn(txn).await.unwrap().succeeded);
    let refused = new.import(&export, &importer(&asked("me"))).await.unwrap();
    assert_eq!(refused, Imported::NotEmpty { sample: "/elsewhere/units/c.service".into() });
}

/// A backup of one machine, and what fleetd makes at once on that machine after its state was lost.
async fn restored() -> (Export, Fixture<MemoryStore>) {
    let old = one_machine().await;
    let document = old.registry.export().await.unwrap().unwrap().to_document();
    let new = cluster().await;
    let mut record = cluster_record("new");
    record.epoch = Epoch(4);
    new.put(&Key::Cluster, crate::codec::encode(&record)).await;
    let found = new.registry.read(&[crate::keys::Area::One(Key::Cluster)]).await.unwrap().cluster.unwrap();
    let new = Fixture { fence: ClusterFence { cluster: found.modified }, ..new };
    new.present("m1").await;
    // The unit still runs, and the machine says so.
    new.put(&Key::State(machine("m1"), unit("a.service")), crate::codec::encode(&row("running"))).await;
    (Export::from_document(&document).unwrap(), new)
}

fn of_new<'a>(machine: &'a MachineId, asked: &'a Asked) -> Importer<'a> {
    let id = ClusterId::parse("new").unwrap();
    Importer { machine, member: Some((id, Epoch(4))), asked }
}

/// As the API imports: the machine's disk says that it belongs to the document's cluster before that is there.
async fn attempt(
    registry: &Registry,
    export: &Export,
    asked: &Asked,
    disk: &mut (ClusterId, Epoch),
) -> Result<Imported, RegistryError> {
    let m1 = machine("m1");
    let by = Importer { machine: &m1, member: Some(disk.clone()), asked };
    match registry.begin_import(export, &by).await? {
        Begun::Refused(refused) => Ok(refused),
        Begun::Claimed(claim) => {
            if let Some(belongs) = claim.belongs.clone() {
                *disk = belongs;
            }
            registry.finish_import(export, claim, &by).await
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_takes_the_place_of_a_cluster_without_anything_in_it_and_a_repetition_comes_to_the_same_epoch()
 {
    let (m1, me) = (machine("m1"), asked("me"));
    // Every call once refused, and once without its answer: two looks, the claim, the look after it, the entries, the
    // cluster.
    for fault in [refused(), Fault::DropReply] {
        for calls in 0..7 {
            let what = format!("{fault:?} after {calls}");
            let (export, new) = restored().await;
            let mut disk = of_new(&m1, &me).member.unwrap();
            new.store.inject(Injection::next(fault.clone()).on(Operation::Txn).after(calls));
            let first = attempt(&new.registry, &export, &me, &mut disk).await;
            new.store.clear_faults();
            assert_eq!(first.is_err(), calls < 6, "{what}: {first:?}");
            // The machine as it is now: up to the claim it belongs to its own cluster, and to the document's after it.
            assert_eq!(disk.0.as_str(), if calls < 4 { "new" } else { "ours" }, "{what}");
            let done = match first {
                Ok(done) => done,
                Err(_) => attempt(&new.registry, &export, &me, &mut disk).await.unwrap(),
            };
            let there = everything(&new.registry).await;
            let cluster = there.cluster.unwrap().value;
            match done {
                Imported::Done { epoch, .. } => assert_eq!(epoch, cluster.epoch, "{what}"),
                // The last answer was lost.
                Imported::Exists { found } if found == export.cluster.id && calls == 5 => {}
                other => panic!("{what}: {other:?}"),
            }
            // One above what the machine has seen, so that it anchors anew, however often it was repeated.
            let found = (cluster.id.as_str(), cluster.epoch, there.units.len());
            assert_eq!(found, ("ours", Epoch(5), 2), "{what}");
            assert_eq!(disk, (export.cluster.id, Epoch(4)), "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_with_something_in_it_is_never_replaced() {
    let (m1, me) = (machine("m1"), asked("me"));
    let others = [
        Key::Unit(unit("a.service")),
        Key::Placement(unit("z.service")),
        Key::Order(machine("m1"), unit("a.service")),
        Key::Machine(machine("m2")),
        Key::Presence(machine("m2")),
        Key::Hold,
    ];
    for key in others {
        let (export, new) = restored().await;
        new.put(&key, "{}").await;
        let refused = new.registry.import(&export, &of_new(&m1, &me)).await.unwrap();
        assert!(
            matches!(&refused, Imported::Exists { found } if found.as_str() == "new"),
            "{key}: {refused:?}"
        );
        // Submitted between the import's look and its claim.
        let (export, new) = restored().await;
        let late = Injection::next(Fault::Delay(Duration::from_secs(1)));
        new.store.inject(late.of_client("slow").on(Operation::Txn).after(2));
        let slow = new.client("slow");
        let by = of_new(&m1, &me);
        let (refused, ()) = tokio::join!(slow.import(&export, &by), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            new.put(&key, "{}").await;
        });
        assert!(matches!(refused, Ok(Imported::Exists { .. })), "{key}: {refused:?}");
        let there = everything(&new.registry).await;
        assert_eq!(there.cluster.unwrap().value, ClusterRecord { epoch: Epoch(4), ..cluster_record("new") });
        let found = new.store.range(crate::store::Range::key(new.registry.keys().key(&key))).await.unwrap();
        assert_eq!(found.kvs[0].value, "{}", "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn p1_an_import_that_takes_a_claim_over_does_not_mix_with_what_its_holder_wrote_until_then() {
    let (m1, me, you) = (machine("m1"), asked("me"), asked("you"));
    for is_replacement in [false, true] {
        let (export, replaced) = restored().await;
        let (store, keys) = if is_replacement {
            (replaced.store.clone(), replaced.registry.keys().clone())
        } else {
            let (store, new) = empty().await;
            (store, new.keys().clone())
        };
        let client = |name: &str, seed| Registry::new(Arc::new(store.client(name)), keys.clone(), seed);
        let (first, second) = (client("first", 2), client("second", 3));
        let member = is_replacement.then(|| of_new(&m1, &me).member.unwrap());
        let by_me = Importer { machine: &m1, member: member.clone(), asked: &me };
        let by_you = Importer { machine: &m1, member, asked: &you };
        let Begun::Claimed(claim) = first.begin_import(&export, &by_me).await.unwrap() else {
            panic!("nothing is in the way")
        };
        // The second one's claim is late, and the first one writes everything but the cluster before it.
        let late = Injection::next(Fault::Delay(Duration::from_secs(1)));
        store.inject(late.of_client("second").on(Operation::Txn).after(2));
        store.inject(Injection::next(refused()).of_client("first").on(Operation::Txn).after(1));
        let older = earlier(&export);
        let (second_time, first_time) = tokio::join!(second.import(&older, &by_you), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            first.finish_import(&export, claim, &by_me).await
        });
        assert!(first_time.is_err(), "{first_time:?}");
        assert!(
            matches!(&second_time, Ok(Imported::Underway { by, sample: Some(_) }) if by.begun.by == "me"),
            "{second_time:?}"
        );
        assert!(everything(&first).await.cluster.is_none(), "neither is the replaced one back");
        let created = first.create_cluster(&cluster_record("another")).await.unwrap();
        assert!(matches!(&created, Created::Importing(by) if by.begun.by == "me"), "{created:?}");
        // It is told as the first one's, whose document is whole when it is repeated.
        let again = first.import(&export, &by_me).await.unwrap();
        assert!(matches!(again, Imported::Done { .. }), "{again:?}");
        let there = everything(&first).await;
        assert_eq!((there.cluster.unwrap().value.id, there.units.len()), (export.cluster.id.clone(), 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_of_another_cluster_imports_nothing_into_an_empty_store() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let (_, new) = empty().await;
    let (m1, me) = (machine("m1"), asked("me"));
    let refused = new.import(&export, &of_new(&m1, &me)).await.unwrap();
    assert!(
        matches!(&refused, Imported::OtherMember { cluster } if cluster.as_str() == "new"),
        "{refused:?}"
    );
    assert!(new.export().await.unwrap().is_none());
    // One of the same cluster that has seen a later epoch raises the document above that.
    let member = Some((export.cluster.id.clone(), Epoch(7)));
    let done = new.import(&export, &Importer { machine: &m1, member, asked: &me }).await.unwrap();
    assert!(matches!(done, Imported::Done { epoch: Epoch(8), .. }), "{done:?}");
}
