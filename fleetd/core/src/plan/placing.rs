//! Non-global units: keep, move, place, take away. Followers go with their target, in its group.

use std::collections::BTreeMap;

use unit_files::UnitName;

use super::board::Slot;
use super::choose::{choose, refusal_in_short, replacer_of};
use super::draft::{Draft, note};
use super::fit::{Ineligible, Purpose, holds, refusal_hold, verdict};
use super::group::{Group, Write};
use super::orphans;
use crate::records::{Decision, DesiredState, Reason, RefusalHold, UnitRecord};

/// Why a unit leaves the machine it stands on.
#[derive(Clone, Debug)]
pub enum Cause {
    /// It stands nowhere.
    Unplaced,
    Lost,
    /// It no longer fits.
    Misfit(Ineligible),
    /// The machine will not run it.
    Refused(Reason),
    ReplacedBy(UnitName),
}

impl Cause {
    fn reason(&self, from: &str) -> Reason {
        match self {
            Cause::Unplaced => Reason::new("unplaced", "it stands on no machine"),
            Cause::Lost => Reason::new("machine-lost", format!("target Machine({from}) went away")),
            Cause::Misfit(why) => {
                Reason::new(why.code(), format!("target Machine({from}) unable to run unit: {why}"))
            }
            Cause::Refused(why) => {
                Reason::new("refused", format!("Machine({from}) refused it: {}", why.text))
            }
            Cause::ReplacedBy(other) => {
                Reason::new("replaced", format!("found replace with locally-scheduled Unit({other})"))
            }
        }
    }
}

/// Whether the operator changed a machine rather than the unit: the brake counts these.
pub fn is_mass_change(why: &Ineligible) -> bool {
    matches!(why, Ineligible::Metadata { .. } | Ineligible::MissingFeature { .. })
}

/// Units that need a machine, with the one they leave.
pub type Movers = BTreeMap<UnitName, (Option<Slot>, Cause)>;

/// Takes a unit that nobody wants any more off its machines, and forgets it when the last one has acknowledged.
pub fn withdraw(draft: &mut Draft<'_>, name: &UnitName, unit: &UnitRecord) {
    let is_destroyed = unit.desired == DesiredState::Destroyed;
    let mut group = draft.group_for(name);
    if is_destroyed && draft.world.orders_of(name).next().is_none() {
        if orphans::linger(draft, name) {
            // They are told to go first; the last acknowledgement comes back here.
            return;
        }
        group.writes.push(Write::DeleteUnit(name.clone()));
        if draft.placement(name).is_some() {
            group.writes.push(Write::DeletePlacement(name.clone()));
        }
        group.note = note("unit-removed", Some(name), None, "every machine has acknowledged");
        draft.emit(group);
        return;
    }
    let asked = format!(
        "{} by {}",
        if is_destroyed { "destroyed" } else { "target state inactive, asked for" },
        unit.changed.by
    );
    let reason = Reason::new(if is_destroyed { "destroyed" } else { "inactive" }, asked);
    draft.gone_elsewhere(&mut group, None, name, &reason);
    if !group.writes.is_empty() {
        group.note = note("unit-withdrawn", Some(name), None, &reason.text);
    }
    if draft.placement(name).is_some() {
        draft.place(&mut group, name, unit, None, Decision { reason, ..Decision::default() }, Vec::new());
    }
    draft.emit(group);
}

/// Looks at a unit where it stands. What has to leave goes into `movers`, what may stay into `draft.stays`.
pub fn examine(draft: &mut Draft<'_>, name: &UnitName, unit: &UnitRecord, movers: &mut Movers) {
    let Some(slot) = draft.placed_at(name, unit) else {
        movers.insert(name.clone(), (None, Cause::Unplaced));
        return;
    };
    match cause_to_leave(draft, name, unit, slot) {
        Some(cause) => {
            movers.insert(name.clone(), (Some(slot), cause));
        }
        None => draft.stays.push((name.clone(), slot)),
    }
}

fn cause_to_leave(draft: &Draft<'_>, name: &UnitName, unit: &UnitRecord, slot: Slot) -> Option<Cause> {
    let view = draft.board.view(slot);
    let refused = view.orders().get(name).and_then(|order| {
        let refused = view.states().get(name)?.value.refused.as_ref()?;
        (refused.number == order.value.number).then(|| refused.reason.clone())
    });
    if draft.evicted.contains(&slot) {
        Some(Cause::Lost)
    } else if !view.is_present() {
        None
    } else if let Some(reason) = refused.filter(|_| !draft.is_overtaken(slot, name)) {
        Some(Cause::Refused(reason))
    } else {
        match verdict(&draft.board, slot, name, unit, Purpose::Stay, draft.now) {
            Err(why) => Some(Cause::Misfit(why)),
            Ok(()) => replacer_of(&draft.board, slot, name, unit).cloned().map(Cause::ReplacedBy),
        }
    }
}

/// Leaves the unit where it is and brings its order up to date, unless it has gone along with a target meanwhile.
pub fn refresh<'w>(draft: &mut Draft<'w>, name: &UnitName, unit: &'w UnitRecord, slot: Slot) {
    if draft.settled.contains(name) {
        return;
    }
    let order = draft.board.view(slot).orders().get(name);
    let Some(placement) = draft.placement(name).map(|p| &p.value) else { return };
    let mut group = draft.group_for(name);
    let elsewhere = Reason::new("elsewhere", format!("it stands on {}", draft.board.id(slot)));
    draft.gone_elsewhere(&mut group, Some(slot), name, &elsewhere);
    let is_outdated = order.is_none_or(|order| draft.is_outdated(&order.value, unit));
    let number = if is_outdated || draft.is_overtaken(slot, name) {
        let reason = Reason::new("changed", format!("asked for by {}", unit.changed.by));
        draft.order(&mut group, slot, name, unit, reason)
    } else {
        placement.number
    };
    let refusals = draft.refusals(name);
    let decision = Decision { reason: placement.decision.reason.clone(), ..Decision::default() };
    let at = (draft.board.id(slot), number);
    draft.place(&mut group, name, unit, Some(at), decision, refusals);
    draft.emit(group);
}

/// Gives a unit that stands nowhere, or has to leave where it stands, another machine, or says why none can take it.
pub fn settle<'w>(draft: &mut Draft<'w>, name: &UnitName, unit: &'w UnitRecord, from: Option<Slot>) {
    if draft.settled.contains(name) {
        return;
    }
    let cause = match from {
        None => Cause::Unplaced,
        Some(slot) => match cause_to_leave(draft, name, unit, slot) {
            Some(cause) => cause,
            None => {
                // What drove it out has left since it was judged, or what it missed has come.
                draft.stays.push((name.clone(), slot));
                return;
            }
        },
    };
    draft.settled.insert(name.clone());
    let refusals = refusals_after(draft, name, from, &cause);
    let target = choose(draft, name, unit, from, matches!(cause, Cause::ReplacedBy(_)));
    let mut group = draft.group_for(name);
    match target {
        Some(slot) => {
            move_to(draft, &mut group, name, unit, from, slot, &cause, refusals);
            follow(draft, &mut group, name, slot);
            draft.emit(group);
        }
        None => {
            let leaves = stay_or_leave(draft, &mut group, name, unit, from, &cause, refusals);
            draft.emit(group);
            if leaves {
                release_followers(draft, name);
            }
        }
    }
}

/// The refusals on record, with a new one if that is why the unit leaves.
fn refusals_after(draft: &Draft<'_>, name: &UnitName, from: Option<Slot>, cause: &Cause) -> Vec<RefusalHold> {
    let mut refusals = draft.refusals(name);
    if let (Cause::Refused(reason), Some(from)) = (cause, from) {
        let machine = draft.board.id(from).clone();
        let times = refusals.iter().find(|hold| hold.machine == machine).map_or(1, |hold| hold.times + 1);
        refusals.retain(|hold| hold.machine != machine);
        let until = draft.now.plus(refusal_hold(times));
        refusals.push(RefusalHold { machine, reason: reason.clone(), until, times });
    }
    refusals
}

fn move_to<'w>(
    draft: &mut Draft<'w>,
    group: &mut Group,
    name: &UnitName,
    unit: &'w UnitRecord,
    from: Option<Slot>,
    to: Slot,
    cause: &Cause,
    refusals: Vec<RefusalHold>,
) {
    let target = draft.board.id(to);
    let text = format!("least loaded machine that can run it ({} units)", draft.board.load(to));
    let reason = match from {
        None => Reason::new("placed", text),
        Some(from) => {
            let left = cause.reason(draft.board.id(from).as_str());
            Reason::new("moved", format!("{}; {text}", left.text))
        }
    };
    if let Some(from) = from
        && matches!(cause, Cause::Lost)
    {
        draft.compare_lost(group, from);
    }
    draft.compare_present(group, to);
    draft.gone_elsewhere(group, Some(to), name, &reason);
    let number = draft.order(group, to, name, unit, reason.clone());
    let kind = if from.is_some() { "unit-moved" } else { "unit-placed" };
    if group.note.is_none() {
        group.note = note(kind, Some(name), Some(target), &reason.text);
    }
    let decision = Decision { reason, ..Decision::default() };
    draft.place(group, name, unit, Some((target, number)), decision, refusals);
}

/// No machine can take it. A unit on a lost machine, or one that another replaces, stays; any other leaves. Tells
/// whether it leaves.
fn stay_or_leave<'w>(
    draft: &mut Draft<'w>,
    group: &mut Group,
    name: &UnitName,
    unit: &'w UnitRecord,
    from: Option<Slot>,
    cause: &Cause,
    refusals: Vec<RefusalHold>,
) -> bool {
    let machines = draft.board.slots().filter(|slot| !draft.board.view(*slot).is_forgotten()).count();
    let nowhere = match machines {
        0 => "the cluster has no machine".to_owned(),
        1 => "the only machine cannot run it".to_owned(),
        n => format!("none of {n} machines can run it"),
    };
    let (reason, stays) = match (from, cause) {
        (None, _) => (Reason::new("unplaceable", nowhere), None),
        // A forgotten machine would never acknowledge what it is told.
        (Some(from), Cause::Lost | Cause::ReplacedBy(_)) if !draft.board.view(from).is_forgotten() => {
            let left = cause.reason(draft.board.id(from).as_str());
            (Reason::new("stays", format!("{}, and {nowhere} instead", left.text)), Some(from))
        }
        (Some(from), _) => {
            let left = cause.reason(draft.board.id(from).as_str());
            (Reason::new("unplaceable", format!("{}; {nowhere}", left.text)), None)
        }
    };
    let until = refusals.iter().filter(|hold| holds(hold, draft.now)).map(|hold| hold.until).min();
    if let Some(until) = until {
        draft.plan.look_at(until);
    }
    let decision = refusal_in_short(draft, name, unit, reason.clone());
    draft.plan.waiting.push((name.clone(), until));
    if let Some(slot) = stays {
        let elsewhere = Reason::new("elsewhere", format!("it stands on {}", draft.board.id(slot)));
        draft.gone_elsewhere(group, Some(slot), name, &elsewhere);
        let order = draft.board.view(slot).orders().get(name);
        let number = match order {
            Some(order) if !draft.is_outdated(&order.value, unit) => order.value.number,
            _ => draft.order(group, slot, name, unit, reason),
        };
        draft.place(group, name, unit, Some((draft.board.id(slot), number)), decision, refusals);
        return false;
    }
    draft.gone_elsewhere(group, None, name, &reason);
    if !group.writes.is_empty() {
        group.note = note("unit-withdrawn", Some(name), None, &reason.text);
    }
    draft.place(group, name, unit, None, decision, refusals);
    from.is_some()
}

/// Takes the units that name `target` in `MachineOf=` along to the machine it went to.
fn follow<'w>(draft: &mut Draft<'w>, group: &mut Group, target: &UnitName, slot: Slot) {
    let world = draft.world;
    for name in world.followers(target).into_iter().flatten() {
        let Some(unit) = draft.board.unit(name).filter(|u| u.desired.wants_a_machine() && !u.is_global())
        else {
            continue;
        };
        let from = draft.placed_at(name, unit);
        // Nothing leaves a machine that is away before its time has run out.
        let is_away =
            from.is_some_and(|at| !draft.board.view(at).is_present() && !draft.evicted.contains(&at));
        if from == Some(slot) || is_away || draft.settled.contains(name) {
            continue;
        }
        if verdict(&draft.board, slot, name, unit, Purpose::Place, draft.now).is_err() {
            // One whose machine is lost stays with it, like any that has no other place.
            if let Some(from) = from
                && draft.board.view(from).is_present()
                && verdict(&draft.board, from, name, unit, Purpose::Stay, draft.now).is_err()
            {
                // Its place is behind the group that moves its target: a prefix of the plan stays legal.
                draft.emit(std::mem::take(group));
                settle(draft, name, unit, Some(from));
            }
            continue;
        }
        draft.settled.insert(name.clone());
        draft.spill(group);
        draft.compare_unit(group, name);
        let cause = Cause::Misfit(Ineligible::PeerElsewhere {
            peer: target.to_string(),
            at: Some(draft.board.id(slot).clone()),
        });
        let cause = match from {
            Some(from) if !draft.board.view(from).is_present() => Cause::Lost,
            _ => cause,
        };
        let refusals = draft.refusals(name);
        move_to(draft, group, name, unit, from, slot, &cause, refusals);
        follow(draft, group, name, slot);
    }
}

/// The unit left its machine: what has to be beside it cannot stay there either.
fn release_followers(draft: &mut Draft<'_>, target: &UnitName) {
    let world = draft.world;
    for name in world.followers(target).into_iter().flatten() {
        let Some(unit) = draft.board.unit(name).filter(|u| u.desired.wants_a_machine() && !u.is_global())
        else {
            continue;
        };
        let Some(from) = draft.placed_at(name, unit) else { continue };
        if draft.board.view(from).is_present()
            && verdict(&draft.board, from, name, unit, Purpose::Stay, draft.now).is_err()
        {
            settle(draft, name, unit, Some(from));
        }
    }
}
