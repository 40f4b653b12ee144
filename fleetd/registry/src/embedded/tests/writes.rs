//! Many writers at once, slow watchers, large requests.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::empty;
use crate::follow::{FollowEvent, FollowOptions, Follower};
use crate::store::{
    Compare, KeyRange, Op, Operation, Range, Revision, Store, StoreError, Txn, WatchReply, WatchRequest,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_each_get_a_revision_of_their_own() {
    let (store, _directory) = empty().await;
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for number in 0..20 {
                    let txn = Txn::of(vec![Op::put(format!("/k/{writer}/{number}"), "x")]);
                    revisions.push(store.txn(txn).await.unwrap().header.revision);
                    // What was answered is there to be read.
                    assert_eq!(
                        store.range(Range::key(format!("/k/{writer}/{number}"))).await.unwrap().count,
                        1
                    );
                }
                assert!(revisions.is_sorted());
                revisions
            })
        })
        .collect();
    let mut all = BTreeSet::new();
    for writer in writers {
        all.extend(writer.await.unwrap());
    }
    assert_eq!(all.into_iter().collect::<Vec<_>>(), (2..2 + 64 * 20).map(Revision).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_claim_a_key_at_once_one_wins() {
    let (store, _directory) = empty().await;
    for round in 0..20 {
        let key = format!("/claim/{round}");
        let claims: Vec<_> = (0..32)
            .map(|claimant| {
                let txn = Txn::of(vec![Op::put(key.clone(), format!("{claimant}"))]);
                let (store, txn) = (store.clone(), txn.when(vec![Compare::absent(key.clone())]));
                tokio::spawn(async move { store.txn(txn).await.unwrap().succeeded })
            })
            .collect();
        let mut won = 0;
        for claim in claims {
            won += usize::from(claim.await.unwrap());
        }
        assert_eq!(won, 1);
    }
}

#[tokio::test]
async fn watcher_that_does_not_read_is_given_up_and_a_follower_lists_anew() {
    let (store, _directory) = empty().await;
    let request = WatchRequest::new(vec![KeyRange::prefix("/")], Revision(2));
    let mut watch = store.watch(request).await.unwrap();
    let mut follower = Follower::new(store.clone(), FollowOptions::new(vec![KeyRange::prefix("/")], 1));
    assert!(matches!(follower.next().await, FollowEvent::Snapshot(_)));
    let puts = super::super::WATCH_BACKLOG as u64 + 100;
    for number in 0..puts {
        store.txn(Txn::of(vec![Op::put("/k", format!("{number}"))])).await.unwrap();
    }
    let mut told = 0;
    while let Some(reply) = watch.next().await {
        assert!(matches!(reply, WatchReply::Events(_)));
        told += 1;
    }
    assert_eq!(told, super::super::WATCH_BACKLOG);
    let newest = store.range(Range::key("/k")).await.unwrap().kvs[0].mod_revision;
    let caught_up = timeout(Duration::from_secs(10), async {
        loop {
            if let FollowEvent::Snapshot(snapshot) = follower.next().await {
                break snapshot.header.revision;
            }
        }
    });
    assert_eq!(caught_up.await.expect("the follower lists anew"), newest);
}

#[tokio::test]
async fn request_that_etcd_would_refuse_as_too_large_is_refused() {
    let (store, _directory) = empty().await;
    let of = |bytes: usize| Txn::of(vec![Op::put("/k", vec![b'x'; bytes])]);
    let refused = store.txn(of(2 << 20)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { operation: Operation::Txn, .. })), "{refused:?}");
    store.txn(of(1 << 20)).await.unwrap();
    assert_eq!(store.range(Range::key("/k")).await.unwrap().kvs[0].value.len(), 1 << 20);
}
