//! Why a unit is where it is, or nowhere: the engine's own function, computed for every machine.

use serde::{Deserialize, Serialize};

use super::{DecisionView, MachineRef};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Explanation {
    pub unit: String,
    pub desired: String,
    pub global: bool,
    /// Where it is now; none for a global unit and for one that is nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionView>,
    pub machines: Vec<MachineVerdict>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct MachineVerdict {
    pub machine: String,
    pub ip: String,
    /// It can take the unit, or has it.
    pub ok: bool,
    pub code: String,
    pub text: String,
    /// What would have to change for it to fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_fit_if: Option<String>,
}
