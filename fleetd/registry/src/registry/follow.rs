//! A followed part of the registry in typed form: everything at one revision, then what changes, for ever.
//!
//! For clients that wait for something, for candidates that watch the leader, and below the engine's and the agents'
//! views. Whatever interrupts it ends in a new snapshot; nothing is lost in between.

use std::sync::Arc;

use fleet_core::Revision;
use futures_util::FutureExt;

use super::entry::{self, Change, Entry};
use super::{Registry, RegistryError, typed};
use crate::codec::Undecodable;
use crate::follow::{AuditReport, FollowEvent, FollowOptions, Follower};
use crate::keys::Area;
use crate::store::{KeyRange, Store, StoreError, WatchEvent};

/// What a feed tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedItem {
    /// Everything, replacing whatever was told before.
    Snapshot(FeedSnapshot),
    /// What changed after the snapshot, in order; `revision` is that of the newest.
    Changes { revision: Revision, changes: Vec<Change> },
    /// The registry does not answer. What was told before still holds as far as anybody knows; the feed retries by
    /// itself.
    Disconnected { error: StoreError },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedSnapshot {
    pub revision: Revision,
    pub raft_term: u64,
    pub entries: Vec<Entry>,
    pub undecodable: Vec<Undecodable>,
    /// Not the first: the watch was cut, overtaken by a compaction, or found wrong by an audit.
    pub is_relisted: bool,
}

/// Changes that arrive together are told together, up to so many: a transaction that touches two watched ranges may
/// come in two parts.
const MAX_MERGED: usize = 4_096;

/// A followed part of the registry. Dropping it ends the watch.
pub struct Feed {
    registry: Registry,
    follower: Follower<Arc<dyn Store>>,
    has_listed: bool,
    /// Came with the last changes but cannot be told with them.
    waiting: Option<FollowEvent>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("follower", &self.follower).finish_non_exhaustive()
    }
}

impl Registry {
    /// Follows some areas, which must not overlap. One watch, whatever their number.
    #[must_use]
    pub fn follow(&self, areas: &[Area]) -> Feed {
        self.follow_ranges(areas.iter().map(|area| self.keys.area(area)).collect())
    }

    /// As [`follow`](Registry::follow), and no revision is told in parts: after each item, everything up to its revision
    /// has been told. The price is a watch over all that lies between the areas.
    #[must_use]
    pub fn follow_in_step(&self, areas: &[Area]) -> Feed {
        let keys: Vec<KeyRange> = areas.iter().map(|area| self.keys.area(area)).collect();
        let from = keys.iter().map(KeyRange::start).min().cloned();
        let to = keys.iter().filter_map(KeyRange::end).max();
        let span = from.zip(to).map(|(from, to)| KeyRange::Span { from, to });
        self.follow_with(FollowOptions { span, ..FollowOptions::new(keys, self.seed) })
    }

    pub(super) fn follow_ranges(&self, ranges: Vec<KeyRange>) -> Feed {
        self.follow_with(FollowOptions::new(ranges, self.seed))
    }

    fn follow_with(&self, options: FollowOptions) -> Feed {
        let follower = Follower::new(Arc::clone(&self.store), options);
        Feed { registry: self.clone(), follower, has_listed: false, waiting: None }
    }
}

impl Feed {
    /// The next thing to tell. Cancel safe.
    pub async fn next(&mut self) -> FeedItem {
        loop {
            let event = match self.waiting.take() {
                Some(event) => event,
                None => self.follower.next().await,
            };
            match event {
                FollowEvent::Snapshot(snapshot) => {
                    let mut told = FeedSnapshot {
                        revision: typed(snapshot.header.revision),
                        raft_term: snapshot.header.raft_term,
                        is_relisted: self.has_listed,
                        ..FeedSnapshot::default()
                    };
                    let keys = self.registry.keys();
                    for read in snapshot.kvs.iter().filter_map(|kv| entry::read(keys, kv)) {
                        match read {
                            Ok(entry) => told.entries.push(entry),
                            Err(undecodable) => told.undecodable.push(undecodable),
                        }
                    }
                    let counters = self.registry.counters();
                    counters.add_undecodable(told.undecodable.len());
                    counters.add_relists(usize::from(self.has_listed));
                    self.has_listed = true;
                    return FeedItem::Snapshot(told);
                }
                FollowEvent::Events { revision, events } => {
                    let (revision, events) = self.merge(revision, events);
                    let keys = self.registry.keys();
                    let changes: Vec<Change> =
                        events.iter().filter_map(|event| entry::change(keys, event)).collect();
                    let unreadable = |change: &&Change| matches!(change, Change::Undecodable(_));
                    self.registry.counters().add_undecodable(changes.iter().filter(unreadable).count());
                    if !changes.is_empty() {
                        return FeedItem::Changes { revision: typed(revision), changes };
                    }
                }
                FollowEvent::Disconnected { error } => {
                    self.registry.counters().add_disconnections(1);
                    return FeedItem::Disconnected { error };
                }
            }
        }
    }

    /// Takes in what has arrived already.
    fn merge(
        &mut self,
        mut revision: crate::store::Revision,
        mut events: Vec<WatchEvent>,
    ) -> (crate::store::Revision, Vec<WatchEvent>) {
        while events.len() < MAX_MERGED {
            match self.follower.next().now_or_never() {
                Some(FollowEvent::Events { revision: newer, events: more }) => {
                    revision = revision.max(newer);
                    events.extend(more);
                }
                other => {
                    self.waiting = other;
                    break;
                }
            }
        }
        (revision, events)
    }

    /// Compares what was told with a fresh list of keys. A difference is counted, and a snapshot follows.
    ///
    /// # Errors
    /// `Store`; then nothing was compared.
    pub async fn audit(&mut self) -> Result<AuditReport, RegistryError> {
        let doing = "auditing a followed view";
        let report = self.follower.audit().await.map_err(|error| RegistryError::Store { doing, error })?;
        self.registry.counters().add_audits(1);
        self.registry.counters().add_audit_differences(report.differences.len());
        Ok(report)
    }
}
