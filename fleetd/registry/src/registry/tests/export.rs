//! A cluster as a document and back; a machine's units in another cluster.

use super::super::document::{DocumentError, Export};
use super::super::import::{Imported, Importer};
use super::super::snapshot::Snapshot;
use super::*;
use crate::codec::encode;
use crate::keys::Area;

pub(super) const TEXT: &str = "[Service]\nExecStart=/bin/sleep 1d\n";

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

/// On m1, which belongs to no cluster yet.
pub(super) fn importer(asked: &Asked) -> Importer<'_> {
    static M1: std::sync::LazyLock<MachineId> = std::sync::LazyLock::new(|| machine("m1"));
    Importer { machine: &M1, member: None, asked }
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
    let done = new.import(&read, &importer(&asked("me"))).await.unwrap();
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
    let again = new.import(&read, &importer(&asked("me"))).await.unwrap();
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
