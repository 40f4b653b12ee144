//! Following a part of the store: list at a revision, then watch from the next one, for ever.
//!
//! Used by every task of the shell that keeps a view of the registry. The follower keeps no values,
//! only which revision of which key it has told, so that it can name what vanished and audit itself.
//! It decides nothing and never drops a change: whatever interrupts the watch ends in a new list.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tracing::debug;

mod audit;
mod list;
#[cfg(test)]
mod tests;

pub use audit::AuditReport;
pub use list::FollowCounters;
use list::{Listing, list, watch_from};

use crate::backoff::{Backoff, BackoffOptions};
use crate::store::{
    Header, KeyRange, KeyValue, Revision, Select, Store, StoreError, WatchEvent, WatchReply, WatchRequest,
    WatchStream,
};

/// What to follow and how.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// At most 128; a key must not be in two of them.
    pub keys: Vec<KeyRange>,
    /// One range that holds all of `keys` and is watched in their place: what one revision did is then told at once,
    /// whatever of `keys` it touched. `None`: each range is watched for itself.
    pub span: Option<KeyRange>,
    /// Keys read at once.
    pub page: usize,
    pub backoff: BackoffOptions,
    /// How long an audit waits for events that are still on their way.
    pub audit_grace: Duration,
}

impl FollowOptions {
    /// Pages of 1,000 keys; `seed` differs between machines.
    pub fn new(keys: Vec<KeyRange>, seed: u64) -> Self {
        let (backoff, audit_grace) = (BackoffOptions::new(seed), Duration::from_secs(2));
        Self { keys, span: None, page: 1_000, backoff, audit_grace }
    }
}

/// Everything followed, as of one revision; replaces whatever the consumer knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Of the list. A smaller revision or other cluster id than before: the store was replaced.
    pub header: Header,
    /// Ascending by key.
    pub kvs: Vec<KeyValue>,
    /// Keys told before that are gone now.
    pub removed: Vec<Bytes>,
    /// How many of `kvs` are new or have another revision than told before.
    pub changed: usize,
}

/// What a follower tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowEvent {
    Snapshot(Snapshot),
    /// Changes after the snapshot, in order within each range (see [`WatchBatch`](crate::store::WatchBatch)).
    /// `revision` is that of the newest.
    Events {
        revision: Revision,
        events: Vec<WatchEvent>,
    },
    /// A list failed; the follower retries by itself and what was told before is still held. Told
    /// once for each failed attempt.
    Disconnected {
        error: StoreError,
    },
}

type Connected = (Listing, WatchStream);
type Connecting = Pin<Box<dyn Future<Output = Result<Connected, StoreError>> + Send>>;

enum Phase {
    /// Listing and opening the watch, after a wait.
    Connecting(Connecting),
    Watching {
        watch: WatchStream,
        since: Instant,
    },
}

/// See the module.
pub struct Follower<S> {
    store: S,
    options: FollowOptions,
    backoff: Backoff,
    counters: Arc<FollowCounters>,
    phase: Phase,
    /// What the consumer has been told, or will be by `waiting`.
    told: BTreeMap<Bytes, Revision>,
    waiting: VecDeque<FollowEvent>,
}

impl<S: Store + Clone> Follower<S> {
    pub fn new(store: S, options: FollowOptions) -> Self {
        let counters = Arc::new(FollowCounters::default());
        let phase = Phase::Connecting(connect(&store, &options, &counters, Duration::ZERO));
        let backoff = Backoff::new(options.backoff);
        Self { store, options, backoff, counters, phase, told: BTreeMap::new(), waiting: VecDeque::new() }
    }

    pub fn counters(&self) -> Arc<FollowCounters> {
        Arc::clone(&self.counters)
    }

    /// The next thing to tell; the first is a snapshot or a disconnection. Cancel safe: nothing is
    /// lost and no read is begun anew.
    pub async fn next(&mut self) -> FollowEvent {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return event;
            }
            self.advance().await;
        }
    }

    /// One step: a finished list, or one reply of the watch. Cancel safe.
    async fn advance(&mut self) {
        match &mut self.phase {
            Phase::Connecting(connecting) => match connecting.await {
                Ok((listing, watch)) => {
                    self.phase = Phase::Watching { watch, since: Instant::now() };
                    self.tell_listing(listing);
                }
                Err(error) => {
                    self.connect_after_failure();
                    self.waiting.push_back(FollowEvent::Disconnected { error });
                }
            },
            Phase::Watching { watch, .. } => match watch.next().await {
                Some(WatchReply::Events(batch)) => self.tell_events(batch.events),
                Some(WatchReply::Progress { .. }) => {}
                Some(WatchReply::Compacted { revision }) => {
                    debug!(%revision, "watch overtaken by a compaction, listing anew");
                    self.connect_after_failure();
                }
                Some(WatchReply::Cancelled { reason }) => {
                    debug!(%reason, "watch cancelled, listing anew");
                    self.connect_after_failure();
                }
                None => self.connect_after_failure(),
            },
        }
    }

    fn connect_after_failure(&mut self) {
        // Only a watch that outlived the longest wait shows that all is well again: one that is
        // accepted and dies at once would have every follower list without a pause.
        if let Phase::Watching { since, .. } = self.phase
            && since.elapsed() >= self.options.backoff.most
        {
            self.backoff.reset();
        }
        let wait = self.backoff.next();
        self.phase = Phase::Connecting(connect(&self.store, &self.options, &self.counters, wait));
    }

    fn tell_listing(&mut self, listing: Listing) {
        let now: BTreeMap<Bytes, Revision> =
            listing.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
        let removed = self.told.keys().filter(|key| !now.contains_key(*key)).cloned().collect();
        let changed = now.iter().filter(|(key, revision)| self.told.get(*key) != Some(*revision)).count();
        self.told = now;
        self.waiting.push_back(FollowEvent::Snapshot(Snapshot {
            header: listing.header,
            kvs: listing.kvs,
            removed,
            changed,
        }));
    }

    fn tell_events(&mut self, mut events: Vec<WatchEvent>) {
        if self.options.span.is_some() {
            events.retain(|event| self.options.keys.iter().any(|range| range.contains(&event.kv().key)));
        }
        for event in &events {
            let kv = event.kv();
            match event {
                WatchEvent::Put { .. } => self.told.insert(kv.key.clone(), kv.mod_revision),
                WatchEvent::Delete { .. } => self.told.remove(&kv.key),
            };
        }
        if let Some(revision) = events.iter().map(|event| event.kv().mod_revision).max() {
            self.waiting.push_back(FollowEvent::Events { revision, events });
        }
    }
}

impl<S> fmt::Debug for Follower<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("keys", &self.options.keys).finish_non_exhaustive()
    }
}

fn connect<S: Store + Clone>(
    store: &S,
    options: &FollowOptions,
    counters: &Arc<FollowCounters>,
    wait: Duration,
) -> Connecting {
    let (store, keys, page) = (store.clone(), options.keys.clone(), options.page);
    let watched = options.span.clone().map_or_else(|| keys.clone(), |span| vec![span]);
    let counters = Arc::clone(counters);
    Box::pin(async move {
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let listing = list(&store, &keys, page, Select::All, &counters).await?;
        let watch = store.watch(WatchRequest::new(watched, watch_from(&listing))).await?;
        counters.count_list();
        Ok((listing, watch))
    })
}
