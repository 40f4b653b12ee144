//! The next steps of one unit toward what is missing: nothing left of it, a text on disk, a run, a mark.
//!
//! Called by `unit`, which has decided that now is the time. Nothing here looks at what was carried out earlier.

use super::admission::Admission;
use super::goal::Goal;
use super::observed::JobKind;
use super::record::{Applied, DiskRecord, Intent};
use super::unit::{Doing, Subject, adopted, is_foreign, shadowed, waiting};
use super::{FetchProblem, Step};
use crate::records::{Reason, RowPhase, Wanted};

pub(super) fn remove(at: &Subject<'_>, record: &mut DiskRecord) -> Doing {
    let seen = at.seen;
    if !is_foreign(at, Some(record)) {
        if seen.is_up() {
            return stop(at, record);
        }
        if !seen.is_at_rest() || seen.has_leftovers() {
            return Doing::phase(RowPhase::Stopping);
        }
    }
    if seen.is_clean() {
        record.intent = None;
        record.settle(&at.local.boot);
        return Doing { is_gone: true, ..Doing::phase(RowPhase::Settled) };
    }
    let mut steps = Vec::new();
    if seen.is_failed() && !is_foreign(at, Some(record)) {
        steps.push(Step::ResetFailed);
    }
    if seen.is_pinned {
        steps.push(Step::Unpin);
    }
    if seen.on_disk.is_some() {
        steps.push(Step::Uninstall);
    }
    Doing::steps(RowPhase::Stopping, steps)
}

/// A stop that ended without ending the unit is asked for again, but not at once: something else starts it.
fn stop(at: &Subject<'_>, record: &mut DiskRecord) -> Doing {
    if let Some(result) = at.seen.has_ended(JobKind::Stop) {
        let text = match result {
            "done" => "stopped, but something else on this machine started it again; see `systemctl list-dependencies \
                       --reverse` and its sockets, paths and timers"
                .to_owned(),
            other => format!("the stop ended as {other:?} and the unit still runs; see its journal"),
        };
        record.retry(Reason::new("stop-failed", text), at.now);
        return waiting(record);
    }
    Doing::steps(RowPhase::Stopping, [Step::Stop])
}

/// Toward a text on disk, or a run.
pub(super) fn advance(at: &Subject<'_>, record: &mut DiskRecord, goal: Goal, admission: &Admission) -> Doing {
    let seen = at.seen;
    let is_stop_alone = goal.stop && !goal.text && !goal.start;
    if is_foreign(at, Some(record)) {
        let text = shadowed(at);
        record.refuse(Reason::new("shadowed", text), at.now);
        return waiting(record);
    }
    if !is_stop_alone {
        if let Some(doing) = not_admitted(at, record, admission) {
            return doing;
        }
        if goal.text
            && let Some(doing) = without_text(at, record)
        {
            return doing;
        }
    }
    if goal.stop && seen.is_up() {
        record.relaunch = goal.start && record.order.wanted != Wanted::Launched;
        return stop(at, record);
    }
    if !seen.is_at_rest() || (goal.text && seen.has_leftovers()) {
        return Doing::phase(RowPhase::Stopping);
    }
    record.intent = None;
    let mut steps = Vec::new();
    if goal.text {
        let is_let_go = !(seen.is_pinned || seen.is_failed());
        if seen.loaded.is_some() && !is_let_go {
            let failed = seen.is_failed().then_some(Step::ResetFailed);
            let pinned = seen.is_pinned.then_some(Step::Unpin);
            return Doing::steps(RowPhase::Loading, failed.into_iter().chain(pinned));
        }
        let (content, run_hash) = (record.order.content, record.order.run_hash);
        steps.push(Step::Install { content, run_hash });
        // Something of the host refers to it, so it stays loaded with the text it has.
        if seen.loaded.as_ref().is_some_and(|unit| unit.load != "not-found") {
            steps.push(Step::Reload);
        }
    }
    if !goal.start {
        return Doing::steps(RowPhase::Loading, steps);
    }
    record.intent = Some(Intent {
        toward: Applied::of(&record.order, &at.local.boot),
        previous: seen.invocation().map(str::to_owned),
        previous_condition: seen.loaded.as_ref().map_or(0, |unit| unit.condition_timestamp),
        since: at.now,
        was_queued: false,
    });
    steps.push(Step::Start);
    Doing::steps(RowPhase::Starting, steps)
}

/// Our mark beside a text that fleet 1.0 has left, by which the next look knows it. What is at rest is done with that.
pub(super) fn mark(at: &Subject<'_>, record: &mut DiskRecord, admission: &Admission) -> Doing {
    let seen = at.seen;
    if let Some(doing) = not_admitted(at, record, admission).or_else(|| without_text(at, record)) {
        return doing;
    }
    let (content, run_hash) = (record.order.content, record.order.run_hash);
    let mut steps = vec![Step::Install { content, run_hash }];
    if seen.loaded.as_ref().is_some_and(|unit| unit.load != "not-found") {
        steps.push(Step::Reload);
    }
    if !seen.is_at_rest() {
        return Doing::steps(RowPhase::Loading, steps);
    }
    if seen.invocation().is_some() {
        record.run = Some(adopted(at, record));
    }
    record.settle(&at.local.boot);
    Doing::steps(RowPhase::Settled, steps)
}

fn not_admitted(at: &Subject<'_>, record: &mut DiskRecord, admission: &Admission) -> Option<Doing> {
    match admission {
        Admission::Free => None,
        Admission::Refused(reason) => {
            record.refuse(reason.clone(), at.now);
            Some(waiting(record))
        }
        Admission::WaitsFor(other) => {
            let text = format!("waits until {other}, with which it conflicts, has left this machine");
            let mut doing = Doing::phase(RowPhase::Loading);
            doing.says.error = Some(Reason::new("waits-for-conflict", text));
            Some(doing)
        }
    }
}

/// The text is not here yet.
fn without_text(at: &Subject<'_>, record: &mut DiskRecord) -> Option<Doing> {
    let content = record.order.content;
    if at.local.contents.contains_key(&content) {
        return None;
    }
    let mut doing = Doing::phase(RowPhase::Loading);
    match at.local.fetch_problems.get(&content) {
        Some(FetchProblem::Absent(text)) if record.trouble.is_none() => {
            let text = format!("its text cannot be had: {text}; submit the unit again");
            record.refuse(Reason::new("content-missing", text), at.now);
            return Some(waiting(record));
        }
        // The wait is over: look again, and until then go on saying why.
        Some(FetchProblem::Absent(_)) => {
            let trouble = record.trouble.clone();
            record.refuse(trouble.map(|trouble| trouble.reason).unwrap_or_default(), at.now);
            doing = waiting(record);
            doing.fetch = Some(content);
        }
        Some(FetchProblem::Unreachable(text)) => {
            doing.says.error = Some(Reason::new("content-unreachable", text.clone()));
        }
        None => doing.fetch = Some(content),
    }
    Some(doing)
}
