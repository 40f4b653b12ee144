//! Everything that a fleetd calls passes here: calls are counted, and a fleetd can be made to die at any one of them.
//!
//! Stands between a machine's components and its store client or systemd. A call of a dead fleetd never returns, as
//! for a process that was killed; whoever killed it drops the daemon.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fleet_registry::memory::MemoryStore;
use fleet_registry::store::{
    KeyRange, Lease, LeaseId, LeaseTtl, Op, Range, RangeReply, Revision, Store, StoreError, StoreKind,
    StoreStatus, Txn, TxnReply, WatchRequest, WatchStream,
};
use fleet_systemd::fake::FakeSystemd;
use fleet_systemd::{
    Environment, Events, Install, InstalledUnit, JobId, Shadow, Systemd, SystemdError, UnitDetail, UnitName,
    UnitStatus,
};
use tokio::sync::Notify;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    KeepAlive,
    Read,
    Write,
    Watch,
    Systemd,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeepAlive => "keep-alive",
            Self::Read => "read",
            Self::Write => "write",
            Self::Watch => "watch",
            Self::Systemd => "systemd",
        })
    }
}

/// When a fleetd dies, relative to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The call is never made.
    Before,
    /// It has its effect, and its answer reaches nobody.
    After,
}

/// The calls of one machine's fleetd, over all its restarts.
#[derive(Debug, Default)]
pub struct Tap {
    state: Mutex<State>,
    died: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By kind and by what was called.
    calls: BTreeMap<(Kind, String), u64>,
    total: u64,
    /// Calls that are still made, and what happens at the one after them.
    death: Option<(u64, Moment)>,
    is_dead: bool,
    /// The last call has had its effect.
    is_over: bool,
}

impl Tap {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets so many calls through, then the caller dies at the next one. Keep-alives do not count: when they happen is
    /// a matter of time, not of steps.
    pub fn die_at(&self, calls: u64, moment: Moment) {
        self.lock().death = Some((calls, moment));
    }

    /// Takes back what [`die_at`](Self::die_at) arranged. Calls go through again.
    pub fn revive(&self) {
        let mut state = self.lock();
        (state.death, state.is_dead, state.is_over) = (None, false, false);
    }

    /// Waits until the caller has died.
    pub async fn died(&self) {
        let died = self.died.notified();
        if !self.lock().is_over {
            died.await;
        }
    }

    /// Forgets what was counted.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.calls.clear();
        state.total = 0;
    }

    /// Calls so far, keep-alives left out.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// Calls so far, by kind and by what was called.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<(Kind, String), u64> {
        self.lock().calls.clone()
    }

    async fn call<T>(&self, kind: Kind, what: String, act: impl Future<Output = T>) -> T {
        match self.strike(kind, what) {
            None => act.await,
            Some(Moment::Before) => std::future::pending().await,
            Some(Moment::After) => {
                act.await;
                self.lock().is_over = true;
                self.died.notify_waiters();
                std::future::pending().await
            }
        }
    }

    fn strike(&self, kind: Kind, what: String) -> Option<Moment> {
        let mut state = self.lock();
        *state.calls.entry((kind, what)).or_default() += 1;
        if state.is_dead {
            return Some(Moment::Before);
        }
        if kind == Kind::KeepAlive {
            return None;
        }
        state.total += 1;
        match &mut state.death {
            Some((0, moment)) => {
                let moment = *moment;
                state.is_dead = true;
                if moment == Moment::Before {
                    state.is_over = true;
                    self.died.notify_waiters();
                }
                Some(moment)
            }
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }
}

/// The first part of a key below the prefix.
fn part(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    let inner = text.strip_prefix("/fleet/").unwrap_or(&text);
    inner.split('/').next().unwrap_or_default().to_owned()
}

fn part_of(keys: &KeyRange) -> String {
    part(keys.start())
}

fn describe(txn: &Txn) -> (Kind, String) {
    let first = txn.then.iter().chain(&txn.otherwise).next().map_or_else(String::new, |op| match op {
        Op::Put { key, .. } => part(key),
        Op::Delete { keys } => part_of(keys),
        Op::Range(range) => part_of(&range.keys),
    });
    (if txn.is_read_only() { Kind::Read } else { Kind::Write }, first)
}

/// A store client of one machine.
#[derive(Debug, Clone)]
pub struct TappedStore {
    pub inner: MemoryStore,
    pub tap: Arc<Tap>,
}

#[async_trait]
impl Store for TappedStore {
    async fn range(&self, range: Range) -> Result<RangeReply, StoreError> {
        let what = part_of(&range.keys);
        self.tap.call(Kind::Read, what, self.inner.range(range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        let (kind, what) = describe(&txn);
        self.tap.call(kind, what, self.inner.txn(txn)).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError> {
        self.tap.call(Kind::Watch, "watch".to_owned(), self.inner.watch(request)).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.tap.call(Kind::Write, "lease grant".to_owned(), self.inner.lease_grant(ttl)).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        self.tap.call(Kind::KeepAlive, "lease".to_owned(), self.inner.lease_keep_alive(id)).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.tap.call(Kind::Write, "lease revoke".to_owned(), self.inner.lease_revoke(id)).await
    }

    async fn lease_ttl(&self, id: LeaseId) -> Result<Option<LeaseTtl>, StoreError> {
        self.tap.call(Kind::Read, "lease".to_owned(), self.inner.lease_ttl(id)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.tap.call(Kind::Write, "compaction".to_owned(), self.inner.compact(revision)).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.tap.call(Kind::Read, "status".to_owned(), self.inner.status()).await
    }

    fn kind(&self) -> StoreKind {
        self.inner.kind()
    }
}

/// A machine's systemd, as its fleetd sees it.
#[derive(Debug, Clone)]
pub struct TappedSystemd {
    pub inner: FakeSystemd,
    pub tap: Arc<Tap>,
}

impl TappedSystemd {
    async fn call<T>(&self, what: &str, act: impl Future<Output = T>) -> T {
        self.tap.call(Kind::Systemd, what.to_owned(), act).await
    }
}

#[async_trait]
impl Systemd for TappedSystemd {
    async fn list(&self, names: &[UnitName]) -> Result<Vec<UnitStatus>, SystemdError> {
        self.call("list", self.inner.list(names)).await
    }

    async fn inspect(&self, name: &UnitName) -> Result<Option<UnitDetail>, SystemdError> {
        self.call("inspect", self.inner.inspect(name)).await
    }

    async fn start(&self, name: &UnitName) -> Result<JobId, SystemdError> {
        self.call("start", self.inner.start(name)).await
    }

    async fn stop(&self, name: &UnitName) -> Result<Option<JobId>, SystemdError> {
        self.call("stop", self.inner.stop(name)).await
    }

    async fn reset_failed(&self, name: &UnitName) -> Result<(), SystemdError> {
        self.call("reset-failed", self.inner.reset_failed(name)).await
    }

    async fn reload(&self) -> Result<(), SystemdError> {
        self.call("reload", self.inner.reload()).await
    }

    async fn pin(&self, names: &[UnitName]) -> Result<(), SystemdError> {
        self.call("pin", self.inner.pin(names)).await
    }

    async fn unpin(&self, names: &[UnitName]) -> Result<(), SystemdError> {
        self.call("unpin", self.inner.unpin(names)).await
    }

    async fn pinned(&self) -> Result<Vec<UnitName>, SystemdError> {
        self.call("pinned", self.inner.pinned()).await
    }

    async fn install(&self, unit: &Install) -> Result<(), SystemdError> {
        self.call("install", self.inner.install(unit)).await
    }

    async fn uninstall(&self, name: &UnitName) -> Result<(), SystemdError> {
        self.call("uninstall", self.inner.uninstall(name)).await
    }

    async fn unread_links(&self) -> Result<Vec<String>, SystemdError> {
        self.call("unread-links", self.inner.unread_links()).await
    }

    async fn installed(&self) -> Result<Vec<InstalledUnit>, SystemdError> {
        self.call("installed", self.inner.installed()).await
    }

    async fn shadowed(&self, name: &UnitName, aliases: &[String]) -> Result<Option<Shadow>, SystemdError> {
        self.call("shadowed", self.inner.shadowed(name, aliases)).await
    }

    fn events(&self) -> Events {
        self.inner.events()
    }

    async fn environment(&self) -> Result<Environment, SystemdError> {
        self.call("environment", self.inner.environment()).await
    }
}
