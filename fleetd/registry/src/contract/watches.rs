//! Watches: nothing is lost between a list and its watch, and a compaction is never silent.

use super::{
    KeyRange, Op, Revision, Store, WatchReply, WatchRequest, delete, next, next_batch, next_events, put,
};
use super::{text, watch, write};
use crate::store::{StoreError, WatchEvent};

pub async fn watch_tells_history_then_news<S: Store>(store: &S) {
    let listed = put(store, "/k/1", "before").await;
    let second = put(store, "/k/1", "in the gap").await;
    put(store, "/other", "x").await;
    let mut watch = watch(store, vec![KeyRange::prefix("/k/")], listed.next()).await;
    let third = put(store, "/k/2", "after").await;
    let fourth = delete(store, "/k/1").await;
    let expected = [
        ("/k/1".to_owned(), "in the gap".to_owned(), second),
        ("/k/2".to_owned(), "after".to_owned(), third),
        ("/k/1".to_owned(), "-".to_owned(), fourth),
    ];
    assert_eq!(next_events(&mut watch, 3).await, expected);
}

pub async fn watch_tells_what_was_before_if_asked<S: Store>(store: &S) {
    let listed = put(store, "/a", "1").await;
    let request = WatchRequest::new(vec![KeyRange::key("/a")], listed.next()).with_previous();
    let mut watch = store.watch(request).await.expect("a healthy store accepts a watch");
    put(store, "/a", "2").await;
    delete(store, "/a").await;
    let mut before = Vec::new();
    while before.len() < 2 {
        for event in next_batch(&mut watch).await.events {
            let (WatchEvent::Put { previous, .. } | WatchEvent::Delete { previous, .. }) = event;
            before.push(previous.map(|kv| text(&kv.value)));
        }
    }
    assert_eq!(before, [Some("1".to_owned()), Some("2".to_owned())]);
}

pub async fn several_ranges_share_a_watch<S: Store>(store: &S) {
    let listed = put(store, "/start", "x").await;
    let ranges = vec![
        KeyRange::prefix("/k/"),
        KeyRange::key("/single"),
        KeyRange::Span { from: "/s/a".into(), to: "/s/c".into() },
    ];
    let mut watch = watch(store, ranges, listed.next()).await;
    for key in ["/k/1", "/single", "/single/not", "/s/b", "/s/c", "/k/2"] {
        put(store, key, "x").await;
    }
    let told: Vec<String> = next_events(&mut watch, 4).await.into_iter().map(|(key, _, _)| key).collect();
    assert_eq!(told, ["/k/1", "/single", "/s/b", "/k/2"]);
}

pub async fn watch_below_compaction_says_so<S: Store>(store: &S) {
    let first = put(store, "/a", "1").await;
    put(store, "/a", "2").await;
    let last = put(store, "/a", "3").await;
    store.compact(last).await.expect("a past revision can be compacted");
    let mut watch = watch(store, vec![KeyRange::key("/a"), KeyRange::key("/b")], first).await;
    assert_eq!(next(&mut watch).await, WatchReply::Compacted { revision: last });
    assert_eq!(watch.next().await, None);
}

pub async fn watch_in_the_future_is_refused<S: Store>(store: &S) {
    let now = put(store, "/a", "1").await;
    let asked = Revision(now.0 + 50);
    let refused = store.watch(WatchRequest::new(vec![KeyRange::key("/a")], asked)).await;
    assert_eq!(refused.err(), Some(StoreError::FutureRevision { asked }));
}

pub async fn transaction_arrives_whole<S: Store>(store: &S) {
    let listed = put(store, "/start", "x").await;
    let mut watch = watch(store, vec![KeyRange::prefix("/k/")], listed.next()).await;
    let ops = (0..100).map(|i| Op::put(format!("/k/{i:03}"), "x")).collect();
    let revision = write(store, ops).await;
    let batch = next_batch(&mut watch).await;
    assert_eq!((batch.revision, batch.events.len()), (revision, 100));
}
