//! What every [`Store`](crate::store::Store) must do, as tests that run against any of them.
//!
//! [`store_contract!`](crate::store_contract) makes one test of each case. A case gets a store of
//! its own, empty, and fails by panicking. For tests only.

use std::time::Duration;

use tokio::time::timeout;

use crate::store::{
    Compare, KeyRange, Op, OpReply, Range, Revision, Store, Txn, TxnReply, WatchBatch, WatchReply,
    WatchRequest, WatchStream,
};

pub mod leases;
pub mod reads;
pub mod txns;
pub mod watches;

/// Longer than any case may wait for one thing.
const PATIENCE: Duration = Duration::from_secs(15);

/// One test of each case, for a store that `$make` makes; its other half is kept for the test.
///
/// `store_contract!([start_paused = true], async { (store, guard) });`
#[macro_export]
macro_rules! store_contract {
    ($how:tt, $make:expr) => {
        $crate::store_contract! { @cases $how, $make,
            reads: put_and_read_report_revisions, ranges_cover_what_they_say, limit_cuts_and_counts,
                old_revision_is_read_as_it_was, compacted_and_future_revisions_are_refused,
                compaction_may_be_repeated, status_names_version_and_leader;
            txns: every_condition_is_compared, failed_fence_writes_nothing, steps_see_the_steps_before_them,
                limits_are_enforced, key_put_twice_is_refused, delete_of_nothing_is_no_revision;
            watches: watch_tells_history_then_news, watch_tells_what_was_before_if_asked,
                several_ranges_share_a_watch, watch_below_compaction_says_so, watch_in_the_future_is_refused,
                transaction_arrives_whole;
            leases: expiry_deletes_keys_and_is_watched, renewal_keeps_keys, dead_lease_renews_to_zero,
                revoked_lease_takes_its_keys, put_under_unknown_lease_writes_nothing,
                put_without_lease_leaves_the_old_one;
        }
    };
    (@cases $how:tt, $make:expr, $($group:ident: $($case:ident),+;)+) => {
        $($($crate::store_contract! { @case $how, $make, $group, $case })+)+
    };
    (@case [$($how:tt)*], $make:expr, $group:ident, $case:ident) => {
        #[tokio::test($($how)*)]
        async fn $case() {
            let (store, _guard) = $make.await;
            $crate::contract::$group::$case(&store).await;
        }
    };
}

async fn put<S: Store>(store: &S, key: &str, value: &str) -> Revision {
    write(store, vec![Op::put(key.to_owned(), value.to_owned())]).await
}

async fn delete<S: Store>(store: &S, key: &str) -> Revision {
    write(store, vec![Op::delete(key.to_owned())]).await
}

async fn write<S: Store>(store: &S, ops: Vec<Op>) -> Revision {
    store.txn(Txn::of(ops)).await.expect("a healthy store takes an unconditional write").header.revision
}

async fn compare<S: Store>(store: &S, compare: Compare) -> bool {
    run(store, Txn::default().when(vec![compare])).await.succeeded
}

async fn run<S: Store>(store: &S, txn: Txn) -> TxnReply {
    store.txn(txn).await.expect("a healthy store answers a transaction")
}

async fn keys<S: Store>(store: &S, keys: KeyRange) -> Vec<String> {
    let reply = store.range(Range::new(keys)).await.expect("a healthy store answers a read");
    names(&reply.kvs)
}

fn names(kvs: &[crate::store::KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| text(&kv.key)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn range_of(reply: &OpReply) -> &crate::store::RangeReply {
    match reply {
        OpReply::Range(range) => range,
        other => unreachable!("asked for a range, answered {other:?}"),
    }
}

async fn watch<S: Store>(store: &S, keys: Vec<KeyRange>, from: Revision) -> WatchStream {
    store.watch(WatchRequest::new(keys, from)).await.expect("a healthy store accepts a watch")
}

async fn next(watch: &mut WatchStream) -> WatchReply {
    loop {
        let reply = timeout(PATIENCE, watch.next()).await.expect("the watch tells something in time");
        match reply.expect("the watch goes on") {
            WatchReply::Progress { .. } => {}
            reply => return reply,
        }
    }
}

async fn next_batch(watch: &mut WatchStream) -> WatchBatch {
    match next(watch).await {
        WatchReply::Events(batch) => batch,
        other => unreachable!("expected events, got {other:?}"),
    }
}

/// The next `count` events as `(key, value or "-" for a deletion, revision)`.
async fn next_events(watch: &mut WatchStream, count: usize) -> Vec<(String, String, Revision)> {
    let mut events = Vec::new();
    while events.len() < count {
        for event in next_batch(watch).await.events {
            let kv = event.kv();
            let value = match &event {
                crate::store::WatchEvent::Put { kv, .. } => text(&kv.value),
                crate::store::WatchEvent::Delete { .. } => "-".to_owned(),
            };
            events.push((text(&kv.key), value, kv.mod_revision));
        }
    }
    events
}
