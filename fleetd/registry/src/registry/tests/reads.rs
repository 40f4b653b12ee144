//! Snapshots, followed views, and records that cannot be read among others.

use std::sync::Arc;

use fleet_core::store_trust::{Member, Trust, judge};
use fleet_core::world::World;
use fleet_core::{ClusterId, Epoch};

use super::*;
use crate::codec::{CodecError, encode};
use crate::keys::Area;
use crate::memory::{Fault, Injection};
use crate::registry::follow::FeedItem;
use crate::registry::orders::OrdersItem;
use crate::registry::world::WorldItem;
use crate::registry::{RegistryError, typed};
use crate::store::{Operation, StoreError};

/// What `read_all` and what the followed world say must build the same world.
async fn world_of(registry: &Registry) -> (World, usize) {
    let mut stream = registry.follow_world(|| NOW);
    let WorldItem::Snapshot { events, undecodable, .. } = stream.next().await else {
        panic!("the first item is a snapshot")
    };
    (World::from_events(events), undecodable.len())
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_holds_everything_at_one_revision() {
    let fixture = cluster().await;
    let name = unit("a.service");
    fixture.present("m1").await;
    let leader = fixture.lead("m1").await;
    fixture.put(&Key::Unit(name.clone()), encode(&unit_record("text"))).await;
    let outcomes = fixture.registry.apply_groups(leader, &[place(&name, "m1", 1)], &asked("engine@m1")).await;
    assert!(outcomes[0].is_applied());
    fixture.put(&Key::State(machine("m1"), name.clone()), encode(&row("running"))).await;

    let snapshot = fixture.registry.read_all().await.unwrap();
    assert_eq!(snapshot.revision, fixture.registry.seen());
    assert_eq!(snapshot.leader.as_ref().unwrap().value.machine, machine("m1"));
    assert_eq!(snapshot.orders[&machine("m1")][&name].value, order(1, "text", "launched"));
    assert_eq!(snapshot.states[&machine("m1")][&name].value, row("running"));
    assert_eq!(snapshot.placements[&name].value.machine, Some(machine("m1")));
    assert!(snapshot.presence.contains_key(&machine("m1")) && snapshot.machines.contains_key(&machine("m1")));
    let from_read = World::from_events(snapshot.clone().into_events(NOW));
    let (followed, _) = world_of(&fixture.registry).await;
    assert_eq!(format!("{from_read:?}"), format!("{followed:?}"));

    let whole = fixture.registry.read_unit_whole(&name).await.unwrap();
    assert_eq!(whole.unit.unwrap().value, unit_record("text"));
    assert_eq!((whole.orders.len(), whole.states.len()), (1, 1));
    let units = fixture.registry.read(&[Area::Units]).await.unwrap();
    assert_eq!((units.units.len(), units.orders.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn many_keys_are_read_in_pages() {
    let fixture = cluster().await;
    let record = encode(&unit_record("text"));
    for chunk in 0..45 {
        let put = |i| {
            Op::put(
                fixture.registry.keys().key(&Key::Unit(unit(&format!("u{chunk}-{i}.service")))),
                record.clone(),
            )
        };
        fixture.write((0..100).map(put).collect()).await;
    }
    let before = fixture.store.calls(Operation::Range);
    assert_eq!(fixture.registry.read_all().await.unwrap().units.len(), 4_500);
    assert_eq!(fixture.store.calls(Operation::Range) - before, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_written_between_two_pages_is_in_none() {
    let fixture = cluster().await;
    let record = encode(&unit_record("text"));
    let key = |name: String| fixture.registry.keys().key(&Key::Unit(unit(&name)));
    for chunk in 0..21 {
        let put = |i| Op::put(key(format!("u{chunk:02}{i:02}.service")), record.clone());
        fixture.write((0..100).map(put).collect()).await;
    }
    let slow = fixture.client("slow");
    let late = Injection::next(Fault::Delay(Duration::from_secs(1))).of_client("slow").after(1);
    fixture.store.inject(late);
    let write = fixture.write(vec![Op::put(key("z.service".into()), record.clone())]);
    let (snapshot, ()) = tokio::join!(slow.read(&[Area::Units]), write);
    assert_eq!(snapshot.unwrap().units.len(), 2_100);
}

#[tokio::test(start_paused = true)]
async fn changes_that_have_arrived_are_told_together() {
    let fixture = cluster().await;
    let mut feed = fixture.registry.follow(&[Area::Units]);
    assert!(matches!(feed.next().await, FeedItem::Snapshot(_)));
    for name in ["a.service", "b.service", "c.service"] {
        fixture.put(&Key::Unit(unit(name)), encode(&unit_record("text"))).await;
    }
    let FeedItem::Changes { revision, changes } = feed.next().await else { panic!() };
    assert_eq!((changes.len(), revision), (3, fixture.registry.read(&[Area::Units]).await.unwrap().revision));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_prefix_is_an_empty_view_and_no_error() {
    let fixture = cluster().await;
    let elsewhere = Registry::new(Arc::new(fixture.store.clone()), Keys::new("/flet/").unwrap(), 1);
    let view = elsewhere.read_trust_view(&machine("m1")).await.unwrap();
    assert_eq!((&view.cluster, &view.hold, &view.witness), (&None, &None, &None));
    let member = Member {
        v: 1,
        cluster: ClusterId::parse("ours").unwrap(),
        epoch: Epoch(1),
        store: "etcd".into(),
        witness: 0,
        seen: Revision(1),
        extra: Default::default(),
    };
    assert_eq!(judge(Some(&member), view.view()), Trust::Empty);
    let snapshot = elsewhere.read_all().await.unwrap();
    assert!(snapshot.units.is_empty() && snapshot.undecodable.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_record_is_reported_and_the_others_are_read() {
    let fixture = cluster().await;
    let (good, bad) = (unit("good.service"), unit("bad.service"));
    fixture.put(&Key::Unit(good.clone()), encode(&unit_record("text"))).await;
    fixture.put(&Key::Unit(bad.clone()), r#"{"v": 99}"#).await;
    fixture.put(&Key::Order(machine("m1"), bad.clone()), "garbage").await;
    let snapshot = fixture.registry.read_all().await.unwrap();
    assert_eq!(snapshot.units.keys().collect::<Vec<_>>(), [&good]);
    let keys: Vec<_> = snapshot.undecodable.iter().map(|u| u.key.clone()).collect();
    assert_eq!(keys, [Key::Unit(bad.clone()), Key::Order(machine("m1"), bad.clone())]);
    let error = fixture.registry.read_unit(&bad).await.unwrap_err();
    assert!(matches!(error, RegistryError::Codec { error: CodecError::NewerSchema { found: 99, .. }, .. }));
    assert_eq!(world_of(&fixture.registry).await.1, 2);

    // A plan made without it cannot write over it.
    let leader = fixture.lead("m1").await;
    fixture.put(&Key::Placement(bad.clone()), r#"{"v": 99}"#).await;
    let outcomes = fixture.registry.apply_groups(leader, &[place(&bad, "m1", 1)], &asked("engine@m1")).await;
    assert_eq!(outcomes, [crate::registry::Outcome::Conflict]);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_cannot_be_read_still_holds() {
    let fixture = cluster().await;
    fixture.put(&Key::Hold, r#"{"v": 99}"#).await;
    let view = fixture.registry.read_trust_view(&machine("m1")).await.unwrap();
    assert!(view.hold.as_ref().unwrap().value.why.contains("newer release"));
    assert_eq!(view.fence(), None);
    assert!(fixture.registry.read_all().await.unwrap().hold.is_some());
    assert!(world_of(&fixture.registry).await.0.hold().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_followed_world_equals_a_fresh_one_after_every_loss() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let mut stream = fixture.registry.follow_world(|| NOW);
    let WorldItem::Snapshot { events, is_relisted: false, .. } = stream.next().await else { panic!() };
    let mut world = World::from_events(events);
    let mut relists = 0;
    for round in 0..6 {
        let name = unit(&format!("u{round}.service"));
        if round == 2 {
            fixture.store.cancel_watches();
        }
        fixture.put(&Key::Unit(name.clone()), encode(&unit_record("text"))).await;
        fixture.registry.apply_groups(leader, &[place(&name, "m1", round)], &asked("engine@m1")).await;
        if round == 4 {
            // Lost on the server's side: only an audit finds it.
            fixture.store.set_mute(true);
            fixture
                .write(vec![Op::delete(fixture.registry.keys().key(&Key::Unit(unit("u0.service"))))])
                .await;
            fixture.store.set_mute(false);
            assert_eq!(stream.audit().await.unwrap().differences.len(), 1);
        }
        let target = fixture.registry.read_all().await.unwrap();
        loop {
            let revision = match stream.next().await {
                WorldItem::Snapshot { revision, events, is_relisted, .. } => {
                    relists += usize::from(is_relisted);
                    world = World::from_events(events);
                    revision
                }
                WorldItem::Changes { revision, events, .. } => {
                    events.into_iter().for_each(|event| world.apply(event));
                    revision
                }
                WorldItem::Disconnected { error } => panic!("{error}"),
            };
            if revision >= target.revision {
                break;
            }
        }
        assert_eq!(world.units(), &target.units);
        assert_eq!(world.placements(), &target.placements);
    }
    assert_eq!((relists, fixture.registry.counters().relists()), (2, 2));
    assert_eq!(fixture.registry.counters().audit_differences(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_placement_and_its_order_are_told_together() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let mut stream = fixture.registry.follow_world(|| NOW);
    let WorldItem::Snapshot { .. } = stream.next().await else { panic!() };
    let name = unit("a.service");
    fixture.registry.apply_groups(leader, &[place(&name, "m1", 1)], &asked("engine@m1")).await;
    let WorldItem::Changes { events, .. } = stream.next().await else { panic!() };
    assert_eq!(events.len(), 2, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn growth_of_the_raft_term_is_told_with_the_next_change() {
    let fixture = cluster().await;
    let mut stream = fixture.registry.follow_world(|| NOW);
    stream.next().await;
    fixture.store.elect();
    fixture.present("m1").await;
    let WorldItem::Changes { events, .. } = stream.next().await else { panic!() };
    let is_term =
        |event: &fleet_core::world::Event| matches!(event, fleet_core::world::Event::RaftTerm { .. });
    assert!(events.iter().any(is_term), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_told_its_orders_and_freezes_those_it_cannot_read() {
    let fixture = cluster().await;
    let (a, b) = (unit("a.service"), unit("b.service"));
    let key = |name: &UnitName| Key::Order(machine("m1"), name.clone());
    fixture.put(&key(&a), encode(&order(1, "text", "launched"))).await;
    fixture.put(&Key::Order(machine("m2"), b.clone()), encode(&order(1, "text", "launched"))).await;
    let mut stream = fixture.registry.follow_orders(&machine("m1"));
    let OrdersItem::Snapshot { mut view, .. } = stream.next().await else { panic!() };
    assert_eq!(view.orders.keys().collect::<Vec<_>>(), [&a]);
    assert_eq!(view.fence(), Some(fixture.fence));

    fixture.put(&key(&a), r#"{"v": 99}"#).await;
    fixture.put(&key(&b), encode(&order(2, "text", "loaded"))).await;
    fixture.put(&Key::Hold, "garbage").await;
    let last = fixture.registry.read(&[Area::One(Key::Hold)]).await.unwrap().revision;
    while view.hold.is_none() {
        let OrdersItem::Changes { revision, changes } = stream.next().await else { panic!() };
        changes.into_iter().for_each(|change| view.apply(change));
        view.revision = revision;
    }
    assert!(view.revision >= last);
    assert_eq!(view.frozen.keys().collect::<Vec<_>>(), [&a]);
    assert_eq!(view.orders.keys().collect::<Vec<_>>(), [&b]);
    assert_eq!(view.fence(), None);

    fixture.put(&Key::Cluster, "garbage").await;
    let OrdersItem::Changes { changes, .. } = stream.next().await else { panic!() };
    changes.into_iter().for_each(|change| view.apply(change));
    assert!(view.trust().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_is_told_and_then_listed_anew() {
    let fixture = cluster().await;
    let mut feed = fixture.registry.watch_leader();
    assert!(matches!(feed.next().await, FeedItem::Snapshot(_)));
    fixture.store.set_all_links(crate::memory::Link::Silent);
    assert!(matches!(feed.next().await, FeedItem::Disconnected { error: StoreError::Timeout { .. } }));
    fixture.store.set_all_links(crate::memory::Link::Open);
    fixture.lead("m1").await;
    loop {
        match feed.next().await {
            FeedItem::Snapshot(snapshot) => {
                assert!(snapshot.is_relisted);
                assert_eq!(snapshot.entries.len(), 1);
                break;
            }
            FeedItem::Disconnected { .. } => {}
            FeedItem::Changes { .. } => panic!("a cut watch ends in a snapshot"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_text_is_checked_against_its_hash() {
    let fixture = cluster().await;
    let hash = ContentHash::of(b"text");
    assert_eq!(
        fixture.registry.get_content(&hash).await,
        Err(RegistryError::ContentMissing(Key::Content(hash)))
    );
    fixture.put(&Key::Content(hash), "text").await;
    assert_eq!(fixture.registry.get_content(&hash).await.unwrap(), "text");
    fixture.put(&Key::Content(hash), "other").await;
    let error = fixture.registry.get_content(&hash).await.unwrap_err();
    assert!(matches!(error, RegistryError::Codec { error: CodecError::WrongContent { .. }, .. }), "{error}");
}

#[test]
fn revisions_of_store_and_model_translate() {
    assert_eq!(typed(crate::store::Revision(5)), Revision(5));
    assert_eq!(crate::registry::raw(Revision(5)), crate::store::Revision(5));
    assert_eq!(crate::registry::raw(Revision(-1)), crate::store::Revision(0));
}

/// Takes in what is told until `done`.
async fn follow_until<C: Fn() -> Timestamp + Send>(
    stream: &mut crate::registry::world::WorldStream<C>,
    world: &mut World,
    done: impl Fn(&World) -> bool,
) {
    while !done(world) {
        match stream.next().await {
            WorldItem::Snapshot { events, .. } => *world = World::from_events(events),
            WorldItem::Changes { events, .. } => events.into_iter().for_each(|event| world.apply(event)),
            WorldItem::Disconnected { .. } => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_unit_with_an_unreadable_order_is_frozen_until_it_can_be_read() {
    let fixture = cluster().await;
    let (a, b) = (unit("a.service"), unit("b.service"));
    let order_key = Key::Order(machine("m1"), a.clone());
    for name in [&a, &b] {
        fixture.put(&Key::Unit(name.clone()), encode(&unit_record("text"))).await;
    }
    fixture.put(&order_key, encode(&order(1, "text", "launched"))).await;
    let mut stream = fixture.registry.follow_world(|| NOW);
    let mut world = World::default();
    follow_until(&mut stream, &mut world, |world| world.units().len() == 2).await;

    fixture.put(&order_key, r#"{"v": 99}"#).await;
    follow_until(&mut stream, &mut world, |world| !world.units().contains_key(&a)).await;
    // The order it knew still occupies the machine; a new record of the unit changes nothing.
    assert!(world.order(&machine("m1"), &a).is_some());
    fixture.put(&Key::Unit(a.clone()), encode(&unit_record("new"))).await;
    fixture.put(&Key::Brake, "{}").await;
    follow_until(&mut stream, &mut world, |world| world.brake().is_some()).await;
    assert_eq!(world.units().keys().collect::<Vec<_>>(), [&b]);
    let (fresh, _) = world_of(&fixture.registry).await;
    assert_eq!(fresh.units().keys().collect::<Vec<_>>(), [&b]);

    fixture.put(&order_key, encode(&order(2, "new", "launched"))).await;
    follow_until(&mut stream, &mut world, |world| world.units().len() == 2).await;
    assert_eq!(world.units()[&a].value, unit_record("new"));
    assert_eq!(world.order(&machine("m1"), &a).unwrap().value.number.sequence, 2);
}

#[tokio::test(start_paused = true)]
async fn a_list_made_anew_does_not_start_the_wait_for_a_lost_machine_over() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let fixture = cluster().await;
    let clock = Arc::new(AtomicU64::new(1_000));
    let now = Arc::clone(&clock);
    let mut stream = fixture.registry.follow_world(move || Timestamp(now.load(Ordering::Relaxed)));
    let mut world = World::default();
    let m1 = machine("m1");
    let counted =
        |world: &World| world.machines().get(&m1).and_then(|m| m.lost()).map(|lost| lost.counted_from);
    fixture.put(&Key::Lost(m1.clone()), r#"{"since": 5, "grace": 5000}"#).await;
    follow_until(&mut stream, &mut world, |world| counted(world).is_some()).await;
    let mut cut = async |at: u64, elects: bool| {
        clock.store(at, Ordering::Relaxed);
        if elects {
            fixture.store.elect();
        }
        fixture.store.cancel_watches();
        world = World::default();
        follow_until(&mut stream, &mut world, |world| counted(world).is_some()).await;
        counted(&world).unwrap()
    };
    assert_eq!(cut(2_000, false).await, Timestamp(1_000));
    // An election waits once more, and only once.
    assert_eq!(cut(3_000, true).await, Timestamp(3_000));
    assert_eq!(cut(4_000, true).await, Timestamp(3_000));
}

#[tokio::test(start_paused = true)]
async fn an_earlier_revision_is_read_until_it_is_compacted() {
    let fixture = cluster().await;
    let (a, b) = (unit("a.service"), unit("b.service"));
    fixture.put(&Key::Unit(a.clone()), encode(&unit_record("old"))).await;
    let then = fixture.registry.read(&[Area::Units]).await.unwrap();
    fixture.put(&Key::Unit(a), encode(&unit_record("new"))).await;
    fixture.put(&Key::Unit(b), encode(&unit_record("text"))).await;
    let again = fixture.registry.read_at(&[Area::Units], then.revision).await.unwrap();
    assert_eq!((again.revision, &again.units), (then.revision, &then.units));
    let now = fixture.registry.read(&[Area::Units]).await.unwrap().revision;
    fixture.store.compact(crate::store::Revision(now.0 as u64)).await.unwrap();
    let gone = fixture.registry.read_at(&[Area::Units], then.revision).await.unwrap_err();
    assert!(matches!(gone, RegistryError::Store { error: StoreError::Compacted { .. }, .. }), "{gone}");
}

/// The units and placements that a feed was told of.
async fn told_in_step(feed: &mut crate::registry::follow::Feed) -> (Revision, Vec<String>) {
    match feed.next().await {
        FeedItem::Changes { revision, changes } => {
            (revision, changes.iter().map(|change| change.key().to_string()).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_in_step_tells_of_its_areas_alone_and_each_revision_at_once() {
    let fixture = cluster().await;
    fixture.put(&Key::Unit(unit("a.service")), encode(&unit_record("text"))).await;
    let mut feed = fixture.registry.follow_in_step(&[Area::Units, Area::Orders, Area::One(Key::Leader)]);
    let FeedItem::Snapshot(list) = feed.next().await else { panic!("a feed begins with a list") };
    assert_eq!(list.entries.len(), 1);
    // Between the areas, and no part of them.
    fixture.put(&Key::Placement(unit("a.service")), encode(&placement("m1"))).await;
    let keys = fixture.registry.keys();
    let order = Key::Order(machine("m1"), unit("a.service"));
    let both = vec![
        Op::put(keys.key(&Key::Unit(unit("b.service"))), encode(&unit_record("text"))),
        Op::put(keys.key(&order), encode(&super::order(1, "text", "launched"))),
    ];
    fixture.write(both).await;
    let (revision, mut told) = told_in_step(&mut feed).await;
    told.sort();
    assert_eq!(told, ["assignments/m1/a.service", "units/b.service"]);
    assert_eq!(revision, fixture.registry.read(&[Area::Units]).await.unwrap().revision);
    assert!(feed.audit().await.unwrap().differences.is_empty());
}
