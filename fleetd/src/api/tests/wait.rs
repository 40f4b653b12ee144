//! Waiting over the socket: phases, heartbeats, and what is said when nobody leads or the registry is silent.

use fleet_api::client::NdjsonStream;
use fleet_api::v2::{Action, Phase, Progress, Verb, WaitFor, WaitLine, WaitRequest, WaitUnit};
use fleet_registry::keys::Key;
use fleet_registry::memory::Link;
use fleet_registry::store::Operation;
use serde_json::json;

use super::{Lab, OWN, TEXT, machine, name};

async fn wait(lab: &Lab, unit: &str, revision: i64) -> NdjsonStream {
    let unit = WaitUnit { unit: unit.into(), revision: Some(revision), uid: None };
    let request = WaitRequest { units: vec![unit], until: WaitFor::Done };
    lab.client().post_stream("/fleet/v2/wait", &request).await.unwrap()
}

/// The next line that is no heartbeat.
async fn next(stream: &mut NdjsonStream) -> Option<WaitLine> {
    loop {
        match stream.next::<WaitLine>().await.unwrap() {
            Some(WaitLine::Heartbeat { .. }) => {}
            line => return line,
        }
    }
}

async fn progress(stream: &mut NdjsonStream) -> Progress {
    match next(stream).await {
        Some(WaitLine::Progress(progress)) => *progress,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_start_is_followed_from_the_engine_to_the_running_unit() {
    let lab = Lab::start().await;
    lab.present(OWN, "10.0.0.1").await;
    lab.lead(OWN).await;
    let started = lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    let mut stream = wait(&lab, "a.service", started.revision).await;
    assert_eq!(progress(&mut stream).await.phase, Phase::WaitingForEngine);
    lab.place("a.service", OWN, 1, None).await;
    let placed = progress(&mut stream).await;
    assert_eq!((placed.phase, placed.machine.unwrap().ip.as_str()), (Phase::Placed, "10.0.0.1"));
    lab.place("a.service", OWN, 1, Some("active")).await;
    let mut done = progress(&mut stream).await;
    while !done.done {
        done = progress(&mut stream).await;
    }
    assert_eq!((done.phase, done.current_state.as_str()), (Phase::Done, "launched"));
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn a_unit_that_nobody_can_take_says_so_with_its_reasons() {
    let lab = Lab::start().await;
    lab.lead(OWN).await;
    let started = lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    let uid = lab.record("a.service").await.uid;
    let refused = json!([{"code": "metadata", "machines": 2, "sample": [[OWN, "metadata role=web"]]}]);
    let decision = json!({"judged": started.revision, "reason": {"code": "unplaceable", "text": "none of 2"}, "refused": refused});
    lab.write(&Key::Placement(name("a.service")), json!({"uid": uid, "decision": decision})).await;
    let mut stream = wait(&lab, "a.service", started.revision).await;
    let seen = progress(&mut stream).await;
    assert_eq!((seen.phase, seen.refused[0].machines), (Phase::Unplaceable, 2));
}

#[tokio::test]
async fn a_destroy_waits_for_the_present_and_names_the_absent() {
    let lab = Lab::start().await;
    lab.present(OWN, "10.0.0.1").await;
    lab.lead(OWN).await;
    lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    lab.place("a.service", OWN, 1, Some("active")).await;
    let mut order = serde_json::to_value(order(&lab, OWN).await).unwrap();
    order["wanted"] = json!("gone");
    lab.write(&Key::Order(machine("away"), name("a.service")), order.clone()).await;
    let destroyed = lab.one("r2", Verb::Destroy, "a.service", None).await;
    let mut stream = wait(&lab, "a.service", destroyed.revision).await;
    assert_eq!(progress(&mut stream).await.phase, Phase::WaitingForEngine);
    lab.write(&Key::Order(machine(OWN), name("a.service")), order).await;
    assert_eq!(progress(&mut stream).await.phase, Phase::Stopping);
    lab.delete(&Key::Order(machine(OWN), name("a.service"))).await;
    let done = progress(&mut stream).await;
    assert_eq!((done.done, done.absent), (true, vec!["away".to_owned()]));
    assert_eq!(next(&mut stream).await, None);
}

async fn order(lab: &Lab, id: &str) -> fleet_core::records::Order {
    let view = lab.registry.read_unit_whole(&name("a.service")).await.unwrap();
    view.orders[&machine(id)].value.clone()
}

#[tokio::test]
async fn heartbeats_and_a_missing_leader_are_told() {
    let lab = Lab::start().await;
    let started = lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    let mut stream = wait(&lab, "a.service", started.revision).await;
    assert_eq!(progress(&mut stream).await.phase, Phase::WaitingForEngine);
    let line = next(&mut stream).await;
    assert!(matches!(line, Some(WaitLine::NoLeader { no_leader: true, .. })), "{line:?}");
    lab.lead(OWN).await;
    let line = next(&mut stream).await;
    assert!(matches!(line, Some(WaitLine::NoLeader { no_leader: false, .. })), "{line:?}");
    let beat = stream.next::<WaitLine>().await.unwrap();
    assert_eq!(beat, Some(WaitLine::Heartbeat { heartbeat: true }));
}

#[tokio::test]
async fn a_silent_registry_is_told_and_its_return_too() {
    let lab = Lab::start().await;
    lab.lead(OWN).await;
    let started = lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    let mut stream = wait(&lab, "a.service", started.revision).await;
    progress(&mut stream).await;
    lab.store.set_all_links(Link::Refused);
    let line = next(&mut stream).await;
    assert!(matches!(line, Some(WaitLine::NoRegistry { no_registry: true, .. })), "{line:?}");
    lab.store.set_all_links(Link::Open);
    let line = next(&mut stream).await;
    assert!(matches!(line, Some(WaitLine::NoRegistry { no_registry: false, .. })), "{line:?}");
}

#[tokio::test]
async fn a_global_unit_is_followed_on_all_machines() {
    let lab = Lab::start().await;
    lab.present(OWN, "10.0.0.1").await;
    lab.present("bbbbbbbb22222222", "10.0.0.2").await;
    lab.lead(OWN).await;
    let text = format!("{TEXT}[X-Fleet]\nGlobal=true\n");
    let started = lab.one("r1", Verb::Start, "g.service", Some(&text)).await;
    assert!(started.global);
    let mut stream = wait(&lab, "g.service", started.revision).await;
    let first = progress(&mut stream).await;
    assert_eq!((first.phase, first.machines.len(), first.global), (Phase::WaitingForEngine, 2, true));
    lab.place("g.service", OWN, 1, Some("active")).await;
    lab.place("g.service", "bbbbbbbb22222222", 2, Some("active")).await;
    let mut seen = progress(&mut stream).await;
    while !seen.done {
        seen = progress(&mut stream).await;
    }
    assert!(seen.machines.iter().all(|machine| machine.done && !machine.ip.is_empty()));
}

#[tokio::test]
async fn many_units_are_followed_over_one_watch() {
    let lab = Lab::start().await;
    lab.present(OWN, "10.0.0.1").await;
    lab.lead(OWN).await;
    let names: Vec<String> = (0..40).map(|number| format!("u{number}.service")).collect();
    let start = |unit: &String| Action { text: Some(TEXT.into()), ..Action::new(unit.as_str(), Verb::Start) };
    let results = lab.change("r1", names.iter().map(start).collect()).await;
    let units = results.iter().map(|result| WaitUnit {
        unit: result.unit.clone(),
        revision: Some(result.revision),
        uid: Some(result.uid.clone()),
    });
    let request = WaitRequest { units: units.collect(), until: WaitFor::Done };
    let watches = lab.store.calls(Operation::Watch);
    let mut stream = lab.client().post_stream("/fleet/v2/wait", &request).await.unwrap();
    for (sequence, unit) in names.iter().enumerate() {
        lab.place(unit, OWN, sequence as u64, Some("active")).await;
    }
    let mut done = std::collections::BTreeSet::new();
    while let Some(line) = next(&mut stream).await {
        if let WaitLine::Progress(progress) = line
            && progress.done
        {
            done.insert(progress.unit);
        }
    }
    assert_eq!(done.len(), 40);
    assert_eq!(lab.store.calls(Operation::Watch) - watches, 1);
}
