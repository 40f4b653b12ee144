//! Who waits for the writer, and for how many more it is worth to wait.
//!
//! Used by the [`writer`](super::writer) alone. It makes the groups; it knows nothing of what is in them but their size.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::writer::Job;

/// Most writes of one group. More only make the first of them wait longer.
const MOST_JOBS: usize = 1_024;

/// Of keys and values of one group; the last transaction may bring it above. With that one it still
/// fits into a slot of the journal, so that no torn record can take all others of a slot with it.
const MOST_BYTES: usize = 256 << 10;

/// Longest wait for writers that are likely to come.
const MOST_PATIENCE: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Queue {
    jobs: Receiver<Job>,
    /// What had come when the last group was on disk.
    waiting: VecDeque<Job>,
    /// How many are likely to be in the next group: those that wait, and those that were answered, who come back
    /// together. Otherwise writers that once fell into two groups would take turns for ever, two syncs where one does.
    likely: usize,
    /// What the last group took.
    took: Duration,
}

impl Queue {
    pub fn new(jobs: Receiver<Job>) -> Self {
        Self { jobs, waiting: VecDeque::new(), likely: 0, took: Duration::ZERO }
    }

    /// A group, at least one job; empty when none came within `idle`; `None` at the end.
    pub fn gather(&mut self, idle: Option<Duration>) -> Option<Vec<Job>> {
        let first = match (self.waiting.pop_front(), idle) {
            (Some(job), _) => job,
            (None, Some(idle)) => match self.jobs.recv_timeout(idle) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return None,
            },
            (None, None) => self.jobs.recv().ok()?,
        };
        let mut bytes = first.task.bytes();
        let mut jobs = vec![first];
        // Of the queue and the disk, so by no clock of a test.
        let until = Instant::now() + self.patience();
        while jobs.len() < MOST_JOBS && bytes < MOST_BYTES {
            let Some(job) = self.next(jobs.len() < self.likely, until) else { break };
            bytes += job.task.bytes();
            jobs.push(job);
        }
        Some(jobs)
    }

    /// What is there already, else what comes in time if that is worth it.
    fn next(&mut self, is_likely: bool, until: Instant) -> Option<Job> {
        if let Some(job) = self.waiting.pop_front() {
            return Some(job);
        }
        match self.jobs.try_recv() {
            Ok(job) => Some(job),
            Err(_) if is_likely => {
                self.jobs.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
            }
            Err(_) => None,
        }
    }

    /// How long to wait for those that are likely to come: little beside what a group takes.
    fn patience(&self) -> Duration {
        (self.took / 8).min(MOST_PATIENCE)
    }

    /// A group of `answered` jobs is on disk, which took so long, and its writers are about to be told.
    pub fn note(&mut self, answered: usize, took: Duration) {
        while self.waiting.len() < MOST_JOBS
            && let Ok(job) = self.jobs.try_recv()
        {
            self.waiting.push_back(job);
        }
        (self.likely, self.took) = (answered + self.waiting.len(), took);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use tokio::sync::oneshot;

    use super::super::writer::Task;
    use super::*;
    use crate::store::Revision;

    fn send(to: &SyncSender<Job>, count: usize) {
        for _ in 0..count {
            let (reply, _) = oneshot::channel();
            to.send(Job { task: Task::Compact(Revision(1)), reply }).expect("the queue is there");
        }
    }

    /// A disk so slow that whoever is likely to come is waited for until they come.
    const AGES: Duration = Duration::from_secs(60);

    #[test]
    fn writers_that_fell_into_two_groups_come_together_again() {
        let (to, jobs) = sync_channel(64);
        let mut queue = Queue::new(jobs);
        send(&to, 4);
        assert_eq!(queue.gather(None).expect("a group").len(), 4);
        // While those are written, four others come; then the first four are answered and come back.
        send(&to, 4);
        queue.note(4, AGES);
        send(&to, 4);
        assert_eq!(queue.gather(None).expect("a group").len(), 8);
        queue.note(8, AGES);
        assert_eq!(queue.likely, 8);
    }

    #[test]
    fn a_writer_by_itself_waits_for_nobody() {
        let (to, jobs) = sync_channel(64);
        let mut queue = Queue::new(jobs);
        for _ in 0..3 {
            send(&to, 1);
            assert_eq!(queue.gather(None).expect("a group").len(), 1);
            queue.note(1, AGES);
            assert_eq!(queue.likely, 1);
        }
    }

    #[test]
    fn what_waits_when_the_last_sender_goes_is_still_served() {
        let (to, jobs) = sync_channel(64);
        let mut queue = Queue::new(jobs);
        send(&to, 1);
        assert_eq!(queue.gather(None).expect("a group").len(), 1);
        send(&to, 2);
        queue.note(1, Duration::ZERO);
        drop(to);
        assert_eq!(queue.gather(None).expect("a group").len(), 2);
        assert!(queue.gather(None).is_none());
    }

    #[test]
    fn an_idle_queue_says_so_in_time() {
        let (_to, jobs) = sync_channel::<Job>(1);
        assert_eq!(Queue::new(jobs).gather(Some(Duration::ZERO)).expect("not the end").len(), 0);
    }
}
