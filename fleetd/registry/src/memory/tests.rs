//! The store contract over the in-memory store, and what only it promises: faults and roll-back.

use std::time::Duration;

use tokio::time::Instant;

use super::{Fault, Injection, Link, MemoryStore};
use crate::store::{
    KeyRange, Op, Operation, Range, Revision, Store, StoreError, Txn, WatchReply, WatchRequest, WatchStream,
};

async fn empty() -> (MemoryStore, ()) {
    (MemoryStore::new(7), ())
}

mod contract {
    crate::store_contract!([start_paused = true], super::empty());
}

fn put(key: &str, value: &str) -> Txn {
    Txn::of(vec![Op::put(key.to_owned(), value.to_owned())])
}

async fn value(store: &MemoryStore, key: &str) -> Option<String> {
    let reply = store.range(Range::key(key.to_owned())).await.unwrap();
    reply.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

async fn watch(store: &MemoryStore, prefix: &str) -> WatchStream {
    let keys = vec![KeyRange::prefix(prefix.to_owned())];
    store.watch(WatchRequest::new(keys, Revision(2))).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn lost_reply_is_unknown_and_applied() {
    let store = MemoryStore::new(7);
    store.inject(Injection::next(Fault::DropReply).on(Operation::Txn));
    let outcome = store.txn(put("/a", "1")).await;
    assert!(matches!(outcome, Err(StoreError::Unknown { .. })), "{outcome:?}");
    assert_eq!(value(&store, "/a").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn fault_strikes_the_named_client_and_call_only() {
    let store = MemoryStore::new(7);
    let (one, two) = (store.client("m1"), store.client("m2"));
    let refused = StoreError::NoSpace { operation: Operation::Txn };
    store.inject(Injection::next(Fault::Fail(refused.clone())).of_client("m1").on(Operation::Txn).after(1));
    one.txn(put("/a", "1")).await.unwrap();
    two.txn(put("/a", "2")).await.unwrap();
    assert!(one.range(Range::key("/a")).await.is_ok());
    assert_eq!(one.txn(put("/a", "3")).await, Err(refused));
    one.txn(put("/a", "4")).await.unwrap();
    assert_eq!(store.calls(Operation::Txn), 4);
}

#[tokio::test(start_paused = true)]
async fn client_that_is_cut_off_neither_writes_nor_hears() {
    let store = MemoryStore::new(7);
    let (one, two) = (store.client("m1"), store.client("m2"));
    let mut heard = watch(&one, "/").await;
    store.set_link("m1", Link::Silent);
    assert!(matches!(heard.next().await, Some(WatchReply::Cancelled { .. })));
    let begin = Instant::now();
    assert!(matches!(one.txn(put("/a", "1")).await, Err(StoreError::Unknown { .. })));
    assert!(matches!(one.range(Range::key("/a")).await, Err(StoreError::Timeout { .. })));
    assert_eq!(begin.elapsed(), Duration::from_secs(2));
    assert_eq!(value(&two, "/a").await, None);
    store.set_link("m1", Link::Refused);
    assert!(matches!(one.txn(put("/a", "1")).await, Err(StoreError::Unavailable { .. })));
    store.set_link("m1", Link::Open);
    one.txn(put("/a", "1")).await.unwrap();
    assert_eq!(value(&two, "/a").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn restored_store_is_older_and_its_leases_start_over() {
    let store = MemoryStore::new(7);
    let lease = store.lease_grant(Duration::from_secs(10)).await.unwrap();
    store.txn(Txn::of(vec![Op::put_leased("/p", "x", lease.id)])).await.unwrap();
    let backup = store.snapshot();
    store.txn(put("/a", "later")).await.unwrap();
    tokio::time::advance(Duration::from_secs(9)).await;
    let mut heard = watch(&store, "/p").await;
    store.restore(&backup);
    while !matches!(heard.next().await.expect("the watch is cancelled first"), WatchReply::Cancelled { .. }) {
    }
    assert_eq!(value(&store, "/a").await, None);
    let left = store.lease_ttl(lease.id).await.unwrap().unwrap();
    assert_eq!(left.remaining, Duration::from_secs(10));
    assert_eq!(store.range(Range::key("/p")).await.unwrap().header.revision, Revision(2));
    let mut heard = watch(&store, "/p").await;
    assert!(matches!(heard.next().await, Some(WatchReply::Events(_))), "the put");
    assert!(matches!(heard.next().await, Some(WatchReply::Events(_))), "the expiry, without any call");
}

#[tokio::test(start_paused = true)]
async fn wiped_store_is_empty_and_keeps_its_name_until_it_gets_another() {
    let store = MemoryStore::new(7);
    store.txn(put("/a", "1")).await.unwrap();
    store.wipe();
    let reply = store.range(Range::prefix("")).await.unwrap();
    assert_eq!((reply.count, reply.header.revision, reply.header.cluster_id), (0, Revision(1), 7));
    store.set_cluster_id(8);
    assert_eq!(store.range(Range::prefix("")).await.unwrap().header.cluster_id, 8);
}

#[tokio::test(start_paused = true)]
async fn delayed_call_is_late_by_the_delay() {
    let store = MemoryStore::new(7);
    store.inject(Injection::next(Fault::Delay(Duration::from_millis(300))).times(2));
    let begin = Instant::now();
    store.txn(put("/a", "1")).await.unwrap();
    store.txn(put("/a", "2")).await.unwrap();
    store.txn(put("/a", "3")).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_millis(600));
}
