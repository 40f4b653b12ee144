//! One pass, in its parts: look, decide, write down; then steps and reports are set on their way.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fleet_core::Timestamp;
use fleet_core::reconcile::{FetchProblem, Orders, Pass, Step, reconcile};
use fleet_systemd::SystemdError;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use unit_files::UnitName;

use super::{Agent, RETRY, Stage, jittered};
use crate::agent::disk::Changes;
use crate::agent::execute::describe;
use crate::agent::observe::{Look, Observer, Sight, look};
use crate::agent::registry::OrdersFeed;
use crate::agent::status::LastPass;

impl Agent {
    pub(super) fn names(&self, orders: Option<&Orders>) -> BTreeSet<UnitName> {
        let ordered = orders.into_iter().flat_map(|orders| orders.by_unit.keys().chain(orders.frozen.keys()));
        ordered.chain(self.local.records.keys()).cloned().collect()
    }

    pub(super) fn begin_pass(&mut self, feed: &dyn OrdersFeed) -> Stage {
        self.last_pass = Some(Instant::now());
        self.texts_until = None;
        let names = self.names(self.orders(feed));
        let has_open_starts = self.local.records.values().any(|record| record.intent.is_some());
        let asked = self.observer.begin(&names, &self.local.observed, has_open_starts);
        Stage::Looking(Box::pin(look(Arc::clone(&self.systemd), asked)))
    }

    pub(super) fn on_look(
        &mut self,
        looked: Result<Sight, (Look, SystemdError)>,
        feed: &dyn OrdersFeed,
    ) -> Stage {
        let sight = match looked {
            Ok(sight) => sight,
            Err((asked, error)) => {
                let text = describe(&error);
                if self.status.systemd_error.as_ref() != Some(&text) {
                    warn!(error = %text, "systemd cannot be read, trying again");
                }
                self.status.systemd_error = Some(text);
                self.observer.give_back(asked);
                self.look_not_before = Some(Instant::now() + jittered(RETRY));
                return Stage::Idle;
            }
        };
        self.status.systemd_error = None;
        self.look_not_before = None;
        let now = (self.options.clock)();
        let mut observed = std::mem::take(&mut self.local.observed);
        let names = self.names(self.orders(feed));
        let is_audit = sight.is_full() && self.status.counters.passes > 0;
        let differences = self.observer.absorb(sight, &mut observed, &names, now);
        self.local.observed = observed;
        if is_audit {
            self.status.counters.audit_differences += differences as u64;
        }
        self.decide(feed, now)
    }

    pub(super) fn decide(&mut self, feed: &dyn OrdersFeed, now: Timestamp) -> Stage {
        let names = self.names(self.orders(feed));
        if names.iter().any(|name| !self.local.observed.contains_key(name)) {
            // Orders came while we looked: what they name has to be seen first.
            return self.begin_pass(feed);
        }
        if !(self.publisher.has_rows() || self.offline.is_some()) {
            return Stage::Idle;
        }
        let Some(orders) = self.orders(feed) else { return Stage::Idle };
        let pass = reconcile(orders, &self.local, now);
        let (count, revision) = (orders.by_unit.len(), orders.revision);
        (self.status.orders, self.status.revision) = (count, revision);
        self.is_pass_due = false;
        let changes =
            Changes { records: pass.records.clone(), forget: pass.forget.clone(), floor: pass.floor };
        let is_probe = self.local.state_directory_error.is_some();
        let is_nothing =
            changes.records.is_empty() && changes.forget.is_empty() && changes.floor == self.local.floor;
        if is_nothing && !is_probe {
            return Stage::Writing(Box::new(pass), Box::pin(std::future::ready(Ok(()))));
        }
        let write = self.disk.clone();
        Stage::Writing(
            Box::new(pass),
            Box::pin(async move {
                write.run(move |disk| if is_probe { disk.compact() } else { disk.write(&changes) }).await
            }),
        )
    }

    /// The pass is durable: now it happens.
    pub(super) fn on_written(
        &mut self,
        pass: Pass,
        written: io::Result<()>,
    ) -> Option<BoxFuture<'static, ()>> {
        let was_error = self.local.state_directory_error.take();
        match written {
            Err(error) => {
                let text = format!("{}: {error}", self.options.state_directory.display());
                if was_error.as_ref() != Some(&text) {
                    warn!(error = %text, "the state directory cannot be written: doing nothing until it can");
                }
                self.status.state_directory_error = Some(text.clone());
                // The next pass is decided knowing it; without steps it may be published.
                let is_known = was_error.is_some();
                self.local.state_directory_error = Some(text);
                self.look_again(if is_known { RETRY } else { Duration::ZERO });
                if is_known {
                    self.publish(pass);
                }
                return None;
            }
            Ok(()) if was_error.is_some() => {
                info!("the state directory can be written again");
                self.status.state_directory_error = None;
                self.is_pass_due = true;
                return None;
            }
            Ok(()) => {}
        }
        Observer::settle(&mut self.local.observed);
        let now = (self.options.clock)();
        let counters = &mut self.status.counters;
        counters.passes += 1;
        counters.effective_passes += u64::from(!pass.is_quiet(&self.local));
        counters.starts += pass.steps.iter().filter(|(_, step)| *step == Step::Start).count() as u64;
        counters.stops += pass.steps.iter().filter(|(_, step)| *step == Step::Stop).count() as u64;
        self.status.last_pass = Some(LastPass { at: now, steps: pass.steps.len() });
        self.status.busy.clone_from(&pass.open);
        self.local.records.extend(pass.records.iter().map(|(unit, record)| (unit.clone(), record.clone())));
        self.local.records.retain(|unit, _| !pass.forget.contains(unit));
        self.local.floor = pass.floor;
        for hash in &pass.fetch {
            if let Some(FetchProblem::Absent(_)) = self.local.fetch_problems.get(hash) {
                self.local.fetch_problems.remove(hash);
            }
            self.fetches.want(*hash);
        }
        self.next_look = pass.next_look.map(|at| Instant::now() + at.since(now).as_duration());
        let steps = pass.steps.clone();
        self.publish(pass);
        let checks_links = std::mem::take(&mut self.checks_links);
        if steps.is_empty() && !checks_links {
            return None;
        }
        for (unit, step) in &steps {
            debug!(%unit, ?step, "step");
            self.observer.begin_steps(unit, &mut self.local.observed);
        }
        Some(Box::pin(self.executor.clone().carry_out(steps, checks_links, self.reports.0.clone())))
    }

    pub(super) fn publish(&mut self, pass: Pass) {
        self.publisher.offer(&pass, Instant::now());
        if pass.rows != self.local.rows {
            self.status.units = Arc::new(pass.rows.clone());
            self.local.rows = pass.rows;
        }
    }

    pub(super) fn look_again(&mut self, after: Duration) {
        let at = Instant::now() + after;
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }
}
