//! The store contract over real etcd, and what only several members can show.
//!
//! Every test starts its own etcd: Debian's, `/usr/bin/etcd`, and where versions may differ also 3.5.

use std::time::Duration;

use futures_util::FutureExt as _;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::member::Member;
use super::server::{EtcdServers, Version};
use super::{EtcdOptions, EtcdStore};
use crate::follow::{FollowEvent, FollowOptions, Follower};
use crate::lease::{End, LeaseKeeper, LeaseOptions, LeaseState};
use crate::store::{Compare, KeyRange, Op, Operation, Range, Store, StoreError, Txn};

async fn one() -> (EtcdStore, EtcdServers) {
    let servers = EtcdServers::start(1).await;
    (servers.store(), servers)
}

async fn one_3_5() -> (EtcdStore, EtcdServers) {
    let servers = EtcdServers::start_version(Version::V3_5, 1, &[]).await;
    (servers.store(), servers)
}

mod contract {
    crate::store_contract!([], super::one());
}

mod contract_3_5 {
    crate::store_contract!([], super::one_3_5());
}

/// Puts until it is known to be applied; whoever gets "unknown" reads again, as callers must.
async fn put(store: &EtcdStore, key: &str, value: &str) -> Result<(), StoreError> {
    let txn = Txn::of(vec![Op::put(key.to_owned(), value.to_owned())]);
    match store.txn(txn).await {
        Ok(_) => Ok(()),
        Err(StoreError::Unknown { .. }) => {
            let reply = store.range(Range::key(key.to_owned())).await?;
            let is_there = reply.kvs.first().is_some_and(|kv| kv.value == value.as_bytes());
            if is_there { Ok(()) } else { Box::pin(put(store, key, value)).await }
        }
        Err(error) => Err(error),
    }
}

async fn hundred_calls_work(store: &EtcdStore) {
    for i in 0..50 {
        put(store, &format!("/k/{i}"), "x").await.unwrap();
        store.range(Range::prefix("/k/")).await.unwrap();
    }
}

#[tokio::test]
async fn calls_go_on_when_any_one_of_three_members_is_killed() {
    for dead in 0..3 {
        let mut servers = EtcdServers::start(3).await;
        let store = servers.store();
        put(&store, "/a", "1").await.unwrap();
        let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap();
        store.lease_keep_alive(lease.id).await.unwrap();
        servers.kill(dead);
        servers.wait_for_leader().await;
        hundred_calls_work(&store).await;
        assert!(!store.lease_keep_alive(lease.id).await.unwrap().is_zero());
    }
}

#[tokio::test]
async fn calls_go_on_when_the_first_of_three_members_is_frozen() {
    let servers = EtcdServers::start(3).await;
    let store = servers.store();
    put(&store, "/a", "1").await.unwrap();
    servers.signal(0, Signal::SIGSTOP);
    servers.wait_for_leader().await;
    // The first write meets the frozen member and may stay unknown; from then on another is asked.
    hundred_calls_work(&store).await;
    servers.signal(0, Signal::SIGCONT);
}

#[tokio::test]
async fn member_without_quorum_answers_nothing_and_takes_no_write() {
    let mut servers = EtcdServers::start(3).await;
    servers.kill(1);
    servers.kill(2);
    let store = servers.store();
    let begin = Instant::now();
    let error = loop {
        match store.range(Range::key("/a")).await {
            Err(error) => break error,
            Ok(_) => assert!(begin.elapsed() < Duration::from_secs(15), "a member without quorum answers"),
        }
    };
    assert!(error.is_transient(), "{error}");
    // One member has no leader, two refuse connections: a write is known not to have been applied,
    // once the member has noticed.
    loop {
        match store.txn(Txn::of(vec![Op::put("/a", "x")])).await {
            Err(StoreError::Unavailable { .. }) => break,
            other => assert!(begin.elapsed() < Duration::from_secs(15), "{other:?}"),
        }
    }
}

#[tokio::test]
async fn nothing_listening_is_unavailable_within_the_budget() {
    let options = EtcdOptions::new(vec!["http://127.0.0.1:9".into(), "http://127.0.0.1:10".into()]);
    let store = EtcdStore::new(&options).unwrap();
    let begin = Instant::now();
    let read = store.range(Range::key("/a")).await;
    assert!(matches!(read, Err(StoreError::Unavailable { operation: Operation::Range, .. })), "{read:?}");
    let write = store.txn(Txn::of(vec![Op::put("/a", "x")])).await;
    assert!(matches!(write, Err(StoreError::Unavailable { .. })), "never sent, so not unknown: {write:?}");
    assert!(begin.elapsed() < Duration::from_secs(2) + Duration::from_millis(200));
}

#[tokio::test]
async fn black_hole_is_given_up_within_the_budget() {
    // Accepts connections and never answers.
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = EtcdOptions::new(vec![format!("http://{}", hole.local_addr().unwrap())]);
    let store = EtcdStore::new(&options).unwrap();
    let begin = Instant::now();
    assert!(matches!(store.range(Range::key("/a")).await, Err(StoreError::Unavailable { .. })));
    assert!(begin.elapsed() < options.request_timeout + Duration::from_millis(500));
    let write = store.txn(Txn::of(vec![Op::put("/a", "x")])).await;
    assert!(matches!(write, Err(StoreError::Unavailable { .. })), "it was never sent: {write:?}");
    let watch = crate::store::WatchRequest::new(vec![KeyRange::key("/a")], crate::store::Revision(1));
    assert!(store.watch(watch).await.is_err());
    assert!(store.lease_keep_alive(crate::store::LeaseId(5)).await.is_err());
}

#[tokio::test]
async fn of_several_clusters_the_one_that_is_chosen_is_used_and_watches_of_the_others_end() {
    let servers = [EtcdServers::start(1).await, EtcdServers::start(1).await];
    put(&servers[1].store(), "/a", "theirs").await.unwrap();
    let mut endpoints: Vec<String> = servers.iter().flat_map(|servers| servers.options().endpoints).collect();
    endpoints.push("http://127.0.0.1:9".to_owned());
    let options = EtcdOptions { endpoints, ..servers[0].options() };
    let (store, of_lease) = (EtcdStore::new(&options).unwrap(), EtcdStore::new(&options).unwrap());
    assert_eq!(servers[0].store().divided(b"/a").await, [], "one cluster");
    assert_eq!(store.range(Range::key("/a")).await.unwrap().count, 0);
    let each = store.divided(b"/a").await;
    let values: Vec<Option<bytes::Bytes>> = each.iter().map(|endpoint| endpoint.value.clone()).collect();
    assert_eq!(values, [None, Some("theirs".into()), None]);
    let ids: Vec<Option<u64>> = each.iter().map(|endpoint| endpoint.cluster_id).collect();
    assert!(ids[0].is_some() && ids[1].is_some() && ids[0] != ids[1] && ids[2].is_none(), "{ids:?}");
    let lease = of_lease.lease_grant(Duration::from_secs(60)).await.unwrap();
    assert!(!of_lease.lease_keep_alive(lease.id).await.unwrap().is_zero());
    let request = crate::store::WatchRequest::new(vec![KeyRange::key("/a")], crate::store::Revision(1));
    let mut watch = store.watch(request).await.unwrap();

    assert!(store.use_cluster(ids[1].unwrap()) && !store.use_cluster(ids[1].unwrap()));
    let last = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap();
    assert!(matches!(last, Some(crate::store::WatchReply::Cancelled { .. })), "{last:?}");
    // The connection to the first one is open, and is not used again; a write meets nobody's doubt.
    store.txn(Txn::of(vec![Op::put("/b", "x")])).await.unwrap();
    assert_eq!(store.range(Range::key("/a")).await.unwrap().kvs[0].value, "theirs");
    assert_eq!(servers[0].store().range(Range::prefix("/")).await.unwrap().count, 0);
    // Whoever shares the options has changed with it; its stream to the first one is still open.
    assert!(of_lease.lease_keep_alive(lease.id).await.unwrap().is_zero());
    of_lease.lease_grant(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_of_another_cluster_is_refused_and_never_written_to() {
    let mut ours = EtcdServers::start(1).await;
    // Another peer address is another cluster id.
    let theirs = EtcdServers::start(1).await;
    let endpoints: Vec<String> =
        [&ours, &theirs].iter().flat_map(|servers| servers.options().endpoints).collect();
    let options = EtcdOptions { endpoints: endpoints.clone(), ..ours.options() };
    let store = EtcdStore::new(&options).unwrap();
    put(&store, "/a", "1").await.unwrap();
    let ids = [&ours.store(), &theirs.store()];
    let ids = [ids[0].status().await.unwrap(), ids[1].status().await.unwrap()];
    let [own, found] = ids.map(|status| format!("{:x}", status.header.cluster_id));
    ours.kill(0);
    // A lease's thread has a store of its own; it agrees.
    let of_lease = EtcdStore::new(&options).unwrap();
    for store in [&store, &of_lease] {
        let error = store.range(Range::key("/a")).await.unwrap_err().to_string();
        assert!(error.contains(&own) && error.contains(&found) && error.contains(&endpoints[1]), "{error}");
        assert!(store.lease_grant(Duration::from_secs(60)).await.is_err());
        let write = store.txn(Txn::of(vec![Op::put("/a", "x")])).await;
        assert!(matches!(write, Err(StoreError::Unavailable { .. })), "{write:?}");
    }
    assert_eq!(theirs.store().range(Range::prefix("/")).await.unwrap().count, 0);
    ours.restart(0).await;
    assert_eq!(store.range(Range::key("/a")).await.unwrap().kvs[0].value, "1");
}

#[tokio::test]
async fn a_cluster_that_takes_the_address_of_ours_answers_nothing_for_it() {
    let mut ours = EtcdServers::start(1).await;
    let closed = "http://127.0.0.1:9".to_owned();
    let endpoints = vec![ours.options().endpoints.remove(0), closed];
    let store = EtcdStore::new(&EtcdOptions { endpoints, ..ours.options() }).unwrap();
    put(&store, "/a", "1").await.unwrap();
    ours.begin_anew(0).await;
    let error = store.range(Range::key("/a")).await.unwrap_err();
    assert!(error.to_string().contains("belongs to etcd cluster"), "{error}");
    let write = store.txn(Txn::of(vec![Op::put("/a", "x")])).await.unwrap_err();
    assert!(write.to_string().contains("belongs to etcd cluster"), "{write}");
    assert_eq!(ours.store().range(Range::key("/a")).await.unwrap().count, 0);
}

#[tokio::test]
async fn a_connection_that_failed_for_nobody_is_made_anew_for_the_next_caller() {
    let mut servers = EtcdServers::start(1).await;
    let member = Member::new(&servers.options().endpoints[0], &servers.options()).unwrap();
    servers.kill(0);
    // Whoever asked gives up at once; the attempt goes on by itself, and is refused.
    assert!(member.client(Duration::from_secs(5)).now_or_never().is_none());
    let deadline = Instant::now() + Duration::from_secs(10);
    while !member.has_failed() {
        assert!(Instant::now() < deadline, "the attempt does not end");
        sleep(Duration::from_millis(10)).await;
    }
    servers.restart(0).await;
    member.client(Duration::from_secs(5)).await.expect("a call of its own connects");
}

#[tokio::test]
async fn follower_lists_anew_after_its_member_restarts_and_misses_nothing() {
    let mut servers = EtcdServers::start(1).await;
    let store = std::sync::Arc::new(servers.store());
    let mut follower =
        Follower::new(std::sync::Arc::clone(&store), FollowOptions::new(vec![KeyRange::prefix("/k/")], 1));
    assert!(matches!(follower.next().await, FollowEvent::Snapshot(snapshot) if snapshot.kvs.is_empty()));
    put(&store, "/k/1", "x").await.unwrap();
    assert!(matches!(follower.next().await, FollowEvent::Events { .. }));
    servers.kill(0);
    servers.restart(0).await;
    // Written, and its history compacted, before the follower is asked again.
    put(&store, "/k/2", "x").await.unwrap();
    put(&store, "/k/1", "y").await.unwrap();
    let now = store.range(Range::prefix("/k/")).await.unwrap().header.revision;
    store.compact(now).await.unwrap();
    loop {
        if let FollowEvent::Snapshot(snapshot) = follower.next().await {
            assert_eq!((snapshot.kvs.len(), snapshot.changed), (2, 2));
            break;
        }
    }
    let report = follower.audit().await.unwrap();
    assert_eq!(report.differences, Vec::<bytes::Bytes>::new());
}

#[tokio::test]
async fn large_values_are_read_in_smaller_pages() {
    let (store, _servers) = one().await;
    let store = std::sync::Arc::new(store);
    let value = "x".repeat(1 << 20);
    for i in 0..70 {
        store.txn(Txn::of(vec![Op::put(format!("/k/{i:02}"), value.clone())])).await.unwrap();
    }
    let mut options = FollowOptions::new(vec![KeyRange::prefix("/k/")], 1);
    options.page = 1_000;
    let mut follower = Follower::new(store, options);
    let first = follower.next().await;
    assert!(matches!(&first, FollowEvent::Snapshot(snapshot) if snapshot.kvs.len() == 70));
}

#[tokio::test]
async fn etcd_out_of_space_is_told_apart() {
    let servers = EtcdServers::start_with(1, &["--quota-backend-bytes=16777216"]).await;
    let store = servers.store();
    let value = "x".repeat(1 << 20);
    let begin = Instant::now();
    let error = loop {
        match store.txn(Txn::of(vec![Op::put("/k", value.clone())])).await {
            Ok(_) => assert!(begin.elapsed() < Duration::from_secs(20), "the quota does not bite"),
            Err(StoreError::Unknown { .. }) => sleep(Duration::from_millis(50)).await,
            Err(error) => break error,
        }
    };
    assert_eq!(error, StoreError::NoSpace { operation: Operation::Txn });
    assert!(!store.status().await.unwrap().alarms.is_empty());
    assert!(store.range(Range::key("/k")).await.is_ok(), "reads go on");
    let compare = Txn::default().when(vec![Compare::present("/k")]);
    assert!(store.txn(compare).await.unwrap().succeeded);
}

#[tokio::test]
async fn keeper_holds_a_real_lease_and_replaces_it_when_it_dies() {
    let servers = EtcdServers::start(3).await;
    let (theirs, store) = (servers.store(), servers.store());
    let options = LeaseOptions::new("test-lease", Duration::from_secs(3), 1);
    let keeper = LeaseKeeper::on_thread(options, move || Ok(theirs)).unwrap();
    let mut state = keeper.state();
    let held = |state: &LeaseState| matches!(state, LeaseState::Held { .. });
    let LeaseState::Held { id: first, until } = state.wait_for(held).await.unwrap().clone() else { panic!() };
    // Renewed at least twice while one member is frozen.
    servers.signal(0, Signal::SIGSTOP);
    let later = until + Duration::from_secs(2);
    let renewed = |state: &LeaseState| matches!(state, LeaseState::Held { id, until } if *id == first && *until > later);
    tokio::time::timeout(Duration::from_secs(20), state.wait_for(renewed)).await.unwrap().unwrap();
    servers.signal(0, Signal::SIGCONT);
    store.lease_revoke(first).await.unwrap();
    let replaced = |state: &LeaseState| matches!(state, LeaseState::Held { id, .. } if *id != first);
    let LeaseState::Held { id, .. } = tokio::time::timeout(Duration::from_secs(20), state.wait_for(replaced))
        .await
        .unwrap()
        .unwrap()
        .clone()
    else {
        panic!()
    };
    keeper.close(End::Revoke).await;
    assert_eq!(store.lease_ttl(id).await.unwrap(), None);
}
