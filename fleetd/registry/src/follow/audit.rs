//! The slow full check: does what the follower told agree with the store?
//!
//! Watches have lost events on the server's side before, so that every follower is audited now and
//! then; it must find nothing. Reads keys only.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::list::list;
use super::{FollowEvent, Follower, Phase};
use crate::store::{Revision, Select, Store, StoreError};

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// Of the list that was compared.
    pub revision: Revision,
    /// Keys in that list.
    pub keys: usize,
    /// Keys that the consumer has wrong, misses, or has too much. Not empty: a snapshot follows.
    pub differences: Vec<Bytes>,
}

impl<S: Store + Clone> Follower<S> {
    /// Compares what was told with a fresh list, waiting for events that are on their way; changes
    /// received meanwhile are told by [`next`](Self::next). A difference ends the watch, so that a
    /// fresh snapshot comes next. Not cancel safe in one respect: a cancelled audit is not counted.
    ///
    /// # Errors
    /// Those of the list; then nothing was compared.
    pub async fn audit(&mut self) -> Result<AuditReport, StoreError> {
        let listing =
            list(&self.store, &self.options.keys, self.options.page, Select::KeysOnly, &self.counters)
                .await?;
        let revision = listing.header.revision;
        let keys = listing.kvs.len();
        let mut store: BTreeMap<Bytes, Revision> =
            listing.kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect();
        let deadline = Instant::now() + self.options.audit_grace;
        let mut differences = self.differences(&store, revision);
        while !differences.is_empty() && matches!(self.phase, Phase::Watching { .. }) {
            if timeout_at(deadline, self.advance()).await.is_err() {
                break;
            }
            self.forgive_newer(&mut store, revision);
            differences = self.differences(&store, revision);
        }
        self.counters.count_audit(differences.len());
        if !differences.is_empty() && matches!(self.phase, Phase::Watching { .. }) {
            self.connect_after_failure();
        }
        Ok(AuditReport { revision, keys, differences })
    }

    /// A key deleted after the list was made is no difference: the event is in what waits.
    fn forgive_newer(&self, store: &mut BTreeMap<Bytes, Revision>, listed: Revision) {
        if let Some(FollowEvent::Events { events, .. }) = self.waiting.back() {
            for event in events.iter().filter(|event| event.kv().mod_revision > listed) {
                store.remove(&event.kv().key);
            }
        }
    }

    fn differences(&self, store: &BTreeMap<Bytes, Revision>, listed: Revision) -> Vec<Bytes> {
        let wrong =
            store.iter().filter(|(key, revision)| self.told.get(*key).is_none_or(|told| told < *revision));
        let extra = self.told.iter().filter(|(key, told)| **told <= listed && !store.contains_key(*key));
        wrong.chain(extra).map(|(key, _)| key.clone()).collect()
    }
}
