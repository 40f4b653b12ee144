//! The narrow store trait that everything shared goes through, and its value types.
//!
//! The semantics are those of etcd v3: one revision counter for the whole store, atomic
//! transactions that compare before they act, watches from a revision, leases. Called by the rest
//! of this crate; knows nothing of units or machines. An implementation may not wait without
//! bound, may not answer from stale data and may not hide an unknown outcome.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

mod error;
mod health;
mod range;
mod txn;
mod watch;

pub use error::{Operation, StoreError};
pub use health::{EndpointContent, EndpointHealth, EndpointReport, MemberInfo, StoreHealth};
pub use range::{KeyRange, KeyValue, Range, RangeReply, Select};
pub use txn::{Compare, Condition, MAX_TXN_COMPARES, MAX_TXN_OPS, Op, OpReply, Txn, TxnReply};
pub use watch::{WatchBatch, WatchEvent, WatchReply, WatchRequest, WatchStream};

/// Position in the history of a store; grows by one with each transaction that changes something.
/// Zero means "never" (the create or mod revision of an absent key).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one: where a watch starts that follows a list at `self`.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of a lease, chosen by the store; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who answered, and as of when. `revision` is that of the whole store when the answer was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    pub cluster_id: u64,
    pub member_id: u64,
    pub revision: Revision,
    pub raft_term: u64,
}

/// A lease as granted: the store may give a longer time to live than was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub ttl: Duration,
}

/// What is left of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTtl {
    pub granted: Duration,
    pub remaining: Duration,
}

/// Which implementation answers; recorded in the member file, so that a machine notices a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreKind {
    Etcd,
    Embedded,
    Memory,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd",
            Self::Embedded => "embedded",
            Self::Memory => "memory",
        })
    }
}

/// A condition that a store raised about itself; writes may fail until an operator clears it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Alarm {
    NoSpace {
        member_id: u64,
    },
    Corrupt {
        member_id: u64,
    },
    /// The disk below a store of this process's own failed, and nothing is written before a restart.
    Disk {
        detail: String,
    },
}

/// Health of the store as the answering member sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    pub header: Header,
    pub version: String,
    /// Bytes on disk.
    pub db_size: u64,
    /// Bytes in use; the rest is given back by a defragmentation.
    pub db_size_in_use: u64,
    /// Member id of the raft leader; `None` while there is none.
    pub leader: Option<u64>,
    pub alarms: Vec<Alarm>,
}

/// A store with etcd v3's semantics. All reads are linearizable. Every call returns within the
/// implementation's request time-out. Only an error of kind [`StoreError::is_unknown`] leaves open
/// whether a write was applied: the caller reads again before it repeats.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Keys in ascending order, as of one revision (the newest, or `at_revision`). Idempotent.
    async fn range(&self, range: Range) -> Result<RangeReply, StoreError>;

    /// Compares, then applies one of the two branches atomically, at one revision. A transaction
    /// whose compares do not hold is no error: see [`TxnReply::succeeded`].
    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError>;

    /// Changes from `request.from` on, history included. Returns once the store has accepted the
    /// watch; a compacted start is reported by the first reply of the stream.
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError>;

    /// A new lease; `ttl` in whole seconds, rounded down, at least one. After an unknown outcome
    /// the lease that may have been made runs out by itself.
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Renews a lease and returns its time to live; zero: the lease is dead. Idempotent.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError>;

    /// Ends a lease and deletes its keys. `LeaseNotFound` if it is already gone.
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError>;

    /// What is left of a lease; `None`: it is dead. Does not renew. Idempotent.
    async fn lease_ttl(&self, id: LeaseId) -> Result<Option<LeaseTtl>, StoreError>;

    /// Forgets history below `revision`. Idempotent: compacting what is compacted is no error.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Size, alarms and version of the answering member. Not linearizable.
    async fn status(&self) -> Result<StoreStatus, StoreError>;

    /// Every endpoint asked for itself, at an operator's request. One that does not answer is a report, no error.
    async fn health(&self) -> StoreHealth {
        let began = tokio::time::Instant::now();
        let status = self.status().await;
        let alarms = status.as_ref().map(|status| status.alarms.clone()).unwrap_or_default();
        let healthy = |status| EndpointHealth { status, is_learner: false, quota: None, compacted: None };
        let endpoint = EndpointReport {
            endpoint: self.kind().to_string(),
            took: began.elapsed(),
            status: status.map(healthy),
        };
        StoreHealth { endpoints: vec![endpoint], alarms, members: Vec::new() }
    }

    /// Every endpoint with what it itself holds under `key`, if the endpoints belong to more than one cluster of etcd;
    /// else nothing. Asks each for itself, and is not linearizable.
    async fn divided(&self, key: &[u8]) -> Vec<EndpointContent> {
        let _ = key;
        Vec::new()
    }

    /// From now on the endpoints of this cluster of etcd are the store; all watches end. `false`: they already were, or
    /// this store knows no such thing.
    fn use_cluster(&self, cluster_id: u64) -> bool {
        let _ = cluster_id;
        false
    }

    fn kind(&self) -> StoreKind;
}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    async fn range(&self, range: Range) -> Result<RangeReply, StoreError> {
        (**self).range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        (**self).txn(txn).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError> {
        (**self).watch(request).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        (**self).lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        (**self).lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        (**self).lease_revoke(id).await
    }

    async fn lease_ttl(&self, id: LeaseId) -> Result<Option<LeaseTtl>, StoreError> {
        (**self).lease_ttl(id).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        (**self).compact(revision).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        (**self).status().await
    }

    async fn health(&self) -> StoreHealth {
        (**self).health().await
    }

    async fn divided(&self, key: &[u8]) -> Vec<EndpointContent> {
        (**self).divided(key).await
    }

    fn use_cluster(&self, cluster_id: u64) -> bool {
        (**self).use_cluster(cluster_id)
    }

    fn kind(&self) -> StoreKind {
        (**self).kind()
    }
}
