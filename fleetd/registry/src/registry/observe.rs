//! A store that counts what passes and remembers the newest raft term and revision of any answer.
//!
//! The registry wraps its store in it, so that followed views, packs and single calls are seen alike.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;

use super::Shared;
use crate::store::{
    EndpointContent, Header, Lease, LeaseId, LeaseTtl, Range, RangeReply, Revision, Store, StoreError,
    StoreHealth, StoreKind, StoreStatus, Txn, TxnReply, WatchRequest, WatchStream,
};

pub(super) struct Observed {
    pub inner: Arc<dyn Store>,
    pub shared: Arc<Shared>,
}

impl Observed {
    fn note(&self, header: Header) {
        self.shared.raft_term.fetch_max(header.raft_term, Ordering::Relaxed);
        self.shared.revision.fetch_max(header.revision.0, Ordering::Relaxed);
    }
}

#[async_trait]
impl Store for Observed {
    async fn range(&self, range: Range) -> Result<RangeReply, StoreError> {
        self.shared.counters.add_reads(1);
        let reply = self.inner.range(range).await?;
        self.note(reply.header);
        Ok(reply)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        let counters = &self.shared.counters;
        let is_read = txn.is_read_only();
        counters.add_reads(usize::from(is_read));
        counters.add_writes(usize::from(!is_read));
        let result = self.inner.txn(txn).await;
        match &result {
            Ok(reply) => self.note(reply.header),
            Err(error) => counters.add_unknown_outcomes(usize::from(error.is_unknown())),
        }
        result
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError> {
        self.shared.counters.add_watches(1);
        self.inner.watch(request).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(id).await
    }

    async fn lease_ttl(&self, id: LeaseId) -> Result<Option<LeaseTtl>, StoreError> {
        self.inner.lease_ttl(id).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.inner.status().await
    }

    async fn health(&self) -> StoreHealth {
        self.inner.health().await
    }

    async fn divided(&self, key: &[u8]) -> Vec<EndpointContent> {
        self.inner.divided(key).await
    }

    fn use_cluster(&self, cluster_id: u64) -> bool {
        self.inner.use_cluster(cluster_id)
    }

    fn kind(&self) -> StoreKind {
        self.inner.kind()
    }
}
