//! Waiting: the client names units and the records it wrote, the server says how far the cluster is with them.

use serde::{Deserialize, Serialize};

use super::{MachineRef, Reason, Refusal};
use crate::ApiError;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct WaitRequest {
    pub units: Vec<WaitUnit>,
    pub until: WaitFor,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum WaitFor {
    /// The desired state of the record is reached, whatever it is.
    #[default]
    Done,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct WaitUnit {
    pub unit: String,
    /// Of the record that the request wrote; older decisions and orders do not count. Absent: the present record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The life of the name that is meant. Another uid, or none, means that this one is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// One line of the stream. The stream ends when every unit is done, failed or gone; the client ends it earlier by
/// closing the connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum WaitLine {
    /// Every 5 s, so that a dead connection shows.
    Heartbeat {
        heartbeat: bool,
    },
    /// Nobody leads, or (`false`) somebody does again.
    NoLeader {
        #[serde(rename = "noLeader")]
        no_leader: bool,
        #[serde(default)]
        since: u64,
    },
    /// The registry does not answer, or (`false`) does again.
    NoRegistry {
        #[serde(rename = "noRegistry")]
        no_registry: bool,
        #[serde(default)]
        since: u64,
    },
    /// The wait cannot go on.
    Error {
        error: ApiError,
    },
    Progress(Box<Progress>),
    /// What a newer server says and this client does not know.
    Other(serde_json::Value),
}

/// How far the cluster is with what the record wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The engine has not judged the record yet.
    #[default]
    WaitingForEngine,
    /// It has, and no machine can take the unit; `refused` says why.
    Unplaceable,
    /// A machine has the order and has not reported on it.
    Placed,
    Loading,
    Starting,
    Stopping,
    Done,
    Failed,
    /// The unit, or this life of its name, does not exist any more.
    Gone,
    #[serde(other)]
    Unknown,
}

impl Phase {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::WaitingForEngine => "waiting-for-engine",
            Phase::Unplaceable => "unplaceable",
            Phase::Placed => "placed",
            Phase::Loading => "loading",
            Phase::Starting => "starting",
            Phase::Stopping => "stopping",
            Phase::Done => "done",
            Phase::Failed => "failed",
            Phase::Gone => "gone",
            Phase::Unknown => "unknown",
        }
    }
}

/// One unit, sent at first and on every change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub unit: String,
    #[serde(default)]
    pub phase: Phase,
    /// The order of the record waited for is applied, and the unit is as wanted: active after a start (a oneshot: ended
    /// well), not running after a stop, acknowledged by every present machine after a destroy.
    #[serde(default)]
    pub done: bool,
    /// It will not become so by itself: a failed run, a refused order.
    #[serde(default)]
    pub failed: bool,
    #[serde(default)]
    pub global: bool,
    #[serde(default)]
    pub desired: String,
    #[serde(default)]
    pub current_state: String,
    /// Of a unit that is not global.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineRef>,
    /// Of a global unit: each machine with an order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<MachineProgress>,
    #[serde(default)]
    pub active: String,
    #[serde(default)]
    pub sub: String,
    /// systemd's `Result=` of the last run, empty if there was none.
    #[serde(default)]
    pub result: String,
    /// What it waits for, or why it failed.
    #[serde(default)]
    pub reason: Reason,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusal>,
    /// Since when the phase is what it is.
    #[serde(default)]
    pub since: u64,
    /// Machines that have not acknowledged and are not present; they do not hold up `done`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct MachineProgress {
    pub id: String,
    pub ip: String,
    pub phase: Phase,
    pub done: bool,
    pub failed: bool,
    pub active: String,
    pub sub: String,
    pub result: String,
    pub reason: Reason,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> WaitLine {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn lines_of_a_wait_are_told_apart_by_their_keys() {
        assert_eq!(read(r#"{"heartbeat":true}"#), WaitLine::Heartbeat { heartbeat: true });
        assert_eq!(read(r#"{"noLeader":true,"since":5}"#), WaitLine::NoLeader { no_leader: true, since: 5 });
        assert_eq!(read(r#"{"noRegistry":false}"#), WaitLine::NoRegistry { no_registry: false, since: 0 });
        assert!(matches!(read(r#"{"error":{"code":500,"message":"x"}}"#), WaitLine::Error { .. }));
        assert!(matches!(read(r#"{"somethingNew":1}"#), WaitLine::Other(_)));
        let WaitLine::Progress(progress) = read(r#"{"unit":"a.service","phase":"from-the-future","x":1}"#)
        else {
            panic!("a line with a unit is progress");
        };
        assert_eq!(progress.phase, Phase::Unknown);
    }

    #[test]
    fn progress_survives_being_written_and_read() {
        let progress = Progress {
            unit: "a.service".into(),
            phase: Phase::WaitingForEngine,
            refused: vec![Refusal {
                code: "metadata".into(),
                machines: 3,
                sample: vec![("m".into(), "t".into())],
            }],
            ..Progress::default()
        };
        let line = serde_json::to_string(&WaitLine::Progress(Box::new(progress.clone()))).unwrap();
        assert!(
            line.contains(r#""phase":"waiting-for-engine""#) && line.contains(r#"[["m","t"]]"#),
            "{line}"
        );
        assert_eq!(read(&line), WaitLine::Progress(Box::new(progress)));
    }
}
