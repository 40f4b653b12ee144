//! A cluster that moves to another store, and a machine that moves to another cluster.

use serde::{Deserialize, Serialize};

use super::cluster::AdoptEffect;

/// Makes a cluster from a document of `GET /fleet/v2/cluster/export`, in a store that has none. Without `yes` nothing
/// is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ImportRequest {
    pub document: String,
    pub yes: bool,
    pub by: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ImportReport {
    pub cluster: String,
    /// After the import.
    pub epoch: u64,
    pub units: usize,
    pub machines: usize,
    /// When what it holds was changed last.
    pub newest: u64,
    /// What runs on the machine that answers, and would be stopped or restarted. What the other machines would do is
    /// not known here.
    pub would_stop: Vec<AdoptEffect>,
    pub would_start: Vec<AdoptEffect>,
    pub done: bool,
}

/// What becomes of the units that a machine had in its own store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum JoinMode {
    /// They become units of the cluster it joins, and run on.
    #[default]
    Adopt,
    /// They belong to nobody; those that run go on as they are.
    Abandon,
}

/// Moves the machine that answers from its own store to the configured one. Without `yes` nothing is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct JoinRequest {
    pub mode: JoinMode,
    pub yes: bool,
    pub by: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct JoinReport {
    pub machine: String,
    /// The cluster that it leaves.
    pub from: String,
    /// The cluster that it joins; `from` if the store had none and all of it moves. Empty: a new one will be made.
    pub to: String,
    /// Units that its own store has.
    pub units: Vec<String>,
    pub done: bool,
}
