//! A batch of changes: what `fleetctl submit`, `load`, `start`, `stop`, `unload`, `destroy` and `restart` send.

use serde::{Deserialize, Serialize};

use crate::ApiError;

/// What is to become of a unit. The words are the commands of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Store the text; a new unit is wanted nowhere, an existing one stays as it is.
    Submit,
    /// Have it placed and linked, not running.
    Load,
    /// Have it placed and running.
    Start,
    /// Have it placed and not running; raises the stop counter.
    Stop,
    /// Have it nowhere; raises the stop counter.
    Unload,
    Destroy,
    /// One new run, whatever it does now.
    Restart,
}

impl Verb {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Submit => "submit",
            Verb::Load => "load",
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Unload => "unload",
            Verb::Destroy => "destroy",
            Verb::Restart => "restart",
        }
    }
}

/// One request of an operator, for one or many units. Units are judged each for itself: a refused one does not hold up
/// the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ChangeRequest {
    /// Made by the client, 1 to 64 characters of `0-9A-Za-z-_`. The same request sent again counts once; one that
    /// changed nothing the first time is judged again.
    pub request_id: String,
    /// The same request was sent before and its answer was lost. It makes sure of the above also where the unit was
    /// destroyed or changed many times since, at the price of a look through the event log.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Judge everything, write nothing.
    pub dry_run: bool,
    pub actions: Vec<Action>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Action {
    pub unit: String,
    pub verb: Verb,
    /// The unit file as the operator has it. Absent: the unit is known, or its template is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Whether `text` may replace other content of a known unit.
    #[serde(default)]
    pub replace: bool,
    /// New content and restarts of a global unit reach all machines at once.
    #[serde(default)]
    pub all_at_once: bool,
    /// For `destroy`: do not wait for machines that cannot stop it.
    #[serde(default)]
    pub force: bool,
    /// For `submit`, `load` and `start` of a unit that comes from another fleet as it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<Arrival>,
}

/// A unit comes from another fleet: nobody has asked for a start here, so that none is counted. A unit of the name that is
/// known already stays as it is, if it has the same text, and is refused otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Arrival {
    /// Full id of the machine that has it, which has to be present: that is its place. Absent: it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

impl Action {
    #[must_use]
    pub fn new(unit: impl Into<String>, verb: Verb) -> Action {
        Action {
            unit: unit.into(),
            verb,
            text: None,
            replace: false,
            all_at_once: false,
            force: false,
            arrival: None,
        }
    }
}

/// The answer to a [`ChangeRequest`]: one result per action, in the order of the actions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ChangeReport {
    pub results: Vec<ActionResult>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ActionResult {
    pub unit: String,
    pub ok: bool,
    /// The name was unknown before.
    pub created: bool,
    /// The record was written. False: everything asked for was so already, or nothing was written (`dryRun`).
    pub changed: bool,
    pub uid: String,
    pub generation: u64,
    /// `inactive`, `loaded`, `launched`, `destroyed`.
    pub desired: String,
    /// Modification revision of the unit's record that says so: what a wait has to see judged and carried out.
    pub revision: i64,
    pub global: bool,
    pub warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}
