//! `machines/<id>`, `presence/<id>`, `lost/<id>`, `witness/<id>`: a machine as the operator, itself and the engine
//! see it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Extra, Stamp, schema};
use crate::ids::{BootId, Epoch, MachineId, Nonce};
use crate::time::{Span, Timestamp};

/// The operator's view of a machine; outlives its presence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    #[serde(default = "schema")]
    pub v: u32,
    /// Overrides of the metadata the machine publishes. An empty value hides a published key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Takes no new unit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordon: bool,
    #[serde(default)]
    pub first_seen: Timestamp,
    /// The operator said that this machine will not come back; only this marker is left of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<Stamp>,
    /// It came with an import and has not been here since: its units run wherever it is, so that its absence proves
    /// nothing. Taken off by its first announcement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Stamp>,
    /// The operator's word that the machine is off. Holds for one boot: a newer presence ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_dead: Option<ConfirmedDead>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmedDead {
    pub stamp: Stamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineRole {
    /// May lead.
    #[default]
    Auto,
    Never,
}

/// What a machine says of itself, for as long as its lease lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceRecord {
    #[serde(default = "schema")]
    pub v: u32,
    pub machine: MachineId,
    /// Address of the machine as lists show it; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub primary_ip: String,
    /// `host:port` where other machines of the cluster reach its fleetd; empty if nothing listens.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_address: String,
    /// SHA-256 of the certificate that its fleetd shows to its peers, lower-case hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Release of fleetd.
    #[serde(default)]
    pub version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub systemd: String,
    #[serde(default)]
    pub features: BTreeSet<String>,
    pub boot: BootId,
    pub nonce: Nonce,
    #[serde(default)]
    pub engine: EngineRole,
    /// The machine's own detection time: after this long without it, its units move.
    pub agent_ttl: Span,
    pub since: Timestamp,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Written by the engine when a machine's presence is gone; deleted by the machine when it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRecord {
    #[serde(default = "schema")]
    pub v: u32,
    pub since: Timestamp,
    /// How long the engine waits between this marker and the first eviction.
    pub grace: Span,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Counts the passes of a machine that applied something. A store that counts less than the machine's own disk was
/// rolled back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessRecord {
    #[serde(default = "schema")]
    pub v: u32,
    pub epoch: Epoch,
    pub passes: u64,
    #[serde(flatten)]
    pub extra: Extra,
}

/// What the machine publishes, overlaid by what the operator set; an empty override hides the key.
#[must_use]
pub fn effective_metadata(
    presence: Option<&PresenceRecord>,
    record: Option<&MachineRecord>,
) -> BTreeMap<String, String> {
    let mut merged = presence.map(|p| p.metadata.clone()).unwrap_or_default();
    for (key, value) in record.iter().flat_map(|r| &r.metadata) {
        if value.is_empty() {
            merged.remove(key);
        } else {
            merged.insert(key.clone(), value.clone());
        }
    }
    merged
}
