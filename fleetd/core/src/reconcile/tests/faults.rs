//! What goes wrong on a machine, and what is said and done about it.

use super::super::testing::*;
use super::super::*;
use crate::records::{Counters, Reason, RowPhase, Wanted};
use unit_files::Glob;

const A: &str = "a.service";
const B: &str = "b.service";

fn failure(kind: FailureKind, at_start: bool, code: &str) -> StepFailure {
    StepFailure { kind, at_start, reason: Reason::new(code, "text") }
}

fn refused(m: &Model, unit: &str) -> Option<String> {
    m.row(unit).refused.as_ref().map(|refused| refused.reason.code.clone())
}

#[test]
fn a_start_that_fails_counts_as_carried_out_and_is_not_repeated() {
    let mut m = Model::new();
    m.manners.insert(name(A), Manner::Fails);
    m.give(A, order(1, Wanted::Launched));
    m.settle();
    m.now += 10_000_000;
    m.settle();
    let row = m.row(A);
    assert_eq!((m.runs(A), row.applied, row.phase), (1, Some(number(1)), RowPhase::Settled));
    assert_eq!((row.active.as_str(), row.result.as_str()), ("failed", "exit-code"));
    assert!(row.last_error.is_some());
}

#[test]
fn what_systemd_judges_for_good_counts_as_carried_out_with_its_error() {
    let mut m = Model::new();
    m.inject.insert(name(A), failure(FailureKind::Conclusive, true, "bad-setting"));
    m.give(A, order(1, Wanted::Loaded));
    m.settle();
    // The first step was the installation, which is tried again; the start comes with the next order.
    m.now += 2_000;
    m.settle();
    m.inject.insert(name(A), failure(FailureKind::Conclusive, true, "bad-setting"));
    m.give(A, order(2, Wanted::Launched));
    m.settle();
    m.now += 10_000_000;
    m.settle();
    assert_eq!((m.runs(A), m.row(A).applied), (0, Some(number(2))));
    assert_eq!(m.row(A).last_error.as_ref().map(|e| e.code.as_str()), Some("bad-setting"));
}

#[test]
fn what_may_succeed_later_is_tried_again_after_a_growing_wait() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Launched));
    let mut waits = Vec::new();
    for _ in 0..4 {
        m.inject.insert(name(A), failure(FailureKind::NotDone, false, "bus"));
        m.pass(None);
        m.pass(None);
        assert_eq!(m.row(A).phase, RowPhase::Retrying);
        let next = m.last.next_look.unwrap();
        waits.push(next.0 - m.now);
        m.now = next.0;
    }
    assert_eq!(waits, [1_000, 2_000, 4_000, 8_000]);
    m.settle();
    assert!(m.is_active(A) && m.row(A).last_error.is_none());
}

#[test]
fn a_start_whose_answer_was_lost_is_judged_by_what_systemd_shows() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Launched));
    m.pass(None);
    m.run_jobs();
    m.crash();
    m.failures.insert(name(A), failure(FailureKind::Unknown, true, "timed-out"));
    m.settle();
    assert_eq!((m.runs(A), m.row(A).applied), (1, Some(number(1))));
}

#[test]
fn a_missing_text_is_refused_and_looked_for_again() {
    let mut m = Model::new();
    m.contents.clear();
    m.give(A, order(1, Wanted::Launched));
    m.pass(None);
    assert!(m.last.fetch.contains(&content(1)));
    m.problems.insert(content(1), FetchProblem::Absent("contents/… is not in the registry".into()));
    m.pass(None);
    assert_eq!((refused(&m, A).as_deref(), m.row(A).phase), (Some("content-missing"), RowPhase::Refused));
    assert_eq!(m.last.next_look, Some(Timestamp(m.now + 30_000)));
    m.now += 30_000;
    m.pass(None);
    assert!(m.last.fetch.contains(&content(1)));
    m.problems.clear();
    m.contents.insert(content(1), TextFacts::default());
    m.settle();
    assert!(m.is_active(A) && refused(&m, A).is_none());
}

#[test]
fn a_missing_new_text_leaves_the_old_one_running() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Launched));
    m.settle();
    m.contents.remove(&content(2));
    m.problems.insert(content(2), FetchProblem::Absent("gone".into()));
    m.give(A, with_text(order(2, Wanted::Launched), 2));
    m.settle();
    assert!(m.is_active(A) && m.stops(A) == 0);
    assert_eq!((refused(&m, A).as_deref(), m.row(A).applied), (Some("content-missing"), Some(number(1))));
}

#[test]
fn a_name_of_the_host_is_refused_and_its_unit_never_touched() {
    let mut m = Model::new();
    let fragment = Fragment::Foreign("/etc/systemd/system/a.service".into());
    let shown = LoadedUnit { fragment, run_hash: None, invocation: Some("x".into()), ..unit("active") };
    m.units.insert(name(A), ModelUnit { shown, job: None });
    m.give(A, order(1, Wanted::Launched));
    m.settle();
    let row = m.row(A);
    assert_eq!(refused(&m, A).as_deref(), Some("shadowed"));
    assert!(row.refused.as_ref().is_some_and(|r| r.reason.text.contains("/etc/systemd/system/a.service")));
    m.give(A, order(2, Wanted::Gone));
    m.settle();
    assert!(m.is_active(A) && m.stops(A) == 0 && m.acked == [name(A)]);
}

#[test]
fn what_runs_without_a_file_and_without_us_is_the_hosts_and_never_touched() {
    for load in ["loaded", "not-found"] {
        for wanted in [Wanted::Launched, Wanted::Loaded, Wanted::Gone] {
            let mut m = Model::new();
            let mut shown = LoadedUnit { load: load.into(), fragment: Fragment::None, ..unit("active") };
            (shown.run_hash, shown.invocation) = (None, Some("host".into()));
            m.units.insert(name(A), ModelUnit { shown, job: None });
            m.give(A, order(1, wanted));
            m.settle();
            assert_eq!((m.stops(A), m.runs(A)), (0, 0), "{load} {wanted:?}");
            let row = m.rows.get(A).and_then(|row| row.refused.as_ref());
            let is_said = row.is_some_and(|refused| refused.reason.code == "shadowed");
            assert_eq!(is_said, wanted != Wanted::Gone, "{load} {wanted:?}");
            m.orders.clear();
            m.settle();
            assert!(m.rows.is_empty(), "no orphan of ours: {load} {wanted:?}");
        }
    }
}

#[test]
fn what_we_put_here_is_ours_after_its_file_vanished() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Launched));
    m.settle();
    let shown = &mut m.units.get_mut(A).unwrap().shown;
    (shown.load, shown.fragment, shown.run_hash) = ("not-found".into(), Fragment::None, None);
    // It has been restarted by its own rules since.
    shown.invocation = Some("another".into());
    m.files.clear();
    m.give(A, order(2, Wanted::Gone));
    m.settle();
    assert_eq!((m.stops(A), m.acked.len()), (1, 1));
}

#[test]
fn a_file_of_the_host_that_outranks_ours_later_is_shown() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Launched));
    m.settle();
    m.units.get_mut(A).unwrap().shown.fragment = Fragment::Foreign("/etc/systemd/system/a.service".into());
    m.settle();
    let row = m.row(A);
    assert_eq!((row.phase, m.stops(A)), (RowPhase::Settled, 0));
    assert!(row.last_error.as_ref().is_some_and(|error| error.text.contains("/etc/systemd/system")));
}

#[test]
fn an_unknown_feature_is_refused_until_it_is_known() {
    let mut m = Model::new();
    let feature = "time-travel".to_owned();
    m.give(A, Order { features: [feature.clone()].into(), ..order(1, Wanted::Launched) });
    m.settle();
    assert_eq!((refused(&m, A).as_deref(), m.runs(A)), (Some("unknown-feature"), 0));
    m.features.insert(feature);
    m.settle();
    assert!(m.is_active(A));
}

#[test]
fn a_conflict_with_what_is_here_is_refused_in_both_directions() {
    let against = |glob: &str| vec![Glob::new(glob)];
    for (mine, theirs) in [(against("b*"), vec![]), (vec![], against("a*"))] {
        let mut m = Model::new();
        m.give(A, Order { conflicts: mine, ..order(1, Wanted::Launched) });
        m.settle();
        m.give(B, Order { conflicts: theirs, ..order(2, Wanted::Launched) });
        m.settle();
        assert_eq!((refused(&m, B).as_deref(), m.runs(B)), (Some("conflict"), 0));
        assert!(m.is_active(A));
        m.give(A, order(3, Wanted::Gone));
        m.settle();
        assert!(m.is_active(B), "free to start once the other has left");
    }
}

#[test]
fn of_two_new_units_in_conflict_the_older_order_wins() {
    let mut m = Model::new();
    m.give(A, Order { conflicts: vec![Glob::new("b*")], ..order(2, Wanted::Launched) });
    m.give(B, order(1, Wanted::Launched));
    m.settle();
    assert!(m.is_active(B) && !m.is_active(A));
    assert_eq!(refused(&m, A).as_deref(), Some("conflict"));
}

#[test]
fn what_conflicts_with_a_leaving_unit_waits_for_it_without_being_refused() {
    let mut m = Model::new();
    m.manners.insert(name(A), Manner::StopHangs);
    m.give(A, order(1, Wanted::Launched));
    m.settle();
    m.give(A, order(2, Wanted::Gone));
    m.give(B, Order { conflicts: vec![Glob::new("a*")], ..order(3, Wanted::Launched) });
    for _ in 0..4 {
        m.pass(None);
        m.run_jobs();
    }
    assert_eq!((m.row(B).phase, refused(&m, B)), (RowPhase::Loading, None));
    m.manners.remove(&name(A));
    m.settle();
    assert!(m.is_active(B));
}

#[test]
fn an_older_order_than_the_last_one_is_refused_and_changes_nothing() {
    let mut m = Model::new();
    m.give(A, order(5, Wanted::Launched));
    m.settle();
    m.give(A, Order { counters: Counters { stop: 9, ..Counters::default() }, ..order(4, Wanted::Loaded) });
    m.settle();
    assert_eq!((refused(&m, A).as_deref(), m.stops(A)), (Some("stale-order"), 0));
    m.give(A, order(4, Wanted::Gone));
    m.settle();
    assert!(m.is_active(A) && m.acked.is_empty());
}

#[test]
fn numbers_of_forgotten_units_live_on_in_the_floor() {
    let mut m = Model::new();
    m.give(A, order(5, Wanted::Launched));
    m.settle();
    m.give(A, order(6, Wanted::Gone));
    m.settle();
    m.now += 600_001;
    m.settle();
    assert!(m.disk.is_empty() && m.floor == number(6));
    m.give(A, order(5, Wanted::Launched));
    m.settle();
    assert_eq!((refused(&m, A).as_deref(), m.runs(A)), (Some("stale-order"), 1));
}

#[test]
fn nothing_is_done_while_the_disk_cannot_be_written() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Launched));
    m.settle();
    m.disk_error = Some("No space left on device".into());
    m.give(A, order(2, Wanted::Gone));
    m.give(B, order(3, Wanted::Launched));
    m.settle();
    for unit in [A, B] {
        let row = m.row(unit);
        assert_eq!(row.phase, RowPhase::Retrying);
        assert!(row.last_error.as_ref().is_some_and(|error| error.text.contains("No space left")));
    }
    assert!(m.is_active(A) && m.runs(B) == 0 && m.stops(A) == 0);
    m.disk_error = None;
    m.settle();
    assert!(m.is_active(B) && m.acked == [name(A)]);
}

#[test]
fn a_skipped_condition_is_carried_out_and_not_an_error() {
    let mut m = Model::new();
    m.manners.insert(name(A), Manner::Skipped);
    m.give(A, oneshot(order(1, Wanted::Launched)));
    m.settle();
    assert_eq!((m.runs(A), m.row(A).applied), (0, Some(number(1))));
    assert!(m.row(A).last_error.is_none());
    assert_eq!(m.disk[A].run.as_ref().map(|run| run.outcome), Some(Outcome::Skipped));
}

#[test]
fn while_steps_of_a_unit_are_carried_out_no_others_are_asked_for() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Launched));
    m.pass(None);
    m.give(A, order(2, Wanted::Gone));
    let mut local = m.local();
    local.observed.insert(name(A), Observed { is_busy: true, ..Observed::default() });
    let pass = reconcile(&m.orders(), &local, Timestamp(m.now));
    assert!(pass.steps.is_empty() && pass.acknowledgements.is_empty(), "{pass:?}");
    assert_eq!(pass.rows[A].phase, RowPhase::Starting);
}
