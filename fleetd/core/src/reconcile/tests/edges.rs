//! Launched is an edge: what a counter, a text, a boot and a local act lead to.

use super::super::testing::*;
use super::super::*;
use crate::ids::UnitUid;
use crate::records::{Counters, RowPhase, Wanted};

const A: &str = "a.service";

fn counters(start: u64, stop: u64, restart: u64) -> Counters {
    Counters { start, stop, restart }
}

fn ordered(sequence: u64, wanted: Wanted, counters: Counters) -> Order {
    Order { counters, ..order(sequence, wanted) }
}

/// A machine on which `a.service` runs under order 1.
fn running(manner: Manner) -> Model {
    let mut m = Model::new();
    m.manners.insert(name(A), manner);
    let first = ordered(1, Wanted::Launched, counters(1, 0, 0));
    m.give(A, if manner == Manner::Oneshot { oneshot(first) } else { first });
    m.settle();
    m
}

#[test]
fn a_launched_unit_is_installed_started_and_reported() {
    let m = running(Manner::RunsOn);
    let row = m.row(A);
    assert!(m.is_active(A) && m.runs(A) == 1 && m.stops(A) == 0);
    assert_eq!((row.phase, row.applied), (RowPhase::Settled, Some(number(1))));
    assert_eq!((row.running, row.on_disk), (Some(run_hash(1)), Some(content(1))));
    assert!(!row.invocation.is_empty() && row.last_error.is_none());
}

#[test]
fn a_loaded_unit_is_installed_and_not_started() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Loaded));
    m.settle();
    assert_eq!((m.runs(A), m.row(A).load.as_str(), m.row(A).active.as_str()), (0, "loaded", "inactive"));
    assert_eq!(m.row(A).applied, Some(number(1)));
}

#[test]
fn the_number_is_reported_only_when_the_start_is_over() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Launched));
    m.pass(None);
    assert_eq!((m.row(A).phase, m.row(A).applied), (RowPhase::Starting, None));
    m.pass(None);
    assert_eq!((m.row(A).phase, m.row(A).applied), (RowPhase::Starting, None));
    m.run_jobs();
    m.pass(None);
    assert_eq!((m.row(A).phase, m.row(A).applied), (RowPhase::Settled, Some(number(1))));
}

#[test]
fn a_higher_restart_counter_is_one_new_run_however_much_higher_it_is() {
    let mut m = running(Manner::RunsOn);
    m.give(A, ordered(2, Wanted::Launched, counters(1, 0, 2)));
    m.settle();
    assert_eq!((m.runs(A), m.stops(A)), (2, 1));
    assert_eq!(m.row(A).applied, Some(number(2)));
}

#[test]
fn a_stop_and_a_start_that_were_missed_are_one_new_run() {
    let mut m = running(Manner::RunsOn);
    m.give(A, ordered(3, Wanted::Launched, counters(2, 1, 0)));
    m.settle();
    assert_eq!((m.runs(A), m.stops(A)), (2, 1));
}

#[test]
fn a_start_after_a_stop_that_was_applied_is_only_a_start() {
    let mut m = running(Manner::RunsOn);
    m.give(A, ordered(2, Wanted::Loaded, counters(1, 1, 0)));
    m.settle();
    assert!(!m.is_active(A) && m.row(A).wanted == Some(Wanted::Loaded));
    m.give(A, ordered(3, Wanted::Launched, counters(2, 1, 0)));
    m.settle();
    assert_eq!((m.runs(A), m.stops(A)), (2, 1));
}

#[test]
fn a_higher_start_counter_leaves_alone_what_is_active() {
    let mut m = running(Manner::RunsOn);
    m.give(A, ordered(2, Wanted::Launched, counters(2, 0, 0)));
    m.settle();
    assert_eq!((m.runs(A), m.stops(A), m.row(A).applied), (1, 0, Some(number(2))));
}

#[test]
fn a_higher_start_counter_starts_what_was_stopped_locally() {
    let mut m = running(Manner::RunsOn);
    m.admin(A, JobKind::Stop);
    m.settle();
    assert!(!m.is_active(A), "a local stop is respected");
    assert_eq!(m.row(A).active, "inactive");
    m.give(A, ordered(2, Wanted::Launched, counters(2, 0, 0)));
    m.settle();
    assert!(m.is_active(A) && m.runs(A) == 2);
}

#[test]
fn a_oneshot_that_succeeded_is_run_again_by_a_restart_but_not_by_a_start() {
    let mut m = running(Manner::Oneshot);
    assert_eq!(m.runs(A), 1);
    m.give(A, oneshot(ordered(2, Wanted::Launched, counters(2, 0, 0))));
    m.settle();
    assert_eq!((m.runs(A), m.row(A).applied), (1, Some(number(2))));
    m.give(A, oneshot(ordered(3, Wanted::Launched, counters(2, 0, 1))));
    m.settle();
    assert_eq!(m.runs(A), 2);
}

#[test]
fn a_oneshot_that_failed_is_run_again_by_a_start() {
    let mut m = running(Manner::Fails);
    assert_eq!(m.row(A).last_error.as_ref().map(|e| e.code.as_str()), Some("start-failed"));
    m.give(A, oneshot(ordered(2, Wanted::Launched, counters(2, 0, 0))));
    m.settle();
    assert_eq!(m.runs(A), 2);
}

#[test]
fn an_order_to_load_stops_only_with_a_higher_stop_counter() {
    let mut m = running(Manner::RunsOn);
    m.give(A, ordered(2, Wanted::Loaded, counters(1, 0, 0)));
    m.settle();
    assert!(m.is_active(A) && m.stops(A) == 0);
    m.give(A, ordered(3, Wanted::Loaded, counters(1, 1, 0)));
    m.settle();
    assert!(!m.is_active(A) && m.stops(A) == 1);
    assert_eq!(m.row(A).on_disk, Some(content(1)), "it stays loaded");
}

#[test]
fn a_new_text_stops_the_old_unloads_it_and_starts_the_new() {
    let mut m = running(Manner::RunsOn);
    m.give(A, with_text(ordered(2, Wanted::Launched, counters(1, 0, 0)), 2));
    m.settle();
    assert_eq!((m.runs(A), m.stops(A)), (2, 1));
    assert_eq!((m.row(A).running, m.row(A).on_disk), (Some(run_hash(2)), Some(content(2))));
}

#[test]
fn a_new_text_runs_a_finished_oneshot_once_more() {
    let mut m = running(Manner::Oneshot);
    m.give(A, oneshot(with_text(ordered(2, Wanted::Launched, counters(1, 0, 0)), 2)));
    m.settle();
    assert_eq!((m.runs(A), m.stops(A)), (2, 0));
}

#[test]
fn a_new_text_with_the_same_meaning_touches_nothing_until_the_next_start() {
    let mut m = running(Manner::RunsOn);
    let same = Order { content: content(2), generation: crate::Generation(2), ..order(2, Wanted::Launched) };
    m.give(A, Order { counters: counters(1, 0, 0), ..same.clone() });
    m.settle();
    assert_eq!((m.runs(A), m.stops(A), m.row(A).on_disk), (1, 0, Some(content(1))));
    assert_eq!((m.row(A).generation.0, m.row(A).applied), (2, Some(number(2))));
    m.give(A, Order { number: number(3), counters: counters(1, 0, 1), ..same });
    m.settle();
    assert_eq!((m.runs(A), m.row(A).on_disk), (2, Some(content(2))));
}

#[test]
fn a_new_text_of_a_loaded_unit_that_runs_is_running_afterwards() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Loaded));
    m.settle();
    m.admin(A, JobKind::Start);
    m.give(A, with_text(order(2, Wanted::Loaded), 2));
    m.settle();
    assert!(m.is_active(A));
    assert_eq!((m.row(A).running, m.row(A).wanted), (Some(run_hash(2)), Some(Wanted::Loaded)));
}

#[test]
fn another_unit_of_the_same_name_replaces_the_old_one_even_with_the_same_text() {
    let mut m = running(Manner::RunsOn);
    let uid = UnitUid::parse("u2").unwrap();
    m.give(A, Order { uid: uid.clone(), ..ordered(2, Wanted::Launched, counters(0, 0, 0)) });
    m.settle();
    assert_eq!((m.runs(A), m.stops(A), &m.row(A).uid), (2, 1, &uid));
}

#[test]
fn a_text_that_stays_loaded_is_read_again_by_one_reload() {
    let mut m = Model::new();
    m.units.insert(name(A), ModelUnit { shown: unit("inactive"), job: None });
    m.give(A, with_text(order(1, Wanted::Launched), 2));
    m.pass(None);
    assert!(m.last.steps.contains(&(name(A), Step::Reload)), "{:?}", m.last.steps);
    m.settle();
    assert_eq!(m.row(A).running, Some(run_hash(2)));
}

#[test]
fn a_new_boot_launches_everything_once_oneshots_too() {
    for manner in [Manner::RunsOn, Manner::Oneshot] {
        let mut m = running(manner);
        m.reboot();
        m.settle();
        m.settle();
        assert_eq!((m.runs(A), m.stops(A)), (2, 0), "{manner:?}");
    }
}

#[test]
fn a_unit_that_runs_without_a_record_is_taken_over_as_it_is() {
    let mut m = running(Manner::RunsOn);
    m.disk.clear();
    m.give(A, ordered(9, Wanted::Launched, counters(5, 4, 3)));
    m.settle();
    assert_eq!((m.runs(A), m.stops(A)), (1, 0));
    assert_eq!((m.row(A).applied, m.row(A).counters), (Some(number(9)), counters(5, 4, 3)));
    assert_eq!(m.row(A).running, Some(run_hash(1)));
}

#[test]
fn a_oneshot_that_finished_without_a_record_is_not_repeated_while_its_pin_shows_the_run() {
    let mut m = running(Manner::Oneshot);
    m.disk.clear();
    m.give(A, oneshot(ordered(9, Wanted::Launched, counters(5, 4, 3))));
    m.settle();
    assert_eq!(m.runs(A), 1);
}

#[test]
fn gone_stops_removes_and_only_then_acknowledges() {
    let mut m = running(Manner::RunsOn);
    m.give(A, order(2, Wanted::Gone));
    m.pass(None);
    assert_eq!((m.row(A).phase, m.acked.len()), (RowPhase::Stopping, 0));
    m.settle();
    assert!(m.units.is_empty() && m.files.is_empty() && m.pins.is_empty());
    assert_eq!(m.acked, [name(A)]);
    assert!(m.rows.is_empty());
}

#[test]
fn gone_of_what_was_never_here_is_acknowledged_at_once() {
    let mut m = Model::new();
    m.give(A, order(1, Wanted::Gone));
    m.pass(None);
    assert_eq!(m.acked, [name(A)]);
    assert_eq!(m.stops(A), 0);
}

#[test]
fn gone_of_a_failed_unit_resets_it_and_leaves_nothing() {
    let mut m = running(Manner::Fails);
    m.give(A, order(2, Wanted::Gone));
    m.settle();
    assert!(m.units.is_empty() && m.files.is_empty() && m.acked == [name(A)]);
}

#[test]
fn a_unit_that_comes_back_to_a_machine_is_started_again() {
    let mut m = running(Manner::Oneshot);
    m.give(A, oneshot(order(2, Wanted::Gone)));
    m.settle();
    m.give(A, oneshot(ordered(3, Wanted::Launched, counters(1, 0, 0))));
    m.settle();
    assert_eq!(m.runs(A), 2);
}

#[test]
fn a_start_that_hangs_is_broken_off_by_a_stop() {
    let mut m = Model::new();
    m.manners.insert(name(A), Manner::Hangs);
    m.give(A, order(1, Wanted::Launched));
    m.pass(None);
    m.run_jobs();
    m.give(A, ordered(2, Wanted::Loaded, counters(0, 1, 0)));
    m.settle();
    assert_eq!((m.row(A).active.as_str(), m.row(A).applied), ("inactive", Some(number(2))));
}

#[test]
fn a_boot_id_that_changes_under_a_running_machine_repeats_nothing() {
    for manner in [Manner::RunsOn, Manner::Oneshot] {
        let mut m = running(manner);
        // The disk says another boot, and the pins say that it was none.
        m.boots += 1;
        m.settle();
        assert_eq!((m.runs(A), m.stops(A)), (1, 0), "{manner:?}");
    }
}
