//! What the leader does for the store itself: compaction, and a look at size and alarms.

use fleet_core::Revision;

use super::{Registry, RegistryError, raw};
use crate::store::{StoreError, StoreStatus};

/// Revisions between two compactions.
pub const COMPACT_EVERY: i64 = 10_000;
/// Newest revisions that a compaction keeps, so that a watch that was cut for a moment and a list in pages go on.
const KEPT_REVISIONS: i64 = 1_000;

impl Registry {
    /// Compacts when [`COMPACT_EVERY`] revisions have passed since `last`; returns what to pass as `last` next time. A
    /// new leader starts with the revision of its first snapshot. Costs nothing at rest, and is idempotent.
    ///
    /// # Errors
    /// `Store`; try again later.
    pub async fn compact_if_due(&self, last: Revision) -> Result<Revision, RegistryError> {
        let seen = self.seen();
        if seen.0 - last.0 < COMPACT_EVERY {
            return Ok(last);
        }
        let doing = "compacting the registry";
        match self.store.compact(raw(Revision(seen.0 - KEPT_REVISIONS))).await {
            Ok(()) => Ok(seen),
            // Rolled back since: there is nothing to compact before it is adopted and has grown again.
            Err(StoreError::FutureRevision { .. }) => Ok(last),
            Err(error) => Err(RegistryError::Store { doing, error }),
        }
    }

    /// Size, alarms and version of the store, as the answering member sees them.
    ///
    /// # Errors
    /// `Store`.
    pub async fn status(&self) -> Result<StoreStatus, RegistryError> {
        let doing = "reading the registry's status";
        self.store.status().await.map_err(|error| RegistryError::Store { doing, error })
    }
}
