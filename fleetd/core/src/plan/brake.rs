//! The brake: when so much would move at once that a fault of ours is likelier than one of the machines'.

use std::collections::BTreeSet;

use unit_files::UnitName;

use super::board::Slot;
use super::draft::{Draft, note};
use super::group::{Compare, Group, Write};
use crate::ids::{MachineId, Revision};
use crate::records::{BrakeCause, BrakeRecord, BrakeState, SCHEMA, Settings};
use crate::time::Timestamp;
use crate::world::World;

/// What is held back in this pass.
#[derive(Debug, Default)]
pub struct Brake {
    /// Lost machines that keep their units.
    machines: BTreeSet<MachineId>,
    /// More machines than these may not go at once.
    allowed: usize,
}

/// Losing one machine never closes the brake.
const ALWAYS_ALLOWED_MACHINES: usize = 1;
/// Nor do ten units that change their place.
const ALWAYS_ALLOWED_UNITS: usize = 10;

impl Brake {
    /// Counts the losses.
    pub fn assess(world: &World, settings: &Settings, now: Timestamp) -> Brake {
        let record = world.brake().map(|b| &b.value);
        let is_engaged =
            |id: &MachineId| record.is_some_and(|b| holds_machines(b) && b.machines.contains(id));
        let is_let_go =
            |id: &MachineId| record.is_some_and(|b| !holds_machines(b) && b.machines.contains(id));
        let mut recent = BTreeSet::new();
        let mut known = 0;
        for (id, view) in world.machines() {
            if view.is_forgotten() || view.is_confirmed_dead() || view.is_expected() {
                continue;
            }
            let Some(lost) = view.lost() else {
                known += 1;
                continue;
            };
            if is_let_go(id) {
                continue;
            }
            // Stamped by a leader whose clock may run ahead; this engine has known it for so long at least.
            let since = lost.record.value.since.min(lost.counted_from);
            if since.plus(settings.brake_window) >= now || is_engaged(id) {
                known += 1;
                recent.insert(id.clone());
            }
        }
        let allowed = part(settings.brake_ratio, known).max(ALWAYS_ALLOWED_MACHINES);
        if recent.len() <= allowed {
            recent.clear();
        }
        Brake { machines: recent, allowed }
    }

    pub fn holds(&self, machine: &MachineId) -> bool {
        self.machines.contains(machine)
    }

    /// Whether these changes of placement, which no desired state asks for, are too many; then they are held back.
    pub fn holds_changes(world: &World, settings: &Settings, changes: usize) -> bool {
        let is_released = world.brake().is_some_and(|b| {
            b.value.cause == BrakeCause::MassChange && b.value.state == BrakeState::Released
        });
        !is_released && changes > part(settings.brake_ratio, world.placed()).max(ALWAYS_ALLOWED_UNITS)
    }

    /// Writes down what is held back, or that nothing is any more.
    pub fn record(&self, draft: &mut Draft<'_>, held: &[UnitName], changes: usize, settings: &Settings) {
        let world = draft.world;
        let old = world.brake().map(|b| &b.value);
        let new = if !self.machines.is_empty() {
            let slots: Vec<Slot> =
                self.machines.iter().filter_map(|id| draft.board.slot(id.as_str())).collect();
            let units: Vec<&UnitName> =
                slots.iter().flat_map(|slot| draft.board.view(*slot).orders().keys()).collect();
            let text = format!(
                "{} machines were lost within {}, {} at once are allowed: their {} units stay where they are. If the \
                 machines are really gone: fleetctl cluster resume",
                self.machines.len(),
                settings.brake_window,
                self.allowed,
                units.len()
            );
            let sample = units.iter().take(3).map(|name| (*name).clone()).collect();
            Some((BrakeCause::MassLoss, self.machines.clone(), units.len(), sample, text))
        } else if !held.is_empty() {
            let text = format!(
                "changed metadata, features or settings would stop or move {} of {} placed units: they stay where they \
                 are. If that is what you want: fleetctl cluster resume",
                held.len(),
                world.placed()
            );
            let sample = held.iter().take(3).cloned().collect();
            Some((BrakeCause::MassChange, let_go(world, old), held.len(), sample, text))
        } else {
            None
        };
        match (new, old) {
            (Some((cause, machines, held, sample, text)), _) => {
                let engaged = old.filter(|old| old.state == BrakeState::Engaged && old.cause == cause);
                if engaged.is_some_and(|old| old.machines == machines && old.held == held) {
                    return;
                }
                let record = BrakeRecord {
                    v: engaged.map_or(SCHEMA, |old| old.v.max(SCHEMA)),
                    cause,
                    state: BrakeState::Engaged,
                    since: engaged.map_or(draft.now, |old| old.since),
                    text,
                    machines,
                    held,
                    sample,
                    released: None,
                    extra: engaged.map(|old| old.extra.clone()).unwrap_or_default(),
                };
                let note = note("brake-engaged", None, None, &record.text);
                self.emit(draft, Write::PutBrake(record), note);
            }
            (None, Some(old)) if is_over(world, old, changes, settings, draft) => {
                let machines = let_go(world, Some(old));
                if old.cause == BrakeCause::MassChange && !machines.is_empty() {
                    let text = "lost machines that the operator let go".to_owned();
                    let (cause, state) = (BrakeCause::MassLoss, BrakeState::Released);
                    let record = BrakeRecord {
                        cause,
                        state,
                        machines,
                        text,
                        held: 0,
                        sample: Vec::new(),
                        ..old.clone()
                    };
                    let note = note("brake-released", None, None, "what it held back is over");
                    self.emit(draft, Write::PutBrake(record), note);
                    return;
                }
                let note = note("brake-released", None, None, "what it held back is over");
                self.emit(draft, Write::DeleteBrake, note);
            }
            _ => {}
        }
    }

    fn emit(&self, draft: &mut Draft<'_>, write: Write, note: Option<crate::records::EventNote>) {
        let revision = draft.world.brake().map_or(Revision(0), |b| b.modified);
        draft.emit(Group { compares: vec![Compare::Brake(revision)], writes: vec![write], note });
    }
}

/// Whether the machines of the record are those that keep their units; else they are those that the operator let go.
fn holds_machines(record: &BrakeRecord) -> bool {
    record.cause == BrakeCause::MassLoss && record.state == BrakeState::Engaged
}

/// Lost machines that the operator let go, and that are still lost: the brake does not close again for them, whatever
/// else it has to say meanwhile.
fn let_go(world: &World, record: Option<&BrakeRecord>) -> BTreeSet<MachineId> {
    let machines =
        record.filter(|record| !holds_machines(record)).into_iter().flat_map(|record| &record.machines);
    machines.filter(|id| world.lost().contains(*id)).cloned().collect()
}

/// An engaged brake is over when nothing is held back; a released one when what it covers has come to rest.
fn is_over(
    world: &World,
    old: &BrakeRecord,
    changes: usize,
    settings: &Settings,
    draft: &mut Draft<'_>,
) -> bool {
    match (old.state, old.cause) {
        (BrakeState::Engaged, _) => true,
        (BrakeState::Released, BrakeCause::MassLoss) => {
            !old.machines.iter().any(|id| world.lost().contains(id))
        }
        (BrakeState::Released, BrakeCause::MassChange) => {
            let until = released_until(old, settings, draft.now).filter(|until| *until > draft.now);
            if let Some(until) = until {
                draft.plan.look_at(until);
            }
            changes == 0 && until.is_none()
        }
    }
}

/// When a release of held-back changes ends: one window after the operator's word. One that would end later than that
/// was stamped by a clock that ran ahead, and ends now.
pub fn released_until(record: &BrakeRecord, settings: &Settings, now: Timestamp) -> Option<Timestamp> {
    if (record.state, record.cause) != (BrakeState::Released, BrakeCause::MassChange) {
        return None;
    }
    let until = record.released.as_ref().map_or(record.since, |stamp| stamp.at).plus(settings.brake_window);
    Some(if until.since(now) <= settings.brake_window { until } else { now })
}

/// `ratio` of `whole`, rounded down. A ratio outside 0..1 counts as the nearer end.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "clamped to 0..=whole, and a cluster has fewer than 2^52 units"
)]
fn part(ratio: f64, whole: usize) -> usize {
    (ratio.clamp(0.0, 1.0) * whole as f64).floor() as usize
}
