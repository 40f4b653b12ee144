//! What fleet 1.0 has left on this machine when its daemon was ended: units that go on, of which we take over those whose
//! text is the one ordered.
//!
//! Asked by `goal`. Says only what something is, never what to do about it.

use super::observed::{Fragment, Observed};
use crate::records::{Order, Wanted};

/// Code of the failure of a step that was not done because the daemon of fleet 1.0 still runs on this machine.
pub const FLEET_1_RUNS: &str = "fleet-1-runs";

/// fleet 1.0 keeps texts and links where we do, but has no drop-in: the bytes are those of the order, and what systemd
/// has loaded came from them and bears no mark. A mark that is on disk and not loaded is one that was interrupted.
pub(super) fn is_left_by_fleet_1(order: &Order, seen: &Observed) -> bool {
    let is_its_text = seen.on_disk.is_some_and(|text| {
        let is_free = text.run_hash.is_none() || (text.run_hash == Some(order.run_hash) && seen.is_up());
        text.content == order.content && text.is_linked && is_free
    });
    let is_unmarked = seen.loaded.as_ref().is_none_or(|unit| match unit.fragment {
        Fragment::Ours => unit.run_hash.is_none(),
        // Unloaded, and what refers to it keeps its name.
        Fragment::None => unit.load == "not-found" && seen.is_at_rest(),
        Fragment::Foreign(_) => false,
    });
    is_its_text && is_unmarked
}

/// Somebody has asked this cluster for a run. What was launched under fleet 1.0 was asked for there, and has had it: a
/// unit that came from there counts no start.
pub(super) fn is_asked_to_run(order: &Order) -> bool {
    order.wanted == Wanted::Launched && (order.counters.start > 0 || order.counters.restart > 0)
}
