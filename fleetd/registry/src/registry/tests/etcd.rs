//! The typed layer over a real etcd: the engine's and the agent's round, pages, expiry.

use fleet_core::world::World;
use tokio::time::timeout;

use super::*;
use crate::codec::encode;
use crate::etcd::server::EtcdServers;
use crate::registry::Outcome;
use crate::registry::commit::{Acknowledgement, AgentCommit};
use crate::registry::contents::Unreferenced;
use crate::registry::orders::OrdersItem;
use crate::registry::world::{WorldItem, WorldStream};

const PATIENCE: Duration = Duration::from_secs(15);

async fn etcd() -> (Fixture<Arc<dyn Store>>, EtcdServers) {
    let servers = EtcdServers::start(1).await;
    let store: Arc<dyn Store> = Arc::new(servers.store());
    (cluster_in(store).await, servers)
}

async fn until<C: Fn() -> Timestamp + Send>(
    stream: &mut WorldStream<C>,
    world: &mut World,
    condition: impl Fn(&World) -> bool,
) {
    let wait = async {
        while !condition(world) {
            match stream.next().await {
                WorldItem::Snapshot { events, .. } => *world = World::from_events(events),
                WorldItem::Changes { events, .. } => events.into_iter().for_each(|event| world.apply(event)),
                WorldItem::Disconnected { error } => panic!("{error}"),
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("the world is told in time");
}

#[tokio::test]
async fn one_unit_goes_the_whole_way_over_etcd() {
    let (fixture, _servers) = etcd().await;
    let registry = &fixture.registry;
    let presence = fixture.present("m1").await;
    let leader = fixture.lead("m1").await;
    let mut world = World::default();
    let mut engine = registry.follow_world(|| NOW);
    let mut agent = registry.follow_orders(&machine("m1"));
    let OrdersItem::Snapshot { mut view, .. } = agent.next().await else { panic!() };
    until(&mut engine, &mut world, |world| world.machines().contains_key(&machine("m1"))).await;

    let name = unit("a.service");
    let outcomes = registry.apply_groups(leader, &[place(&name, "m1", 1)], &asked("engine@m1")).await;
    assert!(outcomes[0].is_applied(), "{outcomes:?}");
    until(&mut engine, &mut world, |world| world.order(&machine("m1"), &name).is_some()).await;
    while !view.orders.contains_key(&name) {
        let item = timeout(PATIENCE, agent.next()).await.expect("the order is told in time");
        let OrdersItem::Changes { changes, .. } = item else { panic!("{item:?}") };
        changes.into_iter().for_each(|change| view.apply(change));
    }
    let seen = view.orders[&name].modified;
    let commit = AgentCommit {
        machine: machine("m1"),
        presence,
        pass: view.fence(),
        witness: Some(witness(1)),
        rows: vec![(unit("b.service"), Some(row("running")))],
        acknowledgements: vec![Acknowledgement { unit: name.clone(), order: seen }],
    };
    let report = registry.commit(commit.clone()).await;
    assert!(report.acknowledgements[0].1.is_applied() && report.rows[0].1.is_applied(), "{report:?}");
    until(&mut engine, &mut world, |world| world.order(&machine("m1"), &name).is_none()).await;
    // Acknowledged already: conflicts without harm, and the row is written again.
    let report = registry.commit(commit).await;
    assert_eq!(report.acknowledgements[0].1, Outcome::Conflict);
    assert!(report.rows[0].1.is_applied());
    assert!(engine.audit().await.unwrap().differences.is_empty());
    assert!(registry.raft_term() > 0 && registry.seen() > seen);
}

#[tokio::test]
async fn leadership_ends_with_its_lease_over_etcd() {
    let (fixture, _servers) = etcd().await;
    let registry = &fixture.registry;
    let lease = fixture.lease(1).await;
    let won = registry.campaign(&leader_record("m1"), lease, fixture.fence).await.unwrap();
    let Campaign::Won(term) = won else { panic!("{won:?}") };
    let again = registry.campaign(&leader_record("m1"), lease, fixture.fence).await.unwrap();
    assert_eq!(again, Campaign::Won(term));
    let mut feed = registry.watch_leader();
    let expired = async {
        loop {
            if let crate::registry::follow::FeedItem::Changes { .. } = feed.next().await {
                break;
            }
        }
    };
    timeout(PATIENCE, expired).await.expect("the lease runs out");
    let old = LeaderFence { term, cluster: fixture.fence.cluster };
    let groups = [place(&unit("a.service"), "m1", 1)];
    assert_eq!(registry.apply_groups(old, &groups, &asked("engine@m1")).await, [Outcome::Fenced]);
    let new = fixture.lead("m2").await;
    assert!(registry.apply_groups(new, &groups, &asked("engine@m2")).await[0].is_applied());
}

#[tokio::test]
async fn packs_pages_and_collections_keep_etcds_limits() {
    let (fixture, _servers) = etcd().await;
    let registry = &fixture.registry;
    let leader = fixture.lead("m1").await;
    let names: Vec<UnitName> = (0..2_500).map(|i| unit(&format!("u{i:04}.service"))).collect();
    fixture.put(&Key::Placement(names[7].clone()), encode(&placement("m2"))).await;
    let groups: Vec<Group> = names.iter().zip(1..).map(|(name, i)| place(name, "m1", i)).collect();
    let outcomes = registry.apply_groups(leader, &groups, &asked("engine@m1")).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_applied()).count(), 2_499);
    assert_eq!(outcomes[7], Outcome::Conflict);
    let snapshot = registry.read_all().await.unwrap();
    assert_eq!((snapshot.placements.len(), snapshot.orders[&machine("m1")].len()), (2_500, 2_499));
    assert_eq!(registry.read_unit_whole(&names[3]).await.unwrap().orders.len(), 0);

    fixture.put(&Key::Content(ContentHash::of(b"old")), "old").await;
    let mut unreferenced = Unreferenced::default();
    let collected =
        registry.collect_contents(leader, &mut unreferenced, NOW, fleet_core::Span(0)).await.unwrap();
    assert_eq!(collected.deleted, 1);
    assert!(registry.trim_events_to(leader, NOW, 5).await.unwrap() > 30);
    assert_eq!(registry.events(9_999, None).await.unwrap().events.len(), 5);
}

#[tokio::test]
async fn what_changed_since_a_revision_is_found_over_etcd() {
    use crate::keys::Area;
    use crate::registry::RegistryError;
    use crate::registry::follow::FeedItem;
    use crate::store::{Revision, StoreError};
    let (fixture, _servers) = etcd().await;
    let registry = &fixture.registry;
    let areas = [Area::Units, Area::Orders, Area::One(Key::Leader)];
    fixture.put(&Key::Unit(unit("a.service")), encode(&unit_record("text"))).await;
    let mut feed = registry.follow_in_step(&areas);
    let FeedItem::Snapshot(list) = feed.next().await else { panic!("a feed begins with a list") };
    let leader = fixture.lead("m1").await;
    let placed =
        registry.apply_groups(leader, &[place(&unit("a.service"), "m1", 1)], &asked("engine@m1")).await;
    assert!(placed[0].is_applied());
    let mut told = std::collections::BTreeSet::new();
    let mut until = list.revision;
    while told.len() < 2 {
        let item = timeout(PATIENCE, feed.next()).await.expect("changes are told in time");
        let FeedItem::Changes { changes, revision } = item else { panic!("{item:?}") };
        told.extend(changes.iter().map(|change| change.key().to_string()));
        until = revision;
    }
    assert_eq!(told.into_iter().collect::<Vec<_>>(), ["assignments/m1/a.service", "engine/leader"]);
    let then = registry.read_at(&areas, list.revision).await.unwrap();
    assert_eq!((then.units.len(), then.orders.len(), then.revision), (1, 0, list.revision));
    let never = registry.read_at(&areas, fleet_core::Revision(0)).await.unwrap_err();
    assert!(matches!(never, RegistryError::Store { error: StoreError::Compacted { .. }, .. }), "{never}");
    fixture.store.compact(Revision(until.0 as u64)).await.unwrap();
    let gone = registry.read_at(&areas, list.revision).await.unwrap_err();
    assert!(matches!(gone, RegistryError::Store { error: StoreError::Compacted { .. }, .. }), "{gone}");
    let ahead = registry.read_at(&areas, fleet_core::Revision(until.0 + 1_000)).await.unwrap_err();
    assert!(
        matches!(ahead, RegistryError::Store { error: StoreError::FutureRevision { .. }, .. }),
        "{ahead}"
    );
}
