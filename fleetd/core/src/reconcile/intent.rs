//! What became of a start that was written ahead: "ran", "skipped" and "never ran" are told apart, after a crash too.
//!
//! A start is preceded by a pin, which keeps the unit loaded after it ended; so what systemd shows of a pinned unit is
//! evidence. Where the evidence is gone nothing is repeated that must not be.

use super::observed::{JobKind, LoadedUnit, Observed};
use super::record::{Intent, Outcome, Run};
use crate::ids::BootId;
use crate::records::{Reason, RunKind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The job is queued or runs.
    Pending,
    Over(Run),
    /// It never got as far as running, and may be asked for again.
    NotReached,
}

pub(super) fn fate(intent: &Intent, kind: RunKind, seen: &Observed, boot: &BootId) -> Fate {
    if intent.toward.boot != *boot {
        return Fate::NotReached;
    }
    if seen.has_job(JobKind::Start) {
        return Fate::Pending;
    }
    let unit = seen.loaded.as_ref();
    let invocation = unit.and_then(|unit| unit.invocation.as_ref());
    if invocation.is_some() && invocation != intent.previous.as_ref() {
        let error = seen.has_ended(JobKind::Start).and_then(|result| job_error(result, unit));
        return over(intent, boot, Outcome::Ran, unit, error);
    }
    // Another time, not a later one: the clock may have been set back.
    let is_checked = |unit: &LoadedUnit| unit.condition_timestamp != 0;
    if unit.is_some_and(|unit| is_checked(unit) && unit.condition_timestamp != intent.previous_condition) {
        let error = seen.has_ended(JobKind::Start).filter(|result| *result != "done");
        let error = error.and_then(|result| job_error(result, unit));
        return over(intent, boot, Outcome::Skipped, unit, error);
    }
    match seen.has_ended(JobKind::Start) {
        // Loaded and over without a trace: units without processes of their own on some systemds.
        Some("done") => over(intent, boot, Outcome::Ran, unit, None),
        Some(result) => over(intent, boot, Outcome::NeverRan, unit, job_error(result, unit)),
        None if seen.is_pinned || !intent.was_queued => Fate::NotReached,
        None if kind == RunKind::Continuous => Fate::NotReached,
        None => {
            let text = "the unit was unloaded before its result could be read; it is not run again by itself. \
                        See its journal, then `fleetctl restart` it if it has to run";
            over(intent, boot, Outcome::Unknown, unit, Some(Reason::new("result-unknown", text)))
        }
    }
}

fn over(
    intent: &Intent,
    boot: &BootId,
    outcome: Outcome,
    unit: Option<&LoadedUnit>,
    error: Option<Reason>,
) -> Fate {
    let toward = &intent.toward;
    // Without a run of its own, what systemd shows belongs to an earlier one.
    let shown = unit.filter(|_| outcome == Outcome::Ran);
    Fate::Over(Run {
        uid: toward.uid.clone(),
        run_hash: toward.run_hash,
        invocation: shown.and_then(|unit| unit.invocation.clone()),
        boot: boot.clone(),
        outcome,
        result: shown.map_or_else(String::new, |unit| unit.result.clone()),
        exit_status: shown.and_then(|unit| unit.exit_status),
        error,
    })
}

fn job_error(result: &str, unit: Option<&LoadedUnit>) -> Option<Reason> {
    let text = match result {
        "done" | "skipped" => return None,
        // Nothing was started that could have failed. It is how systemd tells of a trigger without what it triggers, and
        // fleet places both where it likes unless one of them says otherwise.
        "failed" if unit.is_some_and(|unit| unit.result == "success") => {
            "systemd refused the start; see the unit's journal. A socket, timer or path needs its service on the same \
             machine: load that, and name it with MachineOf="
                .to_owned()
        }
        "failed" => {
            let result = unit.map_or("unknown", |unit| unit.result.as_str());
            format!("the start failed (result {result}); see the unit's journal")
        }
        "timeout" => {
            "the start did not end within the time that systemd gives it; see the unit's journal".to_owned()
        }
        "dependency" => "a unit that it requires failed to start; see the unit's journal".to_owned(),
        "canceled" => "the start was cancelled by a stop".to_owned(),
        "assert" => "an assertion of the unit (Assert...=) was not met".to_owned(),
        other => format!("the start ended as {other:?}; see the unit's journal"),
    };
    Some(Reason::new(&format!("start-{result}"), text))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{boot, order, unit};
    use super::*;
    use crate::reconcile::record::Applied;
    use crate::records::Wanted;
    use crate::time::Timestamp;

    fn intent(previous: Option<&str>) -> Intent {
        Intent {
            toward: Applied::of(&order(1, Wanted::Launched), &boot(1)),
            previous: previous.map(str::to_owned),
            previous_condition: if previous.is_some() { 7 } else { 0 },
            since: Timestamp(1),
            was_queued: false,
        }
    }

    fn outcome(intent: &Intent, seen: &Observed) -> Option<Outcome> {
        match fate(intent, RunKind::Oneshot, seen, &boot(1)) {
            Fate::Over(run) => Some(run.outcome),
            Fate::Pending | Fate::NotReached => None,
        }
    }

    fn pinned(loaded: LoadedUnit) -> Observed {
        Observed { loaded: Some(loaded), is_pinned: true, ..Observed::default() }
    }

    #[test]
    fn a_new_invocation_means_that_it_ran() {
        let seen = pinned(LoadedUnit { invocation: Some("b".into()), ..unit("inactive") });
        assert_eq!(outcome(&intent(None), &seen), Some(Outcome::Ran));
        assert_eq!(outcome(&intent(Some("a")), &seen), Some(Outcome::Ran));
    }

    #[test]
    fn the_invocation_noted_before_proves_nothing() {
        let seen =
            pinned(LoadedUnit { invocation: Some("a".into()), condition_timestamp: 7, ..unit("inactive") });
        assert_eq!(fate(&intent(Some("a")), RunKind::Oneshot, &seen, &boot(1)), Fate::NotReached);
    }

    #[test]
    fn a_condition_checked_since_without_a_run_means_skipped() {
        let seen = pinned(LoadedUnit { condition_timestamp: 5, ..unit("inactive") });
        assert_eq!(outcome(&intent(None), &seen), Some(Outcome::Skipped));
        let seen =
            pinned(LoadedUnit { invocation: Some("a".into()), condition_timestamp: 8, ..unit("inactive") });
        assert_eq!(outcome(&intent(Some("a")), &seen), Some(Outcome::Skipped));
        let set_back =
            pinned(LoadedUnit { invocation: Some("a".into()), condition_timestamp: 6, ..unit("inactive") });
        assert_eq!(outcome(&intent(Some("a")), &set_back), Some(Outcome::Skipped));
    }

    #[test]
    fn pinned_and_empty_means_never_ran_and_no_pin_means_never_reached() {
        let seen = pinned(unit("inactive"));
        assert_eq!(fate(&intent(None), RunKind::Oneshot, &seen, &boot(1)), Fate::NotReached);
        assert_eq!(fate(&intent(None), RunKind::Oneshot, &Observed::default(), &boot(1)), Fate::NotReached);
    }

    #[test]
    fn unloaded_although_it_was_pinned_is_reported_and_a_oneshot_is_not_repeated() {
        let queued = Intent { was_queued: true, ..intent(None) };
        assert_eq!(outcome(&queued, &Observed::default()), Some(Outcome::Unknown));
        assert_eq!(fate(&queued, RunKind::Continuous, &Observed::default(), &boot(1)), Fate::NotReached);
    }

    #[test]
    fn a_start_that_failed_says_what_of_it_failed_and_one_that_was_refused_what_a_trigger_needs() {
        let told = |result: &str| {
            let unit = LoadedUnit { result: result.to_owned(), ..unit("inactive") };
            job_error("failed", Some(&unit)).unwrap().text
        };
        assert!(told("exit-code").contains("(result exit-code)"), "{}", told("exit-code"));
        assert!(told("success").contains("MachineOf="), "{}", told("success"));
    }

    #[test]
    fn another_boot_ends_every_intent() {
        let seen = pinned(LoadedUnit { invocation: Some("b".into()), ..unit("active") });
        assert_eq!(fate(&intent(None), RunKind::Oneshot, &seen, &boot(2)), Fate::NotReached);
    }
}
