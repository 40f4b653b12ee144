//! Renewing leases over streams that are kept, so that a renewal is one message each way.
//!
//! Called by the store. A stream whose answer is late is given up: a late answer would be taken
//! for the next one.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper};
use tokio::sync::watch;

use super::classify::{Asked, Failure, classify};
use super::convert;
use crate::store::{LeaseId, Operation};

struct Renewal {
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    /// Changes when another cluster of etcd is used from then on.
    choices: watch::Receiver<u64>,
}

#[derive(Default)]
pub(super) struct Renewals {
    open: Mutex<HashMap<LeaseId, Renewal>>,
}

impl Renewals {
    /// Renews over the stream that is open for this lease. `None`: there is none, or it broke.
    pub async fn renew(&self, id: LeaseId, within: Duration) -> Option<Duration> {
        // Taken out for the time of the call: whoever is cancelled here drops the stream.
        let mut renewal = self.take(id)?;
        let (_, ttl) = tokio::time::timeout(within, renewal.ask()).await.ok()?.ok()?;
        self.put_back(id, renewal, ttl);
        Some(ttl)
    }

    /// Opens a stream to a member and renews over it. With the member's cluster, zero if that is not told.
    /// When `choices` changes the stream is of no more use.
    pub async fn open(
        &self,
        client: Client,
        id: LeaseId,
        choices: watch::Receiver<u64>,
    ) -> Result<(u64, Duration), Failure> {
        let asked = Asked { lease: Some(id), ..Asked::new(Operation::LeaseKeepAlive) };
        let (keeper, answers) = match client.lease_client().keep_alive(id.0).await {
            Ok(opened) => opened,
            // How the library says that the first answer's time to live was zero.
            Err(etcd_client::Error::LeaseKeepAliveError(text)) if text == "lease not found" => {
                // It does not say of which cluster: a stranger has no lease of ours, which ends none.
                let left = client.lease_client().time_to_live(id.0, None).await;
                let left = left.map_err(|error| classify(asked, &error))?;
                return Ok((convert::header(left.header()).cluster_id, Duration::ZERO));
            }
            Err(error) => return Err(classify(asked, &error)),
        };
        // The library keeps the first answer to itself, time to live included: ask again.
        let mut renewal = Renewal { keeper, answers, choices };
        let (cluster, ttl) = renewal.ask().await.map_err(|error| classify(asked, &error))?;
        self.put_back(id, renewal, ttl);
        Ok((cluster, ttl))
    }

    pub fn forget(&self, id: LeaseId) {
        drop(self.take(id));
    }

    fn take(&self, id: LeaseId) -> Option<Renewal> {
        let renewal = self.open.lock().expect("nobody panics while holding it").remove(&id)?;
        (!renewal.choices.has_changed().is_ok_and(|changed| changed)).then_some(renewal)
    }

    fn put_back(&self, id: LeaseId, renewal: Renewal, ttl: Duration) {
        if !ttl.is_zero() {
            self.open.lock().expect("nobody panics while holding it").insert(id, renewal);
        }
    }
}

impl Renewal {
    async fn ask(&mut self) -> Result<(u64, Duration), etcd_client::Error> {
        self.keeper.keep_alive().await?;
        match self.answers.message().await? {
            Some(answer) => {
                let ttl = Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or_default());
                Ok((convert::header(answer.header()).cluster_id, ttl))
            }
            None => Err(etcd_client::Error::LeaseKeepAliveError("the member closed the stream".to_owned())),
        }
    }
}
