//! A unit as the registry has it: what is wanted, where it is placed and why, what each machine was ordered and says.

use serde::{Deserialize, Serialize};

use super::{MachineRef, Reason, Refusal, StampView, StateView};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct UnitList {
    /// The store's revision that all of this was read at.
    pub revision: i64,
    /// By name, byte order.
    pub units: Vec<UnitView>,
    /// Stored units that this fleetd cannot read, as after an update of others: they are left as they are, and are not
    /// among `units`. A list by names is refused instead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<UnreadableUnit>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct UnreadableUnit {
    pub name: String,
    /// Why, and what to do.
    pub text: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct UnitView {
    pub name: String,
    pub uid: String,
    /// Modification revision of the unit's record.
    pub revision: i64,
    pub generation: u64,
    pub last_good: u64,
    pub desired: String,
    /// As API v1 has it: what the last order applied on its machine wanted; `inactive` without one. Empty for a global
    /// unit.
    pub current_state: String,
    pub counters: CountersView,
    /// SHA-1 of the serialized text, as API v1 shows it.
    pub hash: String,
    /// SHA-256 of the bytes as submitted.
    pub content_hash: String,
    pub global: bool,
    /// First `Description=`; empty if there is none.
    pub description: String,
    /// Of a unit that is not global and has been judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionView>,
    /// One per machine that has an order, `gone` included.
    pub orders: Vec<OrderView>,
    pub states: Vec<StateView>,
    /// The stored bytes; in lists only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    pub created: StampView,
    pub changed: StampView,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct CountersView {
    pub start: u64,
    pub stop: u64,
    pub restart: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct PlacementView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineRef>,
    /// Number of the order that says so.
    pub number: String,
    pub refusals: Vec<RefusalHoldView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct RefusalHoldView {
    pub machine: String,
    pub reason: Reason,
    pub until: u64,
    pub times: u32,
}

/// The engine's last word, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct DecisionView {
    /// Modification revision of the unit's record that was judged. Older than the record: a new decision is due.
    pub judged: i64,
    pub reason: Reason,
    pub refused: Vec<Refusal>,
    pub at: u64,
}

/// What one machine was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct OrderView {
    pub machine: String,
    pub number: String,
    pub uid: String,
    /// `inactive`, `loaded`, `launched`, `gone`.
    pub wanted: String,
    pub generation: u64,
    pub counters: CountersView,
    pub reason: Reason,
    /// The machine's row reports this order, or a later one, as applied.
    pub applied: bool,
}
