//! Launched is an edge: what an order asks for beyond what has been carried out already.
//!
//! The whole of it is [`Goal::of`]. It looks at the order, at what was carried out last and at the machine, and says
//! what is still missing; it is asked anew in every pass, so that a procedure of several passes goes on where it is,
//! after a crash too.

use super::left::{is_asked_to_run, is_left_by_fleet_1};
use super::observed::Observed;
use super::record::{Applied, DiskRecord, Outcome};
use crate::ids::BootId;
use crate::records::{Order, RunKind, Wanted};

/// What is missing. All false: the order has been carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Goal {
    /// Nothing of the unit may be left here.
    pub remove: bool,
    /// What runs must end first.
    pub stop: bool,
    /// The order's text must be the one on disk, and the one systemd reads.
    pub text: bool,
    /// Then one new run.
    pub start: bool,
    /// What runs is what the order asks for, and we did not start it: take it over.
    pub adopt: bool,
    /// fleet 1.0 has left the unit here as the order asks for it: our mark is to be put beside its text, and nothing is
    /// done to the unit.
    pub mark: bool,
}

impl Goal {
    pub(super) fn is_reached(self) -> bool {
        !(self.remove || self.stop || self.text || self.start || self.mark)
    }

    /// `base` is the order carried out last, or the one whose start is under way.
    pub(super) fn of(
        order: &Order,
        base: Option<&Applied>,
        record: &DiskRecord,
        seen: &Observed,
        boot: &BootId,
    ) -> Goal {
        if order.wanted == Wanted::Gone {
            return Goal { remove: true, ..Goal::default() };
        }
        match base.filter(|base| base.wanted != Wanted::Gone && base.boot == *boot) {
            None => Goal::of_arrival(order, record, seen),
            Some(base) if base.uid != order.uid || base.run_hash != order.run_hash => {
                Goal::of_replacement(order, base, record, seen)
            }
            Some(base) if order.wanted == Wanted::Launched => {
                Goal::of_launched(order, base, record, seen, boot)
            }
            Some(base) => Goal::of_loaded(order, base, seen),
        }
    }

    /// New on this machine, or a new boot.
    fn of_arrival(order: &Order, record: &DiskRecord, seen: &Observed) -> Goal {
        let is_its_text = seen.loaded_run_hash() == Some(order.run_hash);
        if is_its_text && seen.is_up() {
            return Goal { adopt: true, ..Goal::default() };
        }
        // Asked for here before the takeover: the run of fleet 1.0 is not the one that is wanted.
        let is_over = order.counters.stop > 0 || order.counters.restart > 0;
        if is_left_by_fleet_1(order, seen) && seen.is_up() && is_over {
            let start = order.wanted == Wanted::Launched;
            return Goal { stop: true, text: true, start, ..Goal::default() };
        }
        if is_left_by_fleet_1(order, seen) && (seen.is_up() || (seen.is_at_rest() && !is_asked_to_run(order)))
        {
            return Goal { mark: true, ..Goal::default() };
        }
        // The disk was lost, not the machine: a pin does not outlive a boot, so it ran in this one.
        let has_run = is_its_text && seen.is_at_rest() && seen.invocation().is_some();
        if has_run && (seen.is_pinned || record.applied.is_none()) {
            return Goal { adopt: true, ..Goal::default() };
        }
        let was_up = seen.is_up() || record.relaunch;
        Goal {
            stop: seen.is_up(),
            text: lacks_text(order, seen),
            start: order.wanted == Wanted::Launched || was_up,
            ..Goal::default()
        }
    }

    /// Another text, or another unit of the same name.
    fn of_replacement(order: &Order, base: &Applied, record: &DiskRecord, seen: &Observed) -> Goal {
        let is_same_unit = base.uid == order.uid;
        let is_stopped = is_same_unit && order.counters.stop > base.counters.stop;
        let runs_already = is_same_unit
            && seen.is_up()
            && seen.loaded_run_hash() == Some(order.run_hash)
            && !seen_is_run_of(seen, record);
        if runs_already {
            return Goal { adopt: true, ..Goal::default() };
        }
        let was_up = is_same_unit && !is_stopped && (seen.is_up() || record.relaunch);
        Goal {
            stop: seen.is_up(),
            text: lacks_text(order, seen),
            start: order.wanted == Wanted::Launched || was_up,
            ..Goal::default()
        }
    }

    fn of_launched(
        order: &Order,
        base: &Applied,
        record: &DiskRecord,
        seen: &Observed,
        boot: &BootId,
    ) -> Goal {
        let (asked, done) = (order.counters, base.counters);
        let is_new_run = asked.stop > done.stop || asked.restart > done.restart;
        let is_start = asked.start > done.start || base.wanted != Wanted::Launched;
        let start = if is_new_run {
            // Stopped as asked, and something else (a socket, a person) has started it again since.
            !(seen.is_up() && seen.has_ended(super::JobKind::Stop) == Some("done"))
        } else {
            is_start && !seen.is_up() && !(order.run == RunKind::Oneshot && has_succeeded(record, seen, boot))
        };
        Goal {
            stop: start && is_new_run && seen.is_up(),
            text: needs_text(order, seen, start),
            start,
            ..Goal::default()
        }
    }

    fn of_loaded(order: &Order, base: &Applied, seen: &Observed) -> Goal {
        let is_done = seen.has_ended(super::JobKind::Stop) == Some("done");
        let stop = order.counters.stop > base.counters.stop && !seen.is_at_rest() && !is_done;
        Goal { stop, text: needs_text(order, seen, false), ..Goal::default() }
    }
}

fn lacks_text(order: &Order, seen: &Observed) -> bool {
    let is_on_disk = seen.on_disk.is_some_and(|text| {
        text.content == order.content && text.is_linked && text.run_hash == Some(order.run_hash)
    });
    let is_stale = seen.loaded_run_hash().is_some_and(|loaded| loaded != order.run_hash);
    !is_on_disk || is_stale
}

/// Text that means the same as the one here is left alone until the next start; a text that is gone is put back, but
/// never under a running unit.
fn needs_text(order: &Order, seen: &Observed, start: bool) -> bool {
    if start { lacks_text(order, seen) } else { seen.on_disk.is_none() && seen.is_at_rest() }
}

fn seen_is_run_of(seen: &Observed, record: &DiskRecord) -> bool {
    let ours = record.run.as_ref().and_then(|run| run.invocation.as_deref());
    ours.is_some() && ours == seen.invocation()
}

/// A oneshot that has done its work in this boot.
fn has_succeeded(record: &DiskRecord, seen: &Observed, boot: &BootId) -> bool {
    let Some(run) = record.run.as_ref().filter(|run| run.boot == *boot && run.uid == record.order.uid) else {
        return false;
    };
    match &seen.loaded {
        Some(unit) if unit.invocation.is_some() => seen.is_at_rest() && unit.result == "success",
        _ => run.outcome == Outcome::Ran && run.result == "success" && run.error.is_none(),
    }
}
