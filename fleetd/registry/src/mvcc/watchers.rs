//! Who watches what, indexed so that a change costs its own watchers only.
//!
//! Called by a store with its lock held. A thousand agents watching a prefix each must
//! not make every write a walk over a thousand watchers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::state::{Commit, State};
use crate::store::{KeyRange, Revision, StoreError, WatchBatch, WatchEvent, WatchReply, WatchRequest};

#[derive(Debug)]
struct Watcher {
    client: Arc<str>,
    ranges: Vec<KeyRange>,
    previous: bool,
    replies: mpsc::Sender<WatchReply>,
}

#[derive(Debug)]
pub(crate) struct Watchers {
    /// Replies that may wait for a watcher, beside the history it asked for.
    backlog: usize,
    next_id: u64,
    all: HashMap<u64, Watcher>,
    by_key: HashMap<Bytes, Vec<u64>>,
    by_prefix: HashMap<Bytes, Vec<u64>>,
    /// Lengths of the watched prefixes, with how many there are of each.
    prefix_lengths: BTreeMap<usize, usize>,
    spans: Vec<(KeyRange, u64)>,
}

impl Watchers {
    /// A watcher that is `backlog` replies behind is given up: its stream ends after them.
    pub fn new(backlog: usize) -> Self {
        Self {
            backlog,
            next_id: 0,
            all: HashMap::new(),
            by_key: HashMap::new(),
            by_prefix: HashMap::new(),
            prefix_lengths: BTreeMap::new(),
            spans: Vec::new(),
        }
    }

    /// Adds a watcher and sends it the history it asked for, one reply a revision.
    pub fn add(
        &mut self,
        client: Arc<str>,
        request: WatchRequest,
        state: &State,
    ) -> mpsc::Receiver<WatchReply> {
        self.forget_gone();
        let history = state.history_from(request.from).count();
        let (replies, receiver) = mpsc::channel(self.backlog + history);
        let watcher = Watcher { client, ranges: request.keys, previous: request.previous, replies };
        for commit in state.history_from(request.from) {
            let is_watched =
                |event: &&WatchEvent| watcher.ranges.iter().any(|range| range.contains(&event.kv().key));
            watcher.send(commit.revision, commit.events.iter().filter(is_watched).cloned().collect());
        }
        self.index(watcher);
        receiver
    }

    fn index(&mut self, watcher: Watcher) {
        let id = self.next_id;
        self.next_id += 1;
        for range in &watcher.ranges {
            match range {
                KeyRange::Key(key) => self.by_key.entry(key.clone()).or_default().push(id),
                KeyRange::Prefix(prefix) => {
                    self.by_prefix.entry(prefix.clone()).or_default().push(id);
                    *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
                }
                KeyRange::Span { .. } => self.spans.push((range.clone(), id)),
            }
        }
        self.all.insert(id, watcher);
    }

    fn forget_gone(&mut self) {
        let gone: Vec<u64> =
            self.all.iter().filter(|(_, watcher)| watcher.replies.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(watcher) = self.all.remove(&id) else { return };
        for range in &watcher.ranges {
            match range {
                KeyRange::Key(key) => drop_id(&mut self.by_key, key, id),
                KeyRange::Prefix(prefix) => {
                    drop_id(&mut self.by_prefix, prefix, id);
                    if let Some(count) = self.prefix_lengths.get_mut(&prefix.len()) {
                        *count -= 1;
                        if *count == 0 {
                            self.prefix_lengths.remove(&prefix.len());
                        }
                    }
                }
                KeyRange::Span { .. } => self.spans.retain(|(_, other)| *other != id),
            }
        }
    }

    /// Tells everybody concerned of one committed revision.
    pub fn announce(&mut self, commit: &Commit) {
        let mut batches: BTreeMap<u64, Vec<WatchEvent>> = BTreeMap::new();
        for event in &commit.events {
            for id in self.concerned(&event.kv().key) {
                batches.entry(id).or_default().push(event.clone());
            }
        }
        for (id, batch) in batches {
            let delivered = self.all.get(&id).is_some_and(|watcher| watcher.send(commit.revision, batch));
            if !delivered {
                self.remove(id);
            }
        }
    }

    fn concerned(&self, key: &Bytes) -> Vec<u64> {
        let mut ids = self.by_key.get(key).cloned().unwrap_or_default();
        for length in self.prefix_lengths.keys().take_while(|length| **length <= key.len()) {
            ids.extend(self.by_prefix.get(&key[..*length]).into_iter().flatten());
        }
        ids.extend(self.spans.iter().filter(|(range, _)| range.contains(key)).map(|(_, id)| *id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Ends watches with a reason; `client`: those of one client only.
    pub fn cancel(&mut self, client: Option<&str>, reason: &StoreError) {
        let ids: Vec<u64> = self
            .all
            .iter()
            .filter(|(_, watcher)| client.is_none_or(|client| *watcher.client == *client))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(watcher) = self.all.get(&id) {
                // A watcher that is gone needs no farewell.
                let _ = watcher.replies.try_send(WatchReply::Cancelled { reason: reason.clone() });
            }
            self.remove(id);
        }
    }
}

impl Watcher {
    /// `false`: the watcher is gone, or too far behind.
    fn send(&self, revision: Revision, mut events: Vec<WatchEvent>) -> bool {
        if events.is_empty() {
            return true;
        }
        if !self.previous {
            for event in &mut events {
                let (WatchEvent::Put { previous, .. } | WatchEvent::Delete { previous, .. }) = event;
                *previous = None;
            }
        }
        self.replies.try_send(WatchReply::Events(WatchBatch { revision, events })).is_ok()
    }
}

fn drop_id(index: &mut HashMap<Bytes, Vec<u64>>, key: &Bytes, id: u64) {
    if let Some(ids) = index.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
