//! What the machine says of a unit: the row under `states/`.
//!
//! A row that says the same as the last one *is* the last one, byte for byte, so that nothing is written at rest.

use super::observed::Observed;
use super::record::{DiskRecord, Outcome, Run};
use crate::ids::{BootId, OrderNumber, UnitUid};
use crate::records::{Reason, Refused, RowPhase, SCHEMA, StateRow};
use crate::time::Timestamp;

/// What a row says besides what is seen and on disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Says {
    pub phase: RowPhase,
    pub error: Option<Reason>,
    pub refused: Option<(OrderNumber, Reason)>,
}

/// `record` is None for what runs here and was never ordered as far as this disk knows.
pub(super) fn row(
    record: Option<&DiskRecord>,
    seen: &Observed,
    says: Says,
    last: Option<&StateRow>,
    boot: &BootId,
    now: Timestamp,
) -> StateRow {
    let applied = record.and_then(|record| record.applied.as_ref());
    let run = record.and_then(|record| record.run.as_ref());
    let unit = seen.loaded.as_ref();
    let invocation = unit.and_then(|unit| unit.invocation.as_deref());
    let is_our_run = |run: &&Run| match invocation {
        Some(id) if run.outcome == Outcome::Ran => run.invocation.as_deref() == Some(id),
        _ => !seen.is_up(),
    };
    let our_run = run.filter(is_our_run);
    let is_running = !seen.is_at_rest();
    let load = match unit {
        Some(unit) => unit.load.as_str(),
        // systemd forgets what is at rest and would find it again.
        None if seen.on_disk.is_some() => "loaded",
        None => "not-found",
    };
    let active = unit.map_or("inactive", |unit| unit.active.as_str());
    let sub = unit.map_or("dead", |unit| unit.sub.as_str());
    let ran = unit.filter(|unit| unit.invocation.is_some());
    let result = ran.map(|unit| unit.result.clone()).or_else(|| our_run.map(|run| run.result.clone()));
    let exit_status = ran.map(|unit| unit.exit_status).or_else(|| our_run.map(|run| run.exit_status));
    let running = our_run.map(|run| run.run_hash).or_else(|| seen.loaded_run_hash());
    let row = StateRow {
        v: last.map_or(SCHEMA, |last| last.v.max(SCHEMA)),
        uid: applied
            .map(|applied| applied.uid.clone())
            .or_else(|| record.map(|record| record.order.uid.clone()))
            .or_else(|| last.map(|last| last.uid.clone()))
            .unwrap_or_else(unknown_uid),
        applied: applied.map(|applied| applied.number),
        wanted: applied.map(|applied| applied.wanted),
        counters: applied.map(|applied| applied.counters).unwrap_or_default(),
        phase: says.phase,
        phase_since: now,
        load: load.to_owned(),
        active: active.to_owned(),
        sub: sub.to_owned(),
        result: result.unwrap_or_default(),
        exit_status: exit_status.flatten(),
        generation: applied.map(|applied| applied.generation).unwrap_or_default(),
        unit_hash: applied.map(|applied| applied.unit_hash),
        on_disk: seen.on_disk.map(|text| text.content),
        running: running.filter(|_| is_running),
        invocation: invocation
            .or_else(|| our_run.and_then(|run| run.invocation.as_deref()))
            .unwrap_or_default()
            .to_owned(),
        restarts: unit.map_or(0, |unit| unit.n_restarts),
        since: unit
            .filter(|unit| unit.state_change != 0)
            .map_or(now, |unit| Timestamp(unit.state_change / 1000)),
        last_error: says.error.or_else(|| our_run.and_then(|run| run.error.clone())),
        refused: says.refused.map(|(number, reason)| Refused { number, reason }),
        boot: Some(boot.clone()),
        at: now,
        extra: last.map(|last| last.extra.clone()).unwrap_or_default(),
    };
    match last {
        Some(last) => keep_times(row, last, now),
        None => row,
    }
}

/// Takes over from the last row the times of what has not changed.
fn keep_times(mut row: StateRow, last: &StateRow, now: Timestamp) -> StateRow {
    if row.phase == last.phase {
        row.phase_since = last.phase_since;
    }
    if (&row.active, &row.sub, &row.invocation) == (&last.active, &last.sub, &last.invocation) {
        row.since = last.since;
    }
    row.at = last.at;
    if row != *last {
        row.at = now;
    }
    row
}

/// For what runs here although neither disk nor registry knows whose it is.
fn unknown_uid() -> UnitUid {
    UnitUid::parse("unknown").expect("seven letters are a valid id")
}
