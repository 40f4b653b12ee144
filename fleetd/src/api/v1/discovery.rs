//! `/discovery`: the description from which clients were generated.

use axum::extract::State;
use serde_json::{Value, json};

use super::super::state::Api;
use super::Answer;

pub(super) async fn get(State(_): State<Api>) -> Answer {
    super::json(&description())
}

/// In Google's format, with the methods that fleet 1.0 described.
fn description() -> Value {
    let name = json!({"type": "string", "location": "path", "required": true});
    let token = json!({"type": "string", "location": "query"});
    let of = |reference: &str| json!({ "$ref": reference });
    let text = || json!({"type": "string"});
    let list = |reference: &str| json!({"type": "array", "items": of(reference)});
    json!({
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "fleet:v1",
        "name": "schema",
        "title": "fleet API",
        "description": "",
        "version": "v1",
        "protocol": "rest",
        "baseUrl": "$ENDPOINT/fleet/v1/",
        "basePath": "/fleet/v1/",
        "icons": {"x16": "", "x32": ""},
        "labels": [],
        "rootUrl": "$ENDPOINT/",
        "servicePath": "fleet/v1/",
        "batchPath": "batch",
        "auth": {},
        "parameters": {},
        "schemas": {
            "Machine": {"id": "Machine", "type": "object", "properties": {
                "id": {"type": "string", "required": true}, "primaryIP": text(),
                "metadata": {"type": "object", "additionalProperties": text()}}},
            "MachinePage": {"id": "MachinePage", "type": "object", "properties": {
                "machines": list("Machine"), "nextPageToken": text()}},
            "UnitOption": {"id": "UnitOption", "type": "object", "properties": {
                "section": text(), "name": text(), "value": text()}},
            "Unit": {"id": "Unit", "type": "object", "properties": {
                "name": text(), "options": list("UnitOption"), "machineID": text(),
                "currentState": {"type": "string", "enum": ["inactive", "loaded", "launched"]},
                "desiredState": {"type": "string", "enum": ["inactive", "loaded", "launched"]}}},
            "UnitPage": {"id": "UnitPage", "type": "object", "properties": {
                "units": list("Unit"), "nextPageToken": text()}},
            "UnitState": {"id": "UnitState", "type": "object", "properties": {
                "name": text(), "hash": text(), "machineID": text(), "systemdLoadState": text(),
                "systemdActiveState": text(), "systemdSubState": text()}},
            "UnitStatePage": {"id": "UnitStatePage", "type": "object", "properties": {
                "states": list("UnitState"), "nextPageToken": text()}}
        },
        "resources": {
            "Machines": {"methods": {"List": {
                "id": "fleet.Machine.List", "httpMethod": "GET", "path": "machines",
                "parameters": {"nextPageToken": token}, "response": of("MachinePage")}}},
            "Units": {"methods": {
                "List": {"id": "fleet.Unit.List", "httpMethod": "GET", "path": "units",
                    "parameters": {"nextPageToken": token}, "response": of("UnitPage")},
                "Get": {"id": "fleet.Unit.Get", "httpMethod": "GET", "path": "units/{unitName}",
                    "parameters": {"unitName": name}, "parameterOrder": ["unitName"], "response": of("Unit")},
                "Delete": {"id": "fleet.Unit.Delete", "httpMethod": "DELETE", "path": "units/{unitName}",
                    "parameters": {"unitName": name}, "parameterOrder": ["unitName"]},
                "Set": {"id": "fleet.Unit.Set", "httpMethod": "PUT", "path": "units/{unitName}",
                    "parameters": {"unitName": name}, "parameterOrder": ["unitName"], "request": of("Unit")}}},
            "UnitState": {"methods": {
                "Get": {"id": "fleet.UnitState.Get", "httpMethod": "GET", "path": "state/{unitName}",
                    "parameters": {"unitName": name}, "parameterOrder": ["unitName"], "response": of("UnitState")},
                "List": {"id": "fleet.UnitState.List", "httpMethod": "GET", "path": "state",
                    "parameters": {"nextPageToken": token, "unitName": token, "machineID": token},
                    "response": of("UnitStatePage")}}}
        }
    })
}
