//! Leases of the state machine: which exist, which keys hang on them, when they run out.
//!
//! Called by the state. Existence and keys are data; when a lease runs out is not, and differs
//! between copies of the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::store::{Lease, LeaseId, LeaseTtl};

#[derive(Debug, Clone)]
struct Record {
    ttl: Duration,
    /// `None`: it has run out, and its end is being written.
    expires: Option<Instant>,
    keys: BTreeSet<Bytes>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Leases {
    all: BTreeMap<LeaseId, Record>,
    expiries: BTreeSet<(Instant, LeaseId)>,
    last_id: i64,
}

impl Leases {
    pub fn grant(&mut self, ttl: Duration, now: Instant) -> Lease {
        let id = LeaseId(self.last_id + 1);
        let ttl = Duration::from_secs(ttl.as_secs().max(1));
        self.insert(id, ttl, now);
        Lease { id, ttl }
    }

    pub fn insert(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.last_id = self.last_id.max(id.0);
        self.all.insert(id, Record { ttl, expires: None, keys: BTreeSet::new() });
        self.renew(id, now);
    }

    /// Never gives an id up to this one again.
    pub fn skip_to(&mut self, id: LeaseId) {
        self.last_id = self.last_id.max(id.0);
    }

    pub fn last_id(&self) -> LeaseId {
        LeaseId(self.last_id)
    }

    pub fn contains(&self, id: LeaseId) -> bool {
        self.all.contains_key(&id)
    }

    /// The full time to live again; zero for a lease that is dead or whose end is being written.
    pub fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Duration {
        if self.all.get(&id).is_none_or(|record| record.expires.is_none()) {
            return Duration::ZERO;
        }
        self.renew(id, now)
    }

    pub fn renew(&mut self, id: LeaseId, now: Instant) -> Duration {
        let Some(record) = self.all.get_mut(&id) else { return Duration::ZERO };
        if let Some(expires) = record.expires {
            self.expiries.remove(&(expires, id));
        }
        record.expires = Some(now + record.ttl);
        self.expiries.insert((now + record.ttl, id));
        record.ttl
    }

    /// Gives every lease its full time again, as a new etcd leader does.
    pub fn renew_all(&mut self, now: Instant) {
        for id in self.all.keys().copied().collect::<Vec<_>>() {
            self.renew(id, now);
        }
    }

    /// Takes a lease out and names its keys; `None`: there is none.
    pub fn remove(&mut self, id: LeaseId) -> Option<BTreeSet<Bytes>> {
        let record = self.all.remove(&id)?;
        if let Some(expires) = record.expires {
            self.expiries.remove(&(expires, id));
        }
        Some(record.keys)
    }

    pub fn ttl(&self, id: LeaseId, now: Instant) -> Option<LeaseTtl> {
        let record = self.all.get(&id)?;
        let remaining = record.expires.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        Some(LeaseTtl { granted: record.ttl, remaining })
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(expires, _)| *expires)
    }

    /// The next lease that has run out; from now on it cannot be kept alive.
    pub fn take_due(&mut self, now: Instant) -> Option<LeaseId> {
        let (expires, id) = self.expiries.first().copied().filter(|(expires, _)| *expires <= now)?;
        self.expiries.remove(&(expires, id));
        if let Some(record) = self.all.get_mut(&id) {
            record.expires = None;
        }
        Some(id)
    }

    pub fn attach(&mut self, id: LeaseId, key: Bytes) {
        if let Some(record) = self.all.get_mut(&id) {
            record.keys.insert(key);
        }
    }

    pub fn detach(&mut self, id: LeaseId, key: &Bytes) {
        if let Some(record) = self.all.get_mut(&id) {
            record.keys.remove(key);
        }
    }

    /// Every lease with its time to live.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, Duration)> {
        self.all.iter().map(|(id, record)| (*id, record.ttl))
    }
}
