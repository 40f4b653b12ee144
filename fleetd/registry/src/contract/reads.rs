//! Reads: revisions, ranges, limits, the past.

use super::{KeyRange, Range, Revision, Store, delete, keys, names, put, text};
use crate::store::{Select, StoreError};

async fn read<S: Store>(store: &S, range: Range) -> crate::store::RangeReply {
    store.range(range).await.expect("a healthy store answers a read")
}

pub async fn put_and_read_report_revisions<S: Store>(store: &S) {
    let first = put(store, "/a", "1").await;
    let second = put(store, "/a", "2").await;
    assert_eq!(second, first.next());
    let reply = read(store, Range::key("/a")).await;
    assert_eq!(reply.header.revision, second);
    assert_ne!(reply.header.cluster_id, 0);
    let [kv] = reply.kvs.as_slice() else { unreachable!("one key, got {:?}", reply.kvs) };
    assert_eq!(text(&kv.value), "2");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));
    assert_eq!(kv.lease, None);
    delete(store, "/a").await;
    let again = put(store, "/a", "3").await;
    let kv = &read(store, Range::key("/a")).await.kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (again, again, 1));
}

pub async fn ranges_cover_what_they_say<S: Store>(store: &S) {
    for key in ["/a", "/a/1", "/a/2", "/a0", "/b"] {
        put(store, key, "x").await;
    }
    assert_eq!(keys(store, KeyRange::key("/a")).await, ["/a"]);
    assert_eq!(keys(store, KeyRange::prefix("/a/")).await, ["/a/1", "/a/2"]);
    assert_eq!(keys(store, KeyRange::prefix("")).await, ["/a", "/a/1", "/a/2", "/a0", "/b"]);
    let span = KeyRange::Span { from: "/a/2".into(), to: "/b".into() };
    assert_eq!(keys(store, span).await, ["/a/2", "/a0"]);
    let empty = KeyRange::Span { from: "/b".into(), to: "/a".into() };
    assert_eq!(keys(store, empty).await, Vec::<String>::new());
}

pub async fn limit_cuts_and_counts<S: Store>(store: &S) {
    for key in ["/k/1", "/k/2", "/k/3"] {
        put(store, key, "value").await;
    }
    let reply = read(store, Range::prefix("/k/").limit(2)).await;
    assert_eq!(names(&reply.kvs), ["/k/1", "/k/2"]);
    assert!(reply.more);
    assert_eq!(reply.count, 3);
    let reply = read(store, Range::prefix("/k/").limit(3)).await;
    assert!(!reply.more);
    let reply = read(store, Range::prefix("/k/").select(Select::KeysOnly)).await;
    assert_eq!(reply.kvs.len(), 3);
    assert!(reply.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > Revision(0)));
    let reply = read(store, Range::prefix("/k/").select(Select::CountOnly)).await;
    assert_eq!((reply.count, reply.kvs.len()), (3, 0));
}

pub async fn old_revision_is_read_as_it_was<S: Store>(store: &S) {
    put(store, "/k/1", "old").await;
    put(store, "/k/2", "stays").await;
    let then = put(store, "/k/3", "deleted later").await;
    put(store, "/k/1", "new").await;
    delete(store, "/k/3").await;
    let now = put(store, "/k/4", "made later").await;
    let reply = read(store, Range::prefix("/k/").at(then)).await;
    let values: Vec<String> = reply.kvs.iter().map(|kv| text(&kv.value)).collect();
    assert_eq!(names(&reply.kvs), ["/k/1", "/k/2", "/k/3"]);
    assert_eq!(values, ["old", "stays", "deleted later"]);
    assert_eq!(reply.header.revision, now);
}

pub async fn compacted_and_future_revisions_are_refused<S: Store>(store: &S) {
    let first = put(store, "/a", "1").await;
    let second = put(store, "/a", "2").await;
    store.compact(second).await.expect("a past revision can be compacted");
    let past = store.range(Range::key("/a").at(first)).await;
    assert_eq!(past, Err(StoreError::Compacted { asked: first }));
    let at_compaction = read(store, Range::key("/a").at(second)).await;
    assert_eq!(text(&at_compaction.kvs[0].value), "2");
    let future = Revision(second.0 + 100);
    let ahead = store.range(Range::key("/a").at(future)).await;
    assert_eq!(ahead, Err(StoreError::FutureRevision { asked: future }));
}

pub async fn compaction_may_be_repeated<S: Store>(store: &S) {
    let revision = put(store, "/a", "1").await;
    for _ in 0..2 {
        store.compact(revision).await.expect("compacting again is no error");
    }
    let future = Revision(revision.0 + 100);
    assert_eq!(store.compact(future).await, Err(StoreError::FutureRevision { asked: future }));
}

pub async fn status_names_version_and_leader<S: Store>(store: &S) {
    put(store, "/a", "1").await;
    let status = store.status().await.expect("a healthy store has a status");
    assert!(!status.version.is_empty());
    assert!(status.db_size > 0);
    assert!(status.leader.is_some());
    assert_eq!(status.alarms, []);
}
