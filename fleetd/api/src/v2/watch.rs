//! Following the lists: what `GET /fleet/v2/watch` sends, one event for each row that changes.
//!
//! Server-sent events. An event that ends what was told of one revision carries it as its `id:`; whoever sends that back
//! as `Last-Event-ID` gets what has changed since, and nothing twice.

use serde::{Deserialize, Serialize};

use super::{MachineView, StateView, UnitView};

/// A list that can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum WatchKind {
    Unit,
    State,
    Machine,
}

impl WatchKind {
    pub const ALL: [WatchKind; 3] = [WatchKind::Unit, WatchKind::State, WatchKind::Machine];

    /// The value of `?kind=`, and the name of the event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WatchKind::Unit => "unit",
            WatchKind::State => "state",
            WatchKind::Machine => "machine",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<WatchKind> {
        WatchKind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A row that is in its list no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    pub kind: WatchKind,
    /// The unit's name; the id of a machine.
    pub name: String,
    /// Of a state: the machine that said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// What was told before counts no more; the whole list follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Reset {
    pub why: String,
}

/// Everything that holds at `revision` has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Synced {
    pub revision: i64,
}

/// Whether the registry answers. While it does not, what was told is the last that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct RegistryAnswers {
    pub answers: bool,
    /// Why not; empty if it does.
    pub text: String,
}

/// One event of the stream.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    Unit(Box<UnitView>),
    State(Box<StateView>),
    Machine(Box<MachineView>),
    Deleted(Deleted),
    Reset(Reset),
    Synced(Synced),
    Registry(RegistryAnswers),
    /// Of a newer server; this client does not know it.
    Other(String),
}

impl WatchEvent {
    /// From the two parts of an event.
    ///
    /// # Errors
    /// Data that are not what events of this name carry.
    pub fn parse(event: &str, data: &str) -> Result<WatchEvent, serde_json::Error> {
        Ok(match event {
            "unit" => WatchEvent::Unit(serde_json::from_str(data)?),
            "state" => WatchEvent::State(serde_json::from_str(data)?),
            "machine" => WatchEvent::Machine(serde_json::from_str(data)?),
            "deleted" => WatchEvent::Deleted(serde_json::from_str(data)?),
            "reset" => WatchEvent::Reset(serde_json::from_str(data)?),
            "synced" => WatchEvent::Synced(serde_json::from_str(data)?),
            "registry" => WatchEvent::Registry(serde_json::from_str(data)?),
            other => WatchEvent::Other(other.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart_by_their_names() {
        let state = WatchEvent::parse("state", r#"{"unit":"a.service","new":1}"#).unwrap();
        assert!(matches!(state, WatchEvent::State(state) if state.unit == "a.service"));
        let gone = WatchEvent::parse("deleted", r#"{"kind":"unit","name":"a.service"}"#).unwrap();
        let expected = Deleted { kind: WatchKind::Unit, name: "a.service".into(), machine: None };
        assert_eq!(gone, WatchEvent::Deleted(expected));
        assert_eq!(WatchEvent::parse("later", "{}").unwrap(), WatchEvent::Other("later".into()));
        assert!(WatchEvent::parse("unit", "nonsense").is_err());
    }

    #[test]
    fn every_kind_is_read_from_its_name() {
        for kind in WatchKind::ALL {
            assert_eq!(WatchKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(WatchKind::parse("journal"), None);
    }
}
