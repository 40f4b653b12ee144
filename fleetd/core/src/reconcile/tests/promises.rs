//! Promises that show at this level.

use super::super::testing::*;
use super::super::*;
use crate::records::{Counters, RowPhase, Wanted};

const A: &str = "a.service";

fn launched(manner: Manner) -> Model {
    let mut m = Model::new();
    m.manners.insert(name(A), manner);
    m.give(A, order(1, Wanted::Launched));
    m.settle();
    m
}

#[test]
fn p1_a_missing_order_stops_nothing_and_shows_an_orphan() {
    let mut m = launched(Manner::RunsOn);
    m.orders.clear();
    m.settle();
    m.now += 10_000_000;
    m.settle();
    assert!(m.is_active(A) && m.stops(A) == 0);
    let row = m.row(A);
    assert_eq!((row.phase, row.running), (RowPhase::Orphan, Some(run_hash(1))));
    m.give(A, order(2, Wanted::Launched));
    m.settle();
    assert_eq!((m.runs(A), m.row(A).phase), (1, RowPhase::Settled));
}

#[test]
fn p1_what_runs_without_record_and_without_order_is_only_reported() {
    let mut m = launched(Manner::RunsOn);
    m.orders.clear();
    m.disk.clear();
    m.rows.clear();
    m.settle();
    assert!(m.is_active(A) && m.stops(A) == 0);
    assert_eq!((m.row(A).phase, m.row(A).uid.as_str()), (RowPhase::Orphan, "unknown"));
}

#[test]
fn p1_a_gone_that_disappears_before_the_stop_stops_nothing() {
    let mut m = launched(Manner::RunsOn);
    m.give(A, order(2, Wanted::Gone));
    m.pass(Some(Dies::AfterSteps(0)));
    m.orders.clear();
    m.settle();
    assert!(m.is_active(A) && m.stops(A) == 0);
}

#[test]
fn p1_an_order_that_cannot_be_read_leaves_the_unit_as_it_is() {
    let m = launched(Manner::RunsOn);
    let mut orders = Orders::none(Revision(9));
    orders.frozen.insert(name(A), "unknown variant `paused`".into());
    let pass = reconcile(&orders, &m.local(), Timestamp(m.now));
    assert!(pass.steps.is_empty() && pass.records.is_empty() && pass.rows_to_delete.is_empty());
    assert!(pass.rows[A].last_error.as_ref().is_some_and(|error| error.text.contains("paused")));
}

#[test]
fn p3_an_agent_that_comes_back_does_nothing() {
    for manner in [Manner::RunsOn, Manner::Oneshot, Manner::Fails, Manner::Skipped] {
        let mut m = launched(manner);
        let (runs, log) = (m.runs(A), m.log.clone());
        m.crash();
        m.rows.clear();
        m.pass(None);
        assert!(m.last.steps.is_empty() && m.last.records.is_empty(), "{manner:?}: {:?}", m.last);
        assert_eq!((m.runs(A), &m.log), (runs, &log));
    }
}

#[test]
fn p3_a_oneshot_runs_once_wherever_the_agent_dies_in_its_start() {
    for steps in 0..4 {
        for jobs_run_meanwhile in [false, true] {
            for dies in [Dies::BeforeRecords, Dies::AfterSteps(steps)] {
                let mut m = Model::new();
                m.manners.insert(name(A), Manner::Oneshot);
                m.give(A, oneshot(order(1, Wanted::Launched)));
                m.pass(Some(dies));
                if jobs_run_meanwhile {
                    m.run_jobs();
                    m.crash();
                }
                m.settle();
                assert_eq!(m.runs(A), 1, "{dies:?} {jobs_run_meanwhile}");
                assert_eq!(m.row(A).applied, Some(number(1)));
            }
        }
    }
}

#[test]
fn p3_a_restart_is_one_new_run_wherever_the_agent_dies_in_it() {
    for manner in [Manner::RunsOn, Manner::Oneshot] {
        for dies_in_pass in 0..5 {
            for steps in 0..4 {
                let mut m = launched(manner);
                let counters = Counters { restart: 1, ..Counters::default() };
                m.give(A, with_text(Order { counters, ..order(2, Wanted::Launched) }, 2));
                for _ in 0..dies_in_pass {
                    m.pass(None);
                    m.run_jobs();
                }
                m.pass(Some(Dies::AfterSteps(steps)));
                m.run_jobs();
                m.crash();
                m.settle();
                assert_eq!(m.runs(A), 2, "{manner:?} {dies_in_pass} {steps}");
                assert_eq!(m.row(A).running.is_some(), manner == Manner::RunsOn);
            }
        }
    }
}

#[test]
fn p7_units_that_fail_hang_or_do_not_stop_delay_no_other() {
    let mut m = Model::new();
    m.manners.insert(name("stuck.service"), Manner::StopHangs);
    m.give("stuck.service", order(1, Wanted::Launched));
    m.settle();
    m.manners.insert(name("fails.service"), Manner::Fails);
    m.manners.insert(name("hangs.service"), Manner::Hangs);
    m.give("stuck.service", order(2, Wanted::Gone));
    m.give("fails.service", order(3, Wanted::Launched));
    m.give("hangs.service", order(4, Wanted::Launched));
    m.give("textless.service", with_text(order(5, Wanted::Launched), 99));
    m.give("good.service", order(6, Wanted::Launched));
    m.pass(None);
    m.run_jobs();
    m.pass(None);
    assert!(m.is_active("good.service"));
    assert_eq!(m.row("good.service").applied, Some(number(6)));
    assert_eq!(m.row("stuck.service").phase, RowPhase::Stopping);
    assert_eq!(m.row("hangs.service").phase, RowPhase::Starting);
}

#[test]
fn p8_at_rest_nothing_is_written_and_no_row_changes() {
    let mut m = launched(Manner::RunsOn);
    let rows = m.rows.clone();
    for _ in 0..5 {
        m.now += 900_000;
        m.pass(None);
        assert!(m.last.records.is_empty() && m.last.steps.is_empty() && m.last.next_look.is_none());
        assert_eq!(m.rows, rows);
    }
}

#[test]
fn offline_boot_starts_what_was_launched_and_acknowledges_nothing() {
    let mut m = launched(Manner::RunsOn);
    m.give("b.service", order(2, Wanted::Loaded));
    m.settle();
    m.orders.clear();
    m.source = OrderSource::Disk;
    m.reboot();
    m.pass(None);
    m.run_jobs();
    m.pass(None);
    assert!(m.is_active(A) && m.runs("b.service") == 0);
    assert!(m.files.contains_key("b.service") && m.last.acknowledgements.is_empty());
}
