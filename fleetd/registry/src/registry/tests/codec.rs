//! Records that other releases wrote.

use fleet_core::records::{
    BrakeRecord, ClusterRecord, EventRecord, HoldRecord, ImportRecord, LeaderRecord, LostRecord,
    MachineRecord, Order, Placement, PresenceRecord, READS, SCHEMA, StateRow, UnitRecord, WitnessRecord,
};
use serde_json::{Value, json};

use super::{
    NOW, cluster_record, leader_record, machine, order, placement, presence, row, unit, unit_record, witness,
};
use crate::codec::{CodecError, Record, decode, encode};
use crate::keys::Key;

/// The record as a newer release with the same schema would write it comes out as it went in.
fn keeps_unknown_fields<R: Record>(record: &R) {
    let mut value: Value = serde_json::from_slice(&encode(record)).unwrap();
    value["from_the_future"] = json!({"nested": [1, null, "x"]});
    let bytes = serde_json::to_vec(&value).unwrap();
    let read: R = decode(&Key::Cluster, &bytes).unwrap();
    let again: Value = serde_json::from_slice(&encode(&read)).unwrap();
    assert_eq!(again, value, "{}", R::KIND);
}

#[test]
fn every_record_keeps_the_fields_it_does_not_know() {
    keeps_unknown_fields::<ClusterRecord>(&cluster_record("ours"));
    keeps_unknown_fields::<LeaderRecord>(&leader_record("m1"));
    keeps_unknown_fields::<PresenceRecord>(&presence("m1", "n1"));
    keeps_unknown_fields::<WitnessRecord>(&witness(3));
    keeps_unknown_fields::<UnitRecord>(&unit_record("text"));
    keeps_unknown_fields::<Order>(&order(1, "text", "gone"));
    keeps_unknown_fields::<Placement>(&placement("m1"));
    keeps_unknown_fields::<StateRow>(&row("running"));
    keeps_unknown_fields::<MachineRecord>(&MachineRecord { v: SCHEMA, ..MachineRecord::default() });
    keeps_unknown_fields::<ImportRecord>(&super::of(json!({"v": 1, "cluster": "c", "begun": {"by": "me"}})));
    keeps_unknown_fields::<HoldRecord>(&super::of(json!({"v": 1, "by": "m1", "since": NOW, "why": "w"})));
    keeps_unknown_fields::<LostRecord>(&super::of(json!({"v": 1, "since": NOW, "grace": 5000})));
    keeps_unknown_fields::<EventRecord>(&super::of(json!({"v": 1, "at": NOW, "by": "x", "notes": []})));
    keeps_unknown_fields::<BrakeRecord>(&super::of(
        json!({"v": 1, "cause": "mass-loss", "state": "engaged", "since": NOW, "text": "t"}),
    ));
}

#[test]
fn numbers_of_fields_that_are_not_known_stay_what_they_were_written_as() {
    let cluster = |number: &str| format!(r#"{{"v":1,"id":"ours","new":{number}}}"#);
    for number in ["2.222222222222222e+44", "31.245270191439438", "-3", "18446744073709551615"] {
        let read: ClusterRecord = decode(&Key::Cluster, cluster(number).as_bytes()).unwrap();
        let written = encode(&read);
        assert!(String::from_utf8_lossy(&written).contains(&format!(r#""new":{number}"#)), "{number}");
        assert_eq!(decode::<ClusterRecord>(&Key::Cluster, &written), Ok(read), "{number}");
    }
}

#[test]
fn a_record_of_the_next_schema_is_read_and_stays_what_it_is_and_an_older_one_becomes_ours() {
    let key = Key::Machine(machine("m1"));
    for (before, after) in [(0, SCHEMA), (SCHEMA, SCHEMA), (READS, READS)] {
        let bytes = json!({"v": before, "cordon": false, "pool": "blue"}).to_string().into_bytes();
        let mut record: MachineRecord = decode(&key, &bytes).unwrap();
        record.cordon = true;
        let written: Value = serde_json::from_slice(&encode(&record)).unwrap();
        let parts = (&written["v"], &written["cordon"], &written["pool"]);
        assert_eq!(parts, (&json!(after), &json!(true), &json!("blue")));
    }
}

#[test]
fn a_record_from_the_future_names_the_key_and_the_remedy() {
    let key = Key::Order(machine("m1"), unit("a.service"));
    let mut record = order(1, "text", "launched");
    record.v = READS + 1;
    // Also one whose shape does not fit any more.
    let other = |v: u32| json!({"v": v, "wanted": {"state": "paused"}}).to_string().into_bytes();
    for (bytes, found) in [(encode(&record), READS + 1), (other(READS + 1), READS + 1), (other(READS), READS)]
    {
        let error = decode::<Order>(&key, &bytes).unwrap_err();
        assert_eq!(error, CodecError::NewerSchema { key: key.clone(), kind: Order::KIND, found });
        let text = error.to_string();
        assert!(text.contains("assignments/m1/a.service") && text.contains("Update fleetd"), "{text}");
    }
}

#[test]
fn what_is_no_record_says_what_was_expected() {
    for bytes in [&b"not json"[..], b"", b"[]", br#"{"v": 1, "uid": "a/b"}"#, &[0xff, 0x00]] {
        let error = decode::<UnitRecord>(&Key::Unit(unit("a.service")), bytes).unwrap_err();
        assert!(matches!(error, CodecError::Malformed { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("units/a.service: expected a unit record as JSON"), "{text}");
    }
}
