//! The follower under loss, compaction and repair, over the in-memory store and a paused clock.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, timeout};

use super::{FollowEvent, FollowOptions, Follower, Snapshot};
use crate::memory::{Fault, Injection, Link, MemoryStore};
use crate::store::{KeyRange, Op, Operation, Range, Revision, Store, StoreError, Txn, WatchEvent};

fn follower(store: &MemoryStore, client: &str) -> Follower<MemoryStore> {
    Follower::new(store.client(client), FollowOptions::new(vec![KeyRange::prefix("/k/")], 1))
}

async fn put(store: &MemoryStore, key: &str, value: &str) -> Revision {
    let txn = Txn::of(vec![Op::put(key.to_owned(), value.to_owned())]);
    store.txn(txn).await.unwrap().header.revision
}

async fn snapshot(follower: &mut Follower<MemoryStore>) -> Snapshot {
    loop {
        if let FollowEvent::Snapshot(snapshot) = follower.next().await {
            return snapshot;
        }
    }
}

async fn events(follower: &mut Follower<MemoryStore>) -> Vec<WatchEvent> {
    match follower.next().await {
        FollowEvent::Events { events, .. } => events,
        other => panic!("expected events, got {other:?}"),
    }
}

/// A consumer's view, as tasks build it.
#[derive(Default)]
struct View(BTreeMap<Vec<u8>, Vec<u8>>);

impl View {
    fn apply(&mut self, event: FollowEvent) {
        match event {
            FollowEvent::Snapshot(snapshot) => {
                self.0 = snapshot.kvs.into_iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec())).collect();
            }
            FollowEvent::Events { events, .. } => {
                for event in events {
                    match event {
                        WatchEvent::Put { kv, .. } => self.0.insert(kv.key.to_vec(), kv.value.to_vec()),
                        WatchEvent::Delete { kv, .. } => self.0.remove(kv.key.as_ref()),
                    };
                }
            }
            FollowEvent::Disconnected { .. } => {}
        }
    }
}

async fn truth(store: &MemoryStore) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let reply = store.range(Range::prefix("/k/")).await.unwrap();
    reply.kvs.into_iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec())).collect()
}

#[tokio::test(start_paused = true)]
async fn first_comes_the_list_then_every_change_after_it() {
    let store = MemoryStore::new(7);
    put(&store, "/k/1", "x").await;
    let listed = put(&store, "/other", "x").await;
    let mut follower = follower(&store, "m1");
    let first = snapshot(&mut follower).await;
    assert_eq!((first.header.revision, first.kvs.len(), first.changed), (listed, 1, 1));
    let second = put(&store, "/k/2", "x").await;
    put(&store, "/other", "y").await;
    let told = events(&mut follower).await;
    assert_eq!(told[0].kv().mod_revision, second);
}

#[tokio::test(start_paused = true)]
async fn change_between_list_and_watch_is_not_lost() {
    let store = MemoryStore::new(7);
    put(&store, "/k/1", "x").await;
    // The watch opens a second after the list was made.
    store.inject(Injection::next(Fault::Delay(Duration::from_secs(1))).on(Operation::Watch));
    let mut follower = follower(&store, "m1");
    let ((), first) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            put(&store, "/k/2", "in the gap").await;
        },
        snapshot(&mut follower)
    );
    assert_eq!(first.kvs.len(), 1);
    assert_eq!(events(&mut follower).await[0].kv().key, "/k/2");
}

#[tokio::test(start_paused = true)]
async fn compaction_while_away_gives_a_fresh_snapshot_that_names_what_vanished() {
    let store = MemoryStore::new(7);
    put(&store, "/k/1", "x").await;
    put(&store, "/k/2", "x").await;
    let mut follower = follower(&store, "m1");
    snapshot(&mut follower).await;
    store.set_link("m1", Link::Refused);
    assert!(matches!(follower.next().await, FollowEvent::Disconnected { .. }));
    store.txn(Txn::of(vec![Op::delete("/k/1")])).await.unwrap();
    put(&store, "/k/3", "x").await;
    let now = put(&store, "/k/2", "y").await;
    store.compact(now).await.unwrap();
    store.set_link("m1", Link::Open);
    let fresh = snapshot(&mut follower).await;
    assert_eq!((fresh.removed, fresh.changed, fresh.kvs.len()), (vec!["/k/1".into()], 2, 2));
}

#[tokio::test(start_paused = true)]
async fn cancelled_watch_is_replaced_by_a_list_without_bothering_the_consumer() {
    let store = MemoryStore::new(7);
    put(&store, "/k/1", "x").await;
    let mut follower = follower(&store, "m1");
    snapshot(&mut follower).await;
    store.cancel_watches();
    let fresh = follower.next().await;
    assert!(matches!(&fresh, FollowEvent::Snapshot(snapshot) if snapshot.changed == 0), "{fresh:?}");
    put(&store, "/k/1", "y").await;
    assert_eq!(events(&mut follower).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn store_that_is_away_is_retried_ever_more_slowly_and_each_failure_is_told() {
    let store = MemoryStore::new(7);
    store.set_all_links(Link::Refused);
    let mut follower = follower(&store, "m1");
    let begin = Instant::now();
    for _ in 0..20 {
        let told = follower.next().await;
        assert!(
            matches!(&told, FollowEvent::Disconnected { error: StoreError::Unavailable { .. } }),
            "{told:?}"
        );
    }
    let waited = begin.elapsed();
    assert!(waited > Duration::from_secs(60) && waited < Duration::from_secs(200), "{waited:?}");
    assert_eq!(store.calls(Operation::Txn), 20);
}

#[tokio::test(start_paused = true)]
async fn watch_that_dies_at_once_is_renewed_ever_more_slowly() {
    let store = MemoryStore::new(7);
    let mut follower = follower(&store, "m1");
    let begin = Instant::now();
    for _ in 0..20 {
        snapshot(&mut follower).await;
        store.cancel_watches();
    }
    assert!(begin.elapsed() > Duration::from_secs(60), "{:?}", begin.elapsed());
    // One that lived is renewed soon.
    snapshot(&mut follower).await;
    assert!(timeout(Duration::from_secs(10), follower.next()).await.is_err());
    store.cancel_watches();
    let begin = Instant::now();
    snapshot(&mut follower).await;
    assert!(begin.elapsed() <= Duration::from_millis(250), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn watch_that_compactions_overtake_at_once_is_renewed_ever_more_slowly() {
    let store = MemoryStore::new(7);
    let mut follower = follower(&store, "m1");
    // Compacted all the time, and each watch opens late enough to be overtaken.
    store.inject(Injection::next(Fault::Delay(Duration::from_millis(10))).on(Operation::Watch).times(10_000));
    let compact = async {
        loop {
            let revision = put(&store, "/other", "x").await;
            store.compact(revision).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let follow = async {
        loop {
            snapshot(&mut follower).await;
        }
    };
    let minute = timeout(Duration::from_secs(60), async { tokio::join!(compact, follow) });
    assert!(minute.await.is_err());
    assert!(store.calls(Operation::Watch) < 25, "{}", store.calls(Operation::Watch));
}

#[tokio::test(start_paused = true)]
async fn restored_store_shows_as_an_older_revision() {
    let store = MemoryStore::new(7);
    put(&store, "/k/1", "x").await;
    let backup = store.snapshot();
    put(&store, "/k/2", "x").await;
    let mut follower = follower(&store, "m1");
    let before = snapshot(&mut follower).await.header;
    store.restore(&backup);
    let after = snapshot(&mut follower).await;
    assert!(after.header.revision < before.revision);
    assert_eq!(after.removed, ["/k/2"]);
}

#[tokio::test(start_paused = true)]
async fn long_list_is_paged_at_one_revision() {
    let store = MemoryStore::new(7);
    for chunk in 0..25 {
        let ops = (0..100).map(|i| Op::put(format!("/k/{:05}", chunk * 100 + i), "old")).collect();
        store.txn(Txn::of(ops)).await.unwrap();
    }
    // Written while the second page is on its way.
    store.inject(Injection::next(Fault::Delay(Duration::from_secs(1))).on(Operation::Range));
    let mut follower = follower(&store, "m1");
    let ((), first) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            put(&store, "/k/00000", "new").await;
            put(&store, "/k/02499", "new").await;
        },
        snapshot(&mut follower)
    );
    assert_eq!(first.kvs.len(), 2_500);
    assert!(first.kvs.iter().all(|kv| kv.value == "old"));
    assert_eq!(events(&mut follower).await[0].kv().key, "/k/00000");
    assert_eq!((follower.counters().requests(), follower.counters().keys()), (3, 2_500));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_news_reads_nothing() {
    let store = MemoryStore::new(7);
    let mut follower = follower(&store, "m1");
    snapshot(&mut follower).await;
    let before = (store.calls(Operation::Range), store.calls(Operation::Txn), follower.counters().requests());
    for _ in 0..1_000 {
        assert!(timeout(Duration::from_secs(1), follower.next()).await.is_err());
    }
    let after = (store.calls(Operation::Range), store.calls(Operation::Txn), follower.counters().requests());
    assert_eq!(before, after);
}

#[tokio::test(start_paused = true)]
async fn impatient_consumer_does_not_restart_the_list() {
    let store = MemoryStore::new(7);
    put(&store, "/k/1", "x").await;
    store.inject(Injection::next(Fault::Delay(Duration::from_secs(5))).on(Operation::Txn));
    let mut follower = follower(&store, "m1");
    let mut tries = 0;
    while timeout(Duration::from_millis(100), follower.next()).await.is_err() {
        tries += 1;
    }
    assert!(tries >= 49, "{tries}");
    assert_eq!(follower.counters().requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn audit_of_a_true_view_finds_nothing_and_reads_once() {
    let store = MemoryStore::new(7);
    put(&store, "/k/1", "x").await;
    let mut follower = follower(&store, "m1");
    snapshot(&mut follower).await;
    // On their way when the audit begins.
    put(&store, "/k/2", "x").await;
    store.txn(Txn::of(vec![Op::delete("/k/1")])).await.unwrap();
    let report = follower.audit().await.unwrap();
    assert_eq!((report.keys, report.differences.len()), (1, 0));
    assert_eq!(events(&mut follower).await.len(), 1);
    assert_eq!(events(&mut follower).await.len(), 1);
    assert_eq!((follower.counters().audits(), follower.counters().differences()), (1, 0));
    assert_eq!(follower.counters().requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn audit_finds_what_a_watch_lost_and_repairs_it() {
    let store = MemoryStore::new(7);
    put(&store, "/k/1", "x").await;
    put(&store, "/k/2", "x").await;
    let mut follower = follower(&store, "m1");
    snapshot(&mut follower).await;
    store.set_mute(true);
    put(&store, "/k/1", "lost").await;
    store.txn(Txn::of(vec![Op::delete("/k/2")])).await.unwrap();
    store.set_mute(false);
    put(&store, "/k/3", "told").await;
    let report = follower.audit().await.unwrap();
    assert_eq!(report.differences, ["/k/1", "/k/2"]);
    assert_eq!(events(&mut follower).await.len(), 1);
    let fresh = snapshot(&mut follower).await;
    assert_eq!((fresh.removed.len(), fresh.changed, fresh.kvs.len()), (1, 1, 2));
    assert_eq!(follower.audit().await.unwrap().differences.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_changes_converge_through_cuts_and_compactions() {
    for seed in 0..4 {
        let store = MemoryStore::new(7);
        let mut random = StdRng::seed_from_u64(seed);
        let mut follower = follower(&store, "m1");
        let mut view = View::default();
        let mut revision = Revision(1);
        for change in 0..10_000 {
            let key = format!("/k/{}", random.random_range(0..200));
            let op =
                if random.random_ratio(1, 4) { Op::delete(key) } else { Op::put(key, format!("{change}")) };
            revision = store.txn(Txn::of(vec![op])).await.unwrap().header.revision;
            match random.random_range(0..200) {
                0 => store.set_link("m1", Link::Refused),
                1 => store.set_link("m1", Link::Silent),
                2..5 => store.set_link("m1", Link::Open),
                5 => store.cancel_watches(),
                6 => store.compact(revision).await.unwrap(),
                7 => store.inject(Injection::next(Fault::DropReply).of_client("m1")),
                _ => {}
            }
            let wait = Duration::from_millis(random.random_range(0..40));
            if let Ok(event) = timeout(wait, follower.next()).await {
                view.apply(event);
            }
        }
        store.clear_faults();
        store.compact(revision).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while view.0 != truth(&store).await {
            let event = tokio::time::timeout_at(deadline, follower.next()).await;
            view.apply(event.unwrap_or_else(|_| panic!("seed {seed} does not converge")));
        }
        assert_eq!(follower.audit().await.unwrap().differences.len(), 0, "seed {seed}");
    }
}
