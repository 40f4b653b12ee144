//! What comes in between passes: what each thing marks, and what it changes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use fleet_core::reconcile::Orders;
use fleet_core::records::{StateRow, Wanted};
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use unit_files::{ContentHash, UnitName};

use super::{Agent, RETRY, TEXTS_WAIT, Upkeep, jittered};
use crate::agent::disk::sync_contents;
use crate::agent::execute::StepReport;
use crate::agent::fetch::Fetched;
use crate::agent::registry::{FeedEvent, OrdersFeed, RegistryFault};
use crate::agent::status::Connection;

impl Agent {
    pub(super) fn on_feed(&mut self, event: FeedEvent, feed: &dyn OrdersFeed) {
        let now = (self.options.clock)();
        match event {
            FeedEvent::Audited { differences } => {
                if differences > 0 {
                    warn!(differences, "the audit found orders that were never announced");
                }
                self.status.counters.audit_differences += differences as u64;
                return;
            }
            FeedEvent::Changed => {
                if !self.status.is_connected() {
                    info!("connected to the registry");
                    self.status.connection = Connection::Connected { since: now };
                    self.publisher.reconnected();
                    self.fetches.retry(None);
                    self.is_auditing |= self.publisher.has_rows();
                }
                // From now on the registry's word counts, even where it is that there is nothing to trust.
                (self.offline, self.offline_at, self.status.is_offline) = (None, None, false);
            }
            FeedEvent::Judged => {}
            FeedEvent::Disconnected { why } => {
                if self.status.is_connected() {
                    warn!(%why, "the registry does not answer; everything keeps running");
                    self.status.connection = Connection::Disconnected { since: now, why };
                } else if let Connection::Disconnected { why: known, .. } = &mut self.status.connection {
                    *known = why;
                }
            }
        }
        let Some(view) = feed.view() else { return };
        let holding = (!view.trust.may_act()).then(|| view.trust.remedy());
        if self.status.holding != holding {
            match &holding {
                // Joining a cluster, or taking over a re-anchored one: over in a moment.
                Some(why) if why.is_empty() => {}
                Some(why) => warn!(%why, "holding: no order is applied"),
                None if self.status.holding.as_ref().is_some_and(String::is_empty) => {}
                None => info!("the store can be trusted: orders are applied again"),
            }
            self.status.holding = holding;
        }
        if view.trust.may_act() {
            let texts = view.orders.by_unit.values().map(|order| &order.value);
            let wanted = texts.filter(|order| order.wanted != Wanted::Gone);
            for hash in wanted.map(|order| order.content) {
                let is_known =
                    self.local.contents.contains_key(&hash) || self.local.fetch_problems.contains_key(&hash);
                if !is_known {
                    self.fetches.want(hash);
                }
            }
        }
        if !self.fetches.is_idle() {
            self.texts_until.get_or_insert_with(|| Instant::now() + TEXTS_WAIT);
        }
        self.is_pass_due = true;
    }

    pub(super) fn on_report(&mut self, report: StepReport) {
        if let StepReport::Failed { unit, failure } = &report {
            info!(%unit, reason = %failure.reason.text, "step failed");
        }
        if let StepReport::TextLost { content } = &report {
            warn!(%content, "a text in the state directory is damaged or gone, fetching it again");
            self.local.contents.remove(content);
        }
        let now = (self.options.clock)();
        self.observer.report(report, &mut self.local.observed, now);
    }

    pub(super) fn on_fetched(&mut self, fetched: Fetched) {
        self.fetches.note(&fetched, Instant::now());
        let (hash, answer) = fetched;
        match answer {
            Ok(facts) => {
                self.local.fetch_problems.remove(&hash);
                self.local.contents.insert(hash, facts);
                self.has_new_texts = true;
            }
            Err(problem) => drop(self.local.fetch_problems.insert(hash, problem)),
        }
        if self.fetches.is_idle() {
            self.texts_until = None;
        }
        self.is_pass_due = true;
    }

    pub(super) fn on_rows(&mut self, answer: Result<BTreeMap<UnitName, StateRow>, RegistryFault>) {
        match answer {
            Ok(rows) => {
                self.rows_not_before = None;
                if !self.publisher.has_rows() && self.local.rows.is_empty() {
                    self.local.rows = rows.clone();
                }
                self.status.counters.audit_differences += self.publisher.read(rows) as u64;
                self.is_pass_due = true;
            }
            Err(error) => {
                debug!(%error, "own rows not read, trying again");
                self.rows_not_before = Some(Instant::now() + jittered(RETRY));
                self.is_auditing |= self.publisher.has_rows();
            }
        }
    }

    pub(super) fn on_time(&mut self, feed: &mut dyn OrdersFeed) {
        let now = Instant::now();
        if self.next_look.is_some_and(|at| at <= now) {
            self.next_look = None;
            self.is_pass_due = true;
        }
        if self.fetches.due().is_some_and(|at| at <= now) {
            self.fetches.retry(Some(now));
        }
        if self.offline_at.is_some_and(|at| at <= now) {
            self.offline_at = None;
            info!("the registry has not answered: this machine obeys the last orders on its disk");
            self.offline = Some(Orders::from_disk(&self.local.records));
            (self.is_pass_due, self.status.is_offline) = (true, true);
        }
        if self.audit_at <= now {
            self.audit_at = now + jittered(self.options.audit_interval);
            self.status.counters.audits += 1;
            (self.is_auditing, self.is_collecting, self.is_pass_due) = (true, true, true);
            self.checks_links = true;
            self.observer.mark_all();
            feed.audit();
        }
    }

    /// What is done to the disk beside the passes: texts made safe, and those that nothing names removed.
    pub(super) fn keep_up(&mut self, feed: &dyn OrdersFeed, upkeep: &mut Option<BoxFuture<'static, Upkeep>>) {
        if upkeep.is_some()
            || self.local.state_directory_error.is_some()
            || !(self.has_new_texts || self.is_collecting)
        {
            return;
        }
        let collect = std::mem::take(&mut self.is_collecting).then(|| {
            let orders = self.orders(feed).into_iter().flat_map(|orders| orders.by_unit.values());
            orders.map(|order| order.value.content).collect::<BTreeSet<ContentHash>>()
        });
        self.has_new_texts = false;
        let (disk, directory) = (self.disk.clone(), self.options.state_directory.clone());
        *upkeep = Some(Box::pin(async move {
            let unsynced = disk.run(|disk| Ok(disk.unsynced())).await?;
            if !unsynced.is_empty() {
                let synced = tokio::task::spawn_blocking(move || {
                    sync_contents(&directory, &unsynced).map(|()| unsynced)
                });
                let synced = synced.await.map_err(io::Error::other)??;
                disk.run(move |disk| {
                    disk.synced(&synced);
                    Ok(())
                })
                .await?;
            }
            match collect {
                Some(needed) => disk.run(move |disk| disk.collect(&needed)).await,
                None => Ok(BTreeSet::new()),
            }
        }));
    }

    pub(super) fn on_upkeep(&mut self, done: Upkeep) {
        match done {
            Ok(removed) => self.local.contents.retain(|hash, _| !removed.contains(hash)),
            Err(error) => {
                warn!(%error, "texts in the state directory are only safe in the agent's log, trying again at the audit");
            }
        }
    }
}
