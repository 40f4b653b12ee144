//! The cluster as a whole, the machine that answers, and the operator's words to both.

use serde::{Deserialize, Serialize};

use super::StampView;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterView {
    pub id: String,
    pub epoch: u64,
    /// Features that a leader must know.
    pub features: Vec<String>,
    pub store: StoreView,
    /// None: nobody leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderView>,
    /// The store was found rolled back; nobody applies or orders anything until it is adopted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brake: Option<BrakeView>,
    /// A document is being imported into this store, or was when that broke off: no cluster is in it until that is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportView>,
    pub machines: MachineCounts,
    pub units: usize,
    /// The machine that answers.
    pub local: LocalView,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct StoreView {
    /// `etcd` or `embedded`.
    pub kind: String,
    pub revision: i64,
    /// False: the rest is from the machine's own disk.
    pub answers: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct LeaderView {
    pub machine: String,
    pub ip: String,
    pub version: String,
    pub since: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct HoldView {
    /// The machine that noticed.
    pub by: String,
    pub since: u64,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ImportView {
    /// The document's.
    pub cluster: String,
    pub by: String,
    pub since: u64,
    pub remedy: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BrakeView {
    /// `mass-loss` or `mass-change`.
    pub cause: String,
    /// `engaged` or `released`.
    pub state: String,
    pub since: u64,
    pub text: String,
    /// Units held back, and some of them.
    pub held: usize,
    pub sample: Vec<String>,
    pub machines: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released: Option<StampView>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct MachineCounts {
    pub present: usize,
    pub missing: usize,
    pub lost: usize,
    /// Not there since an import.
    pub expected: usize,
    pub cordoned: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct LocalView {
    pub machine: String,
    pub hostname: String,
    pub version: String,
    pub features: Vec<String>,
    /// `connected`, `disconnected`, `on-hold`, `foreign-store`, `starting`.
    pub connection: String,
    /// While not connected: since when the machine holds what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holding_since: Option<u64>,
    /// What is wrong, in one sentence; empty if nothing is.
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_audit: Option<u64>,
}

/// Re-anchors the cluster after its store was rolled back. Without `yes` nothing is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct AdoptRequest {
    pub yes: bool,
    pub by: String,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct AdoptReport {
    /// What runs and would be stopped, as far as the present machines report it.
    pub would_stop: Vec<AdoptEffect>,
    pub would_start: Vec<AdoptEffect>,
    /// After the adoption.
    pub epoch: u64,
    pub done: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct AdoptEffect {
    pub unit: String,
    pub machine: String,
    pub why: String,
}
