//! Machines, present or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct MachineList {
    pub revision: i64,
    /// By id, byte order; forgotten ones are left out unless asked for by id.
    pub machines: Vec<MachineView>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    Present,
    /// Its presence is gone; not long enough to call it lost.
    Missing,
    Lost,
    /// Its records were imported, and it has not come since. Its units stay with it.
    Expected,
    Forgotten,
    #[default]
    #[serde(other)]
    Unknown,
}

impl MachineState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            MachineState::Present => "present",
            MachineState::Missing => "missing",
            MachineState::Lost => "lost",
            MachineState::Expected => "expected",
            MachineState::Forgotten => "forgotten",
            MachineState::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct MachineView {
    pub id: String,
    pub ip: String,
    /// Published metadata overlaid by what the operator set.
    pub metadata: BTreeMap<String, String>,
    pub hostname: String,
    /// Release of its fleetd.
    pub version: String,
    pub systemd: String,
    pub state: MachineState,
    pub since_ms: u64,
    pub cordon: bool,
    /// Orders it has, `gone` excluded.
    pub units: usize,
    /// What the engine sorts by when it looks for the emptiest machine.
    pub load: u64,
    pub boot_id: String,
    pub leader: bool,
}
