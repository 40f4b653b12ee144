//! Runs of units as systemd counts them: two equal [`Run`]s are the same run, undisturbed.

use std::collections::BTreeMap;

use crate::lab::Machine;

/// What changes when a unit is stopped, started or restarted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pub active: String,
    pub invocation: String,
    pub main_pid: String,
    /// Of the last time it became active and of the last time it ceased to be, in µs of `CLOCK_MONOTONIC`.
    pub entered: String,
    pub left: String,
}

/// The present run of each unit.
///
/// # Panics
/// When the machine does not answer.
#[must_use]
#[track_caller]
pub fn runs_of(machine: &Machine<'_>, units: &[&str]) -> BTreeMap<String, Run> {
    const PROPERTIES: &str = "--property=Id,ActiveState,InvocationID,MainPID,ActiveEnterTimestampMonotonic,ActiveExitTimestampMonotonic";
    let arguments: Vec<_> = ["show", PROPERTIES, "--"].iter().chain(units).copied().collect();
    let shown = machine.systemctl(&arguments).expect("the machine answers");
    shown
        .split("\n\n")
        .map(|paragraph| {
            let value = |key: &str| {
                let lines = paragraph.lines().filter_map(|line| line.split_once('='));
                lines
                    .filter(|(name, _)| *name == key)
                    .map(|(_, value)| value.to_owned())
                    .next()
                    .unwrap_or_default()
            };
            let run = Run {
                active: value("ActiveState"),
                invocation: value("InvocationID"),
                main_pid: value("MainPID"),
                entered: value("ActiveEnterTimestampMonotonic"),
                left: value("ActiveExitTimestampMonotonic"),
            };
            (value("Id"), run)
        })
        .collect()
}

/// The present run of one unit.
///
/// # Panics
/// When the machine does not answer.
#[must_use]
#[track_caller]
pub fn run_of(machine: &Machine<'_>, unit: &str) -> Run {
    runs_of(machine, &[unit]).into_values().next().expect("systemd tells something of any name")
}

/// How often systemd has re-read its units in this boot, as its own journal tells.
///
/// # Panics
/// When the machine does not answer.
#[must_use]
#[track_caller]
pub fn reloads(machine: &Machine<'_>) -> usize {
    let journal = ["journalctl", "--boot", "--quiet", "--no-pager", "--output=cat", "_PID=1"];
    let lines = machine.run(&journal).expect("the machine has a journal");
    lines.lines().filter(|line| line.starts_with("Reloading")).count()
}
