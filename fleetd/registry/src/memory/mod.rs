//! A store in memory with etcd v3's semantics, for tests and simulations.
//!
//! A small real implementation, held to the same contract tests as etcd: revisions, transactions,
//! watches with history, compaction, leases on tokio's clock (so that a paused clock works). Tests
//! take a handle per client and cut, delay, fail, wipe or roll back what it sees. Nothing here is
//! durable; fleetd refuses to run on it.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::mvcc::{Commit, Identity, State, Watchers};
use crate::store::{
    Lease, LeaseId, LeaseTtl, Operation, Range, RangeReply, Revision, Store, StoreError, StoreKind,
    StoreStatus, Txn, TxnReply, WatchReply, WatchRequest, WatchStream,
};

mod faults;
#[cfg(test)]
mod tests;

use faults::Faults;
pub use faults::{Fault, Injection, Link};

/// How long a call over a silent link waits, and the delay after which a lost reply is noticed:
/// etcd's default request time-out in our configuration.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Replies that may wait for a watcher: tests let them wait for hours of a paused clock.
const ENDLESS: usize = usize::MAX >> 4;

/// A client's handle on an in-memory store. Clones and [`client`](Self::client)s share the data.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    client: Arc<str>,
}

/// The data of a store as of some moment, to restore it from.
#[derive(Debug, Clone)]
pub struct MemorySnapshot(State);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// An earlier expiry than the one the expiry task waits for, or nothing left to wait for.
    rearm: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    watchers: Watchers,
    faults: Faults,
    is_mute: bool,
    expiry_task: Option<AbortHandle>,
}

impl MemoryStore {
    /// An empty store at revision 1. Its handle's client name is empty.
    pub fn new(cluster_id: u64) -> Self {
        let inner = Inner {
            state: State::new(identity(cluster_id)),
            watchers: Watchers::new(ENDLESS),
            faults: Faults::default(),
            is_mute: false,
            expiry_task: None,
        };
        let shared = Shared { inner: Mutex::new(inner), rearm: Arc::new(Notify::new()) };
        Self { shared: Arc::new(shared), client: Arc::from("") }
    }

    /// A handle on the same data whose link can be cut by this name.
    #[must_use]
    pub fn client(&self, name: &str) -> Self {
        Self { shared: Arc::clone(&self.shared), client: Arc::from(name) }
    }

    /// Sets the link of one client. A link that goes down ends its watches.
    pub fn set_link(&self, client: &str, link: Link) {
        let mut inner = self.shared.lock();
        inner.faults.set_link(Some(Arc::from(client)), link);
        if link != Link::Open {
            inner.watchers.cancel(Some(client), &unavailable(Operation::Watch));
        }
    }

    /// Sets the link of all clients: with anything but `Open` the store is down for everybody.
    pub fn set_all_links(&self, link: Link) {
        let mut inner = self.shared.lock();
        inner.faults.set_link(None, link);
        if link != Link::Open {
            inner.watchers.cancel(None, &unavailable(Operation::Watch));
        }
    }

    pub fn inject(&self, injection: Injection) {
        self.shared.lock().faults.inject(injection);
    }

    /// Takes back every fault and opens every link.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Calls of all clients so far, failed ones included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.shared.lock().faults.calls(operation)
    }

    /// Ends every watch, as a member does that is restarted or loses its leader.
    pub fn cancel_watches(&self) {
        self.shared.lock().watchers.cancel(None, &unavailable(Operation::Watch));
    }

    /// While mute, changes are applied but watchers never hear of them: a server-side event loss.
    pub fn set_mute(&self, is_mute: bool) {
        self.shared.lock().is_mute = is_mute;
    }

    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.shared.lock().state.clone())
    }

    /// Puts the data back to a snapshot, revision included. Leases get their full time again, as
    /// after any change of leader; watches end.
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        let mut inner = self.shared.lock();
        let term = inner.state.identity.raft_term + 1;
        inner.state = snapshot.0.clone();
        inner.state.identity.raft_term = term;
        inner.state.renew_all(Instant::now());
        inner.watchers.cancel(None, &unavailable(Operation::Watch));
        self.shared.rearm.notify_one();
    }

    /// Empties the store: revision 1, no keys, no leases, the same cluster id; watches end.
    pub fn wipe(&self) {
        let mut inner = self.shared.lock();
        inner.state = State::new(identity(inner.state.identity.cluster_id));
        inner.watchers.cancel(None, &unavailable(Operation::Watch));
    }

    /// From now on the store names itself so in every header.
    pub fn set_cluster_id(&self, cluster_id: u64) {
        self.shared.lock().state.identity.cluster_id = cluster_id;
    }

    /// A change of leader inside the store: the raft term grows and leases get their full time.
    pub fn elect(&self) {
        let mut inner = self.shared.lock();
        inner.state.identity.raft_term += 1;
        inner.state.renew_all(Instant::now());
    }

    /// Runs one call: the faults on the way in, the call itself, the faults on the way out.
    async fn call<T>(
        &self,
        operation: Operation,
        is_write: bool,
        apply: impl FnOnce(&mut Inner) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let (link, faults) = {
            let mut inner = self.shared.lock();
            (inner.faults.link(&self.client), inner.faults.strike(&self.client, operation))
        };
        match link {
            Link::Open => {}
            Link::Refused => return Err(unavailable(operation)),
            Link::Silent => return Err(lost(operation, is_write).await),
        }
        let mut is_reply_lost = false;
        for fault in faults {
            match fault {
                Fault::Fail(error) => return Err(error),
                Fault::Delay(delay) => sleep(delay).await,
                Fault::DropReply => is_reply_lost = true,
            }
        }
        let result = {
            let mut inner = self.shared.lock();
            inner.expire(Instant::now());
            apply(&mut inner)
        };
        if is_reply_lost {
            return Err(lost(operation, is_write).await);
        }
        result
    }

    /// Makes sure that somebody ends leases on time, for watchers that only wait.
    fn arm_expiry(&self, inner: &mut Inner) {
        if inner.expiry_task.as_ref().is_none_or(AbortHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            let rearm = Arc::clone(&self.shared.rearm);
            let task = runtime.spawn(end_leases(Arc::downgrade(&self.shared), rearm));
            inner.expiry_task = Some(task.abort_handle());
        }
        self.shared.rearm.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no call panics while it holds the store")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.rearm.notify_one();
    }
}

impl Inner {
    fn expire(&mut self, now: Instant) {
        for commit in self.state.expire(now) {
            self.announce(Some(&commit));
        }
    }

    fn announce(&mut self, commit: Option<&Arc<Commit>>) {
        if let Some(commit) = commit
            && !self.is_mute
        {
            self.watchers.announce(commit);
        }
    }
}

/// Ends leases when they are due, for as long as the store lives.
async fn end_leases(shared: Weak<Shared>, rearm: Arc<Notify>) {
    loop {
        let Some(next) = shared.upgrade().map(|shared| {
            let mut inner = shared.lock();
            inner.expire(Instant::now());
            inner.state.next_expiry()
        }) else {
            return;
        };
        match next {
            // Both arms are cancel safe: a lost wake-up is made good by the pass above.
            Some(at) => tokio::select! {
                () = sleep_until(at) => {}
                () = rearm.notified() => {}
            },
            None => rearm.notified().await,
        }
    }
}

fn identity(cluster_id: u64) -> Identity {
    Identity { cluster_id, member_id: 1, raft_term: 2 }
}

fn unavailable(operation: Operation) -> StoreError {
    StoreError::Unavailable { operation, detail: "connection refused".to_owned() }
}

async fn lost(operation: Operation, is_write: bool) -> StoreError {
    sleep(REQUEST_TIMEOUT).await;
    if is_write {
        StoreError::Unknown { operation, detail: format!("no answer within {REQUEST_TIMEOUT:?}") }
    } else {
        StoreError::Timeout { operation, after: REQUEST_TIMEOUT }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn range(&self, range: Range) -> Result<RangeReply, StoreError> {
        self.call(Operation::Range, false, |inner| inner.state.range(&range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        let is_write = !txn.is_read_only();
        self.call(Operation::Txn, is_write, |inner| {
            let (reply, commit) = inner.state.txn(&txn)?;
            inner.announce(commit.as_ref());
            Ok(reply)
        })
        .await
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError> {
        let client = Arc::clone(&self.client);
        self.call(Operation::Watch, false, |inner| {
            let asked = request.from;
            let begin = inner.state.history_begin();
            if asked < begin {
                return Ok(WatchStream::new(stream::iter([WatchReply::Compacted { revision: begin }])));
            }
            if asked > inner.state.revision().next() {
                return Err(StoreError::FutureRevision { asked });
            }
            let replies = inner.watchers.add(client, request, &inner.state);
            Ok(WatchStream::new(stream::unfold(replies, |mut replies| async move {
                replies.recv().await.map(|reply| (reply, replies))
            })))
        })
        .await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.call(Operation::LeaseGrant, false, |inner| {
            let lease = inner.state.lease_grant(ttl, Instant::now());
            self.arm_expiry(inner);
            Ok(lease)
        })
        .await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        self.call(Operation::LeaseKeepAlive, false, |inner| {
            let ttl = inner.state.lease_keep_alive(id, Instant::now());
            self.arm_expiry(inner);
            Ok(ttl)
        })
        .await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.call(Operation::LeaseRevoke, false, |inner| {
            let commit = inner.state.lease_revoke(id)?;
            inner.announce(commit.as_ref());
            Ok(())
        })
        .await
    }

    async fn lease_ttl(&self, id: LeaseId) -> Result<Option<LeaseTtl>, StoreError> {
        self.call(Operation::LeaseTtl, false, |inner| Ok(inner.state.lease_ttl(id, Instant::now()))).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.call(Operation::Compact, false, |inner| inner.state.compact(revision)).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.call(Operation::Status, false, |inner| {
            let size = inner.state.size();
            Ok(StoreStatus {
                header: inner.state.header(),
                version: "memory".to_owned(),
                db_size: size,
                db_size_in_use: size,
                leader: Some(1),
                alarms: Vec::new(),
            })
        })
        .await
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Memory
    }
}
