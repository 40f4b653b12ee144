//! One unit, one pass: from what its order asks for and what is seen of it to its next steps.
//!
//! Text and links change only while the unit is at rest and unloaded, so that `ExecStop=` runs from the old text even
//! if somebody else reloads systemd. Nothing here waits: what is under way is looked at again in the next pass.

use unit_files::{ContentHash, UnitName};

use super::admission::Admission;
use super::goal::Goal;
use super::intent::{self, Fate};
use super::left::{is_asked_to_run, is_left_by_fleet_1};
use super::observed::{FailureKind, Fragment, JobKind, Observed};
use super::record::{DiskRecord, LONGEST_WAIT, Outcome, Run};
use super::row::{self, Says};
use super::toward::{advance, mark, remove};
use super::{Ack, Local, OrderSource, Pass, Step};
use crate::ids::BootId;
use crate::records::{Order, Reason, RowPhase, STALE_ORDER, Versioned, Wanted};
use crate::time::{Span, Timestamp};

/// How long the order number of a unit that is gone is kept for itself: longer than any write that its order could
/// have overtaken.
const TOMBSTONE_KEPT: Span = Span::from_secs(600);

/// The unit of a pass and where it is.
pub(super) struct Subject<'a> {
    pub name: &'a UnitName,
    pub local: &'a Local,
    pub seen: &'a Observed,
    pub now: Timestamp,
}

/// What one unit adds to a pass.
#[derive(Debug, Default)]
pub(super) struct Doing {
    pub steps: Vec<Step>,
    pub fetch: Option<ContentHash>,
    pub is_gone: bool,
    pub says: Says,
    pub look: Option<Timestamp>,
}

impl Doing {
    pub(super) fn phase(phase: RowPhase) -> Doing {
        Doing { says: Says { phase, ..Says::default() }, ..Doing::default() }
    }
    pub(super) fn steps(phase: RowPhase, steps: impl IntoIterator<Item = Step>) -> Doing {
        Doing { steps: steps.into_iter().collect(), ..Doing::phase(phase) }
    }
}

pub(super) fn with_order(
    at: &Subject<'_>,
    source: OrderSource,
    versioned: &Versioned<Order>,
    admission: &Admission,
    pass: &mut Pass,
) {
    let order = &versioned.value;
    let known = at.local.records.get(at.name);
    if let Some(doing) = stale(at, known, order) {
        pass.rows.insert(at.name.clone(), row(at, known, doing.says));
        return;
    }
    let mut record = known.cloned().unwrap_or_else(|| DiskRecord::new(order.clone()));
    record.accept(order);
    let mut doing = step(at, &mut record, admission);
    let is_settled = record.applied.as_ref().is_some_and(|applied| applied.number == record.order.number);
    let wants_to_act = known != Some(&record) || !doing.steps.is_empty() || doing.fetch.is_some();
    if let Some(error) = &at.local.state_directory_error
        && wants_to_act
    {
        let text = format!("nothing is done because the state directory cannot be written: {error}");
        let says = Says {
            phase: RowPhase::Retrying,
            error: Some(Reason::new("state-directory", text)),
            refused: None,
        };
        pass.rows.insert(at.name.clone(), row(at, known, says));
        pass.open.insert(at.name.clone());
        return;
    }
    pass.steps.extend(doing.steps.drain(..).map(|step| (at.name.clone(), step)));
    pass.fetch.extend(doing.fetch);
    if let Some(look) = doing.look {
        pass.look_at(look);
    }
    if !is_settled {
        pass.open.insert(at.name.clone());
    }
    if doing.is_gone && source == OrderSource::Registry {
        let (unit, number, modified) = (at.name.clone(), order.number, versioned.modified);
        pass.acknowledgements.push(Ack { unit, number, modified });
    } else {
        pass.rows.insert(at.name.clone(), row(at, Some(&record), doing.says));
    }
    if known != Some(&record) {
        pass.records.insert(at.name.clone(), record);
    }
}

/// There is an order that this release cannot read: the unit stays as it is, and the row says why.
pub(super) fn frozen(at: &Subject<'_>, why: &str, pass: &mut Pass) {
    let text = format!("its order cannot be read, so nothing is done: {why}; upgrade fleetd on this machine");
    let error = Some(Reason::new("unreadable-order", text));
    let says = Says { phase: RowPhase::Retrying, error, refused: None };
    pass.rows.insert(at.name.clone(), row(at, at.local.records.get(at.name), says));
}

/// No order says anything about the unit: never a reason to touch it.
pub(super) fn without_order(at: &Subject<'_>, source: OrderSource, pass: &mut Pass) {
    let known = at.local.records.get(at.name);
    if at.seen.is_up() && !is_foreign(at, known) {
        let says = Says { phase: RowPhase::Orphan, ..Says::default() };
        pass.rows.insert(at.name.clone(), row(at, known, says));
    }
    let Some(known) = known.filter(|_| source == OrderSource::Registry) else { return };
    if at.local.state_directory_error.is_some() {
        return;
    }
    let is_gone = known.order.wanted == Wanted::Gone && !at.seen.is_up();
    let is_of_another_boot = known.applied.as_ref().is_none_or(|applied| applied.boot != at.local.boot)
        && known.intent.is_none()
        && !at.seen.is_up();
    let mut record = known.clone();
    record.withdrawn = true;
    if is_gone && at.seen.is_at_rest() && !at.seen.is_clean() && !at.seen.is_busy {
        // Told to go, and stopped, before the order went: what is left of it is only files.
        note_failure(at, &mut record);
        let doing = if is_waiting(at, &record) { waiting(&record) } else { remove(at, &mut record) };
        if let Some(look) = doing.look {
            pass.look_at(look);
        }
        pass.steps.extend(doing.steps.into_iter().map(|step| (at.name.clone(), step)));
    } else if is_gone || is_of_another_boot {
        let since = *record.gone_at.get_or_insert(at.now);
        if at.now.since(since) >= TOMBSTONE_KEPT {
            pass.floor = pass.floor.max(record.order.number);
            pass.forget.insert(at.name.clone());
            return;
        }
        pass.look_at(since.plus(TOMBSTONE_KEPT));
    }
    if record != *known {
        pass.records.insert(at.name.clone(), record);
    }
}

fn row(at: &Subject<'_>, record: Option<&DiskRecord>, says: Says) -> crate::records::StateRow {
    row::row(record, at.seen, says, at.local.rows.get(at.name), &at.local.boot, at.now)
}

/// An order older than one that was accepted: a leader that was replaced, or a store that was rolled back.
fn stale(at: &Subject<'_>, known: Option<&DiskRecord>, order: &Order) -> Option<Doing> {
    let newest = known.map_or(at.local.floor, |record| record.order.number);
    let is_stale = match known {
        Some(_) => order.number < newest,
        None => order.number <= newest && newest != crate::ids::OrderNumber::default(),
    };
    is_stale.then(|| {
        let text = format!(
            "order {} is older than {newest}, which this machine has accepted; a newer order settles it",
            order.number
        );
        let mut doing = Doing::phase(RowPhase::Refused);
        doing.says.refused = Some((order.number, Reason::new(STALE_ORDER, text)));
        doing
    })
}

/// The state machine: notes what has happened in `record` and says what comes next.
fn step(at: &Subject<'_>, record: &mut DiskRecord, admission: &Admission) -> Doing {
    let (seen, boot) = (at.seen, &at.local.boot);
    if record.intent.as_ref().is_some_and(|intent| intent.toward.boot != *boot) {
        record.intent = None;
    }
    forget_what_is_over(at, record, admission);
    note_failure(at, record);
    if let Some(intent) = record.intent.clone() {
        let goal = Goal::of(&record.order, Some(&intent.toward), record, seen, boot);
        match intent::fate(&intent, record.order.run, seen, boot) {
            Fate::Pending => {
                if seen.has_job(JobKind::Start)
                    && let Some(noted) = &mut record.intent
                {
                    noted.was_queued = true;
                }
                if goal.is_reached() {
                    return Doing::phase(RowPhase::Starting);
                }
            }
            Fate::Over(run) => finish(record, run, boot),
            Fate::NotReached if seen.is_busy => return Doing::phase(RowPhase::Starting),
            Fate::NotReached if is_waiting(at, record) => return waiting(record),
            Fate::NotReached => record.intent = None,
        }
    }
    let base = record.intent.as_ref().map(|intent| &intent.toward).or(record.applied.as_ref());
    let goal = Goal::of(&record.order, base, record, seen, boot);
    if goal.is_reached() {
        if goal.adopt {
            record.run = Some(adopted(at, record));
        }
        record.settle(boot);
        let mut doing = Doing::phase(RowPhase::Settled);
        // A file of the host has outranked ours since: shown, and nothing is done about what runs.
        if seen.foreign_path().is_some() {
            doing.says.error = Some(Reason::new("shadowed", shadowed(at)));
        }
        return doing;
    }
    if seen.is_busy {
        return under_way(at, goal);
    }
    if is_waiting(at, record) {
        return waiting(record);
    }
    if goal.remove {
        return remove(at, record);
    }
    if goal.mark {
        return mark(at, record, admission);
    }
    advance(at, record, goal, admission)
}

/// A refusal whose cause has gone does not wait for its turn.
fn forget_what_is_over(at: &Subject<'_>, record: &mut DiskRecord, admission: &Admission) {
    let Some(trouble) = &record.trouble else { return };
    let is_over = match trouble.reason.code.as_str() {
        "content-missing" => at.local.contents.contains_key(&record.order.content),
        "conflict" | "unknown-feature" => *admission == Admission::Free,
        _ => false,
    };
    if is_over {
        record.trouble = None;
    }
}

fn finish(record: &mut DiskRecord, run: Run, boot: &BootId) {
    let Some(intent) = record.intent.take() else { return };
    record.applied = Some(intent.toward);
    record.run = Some(run);
    record.relaunch = false;
    if record.applied.as_ref().is_some_and(|applied| applied.number == record.order.number) {
        record.settle(boot);
    }
}

pub(super) fn adopted(at: &Subject<'_>, record: &DiskRecord) -> Run {
    let unit = at.seen.loaded.as_ref();
    Run {
        uid: record.order.uid.clone(),
        run_hash: record.order.run_hash,
        invocation: at.seen.invocation().map(str::to_owned),
        boot: at.local.boot.clone(),
        outcome: Outcome::Ran,
        result: unit.map(|unit| unit.result.clone()).unwrap_or_default(),
        exit_status: unit.and_then(|unit| unit.exit_status),
        error: None,
    }
}

fn note_failure(at: &Subject<'_>, record: &mut DiskRecord) {
    let Some(failure) = &at.seen.failure else { return };
    let reason = failure.reason.clone();
    let is_to_be_marked = is_left_by_fleet_1(&record.order, at.seen)
        && (at.seen.is_up() || (at.seen.is_at_rest() && !is_asked_to_run(&record.order)));
    // It counted as done with the mark, which is not there.
    if is_to_be_marked && at.seen.is_at_rest() {
        record.applied = None;
    }
    match failure.kind {
        // What is refused is moved; what is here already is not worth less for a mark that it lacks.
        FailureKind::Refusal if is_to_be_marked => record.retry(reason, at.now),
        FailureKind::Refusal => {
            record.intent = None;
            record.refuse(reason, at.now);
        }
        FailureKind::Conclusive if failure.at_start && record.intent.is_some() => {
            let run = Run { outcome: Outcome::NeverRan, error: Some(reason), ..adopted_nothing(at, record) };
            finish(record, run, &at.local.boot);
        }
        FailureKind::Conclusive | FailureKind::NotDone => {
            record.intent = None;
            record.retry(reason, at.now);
        }
        FailureKind::Unknown => {
            if !failure.at_start {
                record.intent = None;
            }
            record.retry(reason, at.now);
        }
    }
}

fn adopted_nothing(at: &Subject<'_>, record: &DiskRecord) -> Run {
    Run { invocation: None, result: String::new(), exit_status: None, ..adopted(at, record) }
}

fn is_waiting(at: &Subject<'_>, record: &DiskRecord) -> bool {
    // A clock that was set back makes nobody wait longer than the longest wait.
    let lasts = |next: Timestamp| next > at.now && next.since(at.now) <= LONGEST_WAIT;
    record.trouble.as_ref().is_some_and(|trouble| lasts(trouble.next))
}

/// What a row says of the trouble that holds the order up, and when it is tried again.
pub(super) fn waiting(record: &DiskRecord) -> Doing {
    let Some(trouble) = &record.trouble else { return Doing::phase(RowPhase::Loading) };
    let mut doing = Doing::phase(if trouble.is_refusal { RowPhase::Refused } else { RowPhase::Retrying });
    if trouble.is_refusal {
        doing.says.refused = Some((record.order.number, trouble.reason.clone()));
    } else {
        doing.says.error = Some(trouble.reason.clone());
    }
    doing.look = Some(trouble.next);
    doing
}

/// Steps of an earlier pass are on their way.
fn under_way(at: &Subject<'_>, goal: Goal) -> Doing {
    let is_stopping = goal.remove || (goal.stop && !at.seen.is_at_rest());
    Doing::phase(if is_stopping { RowPhase::Stopping } else { RowPhase::Loading })
}

/// The unit is the host's: its name is taken, and nothing of it is ours to touch.
pub(super) fn is_foreign(at: &Subject<'_>, record: Option<&DiskRecord>) -> bool {
    let Some(unit) = &at.seen.loaded else { return false };
    let ours = record.and_then(|record| record.run.as_ref()).filter(|run| run.boot == at.local.boot);
    let is_our_run =
        ours.is_some_and(|run| run.invocation.is_some() && run.invocation.as_deref() == at.seen.invocation());
    let applied = record.filter(|record| record.is_placed()).and_then(|record| record.applied.as_ref());
    let is_placed = applied.is_some_and(|applied| applied.boot == at.local.boot);
    match &unit.fragment {
        Fragment::Ours => false,
        Fragment::Foreign(_) => !is_our_run,
        // The file of what we put here has vanished under it.
        Fragment::None if unit.load == "not-found" => !(at.seen.is_at_rest() || is_our_run || is_placed),
        // Made by systemd itself, as a mount that it found.
        Fragment::None => !is_our_run && (unit.load == "loaded" || !at.seen.is_at_rest()),
    }
}

pub(super) fn shadowed(at: &Subject<'_>) -> String {
    let path = at.seen.foreign_path().unwrap_or("without a unit file");
    format!("this machine has a unit of that name of its own ({path}); rename the unit, or remove the host's")
}
