//! Listing several ranges at one revision, in pages. Called by the follower.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::store::{
    Header, KeyRange, KeyValue, Op, OpReply, Range, RangeReply, Revision, Select, Store, StoreError, Txn,
};

/// What following cost so far, for the metrics: at rest nothing here may grow between audits.
#[derive(Debug, Default)]
pub struct FollowCounters {
    requests: AtomicU64,
    keys: AtomicU64,
    lists: AtomicU64,
    audits: AtomicU64,
    differences: AtomicU64,
}

impl FollowCounters {
    /// Read requests sent, pages counted one by one.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Keys read.
    pub fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    /// Complete lists, the first included.
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::Relaxed)
    }

    pub fn audits(&self) -> u64 {
        self.audits.load(Ordering::Relaxed)
    }

    /// Keys in which audits found the consumer's view wrong; zero as long as all is well.
    pub fn differences(&self) -> u64 {
        self.differences.load(Ordering::Relaxed)
    }

    pub(super) fn count_list(&self) {
        self.lists.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_audit(&self, differences: usize) {
        self.audits.fetch_add(1, Ordering::Relaxed);
        self.differences.fetch_add(differences as u64, Ordering::Relaxed);
    }

    fn count_reply(&self, keys: usize) {
        self.keys.fetch_add(keys as u64, Ordering::Relaxed);
    }
}

/// Everything in some ranges as of `header.revision`.
#[derive(Debug)]
pub(super) struct Listing {
    pub header: Header,
    pub kvs: Vec<KeyValue>,
}

/// How often a list begins anew when a compaction overtakes it.
const OVERTAKEN_ATTEMPTS: usize = 3;

pub(super) async fn list<S: Store>(
    store: &S,
    ranges: &[KeyRange],
    page: usize,
    select: Select,
    counters: &Arc<FollowCounters>,
) -> Result<Listing, StoreError> {
    let mut page = page.max(1);
    let mut overtaken = 0;
    loop {
        match list_once(store, ranges, page, select, counters).await {
            Err(StoreError::Compacted { .. }) if overtaken < OVERTAKEN_ATTEMPTS => overtaken += 1,
            // Large values: smaller pages.
            Err(StoreError::TooLarge { .. }) if page > 1 => page = (page / 8).max(1),
            result => return result,
        }
    }
}

/// The first page of every range in one transaction, which fixes the revision and usually is all;
/// then what is left of each, at that revision.
async fn list_once<S: Store>(
    store: &S,
    ranges: &[KeyRange],
    page: usize,
    select: Select,
    counters: &Arc<FollowCounters>,
) -> Result<Listing, StoreError> {
    let ask = |keys: KeyRange| Range::new(keys).limit(page).select(select);
    let ops = ranges.iter().cloned().map(ask).map(Op::Range).collect();
    counters.requests.fetch_add(1, Ordering::Relaxed);
    let reply = store.txn(Txn::of(ops)).await?;
    let header = reply.header;
    let mut kvs = Vec::new();
    for (range, reply) in ranges.iter().zip(reply.replies) {
        let OpReply::Range(mut reply) = reply else { continue };
        counters.count_reply(reply.kvs.len());
        while let Some(rest) = rest_of(range, &reply) {
            kvs.append(&mut reply.kvs);
            counters.requests.fetch_add(1, Ordering::Relaxed);
            reply = store.range(ask(rest).at(header.revision)).await?;
            counters.count_reply(reply.kvs.len());
        }
        kvs.append(&mut reply.kvs);
    }
    kvs.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(Listing { header, kvs })
}

/// What of a range follows a page that was cut short.
fn rest_of(range: &KeyRange, reply: &RangeReply) -> Option<KeyRange> {
    let last = reply.kvs.last().filter(|_| reply.more)?;
    let from = KeyRange::Key(last.key.clone()).end()?;
    // A range that reaches to the end of the store ends after the largest key there can be; etcd's
    // keys are text, so that no key starts with 0xff.
    let to = range.end().unwrap_or_else(|| Bytes::from_static(&[0xff]));
    Some(KeyRange::Span { from, to })
}

/// The revision of a listing as the start of the watch that continues it.
pub(super) fn watch_from(listing: &Listing) -> Revision {
    listing.header.revision.next()
}
