//! What machines say of units, each with an age.

use serde::{Deserialize, Serialize};

use super::Reason;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct StateList {
    pub revision: i64,
    /// By unit, then machine, byte order.
    pub states: Vec<StateView>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct StateView {
    pub unit: String,
    pub machine: String,
    pub ip: String,
    pub load: String,
    /// `unknown` while the machine is lost.
    pub active: String,
    pub sub: String,
    /// systemd's `Result=` of the last run.
    pub result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// SHA-1, as API v1 shows it, of what the machine was ordered and has applied.
    pub hash: String,
    /// SHA-256 of the text that is wanted there.
    pub ordered: String,
    /// SHA-256 of the text on the machine's disk.
    pub on_disk: String,
    /// Hash of what the running invocation was started from.
    pub running_hash: String,
    pub invocation: String,
    /// Automatic restarts of this invocation.
    pub restarts: u32,
    /// Since when `active` and `sub` are what they are.
    pub since_ms: u64,
    /// How long ago the machine last vouched for this row: its last write, or zero while it is present.
    pub age_ms: u64,
    /// `settled`, `loading`, `starting`, `stopping`, `retrying`, `refused`, `orphan`.
    pub phase: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Reason>,
    /// Runs there without an order.
    pub orphan: bool,
}
