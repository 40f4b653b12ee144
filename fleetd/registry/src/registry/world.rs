//! The engine's view: a snapshot as events for an empty world, then batches of events.

use fleet_core::world::Event;
use fleet_core::{Revision, Timestamp};

use super::entry::Entry;
use super::follow::{Feed, FeedItem};
use super::{Registry, RegistryError};
use crate::codec::Undecodable;
use crate::follow::AuditReport;
use crate::store::{KeyRange, StoreError};

/// What the engine is told.
#[derive(Debug)]
pub enum WorldItem {
    /// Build the world anew from these, with everything dirty. `undecodable` is all there is; report it.
    Snapshot {
        revision: Revision,
        events: Vec<Event>,
        undecodable: Vec<Undecodable>,
        /// Not the first.
        is_relisted: bool,
    },
    /// Apply these, in order. `undecodable` is what became unreadable with them; report it.
    Changes { revision: Revision, events: Vec<Event>, undecodable: Vec<Undecodable> },
    /// The registry does not answer; the world stays as it is.
    Disconnected { error: StoreError },
}

/// See [`Registry::follow_world`].
pub struct WorldStream<C> {
    feed: Feed,
    registry: Registry,
    now: C,
    raft_term: u64,
}

impl<C> std::fmt::Debug for WorldStream<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorldStream").field("feed", &self.feed).finish_non_exhaustive()
    }
}

impl Registry {
    /// Follows all that a plan is made from. `now` stamps when a lost marker or a raft term was read.
    pub fn follow_world<C: Fn() -> Timestamp + Send>(&self, now: C) -> WorldStream<C> {
        let feed = self.follow_ranges(self.world_ranges());
        WorldStream { feed, registry: self.clone(), now, raft_term: 0 }
    }

    /// Three ranges that leave out contents and events (large, and no plan reads them) and the witnesses (each pass of
    /// each machine writes one).
    fn world_ranges(&self) -> Vec<KeyRange> {
        let at = |name: &str| format!("{}{name}", self.keys.prefix()).into();
        let spans = [("assignments/", "contents/"), ("engine/", "events/"), ("hold", "witness/")];
        spans.map(|(from, to)| KeyRange::Span { from: at(from), to: at(to) }).to_vec()
    }
}

impl<C: Fn() -> Timestamp + Send> WorldStream<C> {
    /// The next thing to tell. Cancel safe.
    pub async fn next(&mut self) -> WorldItem {
        let item = self.feed.next().await;
        let read_at = (self.now)();
        match item {
            FeedItem::Snapshot(snapshot) => {
                self.raft_term = snapshot.raft_term.max(self.registry.raft_term());
                let mut events = vec![Event::RaftTerm { term: self.raft_term, read_at }];
                let known = |entry: Entry| entry.into_world_event(read_at);
                events.extend(snapshot.entries.into_iter().filter_map(known));
                let unreadable = snapshot.undecodable.iter().cloned();
                events.extend(
                    unreadable.filter_map(|u| super::entry::Change::Undecodable(u).into_world_event(read_at)),
                );
                WorldItem::Snapshot {
                    revision: snapshot.revision,
                    events,
                    undecodable: snapshot.undecodable,
                    is_relisted: snapshot.is_relisted,
                }
            }
            FeedItem::Changes { revision, changes } => {
                let mut events = Vec::with_capacity(changes.len() + 1);
                let mut undecodable = Vec::new();
                // After the changes: a marker that they bring counts from its own reading anyway.
                for change in changes {
                    if let super::entry::Change::Undecodable(unreadable) = &change {
                        undecodable.push(unreadable.clone());
                    }
                    events.extend(change.into_world_event(read_at));
                }
                let term = self.registry.raft_term();
                if term > self.raft_term {
                    self.raft_term = term;
                    events.push(Event::RaftTerm { term, read_at });
                }
                WorldItem::Changes { revision, events, undecodable }
            }
            FeedItem::Disconnected { error } => WorldItem::Disconnected { error },
        }
    }

    /// The slow full check: what was told against a fresh list. A difference is counted, and a snapshot follows.
    ///
    /// # Errors
    /// `Store`; then nothing was compared.
    pub async fn audit(&mut self) -> Result<AuditReport, RegistryError> {
        self.feed.audit().await
    }
}
