//! What the leader tidies up.

use fleet_core::Span;

use super::*;
use crate::codec::encode;
use crate::keys::EventId;
use crate::memory::{Fault, Injection};
use crate::registry::Outcome;
use crate::registry::contents::Unreferenced;
use crate::registry::events::KEPT_FOR;
use crate::registry::units::UnitWrite;
use crate::registry::upkeep::COMPACT_EVERY;
use crate::store::{Range, Select, StoreError};

const GRACE: Span = Span::from_secs(600);

async fn key_count(fixture: &Fixture<MemoryStore>) -> u64 {
    let all = Range::new(fixture.registry.keys().whole()).select(Select::CountOnly);
    fixture.store.range(all).await.unwrap().count
}

async fn submit(fixture: &Fixture<MemoryStore>, name: &UnitName, text: &str) {
    let found = fixture.registry.read_unit(name).await.unwrap();
    let write = UnitWrite {
        unit: name.clone(),
        expected: found.map_or(Revision(0), |found| found.modified),
        placement: None,
        record: unit_record(text),
        content: Some(text.to_owned()),
        note: note("unit-created", name),
    };
    let outcomes = fixture.registry.write_units(fixture.fence, &[write], &asked("op")).await;
    assert!(outcomes.iter().all(Outcome::is_applied));
}

async fn destroy(fixture: &Fixture<MemoryStore>, name: &UnitName) {
    fixture.write(vec![Op::delete(fixture.registry.keys().key(&Key::Unit(name.clone())))]).await;
}

#[tokio::test(start_paused = true)]
async fn submit_and_destroy_leave_nothing_behind() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let baseline = key_count(&fixture).await;
    for i in 0..300 {
        let name = unit("a.service");
        submit(&fixture, &name, &format!("text {i}")).await;
        destroy(&fixture, &name).await;
    }
    let mut unreferenced = Unreferenced::default();
    let registry = &fixture.registry;
    let first = registry.collect_contents(leader, &mut unreferenced, NOW, GRACE).await.unwrap();
    assert_eq!((first.deleted, first.waiting), (0, 300));
    let later = NOW.plus(GRACE);
    let second = registry.collect_contents(leader, &mut unreferenced, later, GRACE).await.unwrap();
    assert_eq!((second.deleted, second.waiting), (300, 0));
    assert!(unreferenced.is_empty());
    assert_eq!(registry.trim_events(leader, later.plus(KEPT_FOR).plus(GRACE)).await.unwrap(), 300);
    assert_eq!(key_count(&fixture).await, baseline);
}

#[tokio::test(start_paused = true)]
async fn a_text_that_is_named_or_submitted_again_is_not_collected() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let (kept, again) = (unit("kept.service"), unit("again.service"));
    submit(&fixture, &kept, "kept").await;
    submit(&fixture, &again, "again").await;
    destroy(&fixture, &again).await;
    // Only an order names this one.
    submit(&fixture, &unit("ordered.service"), "ordered").await;
    destroy(&fixture, &unit("ordered.service")).await;
    fixture
        .put(&Key::Order(machine("m1"), unit("ordered.service")), encode(&order(1, "ordered", "gone")))
        .await;

    let mut unreferenced = Unreferenced::default();
    let registry = &fixture.registry;
    let waiting = registry.collect_contents(leader, &mut unreferenced, NOW, GRACE).await.unwrap();
    assert_eq!(waiting.waiting, 1);
    submit(&fixture, &again, "again").await;
    destroy(&fixture, &again).await;
    // The grace counts anew from the text's last submission.
    let collected =
        registry.collect_contents(leader, &mut unreferenced, NOW.plus(GRACE), GRACE).await.unwrap();
    assert_eq!((collected.deleted, collected.waiting), (0, 1));
    for text in ["kept", "again", "ordered"] {
        assert_eq!(registry.get_content(&ContentHash::of(text.as_bytes())).await.unwrap(), text);
    }
    let last = NOW.plus(GRACE).plus(GRACE);
    let collected = registry.collect_contents(leader, &mut unreferenced, last, GRACE).await.unwrap();
    assert_eq!((collected.deleted, collected.waiting), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_text_that_is_submitted_during_its_collection_stays() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let name = unit("a.service");
    submit(&fixture, &name, "text").await;
    destroy(&fixture, &name).await;
    let slow = fixture.client("slow");
    // After the two lists, before the delete.
    let late = Injection::next(Fault::Delay(Duration::from_secs(1))).of_client("slow").after(2);
    fixture.store.inject(late);
    let mut unreferenced = Unreferenced::default();
    let (collected, ()) = tokio::join!(
        slow.collect_contents(leader, &mut unreferenced, NOW, Span(0)),
        submit(&fixture, &name, "text")
    );
    assert_eq!(collected.unwrap().deleted, 0);
    assert_eq!(fixture.registry.get_content(&ContentHash::of(b"text")).await.unwrap(), "text");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_collected_while_a_unit_cannot_be_read() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    fixture.put(&Key::Content(ContentHash::of(b"text")), "text").await;
    fixture.put(&Key::Unit(unit("future.service")), r#"{"v": 99}"#).await;
    let mut unreferenced = Unreferenced::default();
    let collected = fixture.registry.collect_contents(leader, &mut unreferenced, NOW, Span(0)).await.unwrap();
    assert!(collected.is_blocked && collected.deleted == 0);
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_the_past_neither_collects_nor_trims() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    submit(&fixture, &unit("a.service"), "text").await;
    destroy(&fixture, &unit("a.service")).await;
    fixture.registry.resign(leader.term).await.unwrap();
    let mut unreferenced = Unreferenced::default();
    let collected = fixture.registry.collect_contents(leader, &mut unreferenced, NOW, Span(0)).await.unwrap();
    assert_eq!((collected.deleted, collected.waiting), (0, 1));
    assert_eq!(fixture.registry.trim_events_to(leader, NOW, 0).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn events_are_read_newest_and_trimmed_oldest() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let day = Span::from_secs(24 * 3600);
    let mut at = NOW;
    for i in 0..20 {
        let record = json!({"v": 1, "at": at, "by": format!("op{i}"), "notes": []});
        fixture.put(&Key::Event(EventId::new(at, i)), serde_json::to_vec(&record).unwrap()).await;
        at = at.plus(Span(day.0 / 2));
    }
    let by = |log: Vec<(EventId, fleet_core::records::EventRecord)>| -> Vec<String> {
        log.into_iter().map(|(_, event)| event.by).collect()
    };
    let registry = &fixture.registry;
    let last = NOW.plus(Span(day.0 / 2 * 19));
    assert_eq!(by(registry.events(2, None).await.unwrap().events), ["op18", "op19"]);
    assert_eq!(by(registry.events(9, Some(last)).await.unwrap().events), ["op19"]);
    assert_eq!(registry.events(0, None).await.unwrap().events, []);
    // Seven days and the event at exactly seven days: fifteen of them.
    assert_eq!(registry.trim_events(leader, last).await.unwrap(), 5);
    assert_eq!(by(registry.events(99, None).await.unwrap().events)[0], "op5");
    assert_eq!(registry.trim_events_to(leader, last, 3).await.unwrap(), 12);
    assert_eq!(by(registry.events(99, None).await.unwrap().events), ["op17", "op18", "op19"]);
    assert_eq!(registry.trim_events(leader, last).await.unwrap(), 0);
    assert_eq!(registry.trim_events(leader, last.plus(KEPT_FOR).plus(day)).await.unwrap(), 3);
    assert_eq!(registry.events(99, None).await.unwrap().events, []);
}

#[tokio::test(start_paused = true)]
async fn the_store_is_compacted_every_so_many_revisions() {
    let fixture = cluster().await;
    let start = fixture.registry.seen();
    assert_eq!(fixture.registry.compact_if_due(start).await.unwrap(), start);
    for _ in 0..COMPACT_EVERY {
        fixture.put(&Key::Brake, "{}").await;
    }
    let newest = fixture.registry.read_all().await.unwrap().revision;
    assert_eq!(fixture.registry.compact_if_due(start).await.unwrap(), newest);
    let old = Range::key("/x").at(crate::store::Revision(2));
    assert!(matches!(fixture.store.range(old).await, Err(StoreError::Compacted { .. })));
    let recent = Range::key("/x").at(crate::registry::raw(Revision(newest.0 - 900)));
    assert!(fixture.store.range(recent).await.is_ok());
    assert_eq!(fixture.registry.compact_if_due(newest).await.unwrap(), newest);
}
