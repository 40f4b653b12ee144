//! The data of the in-memory store: what is live, what happened since the last compaction, leases.
//!
//! Called by the store's handle with its lock held; no I/O, and time is an argument. Old revisions
//! are not stored: a read in the past undoes the events since, which a paged read makes few.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::store::{
    Compare, Condition, Header, KeyRange, KeyValue, Lease, LeaseId, LeaseTtl, Op, OpReply, Range, RangeReply,
    Revision, Select, StoreError, Txn, TxnReply, WatchEvent,
};

#[derive(Debug, Clone)]
struct LeaseRecord {
    ttl: Duration,
    expires: Instant,
    keys: BTreeSet<Bytes>,
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub cluster_id: u64,
    pub raft_term: u64,
    revision: Revision,
    compacted: Revision,
    live: BTreeMap<Bytes, KeyValue>,
    /// Ascending by mod revision, each with what it replaced.
    log: VecDeque<WatchEvent>,
    leases: BTreeMap<LeaseId, LeaseRecord>,
    expiries: BTreeSet<(Instant, LeaseId)>,
    next_lease: i64,
}

/// What a change of the state did: one revision and its events.
pub(super) type Commit = (Revision, Vec<WatchEvent>);

impl State {
    pub fn new(cluster_id: u64) -> Self {
        Self {
            cluster_id,
            raft_term: 2,
            revision: Revision(1),
            compacted: Revision(0),
            live: BTreeMap::new(),
            log: VecDeque::new(),
            leases: BTreeMap::new(),
            expiries: BTreeSet::new(),
            next_lease: 1,
        }
    }

    pub fn header(&self) -> Header {
        Header {
            cluster_id: self.cluster_id,
            member_id: 1,
            revision: self.revision,
            raft_term: self.raft_term,
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn compacted(&self) -> Revision {
        self.compacted
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
        for event in self.events_from(asked.next()).rev() {
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

    /// Events of revision `from` and later, oldest first.
    pub fn events_from(&self, from: Revision) -> impl DoubleEndedIterator<Item = &WatchEvent> {
        let start = self.log.partition_point(|event| event.kv().mod_revision < from);
        self.log.range(start..)
    }

    pub fn txn(&mut self, txn: &Txn) -> Result<(TxnReply, Option<Commit>), StoreError> {
        txn.validate()?;
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        for op in ops {
            self.refuse_early(op)?;
        }
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
            Op::Put { lease: Some(id), .. } if !self.leases.contains_key(id) => {
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
            self.detach(old, key);
        }
        if let Some(record) = lease.and_then(|id| self.leases.get_mut(&id)) {
            record.keys.insert(key.clone());
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
            self.detach(lease, &key);
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

    fn detach(&mut self, lease: LeaseId, key: &Bytes) {
        if let Some(record) = self.leases.get_mut(&lease) {
            record.keys.remove(key);
        }
    }

    fn commit(&mut self, revision: Revision, events: Vec<WatchEvent>) -> Option<Commit> {
        if events.is_empty() {
            return None;
        }
        self.revision = revision;
        self.log.extend(events.iter().cloned());
        Some((revision, events))
    }

    pub fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::FutureRevision { asked: revision });
        }
        if revision > self.compacted {
            self.compacted = revision;
            let keep_from = self.log.partition_point(|event| event.kv().mod_revision < revision);
            self.log.drain(..keep_from);
        }
        Ok(())
    }

    pub fn lease_grant(&mut self, ttl: Duration, now: Instant) -> Lease {
        let id = LeaseId(self.next_lease);
        self.next_lease += 1;
        let ttl = Duration::from_secs(ttl.as_secs().max(1));
        self.leases.insert(id, LeaseRecord { ttl, expires: now + ttl, keys: BTreeSet::new() });
        self.expiries.insert((now + ttl, id));
        Lease { id, ttl }
    }

    pub fn lease_keep_alive(&mut self, id: LeaseId, now: Instant) -> Duration {
        let Some(record) = self.leases.get_mut(&id) else { return Duration::ZERO };
        self.expiries.remove(&(record.expires, id));
        record.expires = now + record.ttl;
        self.expiries.insert((record.expires, id));
        record.ttl
    }

    pub fn lease_revoke(&mut self, id: LeaseId) -> Result<Option<Commit>, StoreError> {
        let record = self.leases.remove(&id).ok_or(StoreError::LeaseNotFound { id })?;
        self.expiries.remove(&(record.expires, id));
        let revision = self.revision.next();
        let keys = record.keys.into_iter();
        let events = keys.filter_map(|key| self.delete_key(key, revision)).collect();
        Ok(self.commit(revision, events))
    }

    pub fn lease_ttl(&self, id: LeaseId, now: Instant) -> Option<LeaseTtl> {
        let record = self.leases.get(&id)?;
        Some(LeaseTtl { granted: record.ttl, remaining: record.expires.saturating_duration_since(now) })
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(expires, _)| *expires)
    }

    /// Ends every lease that is due; one revision for each that had keys.
    pub fn expire(&mut self, now: Instant) -> Vec<Commit> {
        let mut commits = Vec::new();
        while let Some((_, id)) = self.expiries.first().copied().filter(|(expires, _)| *expires <= now) {
            commits.extend(self.lease_revoke(id).ok().flatten());
        }
        commits
    }

    /// Gives every lease its full time again, as a new etcd leader does.
    pub fn renew_all(&mut self, now: Instant) {
        self.expiries.clear();
        for (id, record) in &mut self.leases {
            record.expires = now + record.ttl;
            self.expiries.insert((record.expires, *id));
        }
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
