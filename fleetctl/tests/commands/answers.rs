//! What the API answers about units that commands change. Used by the tests of this directory.

use super::fake::Answer;
use serde_json::{Value, json};

pub const UNITS: &str = "GET /fleet/v2/units";
pub const REQUESTS: &str = "POST /fleet/v2/requests";
pub const WAIT: &str = "POST /fleet/v2/wait";
pub const TEXT: &str = "[Service]\nExecStart=/bin/true\n";
pub const HASH: &str = "86943ac9f3754cb90f8dd38bf6da7b0cad074592";

pub fn units(units: &[Value]) -> Answer {
    Answer::ok(json!({ "units": units }))
}

pub fn results(results: &[Value]) -> Answer {
    Answer::ok(json!({ "results": results }))
}

pub fn known(name: &str, desired: &str) -> Value {
    json!({ "name": name, "desired": desired, "hash": HASH, "uid": "u1" })
}

pub fn accepted(unit: &str, desired: &str) -> Value {
    json!({ "unit": unit, "ok": true, "changed": true, "uid": "u1", "revision": 7, "desired": desired })
}

pub fn done(unit: &str, state: &str) -> Value {
    json!({ "unit": unit, "phase": "done", "done": true, "currentState": state, "desired": state,
            "machine": { "id": "1111111111111111", "ip": "10.0.0.1" } })
}
