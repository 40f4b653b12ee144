//! A cluster as a document and back; a machine's units in another cluster.

use super::super::document::{DocumentError, Export};
use super::super::export::Merged;
use super::super::import::Imported;
use super::super::snapshot::Snapshot;
use super::*;
use crate::codec::encode;
use crate::keys::Area;

const TEXT: &str = "[Service]\nExecStart=/bin/sleep 1d\n";

/// A machine with two units that run, and what a lease and a hold would add.
pub(super) async fn one_machine() -> Fixture<MemoryStore> {
    let cluster = cluster().await;
    cluster.present("m1").await;
    let hash = ContentHash::of(TEXT.as_bytes());
    cluster.put(&Key::Content(hash), TEXT).await;
    cluster.put(&Key::Machine(machine("m1")), "{\"from\": \"a later release\"}").await;
    for (number, name) in [(1, "a.service"), (2, "b.service")] {
        let name = unit(name);
        cluster.put(&Key::Unit(name.clone()), encode(&unit_record(TEXT))).await;
        cluster.put(&Key::Placement(name.clone()), encode(&placement("m1"))).await;
        let order = order(number, TEXT, "launched");
        cluster.put(&Key::Order(machine("m1"), name.clone()), encode(&order)).await;
        cluster.put(&Key::State(machine("m1"), name), encode(&row("running"))).await;
    }
    cluster
}

pub(super) async fn empty() -> (MemoryStore, Registry) {
    let store = MemoryStore::new(8);
    let registry = Registry::new(Arc::new(store.clone()), Keys::new("/elsewhere/").unwrap(), 1);
    (store, registry)
}

pub(super) async fn everything(registry: &Registry) -> Snapshot {
    registry.read(&Area::all()).await.unwrap()
}

#[tokio::test]
async fn a_cluster_moves_to_another_store_with_everything_but_leases() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let document = export.to_document();
    let read = Export::from_document(&document).unwrap();
    assert_eq!(read, export);
    assert_eq!((read.units().count(), read.machines().count()), (2, 1));
    let (_, new) = empty().await;
    let done = new.import(&read, &asked("me")).await.unwrap();
    assert!(matches!(done, Imported::Done { epoch: Epoch(2), .. }), "{done:?}");
    let (before, after) = (everything(&old.registry).await, everything(&new).await);
    let cluster = after.cluster.unwrap().value;
    assert_eq!((cluster.id, cluster.epoch), (before.cluster.unwrap().value.id, Epoch(2)));
    assert!(after.presence.is_empty() && !before.presence.is_empty());
    for (name, unit) in &before.units {
        assert_eq!(after.units[name].value, unit.value);
        let (old, new) = (&before.orders[&machine("m1")][name], &after.orders[&machine("m1")][name]);
        assert_eq!(old.value, new.value);
        // A revision of the other store would look like an answer to requests that are yet to come.
        let placement = &after.placements[name].value;
        assert_eq!(placement.decision.judged, Revision(0));
        assert_eq!(placement.machine, before.placements[name].value.machine);
    }
    let kept = &after.machines[&machine("m1")].value.extra["from"];
    assert_eq!(kept, "a later release");
    let hash = ContentHash::of(TEXT.as_bytes());
    assert_eq!(new.get_content(&hash).await.unwrap(), TEXT);
    let again = new.import(&read, &asked("me")).await.unwrap();
    assert!(matches!(again, Imported::Exists { .. }), "{again:?}");
}

#[tokio::test]
async fn documents_that_are_damaged_are_refused_as_a_whole() {
    let old = one_machine().await;
    let document = old.registry.export().await.unwrap().unwrap().to_document();
    let lines: Vec<&str> = document.lines().collect();
    let refused = |text: &str| Export::from_document(text).unwrap_err();
    assert!(matches!(refused(""), DocumentError::Head { .. }));
    assert!(matches!(refused("{\"format\": \"other\"}"), DocumentError::Head { .. }));
    let cut = lines[..lines.len() - 1].join("\n");
    let expected = lines.len() - 1;
    assert_eq!(refused(&cut), DocumentError::CutOff { found: expected - 1, expected });
    let newer = document.replacen("\"version\":1", "\"version\":2", 1);
    assert_eq!(refused(&newer), DocumentError::Newer { found: 2 });
    let text = document.replace("sleep 1d", "sleep 2d");
    assert!(refused(&text).to_string().contains("does not have this hash"));
    let lease = document.replace("machines/m1", "presence/m1");
    assert!(matches!(refused(&lease), DocumentError::Line { .. }));
    for index in 0..document.len() {
        if document.is_char_boundary(index) {
            assert!(Export::from_document(&document[..index]).is_err() || index + 1 == document.len());
        }
    }
}

#[tokio::test]
async fn a_machines_units_are_taken_into_another_cluster_once() {
    let old = one_machine().await;
    let export = old.registry.export().await.unwrap().unwrap();
    let (store, new) = empty().await;
    let none = new.take_in(&export, &machine("m1"), &asked("me")).await.unwrap();
    assert_eq!(none, Merged::NoCluster);
    new.create_cluster(&cluster_record("theirs")).await.unwrap();
    let raised = new.raise_epoch(Epoch(4), &asked("me")).await.unwrap().unwrap();
    assert_eq!(raised.value.epoch, Epoch(5));
    assert_eq!(new.raise_epoch(Epoch(4), &asked("me")).await.unwrap().unwrap().value.epoch, Epoch(5));
    let done = new.take_in(&export, &machine("m1"), &asked("me")).await.unwrap();
    assert_eq!(done, Merged::Done { units: 2 });
    let after = everything(&new).await;
    assert_eq!(after.units.len(), 2);
    assert_eq!(after.orders[&machine("m1")].len(), 2);
    assert_eq!(after.cluster.unwrap().value.id.as_str(), "theirs");
    let again = new.take_in(&export, &machine("m1"), &asked("me")).await.unwrap();
    assert_eq!(again, Merged::Done { units: 0 });
    let mut other = unit_record(TEXT);
    other.uid = fleet_core::UnitUid::parse("u2").unwrap();
    let key = new.keys().key(&Key::Unit(unit("a.service")));
    assert!(store.txn(Txn::of(vec![Op::put(key, encode(&other))])).await.unwrap().succeeded);
    let taken = new.take_in(&export, &machine("m1"), &asked("me")).await.unwrap();
    assert_eq!(taken, Merged::Taken { names: vec![unit("a.service")] });
}
