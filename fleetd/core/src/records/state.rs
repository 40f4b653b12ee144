//! `states/<machine>/<unit>`: what a machine says of a unit it has.

use serde::{Deserialize, Serialize};
use unit_files::{ContentHash, RunHash, UnitHash};

use super::{Counters, Extra, PresenceRecord, Reason, Wanted, schema};
use crate::ids::{BootId, Generation, OrderNumber, UnitUid};
use crate::time::Timestamp;

/// How far the machine is with the order of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowPhase {
    /// The order whose number the row carries has been carried out.
    #[default]
    Settled,
    /// Text is being fetched, written or linked.
    Loading,
    /// A start job is queued or runs.
    Starting,
    /// A stop job is queued or runs.
    Stopping,
    /// Something failed and is tried again; see `last_error`.
    Retrying,
    /// The machine will not do it; see `refused`.
    Refused,
    /// Runs here without an order and was left alone.
    Orphan,
}

/// Code of the refusal of an order that is older than one which the machine has accepted: no fault of the machine, and
/// settled by a newer order.
pub const STALE_ORDER: &str = "stale-order";

/// An order that the machine will not carry out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub number: OrderNumber,
    pub reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRow {
    #[serde(default = "schema")]
    pub v: u32,
    pub uid: UnitUid,
    /// Last order carried out. A unit "has done" an order only when its row carries that number or a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<OrderNumber>,
    /// What that order wanted; API v1 shows it as the current state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Wanted>,
    #[serde(default)]
    pub counters: Counters,
    #[serde(default)]
    pub phase: RowPhase,
    /// Since when the phase is what it is.
    #[serde(default)]
    pub phase_since: Timestamp,
    pub load: String,
    pub active: String,
    pub sub: String,
    /// systemd's `Result=` of the last run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// Generation ordered and applied.
    #[serde(default)]
    pub generation: Generation,
    /// Hash of that generation in API v1's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_hash: Option<UnitHash>,
    /// Hash of the bytes on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_disk: Option<ContentHash>,
    /// Hash of what the running invocation was started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunHash>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub invocation: String,
    /// Automatic restarts of this invocation's service, systemd's `NRestarts=`.
    #[serde(default)]
    pub restarts: u32,
    /// Since when `active`/`sub` are what they are.
    #[serde(default)]
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// The boot in which the machine says all this; without one (an older release wrote it) it is taken as the present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
    /// When the machine wrote this row.
    #[serde(default)]
    pub at: Timestamp,
    #[serde(flatten)]
    pub extra: Extra,
}

impl StateRow {
    /// Whether the row speaks of the boot that is present: a machine that has just booted is there before it has said
    /// anew what runs, and what it said in its last boot is over.
    #[must_use]
    pub fn is_of_boot(&self, presence: &PresenceRecord) -> bool {
        self.boot.as_ref().is_none_or(|boot| *boot == presence.boot)
    }
}
