//! The engine's view: a snapshot as events for an empty world, then batches of events.
//!
//! Two things are remembered here because a snapshot cannot say them: since when a lost marker has been known, so that
//! a list made anew does not start the wait over; and which units have an order or a placement that cannot be read.
//! Such a unit is kept out of the world, as if its record were missing, which freezes all its orders: a plan that took
//! the unreadable order for absent would write over it.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::records::LostRecord;
use fleet_core::records::Versioned;
use fleet_core::world::Event;
use fleet_core::{MachineId, Revision, Timestamp};
use unit_files::UnitName;

use super::entry::{Change, Entry};
use super::follow::{Feed, FeedItem, FeedSnapshot};
use super::{Registry, RegistryError};
use crate::codec::Undecodable;
use crate::follow::AuditReport;
use crate::keys::Key;
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
    markers: Markers,
    /// Units with something that cannot be read.
    frozen: BTreeMap<UnitName, BTreeSet<Key>>,
    is_relisted: bool,
}

impl<C> std::fmt::Debug for WorldStream<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorldStream").field("feed", &self.feed).finish_non_exhaustive()
    }
}

impl Registry {
    /// Follows all that a plan is made from. `now` stamps when a lost marker or a raft term was read.
    pub fn follow_world<C: Fn() -> Timestamp + Send>(&self, now: C) -> WorldStream<C> {
        WorldStream {
            feed: self.follow_ranges(self.world_ranges()),
            registry: self.clone(),
            now,
            raft_term: 0,
            markers: Markers::default(),
            frozen: BTreeMap::new(),
            is_relisted: false,
        }
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
        loop {
            // The only wait; what follows it is not interrupted.
            match self.feed.next().await {
                FeedItem::Snapshot(snapshot) => return self.snapshot(snapshot),
                FeedItem::Changes { revision, changes } => {
                    if let Some(item) = self.changes(revision, changes) {
                        return item;
                    }
                }
                FeedItem::Disconnected { error } => return WorldItem::Disconnected { error },
            }
        }
    }

    fn snapshot(&mut self, snapshot: FeedSnapshot) -> WorldItem {
        let read_at = (self.now)();
        let term = snapshot.raft_term.max(self.registry.raft_term());
        self.raft_term_seen(term, read_at);
        self.frozen.clear();
        for undecodable in &snapshot.undecodable {
            self.freeze(&undecodable.key);
        }
        let mut known = BTreeSet::new();
        let mut events = vec![Event::RaftTerm { term, read_at }];
        for entry in snapshot.entries {
            match entry {
                Entry::Unit(unit, _) if self.frozen.contains_key(&unit) => {}
                Entry::Lost(id, record) => {
                    let read_at = self.markers.read_at(&id, &record, read_at);
                    known.insert(id.clone());
                    events.push(Event::Lost { machine: id, record: Some(*record), read_at });
                }
                entry => events.extend(entry.into_world_event(read_at)),
            }
        }
        self.markers.first.retain(|id, _| known.contains(id));
        let unreadable = snapshot.undecodable.iter().cloned().map(Change::Undecodable);
        events.extend(unreadable.filter_map(|change| change.into_world_event(read_at)));
        let is_relisted = std::mem::replace(&mut self.is_relisted, true);
        WorldItem::Snapshot {
            revision: snapshot.revision,
            events,
            undecodable: snapshot.undecodable,
            is_relisted,
        }
    }

    /// `None`: something became readable, so that a snapshot comes next.
    fn changes(&mut self, revision: Revision, changes: Vec<Change>) -> Option<WorldItem> {
        let read_at = (self.now)();
        if changes.iter().any(|change| self.thaws(change)) {
            self.feed = self.registry.follow_ranges(self.registry.world_ranges());
            self.registry.counters().add_relists(1);
            return None;
        }
        let mut events = Vec::with_capacity(changes.len() + 1);
        let mut undecodable = Vec::new();
        for change in changes {
            match change {
                Change::Undecodable(unreadable) => {
                    events.extend(self.freeze(&unreadable.key).map(|unit| Event::Unit(unit, None)));
                    undecodable.push(unreadable.clone());
                    events.extend(Change::Undecodable(unreadable).into_world_event(read_at));
                }
                Change::Put(Entry::Unit(unit, _)) if self.frozen.contains_key(&unit) => {}
                Change::Put(Entry::Lost(id, record)) => {
                    let read_at = self.markers.read_at(&id, &record, read_at);
                    events.push(Event::Lost { machine: id, record: Some(*record), read_at });
                }
                change => {
                    if let Change::Deleted { key: Key::Lost(id), .. } = &change {
                        self.markers.first.remove(id);
                    }
                    events.extend(change.into_world_event(read_at));
                }
            }
        }
        // After the changes: a marker that came with them is counted from its own reading anyway.
        let term = self.registry.raft_term();
        if self.raft_term_seen(term, read_at) {
            events.push(Event::RaftTerm { term, read_at });
        }
        Some(WorldItem::Changes { revision, events, undecodable })
    }

    /// Whether the term is new.
    fn raft_term_seen(&mut self, term: u64, read_at: Timestamp) -> bool {
        if term <= self.raft_term {
            return false;
        }
        if self.raft_term != 0 {
            self.markers.wait_again(read_at);
        }
        self.raft_term = term;
        true
    }

    /// The unit that is frozen for the sake of an unreadable key.
    fn freeze(&mut self, key: &Key) -> Option<UnitName> {
        let unit = frozen_by(key)?;
        self.frozen.entry(unit.clone()).or_default().insert(key.clone());
        Some(unit)
    }

    /// What could not be read was written anew or deleted.
    fn thaws(&self, change: &Change) -> bool {
        let key = change.key();
        !matches!(change, Change::Undecodable(_))
            && frozen_by(&key).and_then(|unit| self.frozen.get(&unit)).is_some_and(|keys| keys.contains(&key))
    }

    /// The slow full check: what was told against a fresh list. A difference is counted, and a snapshot follows.
    ///
    /// # Errors
    /// `Store`; then nothing was compared.
    pub async fn audit(&mut self) -> Result<AuditReport, RegistryError> {
        self.feed.audit().await
    }
}

fn frozen_by(key: &Key) -> Option<UnitName> {
    match key {
        Key::Order(_, unit) | Key::Placement(unit) | Key::Unit(unit) => Some(unit.clone()),
        _ => None,
    }
}

/// When each lost marker was first read.
#[derive(Debug, Default)]
struct Markers {
    first: BTreeMap<MachineId, FirstRead>,
}

#[derive(Debug)]
struct FirstRead {
    created: Revision,
    at: Timestamp,
    has_waited_again: bool,
}

impl Markers {
    fn read_at(&mut self, id: &MachineId, record: &Versioned<LostRecord>, now: Timestamp) -> Timestamp {
        let created = record.created;
        let first =
            self.first.entry(id.clone()).or_insert(FirstRead { created, at: now, has_waited_again: false });
        if first.created != created {
            *first = FirstRead { created, at: now, has_waited_again: false };
        }
        first.at
    }

    /// An election gave every lease its full time: wait once more, and only once, as the world does.
    fn wait_again(&mut self, now: Timestamp) {
        for first in self.first.values_mut().filter(|first| !first.has_waited_again) {
            first.at = now;
            first.has_waited_again = true;
        }
    }
}
