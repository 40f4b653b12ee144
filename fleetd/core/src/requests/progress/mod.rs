//! How far the cluster is with what a unit's record wants.
//!
//! Called by the API for every client that waits, after each change of what it follows. A decision of the engine
//! counts only if it judged the record that was written; an order only if it asks for what the record wants now; a
//! machine has carried an order out only if its row says so.

mod on_machine;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use unit_files::UnitName;

use super::current::current_state;
use crate::ids::{MachineId, Revision, UnitUid};
use crate::plan::{Ineligible, explain};
use crate::records::{DecisionLine, DesiredState, Order, Reason, StateRow, UnitRecord, Versioned, Wanted};
use crate::time::Timestamp;
use crate::world::{MachineView, World};
use on_machine::OnMachine;

/// Machines named for each reason.
const SAMPLES: usize = 3;

/// A unit that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waited {
    pub unit: UnitName,
    /// The life of the name that is meant; `None`: whichever is there.
    pub uid: Option<UnitUid>,
    /// Modification revision of the record that the request wrote; `None`: the present one.
    pub revision: Option<Revision>,
    /// Its record was last seen as one that is to go: its absence is what was waited for.
    pub is_leaving: bool,
}

/// The order is that in which a unit passes through them, as far as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    WaitingForEngine,
    Unplaceable,
    Placed,
    Loading,
    Starting,
    Stopping,
    Done,
    Failed,
    /// The unit, or this life of its name, does not exist any more.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// As the record wants it, and machines that are not present do not hold it up.
    pub is_done: bool,
    /// It will not become so by itself.
    pub is_failed: bool,
    pub is_global: bool,
    /// `None`: there is no record.
    pub desired: Option<DesiredState>,
    /// What API v1 shows; `inactive` for a global unit.
    pub current: DesiredState,
    /// Of a unit that is not global.
    pub machine: Option<MachineId>,
    /// Of a global unit: machines that have, or are to get, an order.
    pub machines: Vec<(MachineId, OnMachine)>,
    pub active: String,
    pub sub: String,
    pub result: String,
    /// What it waits for, or why it failed; an empty code if there is nothing to say.
    pub reason: Reason,
    pub refused: Vec<DecisionLine>,
    /// Since when the phase is what it is.
    pub since: Timestamp,
    /// Machines that are not present and have not done their part.
    pub absent: Vec<MachineId>,
}

impl Progress {
    fn of(phase: Phase, reason: Reason, since: Timestamp) -> Progress {
        Progress {
            phase,
            is_done: phase == Phase::Done,
            is_failed: phase == Phase::Failed,
            is_global: false,
            desired: None,
            current: DesiredState::Inactive,
            machine: None,
            machines: Vec::new(),
            active: String::new(),
            sub: String::new(),
            result: String::new(),
            reason,
            refused: Vec::new(),
            since,
            absent: Vec::new(),
        }
    }

    /// Nothing more is to be expected of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_done || self.is_failed || self.phase == Phase::Gone
    }
}

/// Judges one unit. `world` has to hold the unit's record, placement, orders and rows, the machines of those, and for a
/// global unit all machines and all orders.
#[must_use]
pub fn progress(world: &World, waited: &Waited, now: Timestamp) -> Progress {
    let record = world.units().get(&waited.unit);
    let record = record.filter(|r| waited.uid.as_ref().is_none_or(|uid| *uid == r.value.uid));
    let Some(record) = record else {
        let text = if waited.is_leaving { "every machine has acknowledged" } else { "unit does not exist" };
        let gone = Progress::of(Phase::Gone, Reason::new("gone", text), now);
        return Progress { is_done: waited.is_leaving, ..gone };
    };
    let unit = &record.value;
    let mut progress = if !unit.desired.wants_a_machine() {
        leaving(world, waited, unit)
    } else if unit.is_global() {
        everywhere(world, waited, unit, now)
    } else {
        somewhere(world, waited, record)
    };
    progress.desired = Some(unit.desired);
    progress.is_global = unit.is_global();
    if progress.phase == Phase::WaitingForEngine
        && let Some(hold) = world.hold()
    {
        progress.reason = Reason::new("hold", format!("the store is on hold: {}", hold.value.why));
    }
    progress
}

/// A unit on one machine.
fn somewhere(world: &World, waited: &Waited, record: &Versioned<UnitRecord>) -> Progress {
    let unit = &record.value;
    let needed = waited.revision.unwrap_or(record.modified);
    let placement = world.placements().get(&waited.unit).map(|p| &p.value);
    let judged = placement.filter(|p| p.uid == unit.uid && p.decision.judged >= needed);
    let Some(placement) = judged else { return not_judged(unit) };
    let decision = &placement.decision;
    let Some(machine) = &placement.machine else {
        // It has no place, but what it was told to leave may not have let go of it: then it is not stopped.
        let leaving = leaving(world, waited, unit);
        if unit.desired == DesiredState::Loaded && !leaving.is_done {
            return leaving;
        }
        let unplaceable = Progress::of(Phase::Unplaceable, decision.reason.clone(), decision.at);
        return Progress { refused: decision.refused.clone(), ..unplaceable };
    };
    let view = world.machines().get(machine);
    let order = view.and_then(|view| view.orders().get(&waited.unit)).map(|order| &order.value);
    let row = row_of(view, &waited.unit, unit);
    let is_present = view.is_some_and(MachineView::is_present);
    let Some(order) = order.filter(|order| asks_for(order, unit)) else {
        return Progress { machine: Some(machine.clone()), ..not_judged(unit) };
    };
    let at = on_machine::judge(order, row, is_present);
    let mut progress = Progress::of(at.phase, at.reason.clone(), at.since);
    if at.is_refused {
        // The engine takes it elsewhere, or says that no machine is left.
        (progress.phase, progress.is_failed) = (Phase::Placed, false);
    }
    progress.current = current_state(row, !is_present);
    progress.machine = Some(machine.clone());
    (progress.active, progress.sub, progress.result) = (at.active, at.sub, at.result);
    if !is_present {
        progress.absent.push(machine.clone());
    }
    progress
}

/// A unit on every machine that fits it: by the engine's own rules, because there is no placement to read it from.
fn everywhere(world: &World, waited: &Waited, unit: &UnitRecord, now: Timestamp) -> Progress {
    let verdicts = explain(world, &waited.unit, now).map(|e| e.machines).unwrap_or_default();
    let mut lines: BTreeMap<&'static str, DecisionLine> = BTreeMap::new();
    let (mut machines, mut absent) = (Vec::new(), Vec::new());
    for verdict in verdicts {
        let Some(view) = world.machines().get(&verdict.machine) else { continue };
        let order = view.orders().get(&waited.unit).map(|order| &order.value);
        let order = order.filter(|order| order.wanted != Wanted::Gone && order.uid == unit.uid);
        let row = row_of(Some(view), &waited.unit, unit);
        match (order, &verdict.against) {
            (Some(order), _) if !view.is_present() => {
                let has_done = row.and_then(|row| row.applied).is_some_and(|number| number >= order.number);
                if !(has_done && asks_for(order, unit)) {
                    absent.push(verdict.machine);
                }
            }
            (Some(order), _) if asks_for(order, unit) => {
                machines.push((verdict.machine, on_machine::judge(order, row, true)));
            }
            (Some(_), _) | (None, None) => {
                machines.push((verdict.machine, OnMachine::waiting(row, unit.changed.at)));
            }
            (None, Some(Ineligible::Absent { .. } | Ineligible::Expected { .. })) => {}
            (None, Some(against)) => {
                let line = lines.entry(against.code()).or_insert_with(|| DecisionLine {
                    code: against.code().to_owned(),
                    machines: 0,
                    sample: Vec::new(),
                });
                line.machines += 1;
                if line.sample.len() < SAMPLES {
                    line.sample.push((verdict.machine, against.to_string()));
                }
            }
        }
    }
    let failed = machines.iter().find(|(_, at)| at.phase == Phase::Failed);
    let open = machines.iter().filter(|(_, at)| at.phase != Phase::Done).min_by_key(|(_, at)| at.phase);
    let mut progress = match failed.or(open) {
        Some((_, at)) => Progress::of(at.phase, at.reason.clone(), at.since),
        None if machines.is_empty() && absent.is_empty() => {
            let reason = Reason::new("unplaceable", "no present machine can run it");
            Progress::of(Phase::Unplaceable, reason, unit.changed.at)
        }
        None => {
            let since = machines.iter().map(|(_, at)| at.since).max().unwrap_or(unit.changed.at);
            Progress::of(Phase::Done, Reason::default(), since)
        }
    };
    progress.refused = lines.into_values().collect();
    (progress.machines, progress.absent) = (machines, absent);
    progress
}

/// A unit that is to be nowhere, or has no place now: done when no present machine has an order for it.
fn leaving(world: &World, waited: &Waited, unit: &UnitRecord) -> Progress {
    let word = match unit.desired {
        DesiredState::Destroyed => "destroyed",
        DesiredState::Inactive => "inactive",
        DesiredState::Loaded | DesiredState::Launched => "to leave",
    };
    let mut progress = Progress::of(Phase::Done, Reason::default(), unit.changed.at);
    let mut open: Option<(&MachineId, &Order, Option<&StateRow>)> = None;
    for machine in world.orders_of(&waited.unit) {
        let Some(view) = world.machines().get(machine) else { continue };
        let Some(order) = view.orders().get(&waited.unit) else { continue };
        if !view.is_present() {
            progress.absent.push(machine.clone());
        } else if open.is_none_or(|(_, open, _)| order.value.wanted > open.wanted) {
            // One that has not been told to stop counts before one that stops.
            open = Some((machine, &order.value, view.states().get(&waited.unit).map(|row| &row.value)));
        }
    }
    let Some((machine, order, row)) = open else { return progress };
    progress.is_done = false;
    progress.machine = Some(machine.clone());
    (progress.phase, progress.since) = (Phase::Stopping, order.at);
    progress.reason = Reason::new("stopping", format!("{machine} has not acknowledged that it is {word}"));
    if order.wanted != Wanted::Gone {
        let waiting = not_judged(unit);
        (progress.phase, progress.since, progress.reason) = (waiting.phase, waiting.since, waiting.reason);
    }
    if let Some(row) = row {
        (progress.active, progress.sub) = (row.active.clone(), row.sub.clone());
        progress.result = row.result.clone();
        progress.current = current_state(Some(row), false);
        let refused = row.refused.as_ref().filter(|refused| refused.number == order.number);
        let trouble = refused.map(|refused| &refused.reason).or(row.last_error.as_ref());
        if let Some(trouble) = trouble.filter(|_| order.wanted == Wanted::Gone) {
            progress.reason = trouble.clone();
        }
    }
    progress
}

fn not_judged(unit: &UnitRecord) -> Progress {
    let reason = Reason::new("waiting-for-engine", "the engine has not judged this request yet");
    Progress::of(Phase::WaitingForEngine, reason, unit.changed.at)
}

/// What a machine says of this life of the name.
fn row_of<'w>(view: Option<&'w MachineView>, name: &UnitName, unit: &UnitRecord) -> Option<&'w StateRow> {
    let view = view?;
    let is_of_this_boot = |row: &&StateRow| view.presence().is_none_or(|now| row.is_of_boot(&now.value));
    view.states().get(name).map(|row| &row.value).filter(|row| row.uid == unit.uid).filter(is_of_this_boot)
}

/// Whether the order is the one that the record asks for.
fn asks_for(order: &Order, unit: &UnitRecord) -> bool {
    let wanted = if unit.desired == DesiredState::Launched { Wanted::Launched } else { Wanted::Loaded };
    order.uid == unit.uid
        && order.wanted == wanted
        && order.generation == unit.placed().generation
        && order.counters == unit.counters
}
