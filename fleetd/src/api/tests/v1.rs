//! The answers of fleet 1.0, byte for byte where clients compare them.

use fleet_core::records::DesiredState;
use fleet_registry::keys::Key;
use fleet_registry::memory::{Fault, Injection};
use fleet_registry::store::Operation;
use http::Method;
use serde_json::json;

use super::{Lab, OWN, TEXT, machine, name};

fn error(code: u16, message: &str) -> String {
    let message = serde_json::to_string(message).unwrap();
    format!(r#"{{"error":{{"code":{code},"message":{message}}}}}"#)
}

fn options() -> serde_json::Value {
    json!([{"section": "Service", "name": "ExecStart", "value": "/bin/sleep 1d"}])
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_have_their_answers() {
    let lab = Lab::start().await;
    let units = "only GET, PUT and DELETE supported against this resource";
    for (method, path, code, message) in [
        (Method::GET, "/", 405, ""),
        (Method::GET, "/fleet/v1", 405, ""),
        (Method::GET, "/v1-alpha", 405, ""),
        (Method::GET, "/fleet/v1/", 404, ""),
        (Method::GET, "/fleet/v1/units/", 404, ""),
        (Method::GET, "/fleet/v1/units/a/b", 404, ""),
        (Method::GET, "/fleet/v1/state/", 404, ""),
        (Method::GET, "/fleet/v1/machines/x", 404, ""),
        (Method::GET, "/nothing", 404, ""),
        (Method::POST, "/fleet/v1/units", 405, "only GET supported against this resource"),
        (Method::POST, "/fleet/v1/state", 405, "only GET supported against this resource"),
        (Method::POST, "/fleet/v1/state/x.service", 405, "only GET supported against this resource"),
        (Method::POST, "/v1-alpha/units/x.service", 405, units),
        (Method::PUT, "/fleet/v1/machines", 405, "only GET and PATCH supported against this resource"),
        (Method::POST, "/fleet/v1/discovery", 405, "only HTTP GET supported against this resource"),
        (Method::GET, "/fleet/v1/units/x.service", 404, "unit does not exist"),
        (Method::GET, "/fleet/v1/units/x", 404, "unit does not exist"),
        (Method::DELETE, "/fleet/v1/units/x.service", 404, "unit does not exist"),
        (Method::GET, "/fleet/v1/state/x.service", 404, "unit state does not exist"),
        (Method::GET, "/fleet/v1/units/%ff", 404, "unit does not exist"),
        (Method::DELETE, "/v1-alpha/units/%ff.service", 404, "unit does not exist"),
        (Method::GET, "/fleet/v1/state/%ff.service", 404, "unit state does not exist"),
        (Method::PUT, "/fleet/v1/units/%ff.service", 415, "expected 1 Content-Type, got 0"),
    ] {
        let reply = lab.send(method.clone(), path, &[], "").await;
        assert_eq!(
            (reply.code(), reply.body.as_str()),
            (code, error(code, message).as_str()),
            "{method} {path}"
        );
        assert_eq!(reply.header("content-type"), "application/json");
        assert_eq!(reply.header("server"), "fleetd/1.2.3");
    }
    let moved = lab.get("/fleet/v1/units/../machines").await;
    assert_eq!((moved.code(), moved.header("location")), (301, "/fleet/v1/machines"));
    let moved = lab.get("/fleet/v1//units/grün{%41}").await;
    assert_eq!((moved.code(), moved.header("location")), (301, "/fleet/v1/units/gr%C3%BCn%7B%41%7D"));
    let head = lab.send(Method::HEAD, "/fleet/v1/units?alt=json", &[], "").await;
    assert_eq!((head.code(), head.body.as_str()), (200, ""));
    assert_eq!(lab.get("/fleet/v1/discovery").await.json()["servicePath"], "fleet/v1/");
}

#[tokio::test]
async fn put_checks_in_the_order_of_fleet_1() {
    let lab = Lab::start().await;
    let path = "/fleet/v1/units/a.service";
    let json_type = ("content-type", "application/json; charset=utf-8");
    let none: &[(&str, &str)] = &[];
    for (headers, body, code, message) in [
        (none, "", 415, "expected 1 Content-Type, got 0"),
        (&[json_type, json_type], "", 415, "expected 1 Content-Type, got 2"),
        (&[("content-type", "text/plain")], "", 415, "only acceptable Content-Type is application/json"),
        (&[json_type], "", 400, "unable to decode body: EOF"),
        (
            &[json_type],
            r#"{"name":"b.service"}"#,
            400,
            r#"name in URL "a.service" differs from unit name in request body "b.service""#,
        ),
        (&[json_type], "null", 409, "unit does not exist and options field empty"),
        (&[json_type], r#"{"desiredState":"launched"}"#, 409, "unit does not exist and options field empty"),
    ] {
        let reply = lab.send(Method::PUT, path, headers, body).await;
        assert_eq!((reply.code(), reply.body), (code, error(code, message)), "{body}");
    }
    let bad_name = lab.put("a.nothing", &json!({"options": options()})).await;
    assert_eq!((bad_name.code(), bad_name.body), (400, error(400, "invalid unit type: \"nothing\"")));
    let created = lab.put("a.service", &json!({"options": options()})).await;
    assert_eq!((created.code(), created.body.as_str(), created.header("content-type")), (201, "", ""));
    let nothing_given = lab.put("a.service", &json!({"options": options()})).await;
    let message = "must provide DesiredState to update existing unit";
    assert_eq!((nothing_given.code(), nothing_given.body), (409, error(409, message)));
    assert_eq!(lab.put("a.service", &json!({"desiredState": "launched"})).await.code(), 204);
    assert_eq!(lab.put("a.service", &json!({"desiredState": "launched"})).await.code(), 204);
    assert_eq!(lab.record("a.service").await.counters.start, 2);
    assert_eq!(lab.put("a.service", &json!({"desiredState": "gone"})).await.code(), 400);
    let other = json!([{"section": "Service", "name": "ExecStart", "value": "/bin/sleep 2d"}]);
    assert_eq!(lab.put("a.service", &json!({"options": other})).await.code(), 201);
    let record = lab.record("a.service").await;
    assert_eq!((record.current.generation.0, record.desired), (2, DesiredState::Launched));
}

#[tokio::test]
async fn templates_exclusive_units_and_smuggled_lines_are_refused() {
    let lab = Lab::start().await;
    let template = lab.put("a@.service", &json!({"options": options(), "desiredState": "launched"})).await;
    assert_eq!(
        (template.code(), template.body),
        (400, error(400, "cannot activate template \"a@.service\""))
    );
    let exclusive = json!([{"section": "X-Fleet", "name": "OnPartition", "value": "stop"}]);
    let refused = lab.put("a.service", &json!({"options": exclusive})).await;
    assert_eq!(refused.body, error(400, "OnPartition=stop is not yet supported by this cluster"));
    let smuggled = json!([{"section": "Service", "name": "ExecStart", "value": "a\nExecStop=b"}]);
    assert_eq!(lab.put("a.service", &json!({"options": smuggled})).await.code(), 400);
    let peers = json!([{"section": "X-Fleet", "name": "MachineOf", "value": "a.service"}]);
    let circle = lab.put("a.service", &json!({"options": peers})).await;
    assert_eq!(
        circle.body,
        error(400, "MachineOf forms a circle: a.service -> a.service").replace('>', "\\u003e")
    );
    let long = "x".repeat(1 << 20);
    let large =
        lab.put("a.service", &json!({"options": [{"section": "A", "name": "B", "value": long}]})).await;
    assert_eq!(large.code(), 413);
    let lines: Vec<_> =
        (0..140).map(|_| json!({"section": "A", "name": "B", "value": "y".repeat(2000)})).collect();
    assert_eq!(lab.put("a.service", &json!({"options": lines})).await.code(), 413);
}

#[tokio::test]
async fn the_old_prefix_answers_byte_for_byte_as_the_new_one() {
    let lab = Lab::start().await;
    lab.present(OWN, "10.0.0.1").await;
    lab.put("a.service", &json!({"options": options(), "desiredState": "launched"})).await;
    lab.place("a.service", OWN, 1, Some("active")).await;
    for path in [
        "",
        "/units",
        "/units/a.service",
        "/units/b.service",
        "/state",
        "/state/a.service",
        "/machines",
        "/discovery",
        "/units?nextPageToken=x",
        "/units/",
        "/nothing",
    ] {
        let (old, new) =
            (lab.get(&format!("/v1-alpha{path}")).await, lab.get(&format!("/fleet/v1{path}")).await);
        let (mut before, mut after) = (old.headers.clone(), new.headers.clone());
        before.remove("date");
        after.remove("date");
        assert_eq!((old.status, before, old.body), (new.status, after, new.body), "{path}");
    }
}

#[tokio::test]
async fn bodies_that_cannot_be_meant_are_refused_and_store_nothing() {
    let lab = Lab::start().await;
    let media = [("content-type", "application/json")];
    let deep = format!(r#"{{"options":{}"#, "[".repeat(500_000));
    let twice = r#"{"options":[{"section":"A","name":"b","value":"c","Value":"d"}]}"#;
    for body in [deep.as_str(), twice] {
        let reply = lab.send(Method::PUT, "/fleet/v1/units/a.service", &media, body).await;
        assert_eq!(reply.code(), 400, "{}", reply.body);
        let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("unable to decode body: "), "{message}");
    }
    for option in [
        json!({"section": "A", "name": "b\nc", "value": "d"}),
        json!({"section": "A", "name": "b=c\nd", "value": "e"}),
        json!({"section": "A]\n[B", "name": "c", "value": "d"}),
        json!({"section": "A", "name": "b", "value": "c\r\nd=e"}),
        json!({"section": "A", "name": "b", "value": "c\n[B]\nd=e"}),
        json!({"section": "A", "name": "# b", "value": "c"}),
        json!({"section": "A", "name": "[b", "value": "c]"}),
    ] {
        let reply = lab.put("a.service", &json!({"options": [option]})).await;
        assert_eq!(reply.code(), 400, "{option}: {}", reply.body);
    }
    let media = [("content-type", "application/json")];
    for body in [
        r#"{"requestId":"a","requestId":"b","actions":[]}"#,
        r#"{"requestId":"a","actions":[{"unit":"a.service","verb":"start","unit":"b.service"}]}"#,
        &format!(r#"{{"requestId":"a","actions":{}"#, "[".repeat(500_000)),
    ] {
        let reply = lab.send(Method::POST, "/fleet/v2/requests", &media, body).await;
        assert_eq!(reply.code(), 400, "{}", reply.body);
    }
    assert_eq!(lab.get("/fleet/v1/units").await.body, "{}");
}

#[tokio::test]
async fn a_unit_is_shown_with_what_its_machine_carried_out() {
    let lab = Lab::start().await;
    lab.put("a.service", &json!({"options": options(), "desiredState": "launched"})).await;
    let unplaced = r#"{"currentState":"inactive","desiredState":"launched","name":"a.service","options":[{"name":"ExecStart","section":"Service","value":"/bin/sleep 1d"}]}"#;
    assert_eq!(lab.get("/fleet/v1/units/a.service").await.body, unplaced);
    lab.present(OWN, "10.0.0.1").await;
    lab.place("a.service", OWN, 1, Some("active")).await;
    let placed = lab.get("/v1-alpha/units/a.service").await.json();
    assert_eq!((&placed["currentState"], &placed["machineID"]), (&json!("launched"), &json!(OWN)));
    let hash = unit_files::UnitFile::parse(TEXT).unwrap().unit_hash();
    let state = format!(
        r#"{{"hash":"{hash}","machineID":"{OWN}","name":"a.service","systemdActiveState":"active","systemdLoadState":"loaded","systemdSubState":"running"}}"#
    );
    assert_eq!(lab.get("/fleet/v1/state/a.service").await.body, state);
    assert_eq!(lab.get("/fleet/v1/state").await.body, format!(r#"{{"states":[{state}]}}"#));
    assert_eq!(lab.get("/fleet/v1/state?unitName=b.service").await.body, "{}");
    assert_eq!(
        lab.get(&format!("/fleet/v1/state?machineID={OWN}&unitName=a.service")).await.body.len(),
        13 + state.len()
    );
    lab.delete(&Key::Presence(machine(OWN))).await;
    assert_eq!(lab.get("/fleet/v1/state/a.service").await.json()["systemdActiveState"], "unknown");
    assert_eq!(lab.get("/fleet/v1/units/a.service").await.json()["currentState"], "inactive");
}

#[tokio::test]
async fn a_destroyed_unit_is_gone_at_once_and_its_name_free() {
    let lab = Lab::start().await;
    lab.put("a.service", &json!({"options": options()})).await;
    let before = lab.record("a.service").await.uid;
    let deleted = lab.send(Method::DELETE, "/fleet/v1/units/a.service", &[], "").await;
    assert_eq!((deleted.code(), deleted.body.as_str()), (204, ""));
    assert_eq!(lab.get("/fleet/v1/units/a.service").await.code(), 404);
    assert_eq!(lab.get("/fleet/v1/units").await.body, "{}");
    assert_eq!(lab.send(Method::DELETE, "/fleet/v1/units/a.service", &[], "").await.code(), 404);
    assert_eq!(lab.put("a.service", &json!({"options": options()})).await.code(), 201);
    assert_ne!(lab.record("a.service").await.uid, before);
}

#[tokio::test]
async fn collections_come_in_pages_and_an_exact_multiple_ends_empty() {
    let lab = Lab::with(super::Limits::default(), |options| options.token_limit = 2).await;
    for unit in ["a.service", "b.service", "c.service", "d.service"] {
        assert_eq!(lab.put(unit, &json!({"options": options()})).await.code(), 201);
    }
    let mut path = "/fleet/v1/units".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = lab.get(&path).await.json();
        pages.push(page["units"].as_array().map_or(0, Vec::len));
        let Some(token) = page["nextPageToken"].as_str() else { break };
        path = format!("/fleet/v1/units?nextPageToken={token}");
    }
    assert_eq!(pages, [2, 2, 0]);
    for (query, message) in [
        ("nextPageToken=a&nextPageToken=b", "too many values for page token"),
        ("nextPageToken=", "EOF"),
        ("nextPageToken=ZAACAA==", "token limit must be 2"),
    ] {
        let reply = lab.get(&format!("/fleet/v1/machines?{query}")).await;
        assert_eq!((reply.code(), reply.body), (400, error(400, message)), "{query}");
    }
}

#[tokio::test]
async fn a_global_unit_has_no_machine_and_a_current_state_in_lists_only() {
    let lab = Lab::start().await;
    let global = json!([{"section": "X-Fleet", "name": "Global", "value": "true"}]);
    lab.put("g.service", &json!({"options": global, "desiredState": "launched"})).await;
    let one = lab.get("/fleet/v1/units/g.service").await.json();
    assert_eq!(one.get("currentState"), None);
    let listed = lab.get("/fleet/v1/units").await.json();
    assert_eq!(listed["units"][0]["currentState"], "inactive");
}

#[tokio::test]
async fn metadata_is_patched_as_object_and_as_string() {
    let lab = Lab::start().await;
    lab.present(OWN, "10.0.0.1").await;
    let patch = |body: &str| {
        let (socket, body) = (lab.socket.clone(), body.to_owned());
        async move { super::send(&socket, Method::PATCH, "/fleet/v1/machines", &[], &body).await }
    };
    for (body, message) in [
        (r#"[{"op":"move","path":"/m/metadata/a"}]"#, "invalid op: expect add, remove, or replace"),
        (r#"[{"op":"add","path":"/m/a","value":"b"}]"#, "machine metadata path invalid"),
        (r#"[{"op":"add","path":"/m/metadata/a"}]"#, "invalid value: add and replace require a value"),
        ("", "EOF"),
    ] {
        let reply = patch(body).await;
        assert_eq!((reply.code(), reply.body), (400, error(400, message)), "{body}");
    }
    assert_eq!(patch("[]").await.code(), 204);
    assert_eq!(patch("null").await.code(), 204);
    let edit = format!(
        r#"[{{"op":"add","path":"/{OWN}/metadata/zone","value":{{"value":"1"}}}},{{"op":"replace","path":"/{OWN}/metadata/rack","value":"2"}},{{"op":"remove","path":"/{OWN}/metadata/role"}}]"#
    );
    assert_eq!(patch(&edit).await.code(), 204);
    let machines = format!(
        r#"{{"machines":[{{"id":"{OWN}","metadata":{{"rack":"2","zone":"1"}},"primaryIP":"10.0.0.1"}}]}}"#
    );
    assert_eq!(lab.get("/fleet/v1/machines").await.body, machines);
    let unseen = r#"[{"op":"add","path":"/unseen/metadata/a","value":"b"}]"#;
    assert_eq!(patch(unseen).await.code(), 204);
    assert_eq!(lab.get("/fleet/v1/machines").await.body, machines);
}

#[tokio::test]
async fn without_the_registry_every_answer_is_503_in_time() {
    let lab = Lab::start().await;
    lab.store.set_all_links(fleet_registry::memory::Link::Refused);
    let expected = error(503, "fleet server unable to communicate with etcd");
    for path in ["/fleet/v1/units", "/fleet/v1/state", "/fleet/v1/machines", "/fleet/v1/units/a.service"] {
        let reply = lab.get(path).await;
        assert_eq!((reply.code(), reply.body.as_str()), (503, expected.as_str()), "{path}");
        assert_eq!(reply.header("server"), "");
    }
    let reply = lab.put("a.service", &json!({"options": options()})).await;
    assert_eq!((reply.code(), reply.body), (503, expected.clone()));
    let helpful = lab.get("/fleet/v2/units").await.json();
    assert!(helpful["error"]["remedy"].as_str().unwrap().contains("See `fleetctl cluster health`"));
    lab.store.set_all_links(fleet_registry::memory::Link::Silent);
    assert_eq!(lab.get("/fleet/v1/units").await.body, expected);
    assert!(lab.registry.read_unit(&name("a.service")).await.is_err());
}

#[tokio::test]
async fn a_put_whose_answer_from_the_store_is_lost_counts_once_and_is_answered_as_ever() {
    for skip in 0..6 {
        let lab = Lab::start().await;
        let lost = Injection::next(Fault::DropReply).on(Operation::Txn);
        lab.store.inject(lost.after(skip));
        let created = lab.put("a.service", &json!({"options": options(), "desiredState": "launched"})).await;
        lab.store.clear_faults();
        let found = lab.registry.read_unit(&name("a.service")).await.unwrap();
        match created.code() {
            201 => assert_eq!(found.unwrap().value.counters.start, 1, "after {skip}"),
            // A read that failed: nothing was written.
            _ => assert_eq!(found, None, "after {skip}: {}", created.body),
        }
    }
}
