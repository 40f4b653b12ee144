//! The store over etcd v3.
//!
//! Built by the shell, and once more inside every lease thread: connections belong to the runtime
//! that first uses them. Every wait is bounded by [`EtcdOptions::request_timeout`]; a writing
//! transaction is sent to a second member only when the first has certainly not applied it.

use std::fmt;
use std::time::Duration;

use crate::store::{
    EndpointContent, Lease, LeaseId, LeaseTtl, Operation, Range, RangeReply, Revision, Store, StoreError,
    StoreHealth, StoreKind, StoreStatus, Txn, TxnReply, WatchRequest, WatchStream,
};
use async_trait::async_trait;

#[cfg(test)]
mod auth_tests;
mod belonging;
mod classify;
mod convert;
mod credentials;
mod failover;
mod health;
mod keepalive;
mod member;
mod metrics;
mod options;
mod place;
#[cfg(test)]
pub(crate) mod server;
#[cfg(test)]
mod tests;
mod watch;

pub use belonging::Belonging;
use classify::{Asked, classify};
use failover::{Members, Repeat};
use keepalive::Renewals;
use metrics::Metrics;
pub use options::{EtcdOptions, EtcdTls};
pub use place::Endpoint;

/// etcd's own limit on a request is 1.5 MiB, but answers to a page of keys may be larger than the
/// library's 4 MiB.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// A client of an etcd cluster.
pub struct EtcdStore {
    members: Members,
    renewals: Renewals,
    metrics: Metrics,
}

impl EtcdStore {
    /// Checks the endpoints; connects on first use.
    ///
    /// # Errors
    /// `Endpoint` for one that cannot be meant.
    pub fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        let members = Members::new(options)?;
        Ok(Self { members, renewals: Renewals::default(), metrics: Metrics::new(options.tls.as_ref()) })
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, range: Range) -> Result<RangeReply, StoreError> {
        let asked = Asked { revision: range.at_revision, ..Asked::new(Operation::Range) };
        let (key, options) = convert::get_options(&range);
        let reply = self
            .members
            .call(asked, Repeat::Freely, |client| {
                let (key, options) = (key.clone(), options.clone());
                async move {
                    let mut kv = client.kv_client().max_decoding_message_size(MAX_REPLY_BYTES);
                    kv.get(key, Some(options)).await.map_err(|error| classify(asked, &error))
                }
            })
            .await?;
        Ok(convert::range_reply(reply))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        txn.validate()?;
        let asked = Asked { lease: convert::lease_of(&txn), ..Asked::new(Operation::Txn) };
        let repeat = if txn.is_read_only() { Repeat::Freely } else { Repeat::IfNotApplied };
        let reply = self
            .members
            .call(asked, repeat, |client| {
                let wire = convert::txn(txn.clone());
                async move {
                    let mut kv = client.kv_client().max_decoding_message_size(MAX_REPLY_BYTES);
                    kv.txn(wire).await.map_err(|error| classify(asked, &error))
                }
            })
            .await?;
        Ok(convert::txn_reply(&reply))
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError> {
        let asked = Asked { revision: Some(request.from), ..Asked::new(Operation::Watch) };
        let choices = self.members.belonging.choices();
        let opened = self
            .members
            .call(asked, Repeat::Freely, |client| watch::open(client, request.clone(), choices.clone()));
        opened.await.map(|(_, stream)| stream)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let asked = Asked::new(Operation::LeaseGrant);
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let reply = self
            .members
            .call(asked, Repeat::Freely, |client| async move {
                client.lease_client().grant(seconds, None).await.map_err(|error| classify(asked, &error))
            })
            .await?;
        let ttl = Duration::from_secs(u64::try_from(reply.ttl()).unwrap_or_default());
        Ok(Lease { id: LeaseId(reply.id()), ttl })
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        // Half of the budget for the stream that is open, the rest for another member.
        if let Some(ttl) = self.renewals.renew(id, self.members.request_timeout / 2).await {
            return Ok(ttl);
        }
        let asked = Asked { lease: Some(id), ..Asked::new(Operation::LeaseKeepAlive) };
        let choices = self.members.belonging.choices();
        let opened = self
            .members
            .call(asked, Repeat::Freely, |client| self.renewals.open(client, id, choices.clone()));
        opened.await.map(|(_, ttl)| ttl)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.renewals.forget(id);
        let asked = Asked { lease: Some(id), ..Asked::new(Operation::LeaseRevoke) };
        self.members
            .call(asked, Repeat::Freely, |client| async move {
                client.lease_client().revoke(id.0).await.map_err(|error| classify(asked, &error))
            })
            .await?;
        Ok(())
    }

    async fn lease_ttl(&self, id: LeaseId) -> Result<Option<LeaseTtl>, StoreError> {
        let asked = Asked { lease: Some(id), ..Asked::new(Operation::LeaseTtl) };
        let reply = self
            .members
            .call(asked, Repeat::Freely, |client| async move {
                client.lease_client().time_to_live(id.0, None).await.map_err(|error| classify(asked, &error))
            })
            .await?;
        // etcd answers -1 for a lease that it does not have.
        Ok(u64::try_from(reply.ttl()).ok().map(|remaining| LeaseTtl {
            granted: Duration::from_secs(u64::try_from(reply.granted_ttl()).unwrap_or_default()),
            remaining: Duration::from_secs(remaining),
        }))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let asked = Asked { revision: Some(revision), ..Asked::new(Operation::Compact) };
        let outcome = self
            .members
            .call(asked, Repeat::Freely, |client| async move {
                let wire = convert::wire_revision(revision);
                client.kv_client().compact(wire, None).await.map_err(|error| classify(asked, &error))
            })
            .await;
        match outcome {
            Ok(_) | Err(StoreError::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let asked = Asked::new(Operation::Status);
        self.members
            .call(asked, Repeat::Freely, |client| async move {
                let status = client.maintenance_client().status().await;
                let status = status.map_err(|error| classify(asked, &error))?;
                let mut status = convert::status(&status);
                status.alarms = health::alarms(client).await?.1;
                Ok((status.header.cluster_id, status))
            })
            .await
            .map(|(_, status)| status)
    }

    async fn health(&self) -> StoreHealth {
        health::of(&self.members, &self.metrics).await
    }

    async fn divided(&self, key: &[u8]) -> Vec<EndpointContent> {
        health::divided(&self.members, key).await
    }

    fn use_cluster(&self, cluster_id: u64) -> bool {
        let is_new = self.members.belonging.choose(cluster_id);
        if is_new {
            tracing::warn!(cluster = %format_args!("{cluster_id:x}"), "another cluster of etcd is used from now on");
        }
        is_new
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Etcd
    }
}
