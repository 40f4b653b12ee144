//! The data: what is live, what happened since the last compaction, leases.
//!
//! Time is an argument. Old revisions are not stored: a read in the past undoes the events since,
//! which a paged read makes few. Deterministic: the same calls lead to the same state, and applying
//! another copy's commits leads to that copy's state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::leases::Leases;
use crate::store::{
    Compare, Condition, Header, KeyRange, KeyValue, Lease, LeaseId, LeaseTtl, Op, OpReply, Range, RangeReply,
    Revision, Select, StoreError, Txn, TxnReply, WatchEvent,
};

/// Who the store says it is, in every header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    pub raft_term: u64,
}

/// What a change of the state did: one revision and its events.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub revision: Revision,
    pub events: Vec<WatchEvent>,
}

/// A change of one key, without what follows from the state it is made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Put { key: Bytes, value: Bytes, lease: Option<LeaseId> },
    Delete { key: Bytes },
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    pub identity: Identity,
    revision: Revision,
    compacted: Revision,
    /// First revision whose events are known. That of a compaction still is; that of a state which was
    /// put back is not.
    history_begin: Revision,
    live: BTreeMap<Bytes, KeyValue>,
    /// Ascending by revision, each event with what it replaced. Shared between copies.
    history: VecDeque<Arc<Commit>>,
    leases: Leases,
}

impl State {
    /// Empty, at revision 1.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            revision: Revision(1),
            compacted: Revision(0),
            history_begin: Revision(0),
            live: BTreeMap::new(),
            history: VecDeque::new(),
            leases: Leases::default(),
        }
    }

    /// At a revision of which nothing is known but the leases and keys that are put back next.
    pub fn at(identity: Identity, revision: Revision) -> Self {
        let new = Self::new(identity);
        if revision == new.revision {
            return new;
        }
        Self { revision, compacted: revision, history_begin: revision.next(), ..new }
    }

    /// Puts back a key as of the current revision; `false`: its lease is not there.
    pub fn restore(&mut self, kv: KeyValue) -> bool {
        if let Some(id) = kv.lease {
            if !self.leases.contains(id) {
                return false;
            }
            self.leases.attach(id, kv.key.clone());
        }
        self.live.insert(kv.key.clone(), kv);
        true
    }

    /// Does again what was done at `revision`, the next one; `None`: the steps do not fit the state.
    pub fn replay(&mut self, revision: Revision, steps: Vec<Step>) -> Option<Arc<Commit>> {
        if revision != self.revision.next() {
            return None;
        }
        let mut events = Vec::with_capacity(steps.len());
        for step in steps {
            events.push(match step {
                Step::Put { lease: Some(id), .. } if !self.leases.contains(id) => return None,
                Step::Put { key, value, lease } => self.put(&key, &value, lease, revision),
                Step::Delete { key } => self.delete_key(key, revision)?,
            });
        }
        self.commit(revision, events)
    }

    /// Applies what another copy of this state did next.
    pub fn apply(&mut self, commit: &Arc<Commit>) {
        for event in &commit.events {
            let kv = event.kv();
            if let Some(id) = self.live.get(&kv.key).and_then(|old| old.lease) {
                self.leases.detach(id, &kv.key);
            }
            match event {
                WatchEvent::Put { kv, .. } => {
                    if let Some(id) = kv.lease {
                        self.leases.attach(id, kv.key.clone());
                    }
                    self.live.insert(kv.key.clone(), kv.clone());
                }
                WatchEvent::Delete { kv, .. } => drop(self.live.remove(&kv.key)),
            }
        }
        self.revision = commit.revision;
        self.history.push_back(Arc::clone(commit));
    }

    pub fn header(&self) -> Header {
        let Identity { cluster_id, member_id, raft_term } = self.identity;
        Header { cluster_id, member_id, revision: self.revision, raft_term }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// First revision that a watch can begin with.
    pub fn history_begin(&self) -> Revision {
        self.history_begin
    }

    /// Live keys, ascending.
    pub fn live(&self, keys: &KeyRange) -> impl Iterator<Item = &KeyValue> {
        self.live.range(keys.bounds()).map(|(_, kv)| kv)
    }

    /// Every lease with its time to live.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, Duration)> {
        self.leases.iter()
    }

    /// Bytes of live keys and values.
    pub fn size(&self) -> u64 {
        self.live.values().map(|kv| (kv.key.len() + kv.value.len()) as u64).sum()
    }

    pub fn range(&self, range: &Range) -> Result<RangeReply, StoreError> {
        let mut reply = RangeReply { header: self.header(), ..RangeReply::default() };
        if let Some(asked) = range.at_revision {
            if asked > self.revision {
                return Err(StoreError::FutureRevision { asked });
            }
            if asked < self.compacted {
                return Err(StoreError::Compacted { asked });
            }
        }
        if range.keys.is_empty() {
            return Ok(reply);
        }
        match range.at_revision {
            Some(asked) if asked < self.revision => self.read_past(range, asked, &mut reply),
            _ => collect(range, self.live.range(range.keys.bounds()).map(|(_, kv)| kv), &mut reply),
        }
        Ok(reply)
    }

    fn read_past(&self, range: &Range, asked: Revision, reply: &mut RangeReply) {
        let mut past: BTreeMap<&Bytes, &KeyValue> = self.live.range(range.keys.bounds()).collect();
        let since = self.history_from(asked.next()).rev();
        for event in since.flat_map(|commit| commit.events.iter().rev()) {
            let key = &event.kv().key;
            if !range.keys.contains(key) {
                continue;
            }
            match previous(event) {
                Some(kv) => past.insert(&kv.key, kv),
                None => past.remove(key),
            };
        }
        collect(range, past.into_values(), reply);
    }

    /// What happened at revision `from` and later, oldest first.
    pub fn history_from(&self, from: Revision) -> impl DoubleEndedIterator<Item = &Arc<Commit>> {
        let start = self.history.partition_point(|commit| commit.revision < from);
        self.history.range(start..)
    }

    /// Answers a transaction that [writes nothing](Txn::is_read_only).
    pub fn read(&self, txn: &Txn) -> Result<TxnReply, StoreError> {
        let (succeeded, ops) = self.judge(txn)?;
        let ranges = ops.iter().filter_map(|op| match op {
            Op::Range(range) => Some(self.range(range).map(OpReply::Range)),
            Op::Put { .. } | Op::Delete { .. } => None,
        });
        let replies = ranges.collect::<Result<_, _>>()?;
        Ok(TxnReply { succeeded, header: self.header(), replies })
    }

    /// Which branch is taken, after all that can be refused was looked for.
    fn judge<'a>(&self, txn: &'a Txn) -> Result<(bool, &'a [Op]), StoreError> {
        txn.validate()?;
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        for op in ops {
            self.refuse_early(op)?;
        }
        Ok((succeeded, ops))
    }

    pub fn txn(&mut self, txn: &Txn) -> Result<(TxnReply, Option<Arc<Commit>>), StoreError> {
        let (succeeded, ops) = self.judge(txn)?;
        let revision = self.revision.next();
        let mut events = Vec::new();
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            replies.push(match op {
                Op::Put { key, value, lease } => {
                    events.push(self.put(key, value, *lease, revision));
                    OpReply::Put
                }
                Op::Delete { keys } => {
                    let deleted = self.delete(keys, revision);
                    let count = deleted.len() as u64;
                    events.extend(deleted);
                    OpReply::Deleted { count }
                }
                Op::Range(range) => OpReply::Range(self.range(range)?),
            });
        }
        let commit = self.commit(revision, events);
        Ok((TxnReply { succeeded, header: self.header(), replies }, commit))
    }

    /// What would make an operation fail half-way, found before anything is changed.
    fn refuse_early(&self, op: &Op) -> Result<(), StoreError> {
        match op {
            Op::Put { lease: Some(id), .. } if !self.leases.contains(*id) => {
                Err(StoreError::LeaseNotFound { id: *id })
            }
            Op::Range(Range { at_revision: Some(asked), .. }) if *asked > self.revision => {
                Err(StoreError::FutureRevision { asked: *asked })
            }
            Op::Range(Range { at_revision: Some(asked), .. }) if *asked < self.compacted => {
                Err(StoreError::Compacted { asked: *asked })
            }
            _ => Ok(()),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kv = self.live.get(&compare.key);
        match &compare.condition {
            Condition::Value(value) => kv.is_some_and(|kv| kv.value == value),
            Condition::ModRevision(revision) => kv.map_or(Revision(0), |kv| kv.mod_revision) == *revision,
            Condition::CreateRevision(revision) => {
                kv.map_or(Revision(0), |kv| kv.create_revision) == *revision
            }
            Condition::Version(version) => kv.map_or(0, |kv| kv.version) == *version,
            Condition::Absent => kv.is_none(),
            Condition::Present => kv.is_some(),
        }
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, lease: Option<LeaseId>, revision: Revision) -> WatchEvent {
        let previous = self.live.get(key).cloned();
        if let Some(old) = previous.as_ref().and_then(|kv| kv.lease) {
            self.leases.detach(old, key);
        }
        if let Some(id) = lease {
            self.leases.attach(id, key.clone());
        }
        let kv = KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: previous.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(0, |kv| kv.version) + 1,
            lease,
        };
        self.live.insert(key.clone(), kv.clone());
        WatchEvent::Put { kv, previous }
    }

    fn delete(&mut self, keys: &KeyRange, revision: Revision) -> Vec<WatchEvent> {
        if keys.is_empty() {
            return Vec::new();
        }
        let doomed: Vec<Bytes> = self.live.range(keys.bounds()).map(|(key, _)| key.clone()).collect();
        doomed.into_iter().filter_map(|key| self.delete_key(key, revision)).collect()
    }

    fn delete_key(&mut self, key: Bytes, revision: Revision) -> Option<WatchEvent> {
        let previous = self.live.remove(&key)?;
        if let Some(lease) = previous.lease {
            self.leases.detach(lease, &key);
        }
        let kv = KeyValue {
            key,
            value: Bytes::new(),
            create_revision: Revision(0),
            mod_revision: revision,
            version: 0,
            lease: None,
        };
        Some(WatchEvent::Delete { kv, previous: Some(previous) })
    }

    fn commit(&mut self, revision: Revision, events: Vec<WatchEvent>) -> Option<Arc<Commit>> {
        if events.is_empty() {
            return None;
        }
        let commit = Arc::new(Commit { revision, events });
        self.revision = revision;
        self.history.push_back(Arc::clone(&commit));
        Some(commit)
    }

    pub fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::FutureRevision { asked: revision });
        }
        if revision > self.compacted {
            self.compacted = revision;
            self.history_begin = self.history_begin.max(revision);
            let keep_from = self.history.partition_point(|commit| commit.revision < revision);
            self.history.drain(..keep_from);
        }
        Ok(())
    }

    pub fn lease_grant(&mut self, ttl: Duration, now: Instant) -> Lease {
        self.leases.grant(ttl, now)
    }

    /// A lease that another copy of the state granted, with its full time from `now` on.
    pub fn lease_granted(&mut self, lease: Lease, now: Instant) {
        self.leases.insert(lease.id, lease.ttl, now);
    }

    /// Never grants an id up to this one again.
    pub fn skip_leases(&mut self, last: LeaseId) {
        self.leases.skip_to(last);
    }

    /// The newest lease ever granted.
    pub fn last_lease(&self) -> LeaseId {
        self.leases.last_id()
    }

    pub fn lease_keep_alive(&mut self, id: LeaseId, now: Instant) -> Duration {
        self.leases.keep_alive(id, now)
    }

    /// Ends a lease and deletes its keys, at one revision.
    pub fn lease_revoke(&mut self, id: LeaseId) -> Result<Option<Arc<Commit>>, StoreError> {
        let keys = self.leases.remove(id).ok_or(StoreError::LeaseNotFound { id })?;
        let revision = self.revision.next();
        let events = keys.into_iter().filter_map(|key| self.delete_key(key, revision)).collect();
        Ok(self.commit(revision, events))
    }

    /// A lease that another copy of the state ended; its keys go with that copy's commit.
    pub fn lease_revoked(&mut self, id: LeaseId) {
        self.leases.remove(id);
    }

    pub fn lease_ttl(&self, id: LeaseId, now: Instant) -> Option<LeaseTtl> {
        self.leases.ttl(id, now)
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        self.leases.next_expiry()
    }

    /// The next lease that has run out and has to be revoked; it cannot be kept alive any more.
    pub fn take_due(&mut self, now: Instant) -> Option<LeaseId> {
        self.leases.take_due(now)
    }

    /// Gives a lease its full time again, even if it has run out.
    pub fn renew(&mut self, id: LeaseId, now: Instant) {
        self.leases.renew(id, now);
    }

    /// Ends every lease that is due; one revision for each that had keys.
    pub fn expire(&mut self, now: Instant) -> Vec<Arc<Commit>> {
        let mut commits = Vec::new();
        while let Some(id) = self.take_due(now) {
            commits.extend(self.lease_revoke(id).ok().flatten());
        }
        commits
    }

    /// Gives every lease its full time again, as a new etcd leader does.
    pub fn renew_all(&mut self, now: Instant) {
        self.leases.renew_all(now);
    }
}

fn previous(event: &WatchEvent) -> Option<&KeyValue> {
    match event {
        WatchEvent::Put { previous, .. } | WatchEvent::Delete { previous, .. } => previous.as_ref(),
    }
}

fn collect<'a>(range: &Range, found: impl Iterator<Item = &'a KeyValue>, reply: &mut RangeReply) {
    let limit = range.limit.unwrap_or(usize::MAX);
    for kv in found {
        reply.count += 1;
        if range.select == Select::CountOnly {
            continue;
        }
        if reply.kvs.len() == limit {
            reply.more = true;
            continue;
        }
        let mut kv = kv.clone();
        if range.select == Select::KeysOnly {
            kv.value = Bytes::new();
        }
        reply.kvs.push(kv);
    }
}
