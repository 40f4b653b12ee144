//! `assignments/<machine>/<unit>`: what a machine is told to do with a unit.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use unit_files::{ContentHash, Glob, RunHash, UnitHash};

use super::{Counters, Extra, Reason, RunKind, schema};
use crate::ids::{Generation, OrderNumber, UnitUid};
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// Stop it, unload it, then delete this order: only that delete acknowledges it.
    Gone,
    Loaded,
    Launched,
}

impl Wanted {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Wanted::Gone => "gone",
            Wanted::Loaded => "loaded",
            Wanted::Launched => "launched",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    #[serde(default = "schema")]
    pub v: u32,
    pub number: OrderNumber,
    pub uid: UnitUid,
    pub generation: Generation,
    pub content: ContentHash,
    pub unit_hash: UnitHash,
    pub run_hash: RunHash,
    pub wanted: Wanted,
    #[serde(default)]
    pub counters: Counters,
    #[serde(default)]
    pub run: RunKind,
    /// Names this unit must not share a machine with. In the order itself, so that what a vanished unit record once
    /// occupied is still known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Glob>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub global: bool,
    /// Features the agent must know, else it refuses the order.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    pub reason: Reason,
    pub at: Timestamp,
    #[serde(flatten)]
    pub extra: Extra,
}
