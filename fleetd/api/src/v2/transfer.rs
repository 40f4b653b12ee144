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
    /// The document's other machines. What is on them stays there until they come.
    pub expected: Vec<ExpectedMachine>,
    /// When what it holds was changed last.
    pub newest: u64,
    /// What runs on the machine that answers, and would be stopped or restarted. What the other machines would do is
    /// not known here.
    pub would_stop: Vec<AdoptEffect>,
    pub would_start: Vec<AdoptEffect>,
    pub done: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExpectedMachine {
    pub machine: String,
    /// Units that the document has on it.
    pub units: usize,
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
    /// Of [`JoinReport::missing`]: come as well.
    pub bring: Vec<String>,
    /// The rest of them is given up. Without it nothing is done while there is any.
    pub leave_missing: bool,
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
    /// Units that its own store has, without those in `missing`.
    pub units: Vec<String>,
    /// If the cluster was made from an export of the own store: units of it that the cluster does not have. They were
    /// destroyed there, or submitted here after the export, and do not come, unless they are named in `bring`.
    pub missing: Vec<String>,
    /// Those of `missing` whose name another unit of the cluster has: they cannot be brought.
    pub taken: Vec<String>,
    /// Where the own store is; after the join, where it was put.
    pub store: String,
    /// Where it has to lie, for another join with what is in it.
    pub store_before: String,
    pub done: bool,
}
