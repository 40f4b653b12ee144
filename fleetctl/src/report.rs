//! How a change went, in the lines of fleet 1.0 and, where it was silent, in plain words with what to do next.

use std::fmt::Write;

use fleet_api::v2::{MachineProgress, Phase, Progress, Verb};

use crate::exit::Exit;
use crate::output;
use crate::wait::Outcome;

/// More machines of one unit than this would hide what is said of others.
const MOST_MACHINES: usize = 5;

/// The state that fleet 1.0 says after a verb.
pub fn state_after(verb: Verb) -> &'static str {
    match verb {
        Verb::Submit | Verb::Unload => "inactive",
        Verb::Load | Verb::Stop => "loaded",
        Verb::Start | Verb::Restart => "launched",
        Verb::Destroy => "destroyed",
    }
}

/// `Error starting units: …`
pub fn gerund(verb: Verb) -> &'static str {
    match verb {
        Verb::Submit => "creating",
        Verb::Load => "loading",
        Verb::Start => "starting",
        Verb::Stop => "stopping",
        Verb::Unload => "unloading",
        Verb::Destroy => "destroying",
        Verb::Restart => "restarting",
    }
}

/// The line of a unit that is as wanted: `Unit x launched on 11111111.../10.0.0.1`.
pub fn done_line(verb: Verb, progress: &Progress) -> String {
    if verb == Verb::Destroy {
        return format!("Destroyed {}", progress.unit);
    }
    let is_nowhere = progress.machine.is_none() && !progress.global;
    let state = match progress.current_state.as_str() {
        // A unit that could not be placed is withdrawn without having been anywhere.
        "" if is_nowhere && verb == Verb::Stop => "inactive",
        "" => state_after(verb),
        state => state,
    };
    let on = match &progress.machine {
        Some(machine) if !machine.id.is_empty() && state != "inactive" => {
            format!(" on {}", output::machine_text(&machine.id, &machine.ip, false))
        }
        _ => String::new(),
    };
    format!("Unit {} {state}{on}", progress.unit)
}

/// What a unit waits for, on one line.
pub fn waits_for(progress: &Progress) -> String {
    let mut text = match progress.phase {
        Phase::WaitingForEngine => "waiting for the engine".to_owned(),
        Phase::Unplaceable => "no machine can take it".to_owned(),
        Phase::Placed => "placed, waiting for the machine".to_owned(),
        Phase::Unknown => "waiting".to_owned(),
        phase => phase.as_str().to_owned(),
    };
    if let Some(machine) = &progress.machine {
        let _infallible = write!(text, " on {}", output::machine_text(&machine.id, &machine.ip, false));
    }
    if progress.global && !progress.machines.is_empty() {
        let done = progress.machines.iter().filter(|machine| machine.done).count();
        let _infallible = write!(text, ", {done} of {} machines", progress.machines.len());
    }
    if !progress.active.is_empty()
        && matches!(progress.phase, Phase::Starting | Phase::Stopping | Phase::Failed)
    {
        let _infallible = write!(text, " ({}/{})", progress.active, progress.sub);
    }
    if !progress.reason.text.is_empty() {
        let _infallible = write!(text, ": {}", progress.reason.text);
    }
    text
}

/// What went wrong, and its exit code; none if nothing did.
pub fn trouble(verb: Verb, unit: &str, outcome: &Outcome) -> Option<(String, Exit)> {
    let (text, exit) = match outcome {
        Outcome::Done(_) => return None,
        Outcome::Failed(progress) => (failed(progress), Exit::FAILED),
        Outcome::Unplaceable(progress) => (unplaceable(progress), Exit::UNPLACEABLE),
        Outcome::Superseded(progress) if progress.phase == Phase::Gone => {
            let text = format!("unit {unit} was destroyed meanwhile\n  see fleetctl events --unit {unit}");
            (text, Exit::FAILED)
        }
        Outcome::Superseded(progress) => (
            format!(
                "unit {unit} is now wanted {}: another request came after this one\n  see fleetctl events --unit {unit}",
                progress.desired
            ),
            Exit::FAILED,
        ),
        Outcome::Pending(progress) => (pending(verb, unit, progress.as_deref()), Exit::PENDING),
        Outcome::NoLeader => (
            format!(
                "unit {unit}: nobody leads the cluster; the request is stored and is carried out when a leader is elected. See fleetctl cluster status"
            ),
            Exit::NO_ANSWER,
        ),
        Outcome::NoRegistry => (
            format!(
                "unit {unit}: the registry does not answer; what runs keeps running, and the request, which is stored, is carried out when it does. See fleetctl cluster status"
            ),
            Exit::NO_ANSWER,
        ),
        Outcome::Unreachable(error) => (
            format!(
                "unit {unit}: {error}\n  only the wait failed: the request is stored and is carried out; see fleetctl list-unit-files"
            ),
            Exit::FAILED,
        ),
    };
    Some((text, exit))
}

fn failed(progress: &Progress) -> String {
    let unit = &progress.unit;
    let mut text = format!("unit {unit} failed");
    if let Some(machine) = &progress.machine {
        let _infallible = write!(text, " on {}", output::machine_text(&machine.id, &machine.ip, false));
    }
    text.push_str(&result(&progress.result, &progress.active, &progress.sub, &progress.reason.text));
    for machine in progress.machines.iter().filter(|machine| machine.failed) {
        let MachineProgress { id, ip, result: ended, active, sub, reason, .. } = machine;
        let shown = output::machine_text(id, ip, false);
        let _infallible = write!(text, "\n  on {shown}{}", result(ended, active, sub, &reason.text));
    }
    let _infallible = write!(text, "\n  see {}", closer_look(progress));
    text
}

/// The commands that say more of a unit that a machine has. The journal is one machine's.
fn closer_look(progress: &Progress) -> String {
    let unit = &progress.unit;
    if progress.global {
        format!("fleetctl status {unit}")
    } else {
        format!("fleetctl status {unit} and fleetctl journal {unit}")
    }
}

/// `: result exit-code (failed/failed): main process exited with 1`
fn result(result: &str, active: &str, sub: &str, reason: &str) -> String {
    let mut text = String::new();
    if !result.is_empty() && result != "success" {
        let _infallible = write!(text, ": result {result}");
    }
    if !active.is_empty() {
        let _infallible = write!(text, " ({active}/{sub})");
    }
    if !reason.is_empty() {
        let _infallible = write!(text, ": {reason}");
    }
    text
}

fn unplaceable(progress: &Progress) -> String {
    let unit = &progress.unit;
    let mut text = format!("no machine can take unit {unit}");
    if !progress.reason.text.is_empty() {
        let _infallible = write!(text, ": {}", progress.reason.text);
    }
    for refusal in &progress.refused {
        for (machine, why) in &refusal.sample {
            let _infallible = write!(text, "\n  {}: {why}", output::machine_id(machine, false));
        }
        let more = refusal.machines.saturating_sub(refusal.sample.len());
        if more > 0 {
            let _infallible = write!(text, "\n  and {more} more for the same reason ({})", refusal.code);
        }
    }
    let _infallible =
        write!(text, "\n  it stays wanted and is placed when a machine fits; see fleetctl why {unit}");
    text
}

fn pending(verb: Verb, unit: &str, progress: Option<&Progress>) -> String {
    let mut text = format!("timed out waiting for unit {unit} to report state {}", state_after(verb));
    if let Some(progress) = progress {
        let _infallible = write!(text, " ({})", waits_for(progress));
        if !progress.absent.is_empty() {
            let _infallible = write!(text, "; not heard of absent {}", machines(&progress.absent));
        }
        let waiting: Vec<_> = progress.machines.iter().filter(|machine| !machine.done).collect();
        for MachineProgress { id, ip, phase, active, sub, reason, .. } in waiting.iter().take(MOST_MACHINES) {
            let shown = output::machine_text(id, ip, false);
            let _infallible =
                write!(text, "\n  on {shown}: {}{}", phase.as_str(), result("", active, sub, &reason.text));
        }
        if waiting.len() > MOST_MACHINES {
            let _infallible = write!(text, "\n  and {} more", waiting.len() - MOST_MACHINES);
        }
    }
    let next = match progress {
        _ if verb == Verb::Destroy => "fleetctl list-units".to_owned(),
        Some(progress) if progress.machine.is_some() || !progress.machines.is_empty() => {
            closer_look(progress)
        }
        _ => format!("fleetctl why {unit}"),
    };
    let _infallible = write!(text, "\n  it goes on; see {next}");
    text
}

/// Said after success when the unit has not run: for systemd, a condition that is not met is no failure.
pub fn skipped_note(progress: &Progress) -> Option<String> {
    (progress.reason.code == "skipped").then(|| format!("Unit {}: {}", progress.unit, progress.reason.text))
}

/// Said after success when machines that are away have not acknowledged.
pub fn absent_note(progress: &Progress) -> Option<String> {
    if progress.absent.is_empty() {
        return None;
    }
    let machines = machines(&progress.absent);
    Some(format!("Unit {}: not acknowledged by absent {machines}; done when they return", progress.unit))
}

fn machines(ids: &[String]) -> String {
    let shown: Vec<String> = ids.iter().map(|id| output::machine_id(id, false)).collect();
    format!("{} {}", if ids.len() == 1 { "machine" } else { "machines" }, shown.join(", "))
}

#[cfg(test)]
mod tests {
    use fleet_api::v2::{MachineRef, Reason, Refusal};

    use super::*;

    fn progress(current: &str, machine: Option<(&str, &str)>) -> Progress {
        Progress {
            unit: "x.service".into(),
            current_state: current.into(),
            machine: machine.map(|(id, ip)| MachineRef { id: id.into(), ip: ip.into() }),
            ..Progress::default()
        }
    }

    #[test]
    fn a_unit_that_was_skipped_is_said_to_be() {
        let reason = Reason { code: "skipped".into(), text: "a condition was not met".into() };
        let skipped = Progress { reason, ..progress("launched", None) };
        assert_eq!(skipped_note(&skipped).as_deref(), Some("Unit x.service: a condition was not met"));
        assert_eq!(skipped_note(&progress("launched", None)), None);
    }

    #[test]
    fn success_lines_are_those_of_fleet_1() {
        let placed = progress("launched", Some(("1111111122", "10.0.0.1")));
        assert_eq!(done_line(Verb::Start, &placed), "Unit x.service launched on 11111111.../10.0.0.1");
        let no_ip = progress("", Some(("1111111122", "")));
        assert_eq!(done_line(Verb::Load, &no_ip), "Unit x.service loaded on 11111111...");
        assert_eq!(done_line(Verb::Unload, &progress("inactive", None)), "Unit x.service inactive");
        assert_eq!(done_line(Verb::Stop, &progress("", None)), "Unit x.service inactive");
        assert_eq!(done_line(Verb::Destroy, &progress("", None)), "Destroyed x.service");
    }

    #[test]
    fn an_unplaceable_unit_is_told_with_its_reasons() {
        let mut none = progress("inactive", None);
        none.refused = vec![Refusal {
            code: "metadata".into(),
            machines: 3,
            sample: vec![("22222222aa".into(), "has no metadata disk=ssd".into())],
        }];
        let (text, exit) = trouble(Verb::Start, "x.service", &Outcome::Unplaceable(Box::new(none))).unwrap();
        assert_eq!(exit, Exit::UNPLACEABLE);
        assert!(
            text.starts_with("no machine can take unit x.service\n  22222222...: has no metadata disk=ssd\n")
        );
        assert!(text.contains("and 2 more for the same reason (metadata)"), "{text}");
    }

    #[test]
    fn a_failed_run_is_told_with_its_result() {
        let mut failed = progress("launched", Some(("1111111122", "10.0.0.1")));
        failed.result = "exit-code".into();
        failed.active = "failed".into();
        failed.sub = "failed".into();
        failed.reason = Reason { code: "run-failed".into(), text: "main process exited with 1".into() };
        let (text, exit) = trouble(Verb::Start, "x.service", &Outcome::Failed(Box::new(failed))).unwrap();
        assert_eq!(exit, Exit::FAILED);
        assert!(text.starts_with(
            "unit x.service failed on 11111111.../10.0.0.1: result exit-code (failed/failed): main process exited with 1\n"
        ), "{text}");
    }

    #[test]
    fn a_time_out_says_what_the_unit_waits_for() {
        let mut waiting = progress("", Some(("1111111122", "10.0.0.1")));
        waiting.phase = Phase::Starting;
        waiting.active = "activating".into();
        waiting.sub = "start".into();
        let (text, exit) =
            trouble(Verb::Start, "x.service", &Outcome::Pending(Some(Box::new(waiting)))).unwrap();
        assert_eq!(exit, Exit::PENDING);
        assert_eq!(
            text,
            "timed out waiting for unit x.service to report state launched (starting on 11111111.../10.0.0.1 (activating/start))\n  it goes on; see fleetctl status x.service and fleetctl journal x.service"
        );
    }

    #[test]
    fn a_time_out_names_the_machines_that_are_not_done() {
        let on = |id: &str, done| MachineProgress {
            id: id.into(),
            done,
            phase: Phase::Starting,
            active: "activating".into(),
            sub: "start-pre".into(),
            ..MachineProgress::default()
        };
        let mut waiting = Progress { global: true, phase: Phase::Starting, ..progress("", None) };
        waiting.machines = vec![on("1111111122", true), on("2222222222", false)];
        let text = pending(Verb::Start, "x.service", Some(&waiting));
        assert!(
            text.contains("(starting, 1 of 2 machines)\n  on 22222222...: starting (activating/start-pre)\n"),
            "{text}"
        );
        waiting.machines.extend((0..9).map(|_| on("3333333333", false)));
        let text = pending(Verb::Start, "x.service", Some(&waiting));
        assert_eq!(text.lines().filter(|line| line.starts_with("  on ")).count(), MOST_MACHINES);
        assert!(text.contains("\n  and 5 more\n  it goes on; see fleetctl status x.service"), "{text}");
    }

    #[test]
    fn every_end_of_a_wait_says_where_to_look_next() {
        let nowhere = || Box::new(progress("", None));
        for (verb, outcome, next) in [
            (Verb::Start, Outcome::Pending(None), "see fleetctl why x.service"),
            (Verb::Start, Outcome::Pending(Some(nowhere())), "see fleetctl why x.service"),
            (Verb::Destroy, Outcome::Pending(Some(nowhere())), "see fleetctl list-units"),
            (Verb::Start, Outcome::Superseded(nowhere()), "see fleetctl events --unit x.service"),
            (Verb::Start, Outcome::Failed(nowhere()), "see fleetctl status x.service"),
            (Verb::Start, Outcome::Unplaceable(nowhere()), "see fleetctl why x.service"),
            (Verb::Start, Outcome::Unreachable("broken".into()), "see fleetctl list-unit-files"),
        ] {
            let (text, _) = trouble(verb, "x.service", &outcome).unwrap();
            assert!(text.contains(next), "{text}");
        }
    }
}
