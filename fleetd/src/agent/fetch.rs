//! Getting the texts that orders name: once, checked against their hash, and durable before they are used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fleet_core::reconcile::{FetchProblem, TextFacts};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rand::RngExt as _;
use tokio::time::Instant;
use unit_files::ContentHash;

use super::disk::SharedDisk;
use super::registry::AgentRegistry;
use super::texts;

/// Texts asked for at once.
const IN_FLIGHT: usize = 32;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

pub(super) type Fetched = (ContentHash, Result<TextFacts, FetchProblem>);

/// Fetches under way and waiting.
#[derive(Default)]
pub(super) struct Fetches {
    under_way: FuturesUnordered<BoxFuture<'static, Fetched>>,
    asked: BTreeSet<ContentHash>,
    queue: BTreeSet<ContentHash>,
    /// Not reached; when to ask again, and how often it failed.
    waiting: BTreeMap<ContentHash, (Instant, u32)>,
}

impl std::fmt::Debug for Fetches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetches").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Fetches {
    /// Asks for a text unless that is under way, or has to wait.
    pub(super) fn want(&mut self, hash: ContentHash) {
        if !self.asked.contains(&hash) && !self.waiting.contains_key(&hash) {
            self.queue.insert(hash);
        }
    }

    /// Nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.queue.is_empty()
    }

    pub(super) fn start(&mut self, registry: &Arc<dyn AgentRegistry>, disk: &SharedDisk) {
        while self.asked.len() < IN_FLIGHT
            && let Some(hash) = self.queue.pop_first()
        {
            self.asked.insert(hash);
            self.under_way.push(Box::pin(fetch(hash, Arc::clone(registry), disk.clone())));
        }
    }

    /// The next text that came, or did not. Cancel safe; pending while nothing is under way.
    pub(super) async fn next(&mut self) -> Fetched {
        loop {
            if let Some(fetched) = self.under_way.next().await {
                return fetched;
            }
            std::future::pending::<()>().await;
        }
    }

    /// Notes an answer; call it with what `next` gave.
    pub(super) fn note(&mut self, fetched: &Fetched, now: Instant) {
        let (hash, answer) = fetched;
        self.asked.remove(hash);
        if let Err(FetchProblem::Unreachable(_)) = answer {
            let failures = self.waiting.get(hash).map_or(0, |(_, failures)| *failures);
            let bound = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_RETRY);
            let wait = bound.mul_f64(rand::rng().random_range(0.3..=1.0));
            self.waiting.insert(*hash, (now + wait, failures + 1));
        } else {
            self.waiting.remove(hash);
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let due = self
            .waiting
            .iter()
            .filter(|(hash, _)| !self.asked.contains(*hash) && !self.queue.contains(*hash));
        due.map(|(_, (at, _))| *at).min()
    }

    /// Asks again for what has waited long enough, or for all of it.
    pub(super) fn retry(&mut self, now: Option<Instant>) {
        for (hash, (at, _)) in &self.waiting {
            if now.is_none_or(|now| *at <= now) && !self.asked.contains(hash) {
                self.queue.insert(*hash);
            }
        }
    }
}

async fn fetch(hash: ContentHash, registry: Arc<dyn AgentRegistry>, disk: SharedDisk) -> Fetched {
    let bytes = match registry.content(hash).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            let text = format!("contents/{hash} is not in the registry");
            return (hash, Err(FetchProblem::Absent(text)));
        }
        Err(error) => return (hash, Err(FetchProblem::Unreachable(error.to_string()))),
    };
    let facts = match texts::facts(hash, &bytes) {
        Ok(facts) => facts,
        Err(text) => return (hash, Err(FetchProblem::Absent(text))),
    };
    let kept = disk.run(move |disk| disk.keep_content(hash, &bytes)).await;
    let kept =
        kept.map_err(|error| FetchProblem::Unreachable(format!("cannot keep contents/{hash}: {error}")));
    (hash, kept.map(|()| facts))
}
