//! The one thread that changes the store: takes what waits, makes it durable together, then tells.
//!
//! Started by [`open`](super::EmbeddedStore::open), fed through a queue, ended by the end of the
//! queue. It alone waits for the disk. Nothing is published, announced or answered before the fsync.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::clock::Clock;
use super::disk::Disk;
use super::log::{AppendError, Log};
use super::queue::Queue;
use super::rows::Change;
use crate::mvcc::{State, Watchers};
use crate::store::{Lease, LeaseId, Operation, Revision, StoreError, Txn, TxnReply};

/// Between attempts to write while the disk is full.
const RETRY: Duration = Duration::from_secs(1);

/// A write that somebody waits for.
#[derive(Debug)]
pub(super) struct Job {
    pub task: Task,
    pub reply: oneshot::Sender<Result<Answer, StoreError>>,
}

#[derive(Debug)]
pub(super) enum Task {
    Txn(Txn),
    Grant(Duration),
    Revoke(LeaseId),
    Compact(Revision),
}

impl Task {
    pub fn operation(&self) -> Operation {
        match self {
            Self::Txn(_) => Operation::Txn,
            Self::Grant(_) => Operation::LeaseGrant,
            Self::Revoke(_) => Operation::LeaseRevoke,
            Self::Compact(_) => Operation::Compact,
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Txn(txn) => txn.bytes(),
            Self::Grant(_) | Self::Revoke(_) | Self::Compact(_) => 0,
        }
    }
}

#[derive(Debug)]
pub(super) enum Answer {
    Txn(TxnReply),
    Lease(Lease),
    Done,
}

/// Whether writes get through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    Well,
    /// The disk is full; tried again now and then.
    Full,
    /// Not before a restart.
    Broken(String),
}

/// What is on disk, for readers.
#[derive(Debug)]
pub(super) struct Published {
    pub state: State,
    pub watchers: Watchers,
    pub health: Health,
    /// Bytes of the file.
    pub size: u64,
}

/// Never held during I/O.
pub(super) fn lock(published: &Mutex<Published>) -> MutexGuard<'_, Published> {
    published.lock().expect("no call panics while it holds the store")
}

#[derive(Debug)]
pub(super) struct Writer<D> {
    pub log: Log<D>,
    /// Runs ahead of what is published, within a group.
    pub draft: State,
    pub published: Arc<Mutex<Published>>,
    pub queue: Queue,
    pub retry_at: Instant,
    pub clock: Clock,
}

impl<D: Disk> Writer<D> {
    pub fn run(mut self) {
        while let Some(jobs) = self.gather() {
            self.serve(jobs);
        }
    }

    /// Everything that waits, at least one; empty when only a lease or a full disk is due; `None` at the end.
    fn gather(&mut self) -> Option<Vec<Job>> {
        let idle = self.wake_at().map(|at| at.saturating_duration_since(self.clock.now()));
        self.queue.gather(idle)
    }

    /// When something is to be done without a job: a lease ends, or a full disk is tried again.
    fn wake_at(&self) -> Option<Instant> {
        let published = lock(&self.published);
        let retry_at = (published.health == Health::Full).then_some(self.retry_at);
        published.state.next_expiry().into_iter().chain(retry_at).min()
    }

    fn serve(&mut self, mut jobs: Vec<Job>) {
        // Whoever has given up waiting was told that the outcome is unknown.
        jobs.retain(|job| !job.reply.is_closed());
        let mut changes = Vec::new();
        if let Err(refusal) = self.make_ready(&mut changes) {
            self.put_off_due_leases();
            refuse(jobs, &refusal);
            return;
        }
        let mut answers = Vec::with_capacity(jobs.len());
        let due = self.due_leases();
        for id in &due {
            // One that a client has revoked meanwhile is gone already.
            let _ = self.draft_revoke(*id, &mut changes);
        }
        for job in jobs {
            let answer = self.draft_task(&job.task, &mut changes);
            answers.push((job, answer));
        }
        // On a disk that was full an empty record tells whether there is space again, so that this is known before
        // somebody needs it.
        if changes.is_empty() && lock(&self.published).health == Health::Well {
            return answer_all(answers);
        }
        let begin = std::time::Instant::now();
        match self.log.append(changes.clone()) {
            Ok(()) => {
                self.queue.note(answers.len(), begin.elapsed());
                self.publish(&changes);
                answer_all(answers);
            }
            Err(error) => {
                let refusal = self.note_failure(error, &due);
                refuse(answers.into_iter().map(|(job, _)| job), &refusal);
            }
        }
    }

    fn draft_task(&mut self, task: &Task, changes: &mut Vec<Change>) -> Result<Answer, StoreError> {
        match task {
            Task::Txn(txn) => {
                let (reply, commit) = self.draft.txn(txn)?;
                changes.extend(commit.map(Change::Commit));
                Ok(Answer::Txn(reply))
            }
            Task::Grant(ttl) => {
                let lease = self.draft.lease_grant(*ttl, self.clock.now());
                changes.push(Change::Granted(lease));
                Ok(Answer::Lease(lease))
            }
            Task::Revoke(id) => self.draft_revoke(*id, changes),
            Task::Compact(revision) => self.draft_compact(*revision, changes),
        }
    }

    fn draft_revoke(&mut self, id: LeaseId, changes: &mut Vec<Change>) -> Result<Answer, StoreError> {
        let commit = self.draft.lease_revoke(id)?;
        changes.push(Change::Revoked(id));
        changes.extend(commit.map(Change::Commit));
        Ok(Answer::Done)
    }

    fn draft_compact(&mut self, revision: Revision, changes: &mut Vec<Change>) -> Result<Answer, StoreError> {
        let is_new = revision > self.draft.compacted();
        self.draft.compact(revision)?;
        if is_new {
            changes.push(Change::Compacted(revision));
        }
        Ok(Answer::Done)
    }

    /// Whether a group may be tried now, and there is room for it.
    fn make_ready(&mut self, changes: &mut Vec<Change>) -> Result<(), Refusal> {
        self.check_health()?;
        match self.log.make_room(&self.draft) {
            Ok(None) => {}
            Ok(Some(revision)) => {
                // It is a past revision, which cannot be refused.
                let _ = self.draft_compact(revision, changes);
            }
            Err(error) => {
                return Err(match self.note_failure(error, &[]) {
                    // Here it is known that nothing of the group was written.
                    Refusal::Unknown(detail) => Refusal::Broken(detail),
                    refusal => refusal,
                });
            }
        }
        Ok(())
    }

    fn due_leases(&self) -> Vec<LeaseId> {
        let mut published = lock(&self.published);
        let now = self.clock.now();
        std::iter::from_fn(|| published.state.take_due(now)).collect()
    }

    /// A lease whose end cannot be written lives on.
    fn put_off_due_leases(&self) {
        self.renew(&self.due_leases());
    }

    fn renew(&self, leases: &[LeaseId]) {
        let mut published = lock(&self.published);
        for id in leases {
            published.state.renew(*id, self.clock.now());
        }
    }

    fn publish(&mut self, changes: &[Change]) {
        let size = self.log.size();
        let mut published = lock(&self.published);
        let published = &mut *published;
        for change in changes {
            match change {
                Change::Commit(commit) => {
                    published.state.apply(commit);
                    published.watchers.announce(commit);
                }
                Change::Granted(lease) => published.state.lease_granted(*lease, self.clock.now()),
                Change::Revoked(id) => published.state.lease_revoked(*id),
                // Told to the log alone.
                Change::Base(_) => {}
                Change::Term(term) => published.state.identity.raft_term = *term,
                Change::Compacted(revision) => {
                    // The draft accepted it, and this is the draft's state.
                    let _ = published.state.compact(*revision);
                }
            }
        }
        published.size = size;
        if published.health != Health::Well {
            info!("the registry file can be written again");
            published.health = Health::Well;
        }
    }

    /// After a failed group: what its writers are told.
    fn note_failure(&mut self, error: AppendError, due: &[LeaseId]) -> Refusal {
        self.draft = lock(&self.published).state.clone();
        self.renew(due);
        match error {
            AppendError::NoSpace => {
                self.note_full();
                Refusal::NoSpace
            }
            AppendError::Broken(detail) => {
                self.note_broken(detail.clone());
                Refusal::Unknown(detail)
            }
        }
    }

    fn note_full(&mut self) {
        self.retry_at = self.clock.now() + RETRY;
        let mut published = lock(&self.published);
        if published.health == Health::Well {
            warn!("no space to write the registry file; free some on its file system");
            published.health = Health::Full;
        }
    }

    fn note_broken(&mut self, detail: String) {
        error!(%detail, "the registry file cannot be written; check the disk, then restart fleetd");
        lock(&self.published).health = Health::Broken(detail);
    }

    /// Whether a group may be tried now.
    fn check_health(&self) -> Result<(), Refusal> {
        let health = lock(&self.published).health.clone();
        match health {
            Health::Well => Ok(()),
            Health::Broken(detail) => Err(Refusal::Broken(detail)),
            Health::Full if self.clock.now() < self.retry_at => Err(Refusal::NoSpace),
            Health::Full => Ok(()),
        }
    }
}

/// What a writer is told instead of an answer.
#[derive(Debug)]
enum Refusal {
    NoSpace,
    Unknown(String),
    Broken(String),
}

fn refuse(jobs: impl IntoIterator<Item = Job>, refusal: &Refusal) {
    for job in jobs {
        let operation = job.task.operation();
        let error = match refusal {
            Refusal::NoSpace => StoreError::NoSpace { operation },
            Refusal::Unknown(detail) => StoreError::Unknown { operation, detail: detail.clone() },
            Refusal::Broken(detail) => StoreError::Disk { operation, detail: detail.clone() },
        };
        // Who has given up waiting needs no answer.
        let _ = job.reply.send(Err(error));
    }
}

fn answer_all(answers: Vec<(Job, Result<Answer, StoreError>)>) {
    for (job, answer) in answers {
        // As above.
        let _ = job.reply.send(answer);
    }
}
