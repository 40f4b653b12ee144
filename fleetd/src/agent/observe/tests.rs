//! The observer: what it looks at again, and what a look makes of what was known.

use super::super::due::{JOB_DELAY, LEFTOVERS_DELAY, SOFT_DELAY};
use super::*;

fn observer() -> (Observer, BTreeMap<UnitName, Observed>, UnitName) {
    let unit: UnitName = "a.service".parse().unwrap();
    let mut observer = Observer::new("/run/fleet/units".into());
    let mut observed = BTreeMap::from([(unit.clone(), Observed::default())]);
    observer.begin_steps(&unit, &mut observed);
    (observer, observed, unit)
}

fn ended(job: u32) -> SystemdEvent {
    let result = fleet_systemd::JobResult::Done;
    SystemdEvent::JobRemoved { job: JobId(job), unit: "a.service".into(), result }
}

fn queued(unit: &UnitName, job: u32) -> StepReport {
    StepReport::Queued { unit: unit.clone(), job: JobId(job), kind: JobKind::Start }
}

fn sight(look: Look) -> Sight {
    Sight { look, units: BTreeMap::new(), full: Some((BTreeSet::new(), Vec::new())) }
}

#[test]
fn a_unit_that_was_unloaded_while_it_was_looked_at_is_not_loaded() {
    let (mut observer, mut observed, unit) = observer();
    let names = BTreeSet::from([unit.clone()]);
    let look = observer.begin(&names, &observed, false);
    let status = UnitStatus {
        name: unit.clone(),
        load: fleet_systemd::LoadState::Loaded,
        active: fleet_systemd::ActiveState::Inactive,
        sub: "dead".into(),
        job: None,
        following: None,
    };
    let units = BTreeMap::from([(unit.clone(), (status, None))]);
    observer.absorb(Sight { units, ..sight(look) }, &mut observed, &names, Timestamp(2));
    assert!(observed[&unit].loaded.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_a_job_is_under_way_is_looked_at_once() {
    let (mut observer, mut observed, unit) = observer();
    observer.mark_all();
    let names = BTreeSet::from([unit.clone()]);
    observer.begin(&names, &observed, false);
    let changed = || SystemdEvent::UnitChanged { unit: "a.service".into(), state: None };
    observer.note(changed(), &observed);
    observer.report(queued(&unit, 7), &mut observed, Timestamp(1));
    observer.report(StepReport::Finished { unit }, &mut observed, Timestamp(1));
    observer.note(changed(), &observed);
    assert_eq!(observer.soft_due(), Some(Instant::now() + JOB_DELAY));
    observer.note(ended(7), &observed);
    assert!(observer.is_dirty());
    observer.note(changed(), &observed);
    assert_eq!(observer.soft_due(), Some(Instant::now() + SOFT_DELAY));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_a_look_has_shown_meanwhile_is_no_reason_for_another() {
    let (mut observer, mut observed, unit) = observer();
    let names = BTreeSet::from([unit.clone()]);
    observer.mark_all();
    observer.begin(&names, &observed, false);
    let told = |sub: &str| SystemdEvent::UnitChanged {
        unit: "a.service".into(),
        state: Some(UnitState {
            active: fleet_systemd::ActiveState::Active,
            sub: sub.into(),
            state_change: 5,
        }),
    };
    let shown = LoadedUnit {
        active: "active".into(),
        sub: "running".into(),
        state_change: 5,
        ..LoadedUnit::default()
    };
    observer.note(told("running"), &observed);
    observed.entry(unit).or_default().loaded = Some(shown);
    observer.harden(Instant::now() + JOB_DELAY, &observed);
    assert!(!observer.is_dirty());
    observer.note(told("running"), &observed);
    assert_eq!(observer.soft_due(), None);
    observer.note(told("exited"), &observed);
    observer.harden(Instant::now() + JOB_DELAY, &observed);
    assert!(observer.is_dirty());
}

#[tokio::test(start_paused = true)]
async fn what_a_stop_left_behind_is_looked_for_again_although_systemd_says_nothing() {
    let (mut observer, mut observed, unit) = observer();
    let names = BTreeSet::from([unit.clone()]);
    let status = UnitStatus {
        name: unit.clone(),
        load: fleet_systemd::LoadState::Loaded,
        active: fleet_systemd::ActiveState::Failed,
        sub: "failed".into(),
        job: None,
        following: None,
    };
    for (group, due) in [("", None), ("/system.slice/a.service", Some(LEFTOVERS_DELAY))] {
        observer.mark_all();
        let look = observer.begin(&names, &observed, false);
        let detail = UnitDetail {
            id: unit.to_string(),
            load: fleet_systemd::LoadState::Loaded,
            active: fleet_systemd::ActiveState::Failed,
            sub: "failed".into(),
            result: "signal".into(),
            invocation_id: None,
            condition_result: true,
            condition_timestamp: 1,
            fragment_path: "/run/fleet/units/a.service".into(),
            exec_main_status: 9,
            exec_main_code: 2,
            n_restarts: 0,
            main_pid: 0,
            control_group: group.to_owned(),
            active_enter_monotonic: 1,
            state_change: 1,
            need_daemon_reload: false,
            loaded_run_hash: None,
        };
        let units = BTreeMap::from([(unit.clone(), (status.clone(), Some(detail)))]);
        observer.absorb(Sight { units, ..sight(look) }, &mut observed, &names, Timestamp(2));
        assert_eq!(observer.soft_due(), due.map(|delay| Instant::now() + delay), "{group:?}");
        assert!(!observer.is_dirty());
    }
    observer.harden(Instant::now() + LEFTOVERS_DELAY, &observed);
    assert!(observer.is_dirty());
}

#[test]
fn the_end_of_a_job_is_kept_for_its_answer_over_a_resync() {
    let (mut observer, mut observed, unit) = observer();
    observer.note(ended(7), &observed);
    observer.note(SystemdEvent::Resync, &observed);
    observer.report(queued(&unit, 7), &mut observed, Timestamp(1));
    let names = BTreeSet::from([unit.clone()]);
    let look = observer.begin(&names, &observed, false);
    observer.absorb(sight(look), &mut observed, &names, Timestamp(2));
    let seen = &observed[&unit];
    assert!(seen.job.is_none() && seen.ended.as_ref().is_some_and(|ended| ended.result == "done"));
}

#[test]
fn a_job_whose_end_nobody_heard_of_is_over_when_a_full_look_does_not_show_it() {
    let (mut observer, mut observed, unit) = observer();
    observer.report(queued(&unit, 7), &mut observed, Timestamp(1));
    let names = BTreeSet::from([unit.clone()]);
    let look = observer.begin(&names, &observed, false);
    // Asked for while the look was under way: it proves nothing about this one.
    observer.report(queued(&unit, 8), &mut observed, Timestamp(1));
    observer.absorb(sight(look), &mut observed, &names, Timestamp(2));
    assert!(observed[&unit].job.is_some());
    observer.mark_all();
    let look = observer.begin(&names, &observed, false);
    observer.absorb(sight(look), &mut observed, &names, Timestamp(3));
    assert!(observed[&unit].job.is_none());
}
