//! When a row is written: the first report after an order was carried out goes at once, all others are merged to one
//! write per unit and second, of which the last one counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fleet_core::Revision;
use fleet_core::reconcile::{Ack, Pass};
use fleet_core::records::{RowPhase, StateRow};
use rand::RngExt as _;
use tokio::time::Instant;
use tracing::{debug, warn};
use unit_files::UnitName;

use super::registry::{Committed, RegistryFault, Report};

/// Between two writes of a row that says nothing new about an order.
const APART: Duration = Duration::from_secs(1);
/// What changes again within this time is not worth a write: a start that is over at once was never "starting".
const SETTLES: Duration = Duration::from_millis(250);
/// Rows in one report; the registry packs them into transactions.
const MOST_ROWS: usize = 512;
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(super) struct Publisher {
    /// As they stand in the registry; None until they have been read.
    committed: Option<BTreeMap<UnitName, StateRow>>,
    wanted: BTreeMap<UnitName, Option<StateRow>>,
    timing: BTreeMap<UnitName, Timing>,
    acks: BTreeMap<UnitName, Ack>,
    /// Decided already; the feed will say so.
    acknowledged: BTreeMap<UnitName, Revision>,
    in_flight: Option<Report>,
    not_before: Option<Instant>,
    failures: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Timing {
    written: Option<Instant>,
    changed: Option<Instant>,
}

impl Publisher {
    pub(super) fn has_rows(&self) -> bool {
        self.committed.is_some()
    }

    /// The rows as just read from the registry; how many differ from what was believed.
    pub(super) fn read(&mut self, rows: BTreeMap<UnitName, StateRow>) -> usize {
        let differences = self.committed.as_ref().map_or(0, |known| {
            let names: BTreeSet<&UnitName> = known.keys().chain(rows.keys()).collect();
            names.into_iter().filter(|name| known.get(*name) != rows.get(*name)).count()
        });
        self.committed = Some(rows);
        differences
    }

    /// What a pass wants to stand.
    pub(super) fn offer(&mut self, pass: &Pass, now: Instant) {
        let Some(committed) = &self.committed else { return };
        let acks = pass
            .acknowledgements
            .iter()
            .filter(|ack| self.acknowledged.get(&ack.unit).is_none_or(|decided| *decided != ack.modified));
        self.acks = acks.map(|ack| (ack.unit.clone(), ack.clone())).collect();
        let mut wanted: BTreeMap<UnitName, Option<StateRow>> = BTreeMap::new();
        for (name, row) in &pass.rows {
            if committed.get(name) != Some(row) {
                wanted.insert(name.clone(), Some(row.clone()));
            }
        }
        let stale = committed.keys().filter(|name| pass.rows_to_delete.contains(*name));
        wanted.extend(stale.map(|name| (name.clone(), None)));
        for (_, timing) in self.timing.iter_mut().filter(|(name, _)| !wanted.contains_key(*name)) {
            timing.changed = None;
        }
        for name in wanted.keys() {
            self.timing.entry(name.clone()).or_default().changed.get_or_insert(now);
        }
        self.wanted = wanted;
    }

    fn due_at(&self, name: &UnitName, row: Option<&StateRow>, now: Instant) -> Instant {
        let known = self.committed.as_ref().and_then(|committed| committed.get(name));
        if is_urgent(known, row) {
            return now;
        }
        let timing = self.timing.get(name).copied().unwrap_or_default();
        let settled = timing.changed.unwrap_or(now) + SETTLES;
        timing.written.map_or(settled, |written| settled.max(written + APART))
    }

    /// When there is something to write; None while a write is under way.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.in_flight.is_some() || self.committed.is_none() {
            return None;
        }
        let rows = self.wanted.iter().map(|(name, row)| self.due_at(name, row.as_ref(), now)).min();
        let due = if self.acks.is_empty() { rows } else { Some(now) };
        due.map(|due| self.not_before.map_or(due, |wait| due.max(wait)))
    }

    /// What is due now, as one report.
    pub(super) fn take(&mut self, now: Instant) -> Option<Report> {
        if self.due(now).is_none_or(|due| due > now) {
            return None;
        }
        let due = self.wanted.iter().filter(|(name, row)| self.due_at(name, row.as_ref(), now) <= now);
        let rows: Vec<_> = due.take(MOST_ROWS).map(|(name, row)| (name.clone(), row.clone())).collect();
        let committed = self.committed.as_ref();
        let is_of_order = |(name, row): &(UnitName, Option<StateRow>)| {
            is_urgent(committed.and_then(|committed| committed.get(name)), row.as_ref())
        };
        let report = Report {
            is_of_pass: !self.acks.is_empty() || rows.iter().any(is_of_order),
            acknowledgements: self.acks.values().cloned().collect(),
            rows,
        };
        self.in_flight = Some(report.clone());
        Some(report)
    }

    /// The answer to the report that was taken.
    pub(super) fn done(&mut self, answer: Result<Committed, RegistryFault>, now: Instant) {
        let Some(report) = self.in_flight.take() else { return };
        let committed = match answer {
            Ok(Committed { fenced: Some(why), .. }) => {
                // Our own presence, or the operator, ends this soon.
                debug!(%why, "state not written");
                self.not_before = Some(now + APART);
                return;
            }
            Ok(committed) => committed,
            Err(error) => {
                warn!(%error, "state not written, trying again");
                return self.back_off(now);
            }
        };
        (self.failures, self.not_before) = (0, None);
        let Some(known) = &mut self.committed else { return };
        for (name, row) in report.rows.into_iter().filter(|(name, _)| committed.rows.contains(name)) {
            let timing = self.timing.entry(name.clone()).or_default();
            timing.written = Some(now);
            if self.wanted.get(&name) == Some(&row) {
                self.wanted.remove(&name);
                timing.changed = None;
            }
            match row {
                Some(row) => drop(known.insert(name, row)),
                None => {
                    known.remove(&name);
                    self.timing.remove(&name);
                }
            }
        }
        for ack in report.acknowledgements {
            if committed.acknowledged.contains(&ack.unit) {
                if self.acks.get(&ack.unit) == Some(&ack) {
                    self.acks.remove(&ack.unit);
                }
                known.remove(&ack.unit);
                self.timing.remove(&ack.unit);
                self.acknowledged.insert(ack.unit, ack.modified);
            }
        }
        if !self.wanted.is_empty() || !self.acks.is_empty() {
            // Partly written: what is left is tried again, but not in a circle.
            let is_rest = self.wanted.len() < MOST_ROWS
                && committed.rows.is_empty()
                && committed.acknowledged.is_empty();
            if is_rest {
                self.back_off(now);
            }
        }
    }

    fn back_off(&mut self, now: Instant) {
        let bound = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + bound.mul_f64(rand::rng().random_range(0.3..=1.0)));
    }

    /// The registry answers again: no need to wait.
    pub(super) fn reconnected(&mut self) {
        (self.failures, self.not_before) = (0, None);
    }
}

/// Somebody waits for this: an order was carried out, or refused, or something runs that nobody ordered.
fn is_urgent(known: Option<&StateRow>, row: Option<&StateRow>) -> bool {
    let Some(row) = row else { return false };
    let applied = known.and_then(|known| known.applied);
    let refused = known.and_then(|known| known.refused.as_ref()).map(|refused| refused.number);
    let is_new_refusal = row.phase == RowPhase::Refused && row.refused.as_ref().map(|r| r.number) != refused;
    row.applied > applied || is_new_refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_core::Timestamp;
    use fleet_core::reconcile::{Local, Orders, reconcile};
    use fleet_core::records::Versioned;

    /// A row of a unit that has done the order of this number, or none.
    fn row(applied: Option<u64>, sub: &str) -> StateRow {
        let order = crate::agent::tests::an_order(1);
        let orders = Orders {
            by_unit: [(
                "a.service".parse().unwrap(),
                Versioned { value: order, created: Revision(1), modified: Revision(1) },
            )]
            .into(),
            ..Orders::none(Revision(1))
        };
        let local = Local::new(fleet_core::BootId::parse("b").unwrap());
        let pass = reconcile(&orders, &local, Timestamp(1));
        let number = applied.map(|sequence| crate::agent::tests::an_order(sequence).number);
        let row = pass.rows.into_values().next().unwrap();
        StateRow { applied: number, sub: sub.to_owned(), phase: RowPhase::Settled, ..row }
    }

    fn pass(row: StateRow) -> Pass {
        Pass { rows: [("a.service".parse().unwrap(), row)].into(), ..Pass::default() }
    }

    fn written(publisher: &mut Publisher, now: Instant) {
        let report = publisher.take(now).unwrap();
        let rows = report.rows.iter().map(|(name, _)| name.clone()).collect();
        publisher.done(Ok(Committed { rows, ..Committed::default() }), now);
    }

    fn with_rows() -> Publisher {
        let mut publisher = Publisher::default();
        publisher.read(BTreeMap::new());
        publisher
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_report_of_an_order_goes_at_once_and_others_once_a_second() {
        let (mut publisher, start) = (with_rows(), Instant::now());
        publisher.offer(&pass(row(Some(1), "running")), start);
        assert_eq!(publisher.due(start), Some(start));
        written(&mut publisher, start);
        assert_eq!(publisher.due(start), None);
        publisher.offer(&pass(row(Some(1), "exited")), start + Duration::from_millis(10));
        assert_eq!(publisher.due(start), Some(start + APART));
        publisher.offer(&pass(row(Some(2), "running")), start + Duration::from_millis(20));
        assert_eq!(publisher.due(start), Some(start));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_before_it_settles_is_not_written() {
        let (mut publisher, start) = (with_rows(), Instant::now());
        publisher.offer(&pass(row(None, "dead")), start);
        assert_eq!(publisher.due(start), Some(start + SETTLES));
        publisher.offer(&Pass::default(), start);
        assert_eq!(publisher.due(start), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_repeated_after_a_growing_wait() {
        let (mut publisher, mut now) = (with_rows(), Instant::now());
        publisher.offer(&pass(row(Some(1), "running")), now);
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            assert!(publisher.take(now).is_some());
            let fault = RegistryFault { doing: "write state", why: "connection refused".into() };
            publisher.done(Err(fault), now);
            let due = publisher.due(now).unwrap();
            last = due - now;
            assert!(!last.is_zero() && last <= LONGEST_RETRY);
            now = due;
        }
        assert!(last > Duration::from_secs(4), "{last:?}");
        publisher.reconnected();
        assert_eq!(publisher.due(now), Some(now));
    }
}
