//! What the leader does for the registry besides planning: trimming events, collecting texts, compaction.
//!
//! Nothing of it happens at rest: each is due after so many writes, or at the audit.

use fleet_core::{Revision, Span};
use fleet_registry::registry::contents::Unreferenced;
use fleet_registry::registry::leader::LeaderFence;
use tracing::{debug, warn};

use super::EngineOptions;

/// A text that nothing names is kept this long: a submit that is under way may be about to name it.
const CONTENT_GRACE: Span = Span::from_secs(600);
/// Revisions between two looks at events and texts.
const TIDY_EVERY: i64 = 2_000;

#[derive(Debug, Default)]
pub struct Upkeep {
    unreferenced: Unreferenced,
    compacted: Option<Revision>,
    tidied: Option<Revision>,
    is_due: bool,
}

impl Upkeep {
    /// The next run tidies whatever the number of writes.
    pub fn audit_due(&mut self) {
        self.is_due = true;
    }

    pub async fn run(&mut self, options: &EngineOptions, fence: LeaderFence, seen: Revision) {
        let registry = &options.registry;
        if options.compacts {
            match registry.compact_if_due(*self.compacted.get_or_insert(seen)).await {
                Ok(at) => self.compacted = Some(at),
                Err(error) => debug!(%error, "compaction waits"),
            }
        }
        let tidied = *self.tidied.get_or_insert(seen);
        if !self.is_due && seen.0 - tidied.0 < TIDY_EVERY {
            return;
        }
        self.is_due = false;
        self.tidied = Some(seen);
        let now = options.clock.now();
        if let Err(error) = registry.trim_events(fence, now).await {
            debug!(%error, "events are trimmed later");
        }
        match registry.collect_contents(fence, &mut self.unreferenced, now, CONTENT_GRACE).await {
            Ok(collected) => debug!(collected.deleted, collected.waiting, "collected texts"),
            Err(error) => debug!(%error, "texts are collected later"),
        }
        match registry.status().await {
            Ok(status) if !status.alarms.is_empty() => {
                warn!(alarms = ?status.alarms, size = status.db_size, "the store raises an alarm; see `fleetctl cluster health`");
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "the store's status is read later"),
        }
    }
}
