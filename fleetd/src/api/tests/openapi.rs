//! What the API says of itself: made anew from the types, compared with the routes, and used to judge real answers.

use std::collections::BTreeSet;

use fleet_api::schema::openapi;
use fleet_api::v2::{Verb, WaitLine};
use fleet_registry::keys::Key;
use fleet_registry::memory::Link;
use http::Method;
use serde_json::{Value, json};

use super::super::tools::LocalTools;
use super::super::v2;
use super::server::script;
use super::watching::Raw;
use super::{Lab, Limits, OWN, TEXT, machine, name};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/api/openapi.json");
const REMAKE: &str = "FLEET_REMAKE=1 cargo test -p fleetd the_document_is_what_the_types_say";

#[test]
fn the_document_is_what_the_types_say() {
    let made = openapi();
    if std::env::var_os("FLEET_REMAKE").is_some() {
        std::fs::write(FILE, format!("{}\n", serde_json::to_string_pretty(&made).unwrap())).unwrap();
    }
    let kept = std::fs::read(FILE).ok().and_then(|kept| serde_json::from_slice::<Value>(&kept).ok());
    assert!(Some(made) == kept, "{FILE} is not what the wire types say; make it anew: {REMAKE}");
}

/// Method and path of every operation.
fn described(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone()))
    });
    operations.collect()
}

#[test]
fn every_route_is_in_the_document_and_nothing_else() {
    let routes = v2::table().into_iter().map(|(method, path, _)| (method.to_string(), path.to_owned()));
    assert_eq!(routes.collect::<BTreeSet<_>>(), described(&openapi()));
}

#[tokio::test]
async fn every_described_operation_is_answered_by_its_method() {
    let lab = Lab::start().await;
    for (method, path) in described(&openapi()) {
        let other = if method == "GET" { Method::DELETE } else { Method::GET };
        let path = path.replace("{name}", "a.service").replace("{id}", OWN);
        assert_eq!(lab.send(other, &path, &[], "").await.code(), 405, "{path}");
    }
}

#[tokio::test]
async fn the_document_is_served_as_it_is() {
    let lab = Lab::start().await;
    let reply = lab.get("/fleet/v2/openapi.json").await;
    assert_eq!((reply.code(), reply.header("content-type")), (200, "application/json"));
    assert!(reply.body.as_bytes() == fleet_api::OPENAPI);
}

/// Whether a value is what `schema` says and has nothing besides: readers ignore what they do not know, but the server
/// is not to send what is not described.
fn judge(document: &Value, schema: &Value, value: &Value) {
    let mut schemas = document["components"]["schemas"].clone();
    close(&mut schemas);
    let whole = json!({ "allOf": [schema], "components": { "schemas": schemas } });
    let judge = jsonschema::draft202012::new(&whole).unwrap();
    let errors: Vec<String> =
        judge.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{value:#}");
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("properties").is_some_and(Value::is_object)
                && map.get("type") == Some(&json!("object"))
            {
                map.entry("additionalProperties").or_insert(json!(false));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// A cluster in which every list has rows with all that they may have.
async fn eventful() -> (Lab, tempfile::TempDir) {
    let programs = tempfile::tempdir().unwrap();
    let tools = LocalTools {
        systemctl: script(programs.path(), "systemctl", "echo running"),
        journalctl: script(programs.path(), "journalctl", "echo line"),
        ..LocalTools::default()
    };
    let lab = Lab::with(Limits::default(), |options| options.tools = tools).await;
    lab.present(OWN, "10.0.0.1").await;
    lab.present("away", "10.0.0.2").await;
    lab.write(&Key::Lost(machine("away")), json!({"since": 9, "grace": 5_000})).await;
    lab.lead(OWN).await;
    lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    lab.one("r2", Verb::Start, "b.service", Some(TEXT)).await;
    lab.place("a.service", OWN, 1, Some("active")).await;
    lab.place("b.service", "away", 2, Some("active")).await;
    let row = json!({"uid": lab.record("a.service").await.uid, "load": "loaded", "active": "failed", "sub": "failed",
                     "exit_status": 1, "last_error": {"code": "failed", "text": "it failed"}});
    lab.write(&Key::State(machine("away"), name("a.service")), row).await;
    super::server::runs_here(&lab);
    (lab, programs)
}

#[tokio::test]
async fn every_answer_is_what_the_document_says() {
    let document = openapi();
    let (lab, _programs) = eventful().await;
    let mut judged = 0;
    for (method, path) in described(&document) {
        let described = &document["paths"][&path][method.to_lowercase()]["responses"];
        if method != "GET" {
            continue;
        }
        let asked = path.replace("{name}", "a.service").replace("{id}", OWN);
        let content = described["200"]["content"].as_object().unwrap();
        let (media, said) = content.iter().next().unwrap();
        if media == "text/event-stream" {
            let events = events(&lab).await;
            for (event, data) in &events {
                judge(&document, &said["x-events"][event], data);
            }
            let kinds: BTreeSet<&str> = events.iter().map(|(event, _)| event.as_str()).collect();
            let described = said["x-events"].as_object().unwrap().keys().map(String::as_str);
            assert_eq!(kinds, described.collect());
            judged += 1;
            continue;
        }
        let reply = lab.get(&asked).await;
        assert_eq!(reply.code(), 200, "{path}: {}", reply.body);
        assert_eq!(reply.header("content-type").split(';').next().unwrap(), media, "{path}");
        match media.as_str() {
            "application/json" => judge(&document, &said["schema"], &reply.json()),
            "application/x-ndjson" => {
                for line in reply.body.lines().filter(|_| said.get("x-lines").is_some()) {
                    judge(&document, &said["x-lines"], &serde_json::from_str(line).unwrap());
                }
            }
            _ => {}
        }
        judged += 1;
    }
    assert_eq!(judged, described(&document).iter().filter(|(method, _)| method == "GET").count());
}

/// Of each event one at least, as it is sent: a row of each list, one that goes, and a registry that no longer answers.
async fn events(lab: &Lab) -> Vec<(String, Value)> {
    let mut raw = Raw::open(lab, "", "last-event-id: x\r\n").await;
    raw.until("event: synced").await;
    lab.one("gone", Verb::Submit, "gone.service", Some(TEXT)).await;
    raw.until("\"gone.service\"").await;
    lab.one("going", Verb::Destroy, "gone.service", None).await;
    raw.until("event: deleted").await;
    lab.store.set_all_links(Link::Refused);
    raw.until("event: registry").await;
    lab.store.set_all_links(Link::Open);
    raw.until("\"answers\":true").await;
    let mut lines = raw.text.lines();
    let mut events = Vec::new();
    while let Some(line) = lines.next() {
        let Some(event) = line.strip_prefix("event: ") else { continue };
        let data = lines.next().unwrap().strip_prefix("data: ").unwrap();
        events.push((event.to_owned(), serde_json::from_str(data).unwrap()));
    }
    events
}

#[tokio::test]
async fn lines_of_a_wait_are_what_the_document_says() {
    let document = openapi();
    let (lab, _programs) = eventful().await;
    let described = &document["paths"]["/fleet/v2/wait"]["post"];
    let body = json!({"units": [{"unit": "a.service"}, {"unit": "none.service"}]});
    judge(&document, &described["requestBody"]["content"]["application/json"]["schema"], &body);
    let media = [("content-type", "application/json")];
    let reply = lab.send(Method::POST, "/fleet/v2/wait", &media, &body.to_string()).await;
    let said = &described["responses"]["200"]["content"]["application/x-ndjson"]["x-lines"];
    let mut lines: Vec<Value> = reply.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() >= 2, "{}", reply.body);
    let others = [
        WaitLine::Heartbeat { heartbeat: true },
        WaitLine::NoLeader { no_leader: true, since: 3 },
        WaitLine::NoRegistry { no_registry: false, since: 0 },
    ];
    lines.extend(others.iter().map(|line| serde_json::to_value(line).unwrap()));
    for line in &lines {
        judge(&document, said, line);
    }
}

#[tokio::test]
async fn refusals_and_answers_to_requests_are_what_the_document_says() {
    let document = openapi();
    let (lab, _programs) = eventful().await;
    let media = [("content-type", "application/json")];
    let requests = [
        (
            "/fleet/v2/requests",
            json!({"requestId": "r9", "actions": [{"unit": "c.service", "verb": "submit", "text": TEXT}]}),
            200,
        ),
        ("/fleet/v2/requests", json!({"requestId": "r9 ", "actions": []}), 400),
        ("/fleet/v2/cluster/adopt", json!({"by": "me"}), 200),
        ("/fleet/v2/cluster/resume", json!({"by": "me"}), 200),
        ("/fleet/v2/machines/{id}/forget", json!({"by": "me"}), 409),
        ("/fleet/v2/machines/{id}/confirm-dead", json!({"by": "me"}), 409),
        ("/fleet/v2/machine/join", json!({"mode": "adopt"}), 409),
    ];
    let mut codes = Vec::new();
    for (path, body, code) in requests {
        let described = &document["paths"][path]["post"];
        judge(&document, &described["requestBody"]["content"]["application/json"]["schema"], &body);
        let asked = path.replace("{id}", "away");
        let reply = lab.send(Method::POST, &asked, &media, &body.to_string()).await;
        codes.push((path, reply.code(), code));
        let of = if reply.code() == 200 { "200" } else { "default" };
        judge(&document, &described["responses"][of]["content"]["application/json"]["schema"], &reply.json());
    }
    let unexpected: Vec<_> = codes.iter().filter(|(_, code, expected)| code != expected).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    for (path, code) in [("/fleet/v2/units/none.service", 404), ("/fleet/v2/watch?kind=x", 400)] {
        let schema = &document["paths"]["/fleet/v2/units"]["get"]["responses"]["default"]["content"];
        let reply = lab.get(path).await;
        assert_eq!(reply.code(), code, "{path}");
        judge(&document, &schema["application/json"]["schema"], &reply.json());
    }
}
