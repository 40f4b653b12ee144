//! Whether a machine can run a unit: one rule, used for placing, for keeping and for explaining.

use std::collections::BTreeSet;
use std::fmt;

use unit_files::{Glob, UnitName};

use super::board::{Board, Slot};
use crate::ids::MachineId;
use crate::records::{Reason, RefusalHold, UnitRecord, Wanted};
use crate::time::{Span, Timestamp};

/// Why a machine cannot run a unit: the first test that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ineligible {
    Absent {
        since: Option<Timestamp>,
    },
    /// Its records were imported, or it joins, and it has not come yet.
    Expected {
        machine: MachineId,
    },
    Forgotten,
    /// Present, but what the operator says of it is not known.
    NoRecord {
        machine: MachineId,
    },
    Cordoned,
    MissingFeature {
        feature: String,
    },
    OtherMachine {
        machine: MachineId,
        required: String,
    },
    Metadata {
        key: String,
        allowed: BTreeSet<String>,
        actual: Option<String>,
    },
    PeerElsewhere {
        peer: String,
        at: Option<MachineId>,
    },
    Conflict {
        with: UnitName,
        glob: String,
        is_theirs: bool,
        is_leaving: bool,
    },
    Refused {
        reason: Reason,
        until: Timestamp,
    },
}

impl Ineligible {
    /// A stable word.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Ineligible::Absent { .. } => "machine-absent",
            Ineligible::Expected { .. } => "machine-expected",
            Ineligible::Forgotten => "machine-forgotten",
            Ineligible::NoRecord { .. } => "machine-unreadable",
            Ineligible::Cordoned => "machine-cordoned",
            Ineligible::MissingFeature { .. } => "feature-missing",
            Ineligible::OtherMachine { .. } => "machine-id",
            Ineligible::Metadata { .. } => "metadata",
            Ineligible::PeerElsewhere { .. } => "peer",
            Ineligible::Conflict { is_leaving: false, .. } => "conflict",
            Ineligible::Conflict { is_leaving: true, .. } => "conflict-leaving",
            Ineligible::Refused { .. } => "refused-there",
        }
    }

    /// The unit that would have to go for this machine to become possible.
    #[must_use]
    pub fn would_fit_without(&self) -> Option<&UnitName> {
        match self {
            Ineligible::Conflict { with, .. } => Some(with),
            _ => None,
        }
    }
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ineligible::Absent { since: Some(_) } => f.write_str("the machine is lost"),
            Ineligible::Absent { since: None } => f.write_str("the machine is not present"),
            Ineligible::Expected { machine } => write!(
                f,
                "the machine is expected: it has not come since the import, and what is on it stays there. If it is off \
                 and will not come, `fleetctl machine confirm-dead {machine}`"
            ),
            Ineligible::Forgotten => f.write_str("the machine was forgotten"),
            Ineligible::NoRecord { machine } => write!(
                f,
                "its record machines/{machine} is missing or was written by a release that the leader cannot read; \
                 restart its fleetd, or update the leader's"
            ),
            Ineligible::Cordoned => f.write_str("the machine is cordoned and takes no new unit"),
            Ineligible::MissingFeature { feature } => {
                write!(f, "its fleetd does not provide the feature {feature:?}; update it")
            }
            Ineligible::OtherMachine { machine, required } => {
                write!(f, "agent ID \"{machine}\" does not match required \"{required}\"")
            }
            Ineligible::Metadata { key, allowed, actual } => {
                let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
                let allowed = allowed.join(" or ");
                match actual {
                    Some(actual) => write!(f, "metadata {key}={actual}, required {key}={allowed}"),
                    None => write!(f, "metadata {key} is not set, required {key}={allowed}"),
                }
            }
            Ineligible::PeerElsewhere { peer, at: Some(at) } => {
                write!(f, "required peer Unit({peer}) is scheduled on {at}")
            }
            Ineligible::PeerElsewhere { peer, at: None } => {
                write!(f, "required peer Unit({peer}) is not scheduled")
            }
            Ineligible::Conflict { with, glob, is_theirs, is_leaving } => {
                let by = if *is_theirs { "its" } else { "the unit's" };
                let leaving = if *is_leaving { ", which has not stopped there yet" } else { "" };
                write!(
                    f,
                    "found conflict with locally-scheduled Unit({with}){leaving} ({by} Conflicts={glob})"
                )
            }
            Ineligible::Refused { reason, .. } => write!(f, "the machine refused it: {}", reason.text),
        }
    }
}

/// Two sides of the same question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// May it come here? Everything that occupies counts, tombstones included.
    Place,
    /// May it stay? A cordon and a tombstone do not drive it out, and of two that conflict the one whose record
    /// changed last gives way.
    Stay,
}

/// The first reason against running `unit` in `slot`, in the order of the scheduling rules.
///
/// # Errors
/// That reason.
pub fn verdict(
    board: &Board<'_>,
    slot: Slot,
    name: &UnitName,
    unit: &UnitRecord,
    purpose: Purpose,
    now: Timestamp,
) -> Result<(), Ineligible> {
    let view = board.view(slot);
    let requirements = unit.requirements();
    if view.is_forgotten() {
        return Err(Ineligible::Forgotten);
    }
    if view.is_expected() {
        return Err(Ineligible::Expected { machine: board.id(slot).clone() });
    }
    if !view.is_present() {
        return Err(Ineligible::Absent { since: view.lost().map(|l| l.record.value.since) });
    }
    if purpose == Purpose::Place {
        // A machine's first transaction writes its record.
        if view.record().is_none() {
            return Err(Ineligible::NoRecord { machine: board.id(slot).clone() });
        }
        if view.is_cordoned() {
            return Err(Ineligible::Cordoned);
        }
        if let Some(hold) = board.refusal(name, slot).filter(|hold| holds(hold, now)) {
            return Err(Ineligible::Refused { reason: hold.reason.clone(), until: hold.until });
        }
    }
    if let Some(presence) = view.presence()
        && let Some(feature) = unit.features.iter().find(|f| !presence.value.features.contains(*f))
    {
        return Err(Ineligible::MissingFeature { feature: feature.clone() });
    }
    let id = board.id(slot);
    if let Some(required) = &requirements.machine_id
        && !requirements.fits_machine_id(id.as_str())
    {
        return Err(Ineligible::OtherMachine { machine: id.clone(), required: required.clone() });
    }
    for (key, allowed) in &requirements.metadata {
        let actual = view.metadata().get(key);
        if !actual.is_some_and(|value| allowed.contains(value)) {
            return Err(Ineligible::Metadata {
                key: key.clone(),
                allowed: allowed.clone(),
                actual: actual.cloned(),
            });
        }
    }
    if let Some(peer) = requirements.machine_of.iter().find(|peer| !board.is_scheduled(peer, slot)) {
        let at = board.scheduled_at(peer).next().map(|slot| board.id(slot).clone());
        return Err(Ineligible::PeerElsewhere { peer: peer.clone(), at });
    }
    match conflict(board, slot, name, &requirements.conflicts, purpose) {
        Some(conflict) => Err(conflict),
        None => Ok(()),
    }
}

fn conflict(
    board: &Board<'_>,
    slot: Slot,
    name: &UnitName,
    globs: &[Glob],
    purpose: Purpose,
) -> Option<Ineligible> {
    let counts = |other: &UnitName, wanted: Wanted| {
        other != name
            && match purpose {
                Purpose::Place => true,
                Purpose::Stay => wanted != Wanted::Gone && board.gives_way(name, other),
            }
    };
    let found = |with: &UnitName, glob: &Glob, is_theirs: bool, wanted: Wanted| Ineligible::Conflict {
        with: with.clone(),
        glob: glob.as_str().to_owned(),
        is_theirs,
        is_leaving: wanted == Wanted::Gone,
    };
    // One that is to stay is the better answer: the unit waits for more than a stop.
    let mut leaving: Option<Ineligible> = None;
    for glob in globs {
        let prefix = literal_prefix(glob);
        for (other, wanted) in board.occupants_from(slot, prefix) {
            if glob.matches(other.as_str()) && counts(other, wanted) {
                let conflict = found(other, glob, false, wanted);
                if wanted != Wanted::Gone {
                    return Some(conflict);
                }
                leaving = leaving.or(Some(conflict));
            }
        }
    }
    for (other, theirs, wanted) in board.guards(slot, purpose == Purpose::Place) {
        if let Some(glob) = theirs.iter().find(|glob| glob.matches(name.as_str()))
            && counts(other, wanted)
        {
            let conflict = found(other, glob, true, wanted);
            if wanted != Wanted::Gone {
                return Some(conflict);
            }
            leaving = leaving.or(Some(conflict));
        }
    }
    leaving
}

/// The part of a pattern before its first special character: only names that start with it can match, and names are
/// sorted, so a machine's units need not all be tried.
pub fn literal_prefix(glob: &Glob) -> &str {
    let text = glob.as_str();
    &text[..text.find(['*', '?', '[', '\\']).unwrap_or(text.len())]
}

/// Whether a refusal still keeps its machine out. One that would for longer than any may was stamped by a leader whose
/// clock ran ahead, and counts as over.
#[must_use]
pub fn holds(hold: &RefusalHold, now: Timestamp) -> bool {
    hold.until > now && hold.until.since(now) <= LONGEST_HOLD
}

const LONGEST_HOLD: Span = Span::from_secs(900);

/// How long a machine that refused a unit is left out: 30 s, doubling to 15 min.
#[must_use]
pub fn refusal_hold(times: u32) -> Span {
    let secs = 30_u64.saturating_mul(1 << times.saturating_sub(1).min(10));
    Span::from_secs(secs).min(LONGEST_HOLD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_hold_from_half_a_minute_to_a_quarter_of_an_hour() {
        let holds: Vec<u64> = [1, 2, 3, 5, 6, 60].map(|times| refusal_hold(times).0 / 1000).to_vec();
        assert_eq!(holds, [30, 60, 120, 480, 900, 900]);
    }

    #[test]
    fn only_the_part_before_a_special_character_is_literal() {
        assert_eq!(literal_prefix(&Glob::new("hello@*.service")), "hello@");
        assert_eq!(literal_prefix(&Glob::new("a.service")), "a.service");
        assert_eq!(literal_prefix(&Glob::new("*")), "");
    }
}
