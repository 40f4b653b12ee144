//! What a start finds: everything but the time that leases had left.

use std::path::Path;
use std::time::Duration;

use super::hands::Hands;
use crate::embedded::{EmbeddedStore, OpenError, file};
use crate::store::{
    Header, KeyRange, LeaseTtl, Op, Range, Revision, Store, StoreKind, Txn, WatchReply, WatchRequest,
};

async fn put(store: &EmbeddedStore, key: &str, value: &str) -> Revision {
    let txn = Txn::of(vec![Op::put(key.to_owned(), value.to_owned())]);
    store.txn(txn).await.unwrap().header.revision
}

async fn header(store: &EmbeddedStore) -> Header {
    store.range(Range::prefix("")).await.unwrap().header
}

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(&directory.join("registry")).unwrap()
}

#[tokio::test]
async fn everything_survives_a_restart_and_the_term_grows() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    assert_eq!(store.kind(), StoreKind::Embedded);
    let first = put(&store, "/a", "1").await;
    put(&store, "/b", "1").await;
    store.txn(Txn::of(vec![Op::delete("/b")])).await.unwrap();
    let last = put(&store, "/a", "2").await;
    let all = store.range(Range::prefix("")).await.unwrap();
    drop(store);
    let store = open(directory.path());
    let again = store.range(Range::prefix("")).await.unwrap();
    assert_eq!((again.kvs, again.header.revision), (all.kvs, last));
    assert_eq!(again.header.cluster_id, all.header.cluster_id);
    assert_eq!(again.header.member_id, all.header.member_id);
    assert_eq!(again.header.raft_term, all.header.raft_term + 1);
    // The past as well.
    let past = store.range(Range::prefix("").at(first.next())).await.unwrap();
    assert_eq!(past.kvs.iter().map(|kv| kv.value.clone()).collect::<Vec<_>>(), ["1", "1"]);
    let mut watch = store.watch(WatchRequest::new(vec![KeyRange::prefix("/")], first)).await.unwrap();
    for revision in first.0..=last.0 {
        match watch.next().await {
            Some(WatchReply::Events(batch)) => assert_eq!(batch.revision, Revision(revision)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(put(&store, "/a", "3").await, last.next());
}

#[tokio::test]
async fn lease_has_its_full_time_again_after_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let hands = Hands::new();
    let open = || {
        let path = directory.path().join("registry");
        EmbeddedStore::on_disks(file::open(&path).unwrap(), &path, hands.clock()).unwrap()
    };
    let store = open();
    let ttl = Duration::from_secs(2);
    let (kept, dead) = (store.lease_grant(ttl).await.unwrap(), store.lease_grant(ttl).await.unwrap());
    store.txn(Txn::of(vec![Op::put_leased("/p", "x", kept.id)])).await.unwrap();
    store.lease_revoke(dead.id).await.unwrap();
    // Some of its time has to be gone, so that a full time differs from what was left.
    hands.advance(1_500);
    let left = store.lease_ttl(kept.id).await.unwrap().unwrap().remaining;
    assert!(left < Duration::from_secs(1), "{left:?}");
    drop(store);
    let store = open();
    let left = store.lease_ttl(kept.id).await.unwrap();
    assert_eq!(left, Some(LeaseTtl { granted: ttl, remaining: ttl }));
    assert_eq!(store.lease_ttl(dead.id).await, Ok(None));
    let next = store.lease_grant(ttl).await.unwrap();
    assert!(next.id > dead.id, "ids are never given twice");
    hands.advance(1_500);
    put(&store, "/a", "1").await;
    assert_eq!(store.range(Range::key("/p")).await.unwrap().count, 1);
    // The writer looks at the clock with the next write.
    hands.advance(500);
    put(&store, "/a", "2").await;
    assert_eq!(store.range(Range::key("/p")).await.unwrap().count, 0, "it runs out if nobody renews it");
}

#[tokio::test]
async fn long_run_is_folded_and_history_before_it_is_compacted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let value = "x".repeat(300);
    let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap();
    store.txn(Txn::of(vec![Op::put_leased("/lease", "x", lease.id)])).await.unwrap();
    for number in 0..300 {
        put(&store, &format!("/k/{}", number % 50), &value).await;
    }
    let before = header(&store).await;
    let size = store.status().await.unwrap().db_size;
    drop(store);
    let store = open(directory.path());
    assert_eq!(header(&store).await.revision, before.revision);
    assert_eq!(store.range(Range::prefix("/k/")).await.unwrap().count, 50);
    assert!(store.lease_ttl(lease.id).await.unwrap().is_some());
    let mut watch = store.watch(WatchRequest::new(vec![KeyRange::prefix("/")], Revision(2))).await.unwrap();
    assert!(matches!(watch.next().await, Some(WatchReply::Compacted { .. })));
    assert!(size < 1 << 20, "{size}");
}

#[tokio::test]
async fn store_is_open_once_and_says_who_is_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let path = directory.path().join("registry");
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("fuser"));
    assert_eq!(store.directory(), path);
    let other = store.clone();
    drop(store);
    assert!(EmbeddedStore::open(&path).is_err(), "a handle is left");
    drop(other);
    assert!(EmbeddedStore::open(&path).is_ok());
}

#[tokio::test]
async fn crash_while_the_files_are_made_leaves_nothing_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let half = directory.path().join("registry.new");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("base.0.redb"), "half a file").unwrap();
    // A package may have made the directory.
    std::fs::create_dir(directory.path().join("registry")).unwrap();
    let store = open(directory.path());
    put(&store, "/a", "1").await;
    assert!(!half.exists());
}

#[test]
fn missing_and_foreign_files_are_told_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry");
    for name in ["base.0.redb", "base.1.redb", "journal.0", "journal.1"] {
        drop(EmbeddedStore::open(&path).unwrap());
        std::fs::remove_file(path.join(name)).unwrap();
        let error = EmbeddedStore::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        std::fs::remove_dir_all(&path).unwrap();
    }
    std::fs::write(&path, "no directory").unwrap();
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}
