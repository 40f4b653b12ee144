//! `units/<name>`: what the operator wants of a unit.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use unit_files::{ContentHash, Requirements, RunHash, UnitHash, UnitName};

use super::{Extra, Stamp, schema};
use crate::ids::{Generation, RequestId, UnitUid};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DesiredState {
    /// Keep the file, run nowhere.
    #[default]
    Inactive,
    /// Placed, written and linked, not started.
    Loaded,
    /// Placed and started.
    Launched,
    /// Going away: hidden by the API, removed when the last machine has acknowledged.
    Destroyed,
}

impl DesiredState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DesiredState::Inactive => "inactive",
            DesiredState::Loaded => "loaded",
            DesiredState::Launched => "launched",
            DesiredState::Destroyed => "destroyed",
        }
    }
    /// Whether the unit is to be on some machine.
    #[must_use]
    pub fn wants_a_machine(self) -> bool {
        matches!(self, DesiredState::Loaded | DesiredState::Launched)
    }
}

/// Edges: each request raises its counter, and an agent that has applied a count never acts on it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    #[serde(default)]
    pub start: u64,
    #[serde(default)]
    pub stop: u64,
    #[serde(default)]
    pub restart: u64,
}

/// How a unit's run ends, read off its text at submit: a oneshot that succeeded is not started again by a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    #[default]
    Continuous,
    Oneshot,
}

/// One version of a unit's content and what was read off it at submit, so that nobody needs the text to decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRecord {
    pub generation: Generation,
    /// SHA-256 of the bytes as submitted; the key under `contents/`.
    pub content: ContentHash,
    /// SHA-1 of the serialized text, as API v1 shows it.
    pub unit_hash: UnitHash,
    /// What decides whether a running unit has to be restarted for it.
    pub run_hash: RunHash,
    #[serde(default)]
    pub requirements: Requirements,
    #[serde(default)]
    pub run: RunKind,
    /// First `Description=` of the text, for lists.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// The template, and its version, that a unit's text was copied from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateOrigin {
    pub unit: UnitName,
    pub generation: Generation,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitRecord {
    #[serde(default = "schema")]
    pub v: u32,
    pub uid: UnitUid,
    pub current: GenerationRecord,
    /// What failover places. Only a rollout holds it back; without one it follows `current`.
    pub last_good: GenerationRecord,
    /// Of an instance whose text was copied from a template of the registry; later changes of that do not reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateOrigin>,
    /// Earlier generations, newest first, at most five.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<GenerationRecord>,
    #[serde(default)]
    pub desired: DesiredState,
    #[serde(default)]
    pub counters: Counters,
    /// The requests that wrote this record, newest first, at most [`UnitRecord::KEPT_REQUESTS`]: one of them sent again
    /// counts once. A new life of a name begins with those of the life before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent_requests: Vec<RequestId>,
    /// New content and restarts of a global unit reach all machines at once instead of one after the other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_at_once: bool,
    /// Features that an agent must provide to run it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    #[serde(default)]
    pub created: Stamp,
    #[serde(default)]
    pub changed: Stamp,
    #[serde(flatten)]
    pub extra: Extra,
}

impl UnitRecord {
    /// More than the requests that can be under way for one unit at a time.
    pub const KEPT_REQUESTS: usize = 16;

    /// What the engine places: the last good generation. Without a rollout that is the current one.
    #[must_use]
    pub fn placed(&self) -> &GenerationRecord {
        &self.last_good
    }
    #[must_use]
    pub fn requirements(&self) -> &Requirements {
        &self.last_good.requirements
    }
    #[must_use]
    pub fn is_global(&self) -> bool {
        self.last_good.requirements.global
    }
}
