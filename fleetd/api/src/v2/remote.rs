//! What one machine's own tools say of a unit: `systemctl status` and `journalctl`, asked through the API.

use serde::{Deserialize, Serialize};

use super::MachineRef;
use crate::ApiError;

/// What `systemctl status -l UNIT` printed on the unit's machine, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct StatusReport {
    pub machine: MachineRef,
    pub exit_code: i32,
    pub text: String,
}

/// One line of a journal's stream: a piece of the text, or the end. Lines with neither are heartbeats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct JournalLine {
    /// Printed as it is, newlines included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// `journalctl` has ended; nothing follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The stream broke; nothing follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}
