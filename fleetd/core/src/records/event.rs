//! `events/<utc ms>-<id>`: who ordered what, when and why. One record per transaction.

use serde::{Deserialize, Serialize};
use unit_files::UnitName;

use super::{Extra, schema};
use crate::ids::{MachineId, RequestId};
use crate::time::Timestamp;

/// One thing that happened, as part of an [`EventRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventNote {
    /// A stable word: `unit-created`, `unit-placed`, `unit-moved`, `machine-lost`, ...
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// One sentence. Never a unit's text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    #[serde(default = "schema")]
    pub v: u32,
    pub at: Timestamp,
    /// Who: `engine@<machine>`, or what the API knows of the client.
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    pub notes: Vec<EventNote>,
    #[serde(flatten)]
    pub extra: Extra,
}
