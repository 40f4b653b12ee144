//! Following lists over the socket: what is told, in which order, and what a client that comes back is told again.

use std::collections::BTreeSet;
use std::time::Duration;

use fleet_api::client::{EventStream, Received};
use fleet_api::v2::{Action, Deleted, Verb, WatchEvent, WatchKind};
use fleet_registry::keys::Key;
use fleet_registry::memory::Link;
use fleet_registry::store::{Operation, Store};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Lab, Limits, OWN, TEXT, machine, name};

const DEADLINE: Duration = Duration::from_secs(10);

async fn watch(lab: &Lab, query: &str) -> EventStream {
    lab.client().get_events(&format!("/fleet/v2/watch{query}")).await.unwrap()
}

async fn next(stream: &mut EventStream) -> Received {
    let received = tokio::time::timeout(DEADLINE, stream.next()).await;
    received.expect("nothing was told").unwrap().expect("the stream ended")
}

/// What the event is about, as one text.
fn text(event: &WatchEvent) -> String {
    match event {
        WatchEvent::Unit(unit) => format!("unit {} {}", unit.name, unit.desired),
        WatchEvent::State(state) => format!("state {} {} {}", state.unit, state.machine, state.active),
        WatchEvent::Machine(machine) => {
            format!("machine {} {} {}", machine.id, machine.state.as_str(), machine.units)
        }
        WatchEvent::Deleted(Deleted { kind, name, machine }) => {
            format!("deleted {} {name} {}", kind.as_str(), machine.as_deref().unwrap_or("-"))
        }
        WatchEvent::Reset(_) => "reset".to_owned(),
        WatchEvent::Synced(_) => "synced".to_owned(),
        WatchEvent::Registry(registry) => format!("registry {}", registry.answers),
        WatchEvent::Other(other) => other.clone(),
    }
}

/// The events up to the next one with an id, and that id.
async fn batch(stream: &mut EventStream) -> (Vec<String>, String) {
    let mut texts = Vec::new();
    loop {
        let Received { event, id } = next(stream).await;
        texts.push(text(&event));
        if let Some(id) = id {
            return (texts, id);
        }
    }
}

/// The revision in an id.
fn revision_of(id: &str) -> i64 {
    id.rsplit('-').next().unwrap().parse().unwrap()
}

async fn two_units() -> Lab {
    let lab = Lab::start().await;
    lab.present(OWN, "10.0.0.1").await;
    lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    lab.one("r2", Verb::Submit, "b.service", Some(TEXT)).await;
    lab.place("a.service", OWN, 1, Some("active")).await;
    lab
}

#[tokio::test]
async fn the_lists_come_first_and_then_the_revision_that_they_hold_at() {
    let lab = two_units().await;
    let (texts, id) = batch(&mut watch(&lab, "").await).await;
    let expected = [
        format!("machine {OWN} present 1"),
        "unit a.service launched".into(),
        "unit b.service inactive".into(),
        format!("state a.service {OWN} active"),
        "synced".into(),
    ];
    assert_eq!(texts, expected);
    let list = lab.get("/fleet/v2/units").await.json();
    assert_eq!(id, format!("ours.1-usm-{}", list["revision"]));
}

#[tokio::test]
async fn rows_are_told_as_their_lists_show_them() {
    let lab = two_units().await;
    let mut stream = watch(&lab, "").await;
    let (mut rows, mut listed) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let row = match next(&mut stream).await.event {
            WatchEvent::Unit(unit) => serde_json::to_value(unit).unwrap(),
            WatchEvent::State(state) => serde_json::to_value(state).unwrap(),
            WatchEvent::Machine(machine) => serde_json::to_value(machine).unwrap(),
            _ => break,
        };
        rows.insert(row.to_string());
    }
    for (path, key) in [("units", "units"), ("states", "states"), ("machines", "machines")] {
        let list = lab.get(&format!("/fleet/v2/{path}")).await.json();
        listed.extend(list[key].as_array().unwrap().iter().map(Value::to_string));
    }
    assert_eq!(rows, listed);
}

#[tokio::test]
async fn only_the_kinds_that_were_asked_for_are_told() {
    let lab = two_units().await;
    let (texts, _) = batch(&mut watch(&lab, "?kind=state&kind=machine").await).await;
    assert!(texts.iter().all(|text| !text.starts_with("unit")) && texts.len() == 3, "{texts:?}");
    let refused = lab.get("/fleet/v2/watch?kind=journal").await;
    let message = refused.json()["error"]["message"].clone();
    assert_eq!((refused.code(), message), (400, json!("kind=journal: expected unit, state or machine")));
}

#[tokio::test]
async fn changes_and_deletions_are_told_as_they_happen() {
    let lab = two_units().await;
    let mut stream = watch(&lab, "?kind=unit&kind=state").await;
    batch(&mut stream).await;
    let loaded = lab.one("r3", Verb::Load, "b.service", None).await;
    let (texts, id) = batch(&mut stream).await;
    assert_eq!((texts, revision_of(&id)), (vec!["unit b.service loaded".into()], loaded.revision));
    lab.one("r4", Verb::Destroy, "b.service", None).await;
    assert_eq!(batch(&mut stream).await.0, ["deleted unit b.service -"]);
    lab.delete(&Key::State(machine(OWN), name("a.service"))).await;
    let expected = ["unit a.service launched".to_owned(), format!("deleted state a.service {OWN}")];
    assert_eq!(batch(&mut stream).await.0, expected);
}

#[tokio::test]
async fn what_a_lost_machine_said_is_told_as_unknown() {
    let lab = two_units().await;
    let mut stream = watch(&lab, "?kind=state&kind=machine").await;
    batch(&mut stream).await;
    lab.write(&Key::Lost(machine(OWN)), json!({"since": 9, "grace": 5_000})).await;
    let expected = [format!("machine {OWN} lost 1"), format!("state a.service {OWN} unknown")];
    assert_eq!(batch(&mut stream).await.0, expected);
}

#[tokio::test]
async fn a_write_that_changes_no_row_is_not_told() {
    let lab = two_units().await;
    let mut stream = watch(&lab, "").await;
    batch(&mut stream).await;
    // The same again, and a key that no list shows.
    lab.place("a.service", OWN, 1, Some("active")).await;
    lab.write(&Key::Hold, json!({"by": OWN, "since": 1, "why": "a test"})).await;
    lab.delete(&Key::Hold).await;
    lab.one("r3", Verb::Load, "b.service", None).await;
    assert_eq!(batch(&mut stream).await.0, ["unit b.service loaded"]);
}

#[tokio::test]
async fn who_comes_back_is_told_what_has_changed_since_and_nothing_twice() {
    let lab = two_units().await;
    let mut stream = watch(&lab, "").await;
    let (_, id) = batch(&mut stream).await;
    drop(stream);
    lab.one("r3", Verb::Submit, "c.service", Some(TEXT)).await;
    lab.one("r4", Verb::Destroy, "b.service", None).await;
    // There and back.
    lab.place("a.service", OWN, 1, Some("failed")).await;
    lab.place("a.service", OWN, 1, Some("active")).await;
    let mut stream = watch(&lab, &format!("?since={id}")).await;
    let (texts, id) = batch(&mut stream).await;
    assert_eq!(texts, ["deleted unit b.service -", "unit c.service inactive", "synced"]);
    drop(stream);
    let mut stream = watch(&lab, &format!("?since={id}")).await;
    assert_eq!(batch(&mut stream).await, (vec!["synced".to_owned()], id));
}

#[tokio::test]
async fn changes_during_every_reconnect_are_told_exactly_once_in_the_end() {
    let lab = two_units().await;
    let mut stream = watch(&lab, "?kind=unit").await;
    let (mut seen, mut id) = (std::collections::BTreeMap::new(), batch(&mut stream).await.1);
    for round in 0..20 {
        let unit = format!("u{}.service", round % 5);
        let verb = if round / 5 % 2 == 0 { Verb::Load } else { Verb::Start };
        lab.one(&format!("x{round}"), verb, &unit, Some(TEXT)).await;
        if round % 2 == 0 {
            drop(stream);
            stream = watch(&lab, &format!("?kind=unit&since={id}")).await;
        }
        let Received { event, id: at } = loop {
            let received = next(&mut stream).await;
            if let WatchEvent::Unit(view) = &received.event {
                let before = seen.insert(view.name.clone(), view.revision);
                assert!(before.is_none_or(|before| before < view.revision), "{} twice", view.name);
            }
            if received.id.is_some() {
                break received;
            }
        };
        id = at.unwrap_or_else(|| panic!("{event:?}"));
    }
    let list = lab.get("/fleet/v2/units?prefix=u").await.json();
    for unit in list["units"].as_array().unwrap() {
        assert_eq!(seen.get(unit["name"].as_str().unwrap()), unit["revision"].as_i64().as_ref());
    }
}

#[tokio::test]
async fn a_revision_that_was_compacted_or_never_was_resets_the_client() {
    let lab = two_units().await;
    let (_, id) = batch(&mut watch(&lab, "?kind=unit").await).await;
    let now = lab.one("r3", Verb::Load, "b.service", None).await.revision;
    lab.store.compact(fleet_registry::store::Revision(now as u64)).await.unwrap();
    for since in [&id, "ours.1-u-999999999", "999999999", "theirs.1-u-1", "ours.2-u-1", "x"] {
        let (texts, _) = batch(&mut watch(&lab, &format!("?kind=unit&since={since}")).await).await;
        assert_eq!(texts, ["reset", "unit a.service launched", "unit b.service loaded", "synced"], "{since}");
    }
}

#[tokio::test]
async fn an_id_of_other_lists_resets_the_client_and_0_is_none() {
    let lab = two_units().await;
    let (_, id) = batch(&mut watch(&lab, "?kind=unit").await).await;
    let state = format!("state a.service {OWN} active");
    let (texts, both) = batch(&mut watch(&lab, &format!("?kind=state&since={id}")).await).await;
    assert_eq!(texts, ["reset", &state, "synced"]);
    assert_eq!(batch(&mut watch(&lab, "?kind=state&since=0").await).await.0, [&state, "synced"]);
    assert_eq!(batch(&mut watch(&lab, &format!("?kind=state&since={both}")).await).await.0, ["synced"]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_in_no_list_whoever_asks() {
    let lab = two_units().await;
    let mut stream = watch(&lab, "?kind=unit").await;
    batch(&mut stream).await;
    lab.write(&Key::Unit(name("b.service")), json!("of another release")).await;
    let (texts, id) = batch(&mut stream).await;
    assert_eq!(texts, ["deleted unit b.service -"]);
    assert_eq!(batch(&mut watch(&lab, &format!("?kind=unit&since={id}")).await).await.0, ["synced"]);
    let anew = batch(&mut watch(&lab, "?kind=unit").await).await.0;
    assert_eq!(anew, ["unit a.service launched", "synced"]);
}

/// The stream as it goes over the wire.
pub(super) struct Raw {
    client: UnixStream,
    pub text: String,
}

impl Raw {
    pub async fn open(lab: &Lab, query: &str, head: &str) -> Raw {
        let mut client = UnixStream::connect(&lab.socket).await.unwrap();
        let head = format!("GET /fleet/v2/watch{query} HTTP/1.1\r\nhost: x\r\n{head}\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        Raw { client, text: String::new() }
    }

    /// Reads on up to the end of the event, or remark, with the first `until`.
    pub async fn until(&mut self, until: &str) {
        while !self.text.split_once(until).is_some_and(|(_, rest)| rest.contains("\n\n")) {
            let mut buffer = vec![0; 64 << 10];
            let read = tokio::time::timeout(DEADLINE, self.client.read(&mut buffer)).await;
            let read = read.unwrap_or_else(|_| panic!("no {until}: {}", self.text)).unwrap();
            assert!(read > 0, "ended: {}", self.text);
            self.text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }
}

async fn raw(lab: &Lab, head: &str, until: &str) -> String {
    let mut raw = Raw::open(lab, "?kind=unit", head).await;
    raw.until(until).await;
    raw.text
}

#[tokio::test]
async fn browsers_are_served_with_their_type_their_header_and_heartbeats() {
    let lab = two_units().await;
    let text = raw(&lab, "", ": heartbeat").await;
    assert!(text.contains("content-type: text/event-stream\r\n"), "{text}");
    assert!(text.contains("event: unit\ndata: {\"name\":\"a.service\","), "{text}");
    let id = text.split("\nid: ").nth(1).unwrap().lines().next().unwrap().to_owned();
    let again = raw(&lab, &format!("last-event-id: {id}\r\n"), "event: synced").await;
    assert!(!again.contains("event: unit"), "{again}");
    let unknown = raw(&lab, "last-event-id: x\r\n", "event: synced").await;
    assert!(unknown.contains("event: reset") && unknown.contains("event: unit"), "{unknown}");
}

#[tokio::test]
async fn a_registry_that_is_silent_is_told_and_its_return_with_what_was_missed() {
    let lab = two_units().await;
    let mut stream = watch(&lab, "?kind=unit").await;
    batch(&mut stream).await;
    lab.store.set_all_links(Link::Refused);
    let Received { event, id } = next(&mut stream).await;
    assert_eq!((text(&event).as_str(), id), ("registry false", None));
    assert_eq!(lab.get("/fleet/v2/watch").await.code(), 503);
    lab.store.set_all_links(Link::Open);
    lab.one("r3", Verb::Load, "b.service", None).await;
    let mut told = Vec::new();
    while !told.contains(&"unit b.service loaded".to_owned()) {
        told.extend(batch(&mut stream).await.0);
    }
    assert_eq!(told, ["registry true", "unit b.service loaded"]);
}

#[tokio::test]
async fn one_client_is_one_watch_of_the_registry() {
    let lab = two_units().await;
    let before = lab.store.calls(Operation::Watch);
    let mut stream = watch(&lab, "").await;
    batch(&mut stream).await;
    assert_eq!(lab.store.calls(Operation::Watch) - before, 1);
}

/// More than a socket takes.
async fn with_many_units(limits: Limits) -> Lab {
    let lab = Lab::with(limits, |_| {}).await;
    let units = (0..1_000).map(|number| format!("u{number}.service"));
    let submit = |unit: String| Action { text: Some(TEXT.into()), ..Action::new(unit, Verb::Submit) };
    lab.change("many", units.map(submit).collect()).await;
    lab
}

async fn with_one_watch() -> Lab {
    let short = Duration::from_millis(100);
    with_many_units(Limits { watches: 1, stall: short, patience: short, ..Limits::default() }).await
}

/// The place of a client that went is free again.
async fn opens_again(lab: &Lab) {
    let freed = async {
        while let Err(error) = lab.client().get_events("/fleet/v2/watch").await {
            assert_eq!(error.api().unwrap().0, 503);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, freed).await.expect("the place is still taken");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let lab = with_one_watch().await;
    let mut client = UnixStream::connect(&lab.socket).await.unwrap();
    client.write_all(b"GET /fleet/v2/watch HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    client.read_u8().await.unwrap();
    let refused = lab.get("/fleet/v2/watch").await;
    assert_eq!(refused.code(), 503);
    assert!(refused.json()["error"]["remedy"].as_str().unwrap().contains("--watch"), "{}", refused.body);
    opens_again(&lab).await;
}

#[tokio::test]
async fn a_client_that_goes_takes_its_feed_with_it() {
    let lab = with_one_watch().await;
    let mut stream = watch(&lab, "").await;
    batch(&mut stream).await;
    assert_eq!(lab.get("/fleet/v2/watch").await.code(), 503);
    drop(stream);
    opens_again(&lab).await;
}

#[tokio::test]
async fn a_feed_is_taken_in_while_its_client_does_not_read() {
    let lab = with_many_units(Limits { patience: DEADLINE, ..Limits::default() }).await;
    let mut client = Raw::open(&lab, "?kind=unit", "").await;
    client.client.read_u8().await.unwrap();
    let before = lab.registry.counters().disconnections();
    lab.store.set_all_links(Link::Refused);
    let noticed = async {
        while lab.registry.counters().disconnections() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, noticed).await.expect("the feed is unread");
}

#[tokio::test]
async fn a_row_that_changes_faster_than_it_is_read_is_told_as_it_is_in_the_end() {
    let lab = with_many_units(Limits { patience: DEADLINE, ..Limits::default() }).await;
    let mut slow = Raw::open(&lab, "?kind=unit", "").await;
    slow.client.read_u8().await.unwrap();
    let mut other = watch(&lab, "?kind=unit").await;
    batch(&mut other).await;
    let (mut revision, mut batches) = (0, 0);
    for number in 0..200 {
        let verb = if number % 2 == 0 { Verb::Load } else { Verb::Unload };
        revision = lab.one(&format!("r{number}x"), verb, "u0.service", None).await.revision;
        if number == 0 {
            // Who reads is told meanwhile.
            assert_eq!(batch(&mut other).await.0, ["unit u0.service loaded"]);
        }
    }
    let mut last = 0;
    while last < revision {
        let (texts, id) = batch(&mut other).await;
        assert_eq!(texts.len(), 1);
        (last, batches) = (revision_of(&id), batches + 1);
    }
    assert_eq!(last, revision);
    assert!(batches < 200, "{batches}");
    slow.until(&format!("id: ours.1-u-{revision}")).await;
    let told = slow.text.matches("\"name\":\"u0.service\"").count();
    assert!((1..=2).contains(&told), "{told}");
}

#[tokio::test]
async fn the_stream_ends_when_fleetd_stops() {
    let lab = two_units().await;
    let mut stream = watch(&lab, &format!("?kind={}", WatchKind::Machine.as_str())).await;
    batch(&mut stream).await;
    lab.shutdown.cancel();
    let end = tokio::time::timeout(DEADLINE, stream.next()).await.expect("it goes on").unwrap();
    assert_eq!(end, None);
}
