//! The event log: reading it, and keeping it short.

use fleet_core::records::EventRecord;
use fleet_core::{Span, Timestamp};

use super::entry::{self, Entry};
use super::leader::LeaderFence;
use super::{Registry, RegistryError};
use crate::codec::Undecodable;
use crate::keys::{Area, EventId, Key};
use crate::store::{KeyRange, KeyValue, Op, Select, Txn};

/// Events that are kept.
pub const KEPT_EVENTS: usize = 10_000;
/// How long they are kept.
pub const KEPT_FOR: Span = Span::from_secs(7 * 24 * 3600);

/// A piece of the event log, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLog {
    pub events: Vec<(EventId, EventRecord)>,
    pub undecodable: Vec<Undecodable>,
}

impl Registry {
    /// The newest `limit` events, those at or after `since` only.
    ///
    /// # Errors
    /// `Store`.
    pub async fn events(&self, limit: usize, since: Option<Timestamp>) -> Result<EventLog, RegistryError> {
        const DOING: &str = "reading the event log";
        let range = match since {
            Some(since) => {
                let first = Key::Event(EventId { at: since, id: String::new() });
                self.keys.area_from(&Area::Events, self.key(&first))
            }
            None => self.keys.area(&Area::Events),
        };
        let (header, mut found) = self.list(DOING, &[range], Select::KeysOnly).await?;
        let newest = found.split_off(found.len().saturating_sub(limit));
        let Some(first) = newest.into_iter().next() else { return Ok(EventLog::default()) };
        // Later ones may have come meanwhile, and oldest ones may have been trimmed.
        let (_, found) =
            self.list(DOING, &[self.keys.area_from(&Area::Events, first.key)], Select::All).await?;
        let mut log = EventLog::default();
        for kv in found.iter().filter(|kv| kv.mod_revision <= header.revision) {
            match entry::read(&self.keys, kv) {
                Some(Ok(Entry::Event(id, record))) => log.events.push((id, record.value)),
                Some(Err(undecodable)) => log.undecodable.push(undecodable),
                Some(Ok(_)) | None => {}
            }
        }
        Ok(log)
    }

    /// Deletes events beyond the newest [`KEPT_EVENTS`] and those older than [`KEPT_FOR`]; how many. Lists keys, so the
    /// leader calls it after some hundred events of its own, not after each. Idempotent.
    ///
    /// # Errors
    /// `Store`.
    pub async fn trim_events(&self, fence: LeaderFence, now: Timestamp) -> Result<usize, RegistryError> {
        self.trim_events_to(fence, now, KEPT_EVENTS).await
    }

    pub(super) async fn trim_events_to(
        &self,
        fence: LeaderFence,
        now: Timestamp,
        keep: usize,
    ) -> Result<usize, RegistryError> {
        const DOING: &str = "trimming the event log";
        let area = self.keys.area(&Area::Events);
        let (_, found) = self.list(DOING, std::slice::from_ref(&area), Select::KeysOnly).await?;
        let is_old = |kv: &KeyValue| match self.keys.parse(&kv.key) {
            Some(Key::Event(id)) => now.since(id.at) > KEPT_FOR,
            _ => false,
        };
        let too_many = found.len().saturating_sub(keep);
        let doomed = too_many.max(found.partition_point(is_old));
        if doomed == 0 {
            return Ok(0);
        }
        let to = match found.get(doomed) {
            Some(first_kept) => first_kept.key.clone(),
            // Not beyond the last one seen: another may have been added meanwhile.
            None => match found.last().and_then(|last| KeyRange::Key(last.key.clone()).end()) {
                Some(end) => end,
                None => return Ok(0),
            },
        };
        let keys = KeyRange::Span { from: area.start().clone(), to };
        let txn = Txn::of(vec![Op::Delete { keys }]).when(self.compare_leader(fence));
        let reply = self.txn(DOING, txn).await?;
        Ok(if reply.succeeded { doomed } else { 0 })
    }
}
