//! A durable store in a directory of its own, for a machine that has no etcd.
//!
//! Opened by fleetd's shell when no etcd endpoint is configured; `docs/development/embedded-store.md`
//! has the reasons. Same semantics as etcd, by the state machine that the in-memory store has too.
//! Reads never wait for the disk; a write is answered after its fsync and never before.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::mvcc::Watchers;
use crate::store::{
    Alarm, Lease, LeaseId, LeaseTtl, Operation, Range, RangeReply, Revision, Store, StoreError, StoreKind,
    StoreStatus, Txn, TxnReply, WatchReply, WatchRequest, WatchStream,
};

mod base;
mod clock;
mod disk;
mod error;
mod file;
mod journal;
mod log;
mod measure;
mod queue;
mod rows;
#[cfg(test)]
mod tests;
mod writer;

use clock::Clock;
use disk::Disk;
pub use error::OpenError;
use log::{Disks, Log, Paths};
pub use measure::{MeasureError, PutRates, put_rates};
use queue::Queue;
use writer::{Answer, Health, Job, Published, Task, Writer, lock};

/// Longest wait for the disk. What has not begun by then is not done at all; what has, may be.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes that may wait; far more than a machine has writers.
const QUEUE: usize = 4_096;

/// Revisions that a watcher may be behind, so that a slow one costs a bounded amount of memory.
const WATCH_BACKLOG: usize = 1_024;

/// As etcd by default; a group of writes then fits into a slot of the journal.
const MOST_TXN_BYTES: usize = 1_536 << 10;

/// A handle on an open store; clones share it. When the last is dropped, the store is closed, which
/// waits for the write under way. Must be used from a runtime whose clock is not paused.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    published: Arc<Mutex<Published>>,
    clock: Clock,
    /// `None` only while it is being closed.
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, and makes it if it is not there (the directory above must be).
    /// Blocks while the files are checked and read: a few milliseconds for each MiB.
    ///
    /// # Errors
    /// See [`OpenError`]; each says what to do.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::on_disks(file::open(directory)?, directory, Clock::system())
    }

    fn on_disks<D: Disk>(disks: Disks<D>, directory: &Path, clock: Clock) -> Result<Self, OpenError> {
        let (log, state) = Log::open(disks, &Paths::of(directory), clock.now())?;
        let (jobs, queue) = mpsc::sync_channel(QUEUE);
        let draft = state.clone();
        let published = Arc::new(Mutex::new(Published {
            state,
            watchers: Watchers::new(WATCH_BACKLOG),
            health: Health::Well,
            size: log.size(),
        }));
        let writer = Writer {
            log,
            draft,
            published: Arc::clone(&published),
            queue: Queue::new(queue),
            retry_at: clock.now(),
            clock: clock.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("registry-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Thread { path: directory.to_owned(), source })?;
        let shared = Shared {
            directory: directory.to_owned(),
            published,
            clock,
            jobs: Some(jobs),
            thread: Some(thread),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    async fn write(&self, task: Task) -> Result<Answer, StoreError> {
        let operation = task.operation();
        let (reply, answer) = oneshot::channel();
        let jobs = self.shared.jobs.as_ref().expect("it is taken by drop alone");
        jobs.try_send(Job { task, reply }).map_err(|error| match error {
            TrySendError::Full(_) => busy(operation, "the disk does not keep up"),
            TrySendError::Disconnected(_) => busy(operation, "the store is closed"),
        })?;
        match timeout(REQUEST_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unknown(operation, "the store was closed meanwhile".to_owned())),
            Err(_) => Err(unknown(operation, format!("the disk did not finish within {REQUEST_TIMEOUT:?}"))),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended fleetd where panics abort, and has said so elsewhere.
            let _ = thread.join();
        }
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.watchers.cancel(None, &busy(Operation::Watch, "the store is closed"));
    }
}

fn busy(operation: Operation, detail: &str) -> StoreError {
    StoreError::Busy { operation, detail: detail.to_owned() }
}

fn unknown(operation: Operation, detail: String) -> StoreError {
    StoreError::Unknown { operation, detail }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, range: Range) -> Result<RangeReply, StoreError> {
        lock(&self.shared.published).state.range(&range)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        if txn.is_read_only() {
            return lock(&self.shared.published).state.read(&txn);
        }
        let (operation, bytes) = (Operation::Txn, txn.bytes());
        if bytes > MOST_TXN_BYTES {
            let detail = format!("{bytes} bytes, at most {MOST_TXN_BYTES}");
            return Err(StoreError::TooLarge { operation, detail });
        }
        match self.write(Task::Txn(txn)).await? {
            Answer::Txn(reply) => Ok(reply),
            other => unreachable!("a transaction is answered as one, not by {other:?}"),
        }
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError> {
        let mut published = lock(&self.shared.published);
        let Published { state, watchers, .. } = &mut *published;
        let asked = request.from;
        let begin = state.history_begin();
        if asked < begin {
            return Ok(WatchStream::new(stream::iter([WatchReply::Compacted { revision: begin }])));
        }
        if asked > state.revision().next() {
            return Err(StoreError::FutureRevision { asked });
        }
        let replies = watchers.add(Arc::from(""), request, state);
        Ok(WatchStream::new(stream::unfold(replies, |mut replies| async move {
            replies.recv().await.map(|reply| (reply, replies))
        })))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        match self.write(Task::Grant(ttl)).await? {
            Answer::Lease(lease) => Ok(lease),
            other => unreachable!("a grant is answered by a lease, not by {other:?}"),
        }
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        Ok(lock(&self.shared.published).state.lease_keep_alive(id, self.shared.clock.now()))
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.write(Task::Revoke(id)).await.map(drop)
    }

    async fn lease_ttl(&self, id: LeaseId) -> Result<Option<LeaseTtl>, StoreError> {
        Ok(lock(&self.shared.published).state.lease_ttl(id, self.shared.clock.now()))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.write(Task::Compact(revision)).await.map(drop)
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let published = lock(&self.shared.published);
        let header = published.state.header();
        let member_id = header.member_id;
        let alarms = match &published.health {
            Health::Well => Vec::new(),
            Health::Full => vec![Alarm::NoSpace { member_id }],
            Health::Broken(detail) => vec![Alarm::Disk { detail: detail.clone() }],
        };
        Ok(StoreStatus {
            header,
            version: concat!("embedded ", env!("CARGO_PKG_VERSION")).to_owned(),
            db_size: published.size,
            db_size_in_use: published.state.size(),
            leader: Some(member_id),
            alarms,
        })
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Embedded
    }
}
