//! What fleet 1.0 has left here: taken over without a stop, a start or a second run.

use super::super::testing::*;
use super::super::*;
use crate::records::{Counters, Reason, RowPhase, Wanted};

const A: &str = "a.service";

/// As fleet 1.0 leaves a unit of text 1: file and link without a mark, and what systemd has of it.
fn left(active: Option<&str>) -> Model {
    let mut m = Model::new();
    m.files.insert(name(A), OnDisk { content: content(1), run_hash: None, is_linked: true });
    if let Some(active) = active {
        let invocation = Some("before".to_owned());
        let shown = LoadedUnit { run_hash: None, invocation, ..unit(active) };
        m.units.insert(name(A), ModelUnit { shown, job: None });
    }
    m
}

/// Imported: launched, and nobody has asked this cluster for a start.
fn imported(sequence: u64) -> Order {
    order(sequence, Wanted::Launched)
}

fn invocation(m: &Model) -> Option<&str> {
    m.units.get(&name(A)).and_then(|unit| unit.shown.invocation.as_deref())
}

#[test]
fn what_runs_from_the_same_text_is_taken_over_with_one_reload_and_nothing_else() {
    let mut m = left(Some("active"));
    m.give(A, imported(1));
    m.pass(None);
    let steps: Vec<Step> = m.last.steps.iter().map(|(_, step)| *step).collect();
    assert_eq!(steps, [Step::Install { content: content(1), run_hash: run_hash(1) }, Step::Reload]);
    assert_eq!(m.row(A).applied, None);
    m.settle();
    let row = m.row(A);
    assert_eq!((row.phase, row.applied), (RowPhase::Settled, Some(number(1))));
    assert_eq!((row.running, row.invocation.as_str()), (Some(run_hash(1)), "before"));
    assert_eq!((m.runs(A), m.stops(A), invocation(&m)), (0, 0, Some("before")));
}

#[test]
fn a_takeover_survives_the_death_of_the_agent_at_every_step() {
    for dies in [Dies::BeforeRecords, Dies::AfterSteps(0), Dies::AfterSteps(1), Dies::AfterSteps(2)] {
        for active in [Some("active"), Some("failed"), None] {
            let mut m = left(active);
            m.give(A, imported(1));
            m.pass(Some(dies));
            m.settle();
            assert_eq!((m.runs(A), m.stops(A)), (0, 0), "{dies:?} {active:?}");
            assert_eq!(m.row(A).applied, Some(number(1)), "{dies:?} {active:?}");
        }
    }
}

#[test]
fn what_has_ended_or_failed_under_fleet_1_stays_as_it_is_until_somebody_asks_for_a_start() {
    for active in [Some("failed"), None] {
        let mut m = left(active);
        m.give(A, imported(1));
        m.settle();
        assert_eq!((m.runs(A), m.row(A).phase), (0, RowPhase::Settled), "{active:?}");
        assert_eq!(m.row(A).active, active.unwrap_or("inactive"));
        m.give(A, Order { counters: Counters { start: 1, stop: 0, restart: 0 }, ..imported(2) });
        m.settle();
        assert_eq!((m.runs(A), m.is_active(A)), (1, true), "{active:?}");
    }
}

#[test]
fn a_start_that_was_asked_for_before_the_takeover_is_carried_out() {
    let mut m = left(None);
    m.give(A, Order { counters: Counters { start: 1, stop: 0, restart: 0 }, ..imported(1) });
    m.settle();
    assert_eq!((m.runs(A), m.is_active(A)), (1, true));
}

#[test]
fn a_loaded_unit_is_taken_over_and_not_started() {
    let mut m = left(None);
    m.give(A, order(1, Wanted::Loaded));
    m.settle();
    assert_eq!((m.runs(A), m.row(A).applied), (0, Some(number(1))));
    assert_eq!(m.files[&name(A)].run_hash, Some(run_hash(1)));
}

#[test]
fn another_text_than_the_one_left_is_a_restart() {
    let mut m = left(Some("active"));
    m.give(A, with_text(imported(1), 2));
    m.settle();
    assert_eq!((m.runs(A), m.stops(A)), (1, 1));
    assert_eq!(m.row(A).running, Some(run_hash(2)));
}

#[test]
fn a_new_text_after_the_takeover_restarts_once() {
    let mut m = left(Some("active"));
    m.give(A, imported(1));
    m.settle();
    m.give(A, with_text(imported(2), 2));
    m.settle();
    assert_eq!((m.runs(A), m.stops(A)), (1, 1));
}

#[test]
fn a_machine_that_boots_again_starts_what_was_taken_over() {
    let mut m = left(None);
    m.give(A, imported(1));
    m.settle();
    m.reboot();
    m.settle();
    assert_eq!((m.runs(A), m.is_active(A)), (1, true));
}

#[test]
fn a_stop_that_was_asked_for_before_the_takeover_is_carried_out() {
    let mut m = left(Some("active"));
    m.give(A, Order { counters: Counters { start: 0, stop: 1, restart: 0 }, ..order(1, Wanted::Loaded) });
    m.settle();
    assert_eq!((m.runs(A), m.stops(A), m.is_active(A)), (0, 1, false));
    assert_eq!((m.row(A).phase, m.row(A).applied), (RowPhase::Settled, Some(number(1))));
}

#[test]
fn a_restart_that_was_asked_for_before_the_takeover_is_one_new_run() {
    let mut m = left(Some("active"));
    m.give(A, Order { counters: Counters { start: 0, stop: 0, restart: 1 }, ..imported(1) });
    m.settle();
    assert_eq!((m.runs(A), m.stops(A), m.is_active(A)), (1, 1, true));
    assert_eq!((m.row(A).running, m.row(A).applied), (Some(run_hash(1)), Some(number(1))));
}

#[test]
fn while_the_daemon_of_fleet_1_runs_the_takeover_waits_five_seconds_at_a_time_and_is_no_refusal() {
    for active in [Some("active"), Some("failed"), None] {
        let mut m = left(active);
        m.give(A, imported(1));
        for _ in 0..20 {
            let reason = Reason::new(FLEET_1_RUNS, "it runs");
            let failure = StepFailure { kind: FailureKind::NotDone, at_start: false, reason };
            m.inject.insert(name(A), failure);
            m.pass(None);
            m.pass(None);
            let row = m.row(A);
            let told = (row.phase, row.refused.is_none(), row.applied);
            assert_eq!(told, (RowPhase::Retrying, true, None), "{active:?}");
            assert_eq!(row.last_error.as_ref().map(|error| error.code.as_str()), Some(FLEET_1_RUNS));
            m.now += 5_001;
        }
        m.settle();
        assert_eq!((m.runs(A), m.stops(A), m.row(A).applied), (0, 0, Some(number(1))), "{active:?}");
        assert_eq!(m.files[&name(A)].run_hash, Some(run_hash(1)), "{active:?}");
    }
}

#[test]
fn a_mark_that_the_machine_refuses_is_tried_again_and_moves_nothing() {
    for active in [Some("active"), Some("failed"), None] {
        let mut m = left(active);
        m.give(A, imported(1));
        let reason = Reason::new("shadowed", "something has the name");
        m.inject.insert(name(A), StepFailure { kind: FailureKind::Refusal, at_start: false, reason });
        m.pass(None);
        m.pass(None);
        assert_eq!((m.row(A).phase, m.row(A).refused.is_none()), (RowPhase::Retrying, true), "{active:?}");
        m.now += 1_001;
        m.settle();
        assert_eq!((m.runs(A), m.stops(A), m.row(A).applied), (0, 0, Some(number(1))), "{active:?}");
        assert_eq!(m.files[&name(A)].run_hash, Some(run_hash(1)), "{active:?}");
    }
}

#[test]
fn what_fleet_1_has_left_and_nobody_orders_is_only_shown() {
    let mut m = left(Some("active"));
    m.settle();
    assert_eq!((m.row(A).phase, m.stops(A)), (RowPhase::Orphan, 0));
    assert_eq!(m.files[&name(A)].run_hash, None);
}

#[test]
fn files_of_what_was_told_to_go_wait_too_while_the_daemon_of_fleet_1_runs() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Loaded));
    m.settle();
    m.give(A, order(2, Wanted::Gone));
    m.pass(Some(Dies::AfterSteps(0)));
    m.orders.clear();
    let mut tries = 0;
    for _ in 0..20 {
        let reason = Reason::new(FLEET_1_RUNS, "it runs");
        m.inject.insert(name(A), StepFailure { kind: FailureKind::NotDone, at_start: false, reason });
        m.pass(None);
        tries += m.last.steps.len();
    }
    assert_eq!(tries, 1, "once in five seconds");
    m.inject.clear();
    m.now += 5_001;
    m.settle();
    assert!(!m.files.contains_key(&name(A)));
}
