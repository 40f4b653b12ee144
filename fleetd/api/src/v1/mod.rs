//! The API of fleet 1.0: entities, pages, page tokens, and JSON written and read as its programs expect.
//!
//! Keys stand in alphabetical order and empty values are left out, because that is what fleet 1.0 sent and what clients
//! compare; so the order of fields here matters.

mod json;
mod page;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use json::{DecodeError, decode_request, to_v1_json};
pub use page::{PageToken, PageTokenError};

/// A unit. In a request only `name`, `options` and `desiredState` count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Unit {
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "json::null_is_empty")]
    pub current_state: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "json::null_is_empty")]
    pub desired_state: String,
    #[serde(
        rename = "machineID",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "json::null_is_empty"
    )]
    pub machine_id: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "json::null_is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_is_empty")]
    pub options: Vec<UnitOption>,
}

/// One assignment of a unit file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitOption {
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "json::null_is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "json::null_is_empty")]
    pub section: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "json::null_is_empty")]
    pub value: String,
}

impl From<unit_files::UnitOption> for UnitOption {
    fn from(option: unit_files::UnitOption) -> UnitOption {
        UnitOption { name: option.name, section: option.section, value: option.value }
    }
}

impl From<UnitOption> for unit_files::UnitOption {
    fn from(option: UnitOption) -> unit_files::UnitOption {
        unit_files::UnitOption { section: option.section, name: option.name, value: option.value }
    }
}

/// What one machine says of one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitState {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hash: String,
    #[serde(rename = "machineID", skip_serializing_if = "String::is_empty")]
    pub machine_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub systemd_active_state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub systemd_load_state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub systemd_sub_state: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Published metadata overlaid by what the operator set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(rename = "primaryIP", skip_serializing_if = "String::is_empty")]
    pub primary_ip: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitPage {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_page_token: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<Unit>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitStatePage {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_page_token: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<UnitState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachinePage {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<Machine>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_page_token: String,
}

/// One operation of `PATCH /machines`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MachinePatch {
    #[serde(deserialize_with = "json::null_is_empty")]
    pub op: String,
    #[serde(deserialize_with = "json::null_is_empty")]
    pub path: String,
    pub value: Option<PatchValue>,
}

/// The real server took an object, its manual shows a string; both are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PatchValue {
    Text(String),
    Object {
        #[serde(default)]
        value: String,
    },
}

impl MachinePatch {
    /// The new value, empty if there is none.
    #[must_use]
    pub fn text(&self) -> &str {
        match &self.value {
            Some(PatchValue::Text(text) | PatchValue::Object { value: text }) => text,
            None => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_have_their_keys_in_order_and_leave_out_what_is_empty() {
        let unit = Unit {
            current_state: "launched".into(),
            desired_state: "launched".into(),
            machine_id: "m1".into(),
            name: "a.service".into(),
            options: vec![UnitOption { section: "Service".into(), name: "X".into(), value: String::new() }],
        };
        assert_eq!(
            to_v1_json(&unit),
            r#"{"currentState":"launched","desiredState":"launched","machineID":"m1","name":"a.service","options":[{"name":"X","section":"Service"}]}"#
        );
        assert_eq!(to_v1_json(&UnitPage::default()), "{}");
        let machine = Machine {
            id: "m1".into(),
            primary_ip: "10.0.0.1".into(),
            metadata: BTreeMap::from([("r".into(), "<1&2>".into())]),
        };
        assert_eq!(
            to_v1_json(&MachinePage { machines: vec![machine], next_page_token: "ZAACAA==".into() }),
            r#"{"machines":[{"id":"m1","metadata":{"r":"\u003c1\u00262\u003e"},"primaryIP":"10.0.0.1"}],"nextPageToken":"ZAACAA=="}"#
        );
        let state = UnitState { hash: "h".into(), systemd_sub_state: "dead".into(), ..UnitState::default() };
        assert_eq!(to_v1_json(&state), r#"{"hash":"h","systemdSubState":"dead"}"#);
    }

    #[test]
    fn a_patch_takes_its_value_as_object_and_as_string() {
        let body = br#"[{"op":"add","path":"/m/metadata/a","value":{"value":"b"}},{"op":"add","path":"/m/metadata/a","value":"b"},{"OP":"remove","path":"/m/metadata/a"}]"#;
        let patches: Vec<MachinePatch> = decode_request(body).unwrap();
        assert_eq!(patches.iter().map(MachinePatch::text).collect::<Vec<_>>(), ["b", "b", ""]);
        assert_eq!(patches[2].op, "remove");
    }
}
