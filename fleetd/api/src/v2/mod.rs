//! The API beyond fleet 1.0: batches of changes, waiting, views with ages and reasons.
//!
//! JSON with camelCase keys. Every field may be absent and unknown ones are ignored, so that client and server of
//! neighbouring releases understand each other. Times are Unix milliseconds (`…Ms`, `at`, `since`) unless the field's
//! comment says that it is a length of time.

mod cluster;
mod event;
mod explanation;
mod health;
mod machine;
mod progress;
mod remote;
mod request;
mod state;
mod transfer;
mod unit;
mod watch;

use serde::{Deserialize, Serialize};

pub use cluster::{
    AdoptEffect, AdoptReport, AdoptRequest, BrakeView, ClusterView, HoldView, ImportView, LeaderView,
    LocalView, MachineCounts, StoreView,
};
pub use event::{Event, EventList, EventNote};
pub use explanation::{Explanation, MachineVerdict};
pub use health::{EndpointView, HealthView, MemberView, ProblemView};
pub use machine::{MachineList, MachineState, MachineView};
pub use progress::{MachineProgress, Phase, Progress, WaitFor, WaitLine, WaitRequest, WaitUnit};
pub use remote::{JournalLine, StatusReport};
pub use request::{Action, ActionResult, Arrival, ChangeReport, ChangeRequest, Verb};
pub use state::{StateList, StateView};
pub use transfer::{ExpectedMachine, ImportReport, ImportRequest, JoinMode, JoinReport, JoinRequest};
pub use unit::{
    CountersView, DecisionView, OrderView, PlacementView, RefusalHoldView, UnitList, UnitView, UnreadableUnit,
};
pub use watch::{Deleted, RegistryAnswers, Reset, Synced, WatchEvent, WatchKind};

/// A stable word for programs and a sentence for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Reason {
    pub code: String,
    pub text: String,
}

/// A machine, as far as a reader needs it to find the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct MachineRef {
    pub id: String,
    /// Empty if the machine has none or is not present.
    pub ip: String,
}

/// Machines that are out for one reason: how many, and up to three of them as `(id, text)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Refusal {
    pub code: String,
    pub machines: usize,
    pub sample: Vec<(String, String)>,
}

/// Who did something, when and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct StampView {
    pub at: u64,
    pub by: String,
    pub why: String,
}

/// The body of an operator's request that has no other arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Requester {
    pub by: String,
    pub why: String,
}

/// What such a request did, in one sentence. Repeating it is harmless.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Done {
    /// False if everything was so already.
    pub changed: bool,
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_can_be_read_from_an_empty_object() {
        let empty = "{}";
        serde_json::from_str::<UnitView>(empty).unwrap();
        serde_json::from_str::<StateView>(empty).unwrap();
        serde_json::from_str::<MachineView>(empty).unwrap();
        serde_json::from_str::<ClusterView>(empty).unwrap();
        serde_json::from_str::<Explanation>(empty).unwrap();
        serde_json::from_str::<ChangeReport>(empty).unwrap();
        serde_json::from_str::<AdoptReport>(empty).unwrap();
        serde_json::from_str::<EventList>(empty).unwrap();
        serde_json::from_str::<StatusReport>(empty).unwrap();
        serde_json::from_str::<JournalLine>(empty).unwrap();
    }
}
