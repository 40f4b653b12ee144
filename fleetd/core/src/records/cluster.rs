//! `cluster`, `brake`, `hold`, `import`, `engine/leader`: what concerns all machines at once.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Extra, Stamp, schema};
use crate::ids::{ClusterId, Epoch, MachineId};
use crate::time::{Span, Timestamp};
use unit_files::UnitName;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    #[serde(default = "schema")]
    pub v: u32,
    pub id: ClusterId,
    #[serde(default)]
    pub epoch: Epoch,
    /// Features a leader must know before it may plan for this cluster.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    #[serde(default)]
    pub settings: Settings,
    #[serde(default)]
    pub created: Stamp,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Cluster-wide policy that an operator may change at run time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Part of the machines, or of the placed units, that may go at once before the brake holds the rest back.
    #[serde(default = "default_brake_ratio")]
    pub brake_ratio: f64,
    /// Losses within this time count together.
    #[serde(default = "default_brake_window")]
    pub brake_window: Span,
    #[serde(flatten)]
    pub extra: Extra,
}

impl Eq for Settings {}

fn default_brake_ratio() -> f64 {
    0.25
}
fn default_brake_window() -> Span {
    Span::from_secs(300)
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            brake_ratio: default_brake_ratio(),
            brake_window: default_brake_window(),
            extra: Extra::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BrakeCause {
    /// Too many machines were lost within the window: evictions are held back.
    MassLoss,
    /// Metadata, eligibility or settings would move too many units: those stops and moves are held back.
    MassChange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrakeState {
    Engaged,
    /// The operator said go on; stays until what it covers is over, so that the brake does not close again at once.
    Released,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrakeRecord {
    #[serde(default = "schema")]
    pub v: u32,
    pub cause: BrakeCause,
    pub state: BrakeState,
    pub since: Timestamp,
    /// In one sentence: what happened and what is held back.
    pub text: String,
    /// The lost machines that keep their units, if it is engaged for a mass loss; else those that the operator let go.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub machines: BTreeSet<MachineId>,
    /// How many units are held back, and some of them.
    #[serde(default)]
    pub held: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sample: Vec<UnitName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Stamp>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// The store was found rolled back: nobody applies or orders anything until it is adopted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    #[serde(default = "schema")]
    pub v: u32,
    pub by: MachineId,
    pub since: Timestamp,
    pub why: String,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A document is being imported: nobody else fills this store, and no cluster is made in it, before this is gone. Goes
/// with the transaction that writes the cluster's record; one that broke off is taken over by its repetition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRecord {
    #[serde(default = "schema")]
    pub v: u32,
    /// The document's cluster.
    pub cluster: ClusterId,
    pub begun: Stamp,
    /// The cluster without units that was here before, and comes back if something turns up in it after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Box<ClusterRecord>>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    #[serde(default = "schema")]
    pub v: u32,
    pub machine: MachineId,
    pub version: String,
    #[serde(default)]
    pub features: BTreeSet<String>,
    pub since: Timestamp,
    #[serde(flatten)]
    pub extra: Extra,
}
