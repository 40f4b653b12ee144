//! Batches of v2: idempotence, conflicts, templates, refusals.

use std::time::Duration;

use fleet_api::paths::REQUESTS;
use fleet_api::v2::{
    Action, Arrival, ChangeReport, ChangeRequest, ClusterView, EventList, Explanation, MachineList, UnitList,
    UnitView, Verb,
};
use fleet_core::records::{Counters, DesiredState};
use fleet_core::store_trust::Trust;
use fleet_core::{ClusterId, Epoch};
use fleet_registry::keys::{Area, Key};
use fleet_registry::memory::{Fault, Injection};
use fleet_registry::store::Operation;
use serde_json::json;

use super::{Lab, OWN, TEXT, machine, name};
use crate::api::Limits;

#[tokio::test]
async fn submit_start_and_list_over_the_socket() {
    let lab = Lab::start().await;
    lab.present(OWN, "10.0.0.1").await;
    lab.lead(OWN).await;
    let new = lab.one("r1", Verb::Submit, "a.service", Some(TEXT)).await;
    assert!(new.ok && new.created && new.changed && new.error.is_none(), "{new:?}");
    assert_eq!((new.desired.as_str(), new.generation), ("inactive", 1));
    let started = lab.one("r2", Verb::Start, "a.service", None).await;
    assert_eq!((started.desired.as_str(), started.created), ("launched", false));
    assert!(started.revision > new.revision && started.uid == new.uid);
    lab.place("a.service", OWN, 1, Some("active")).await;
    let list: UnitList =
        lab.client().get("/fleet/v2/units?name=a.service&name=b.service&text=true").await.unwrap();
    let unit = &list.units[0];
    assert_eq!((unit.current_state.as_str(), unit.text.as_deref()), ("launched", Some(TEXT)));
    assert_eq!((unit.states[0].active.as_str(), unit.states[0].ip.as_str()), ("active", "10.0.0.1"));
    assert!(unit.orders[0].applied && list.units.len() == 1);
    let one: UnitView = lab.client().get("/fleet/v2/units/a.service").await.unwrap();
    assert_eq!(one.states, unit.states);
    let all: UnitList = lab.client().get("/fleet/v2/units?prefix=a").await.unwrap();
    assert_eq!(all.units.len(), 1);
    assert_eq!(lab.get("/fleet/v2/units/a.service/text").await.body, TEXT);
    let machines: MachineList = lab.client().get("/fleet/v2/machines").await.unwrap();
    assert!(machines.machines[0].leader && machines.machines[0].units == 1, "{machines:?}");
    let cluster: ClusterView = lab.client().get("/fleet/v2/cluster").await.unwrap();
    assert_eq!((cluster.id.as_str(), cluster.units, cluster.machines.present), ("ours", 1, 1));
    let events: EventList = lab.client().get("/fleet/v2/events?unit=a.service").await.unwrap();
    // Two of one millisecond stand in any order.
    let told = events.events.iter().map(|event| (event.notes[0].kind.as_str(), event.request.as_deref()));
    let told: std::collections::BTreeSet<_> = told.collect();
    assert_eq!(told, [("unit-created", Some("r1")), ("unit-changed", Some("r2"))].into());
}

#[tokio::test]
async fn the_same_request_sent_again_is_answered_as_the_first_time() {
    let lab = Lab::start().await;
    let first = lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    let again = lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    assert_eq!(first, again);
    assert_eq!(lab.record("a.service").await.counters.start, 1);
    lab.one("r2", Verb::Start, "a.service", None).await;
    assert_eq!(lab.record("a.service").await.counters.start, 2);
}

#[tokio::test]
async fn the_same_id_with_another_verb_is_another_request() {
    let lab = Lab::start().await;
    let long = "l".repeat(64);
    for id in ["r1", long.as_str()] {
        let unit = format!("{}.service", &id[..2]);
        lab.one(id, Verb::Start, &unit, Some(TEXT)).await;
        assert_eq!(lab.one(id, Verb::Stop, &unit, None).await.desired, "loaded");
        assert_eq!(lab.one(id, Verb::Start, &unit, None).await.desired, "loaded", "a repetition");
        let counters = lab.record(&unit).await.counters;
        assert_eq!((counters.start, counters.stop), (1, 1));
    }
    // Also where only the event log tells.
    let request = ChangeRequest {
        request_id: "r1".into(),
        resent: true,
        actions: vec![Action::new("r1.service", Verb::Destroy)],
        ..ChangeRequest::default()
    };
    let report: ChangeReport = lab.client().post(REQUESTS, &request).await.unwrap();
    assert_eq!(report.results[0].desired, "destroyed", "{report:?}");
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_counts_once() {
    let lab = Lab::start().await;
    // The first transaction reads what the write has to compare, the second is the read of the unit.
    lab.one("r0", Verb::Submit, "a.service", Some(TEXT)).await;
    lab.store.inject(Injection::next(Fault::DropReply).on(Operation::Txn).after(2));
    let result = lab.one("r1", Verb::Start, "a.service", None).await;
    assert!(result.ok, "{result:?}");
    let record = lab.record("a.service").await;
    assert_eq!(record.counters.start, 1);
}

#[tokio::test]
async fn a_destroy_sent_again_after_its_unit_is_gone_spares_the_next_one_of_the_name() {
    let lab = Lab::start().await;
    lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    lab.one("r2", Verb::Destroy, "a.service", None).await;
    // What the engine does once no machine has it any more.
    lab.delete(&Key::Unit(name("a.service"))).await;
    let resent = |id: &str, verb, text: Option<&str>| ChangeRequest {
        request_id: id.into(),
        resent: true,
        actions: vec![Action { text: text.map(str::to_owned), ..Action::new("a.service", verb) }],
        ..ChangeRequest::default()
    };
    let start = resent("r1", Verb::Start, Some(TEXT));
    let report: ChangeReport = lab.client().post(REQUESTS, &start).await.unwrap();
    assert!(report.results[0].ok && report.results[0].created, "{report:?}");
    assert_eq!(lab.registry.read_unit(&name("a.service")).await.unwrap(), None, "it stays destroyed");
    lab.one("r3", Verb::Start, "a.service", Some(TEXT)).await;
    let destroy = resent("r2", Verb::Destroy, None);
    let report: ChangeReport = lab.client().post(REQUESTS, &destroy).await.unwrap();
    assert!(report.results[0].ok && report.results[0].changed, "{report:?}");
    assert_eq!(report.results[0].uid, "", "the unit that is there now is not what was destroyed");
    assert_eq!(lab.record("a.service").await.desired, DesiredState::Launched);
    // What was never carried out is carried out now.
    let stop = resent("r4", Verb::Stop, None);
    let report: ChangeReport = lab.client().post(REQUESTS, &stop).await.unwrap();
    assert_eq!(report.results[0].desired, "loaded");
}

#[tokio::test]
async fn a_unit_named_twice_is_one_only_if_nothing_differs() {
    let lab = Lab::start().await;
    let action = |text: &str| Action { text: Some(text.into()), ..Action::new("a.service", Verb::Start) };
    let other = "[Service]\nExecStart=/bin/sleep 2d\n";
    let results = lab.change("r1", vec![action(TEXT), action(TEXT), action(other)]).await;
    assert!(results[0].ok && results[1].ok, "{results:?}");
    assert_eq!(results[2].error.as_ref().unwrap().code, 400);
    assert_eq!(lab.record("a.service").await.counters.start, 1);
}

#[tokio::test]
async fn units_of_a_batch_are_judged_each_for_itself() {
    let lab = Lab::start().await;
    let action = |unit: &str, verb, text: &str| Action { text: Some(text.into()), ..Action::new(unit, verb) };
    let results = lab
        .change(
            "r1",
            vec![
                action("a.service", Verb::Submit, TEXT),
                action("a.nothing", Verb::Submit, TEXT),
                action(
                    "b.service",
                    Verb::Submit,
                    "[X-Fleet]\nMachineOf=c.service\n[Service]\nExecStart=/bin/true\n",
                ),
                action(
                    "c.service",
                    Verb::Submit,
                    "[X-Fleet]\nMachineOf=b.service\n[Service]\nExecStart=/bin/true\n",
                ),
                action(
                    "d.service",
                    Verb::Submit,
                    "[Install]\nAlias=a.service\n[Service]\nExecStart=/bin/true\n",
                ),
                Action::new("e.service", Verb::Stop),
                Action { force: true, ..action("f.service", Verb::Submit, TEXT) },
                Action::new("a.service", Verb::Destroy),
            ],
        )
        .await;
    let codes: Vec<u16> = results.iter().map(|r| r.error.as_ref().map_or(200, |error| error.code)).collect();
    assert_eq!(codes, [200, 400, 200, 400, 400, 404, 200, 400]);
    let circle = results[3].error.as_ref().unwrap();
    assert_eq!(circle.message, "MachineOf forms a circle: c.service -> b.service -> c.service");
    assert!(circle.remedy.is_some());
}

#[tokio::test]
async fn an_instance_is_made_from_its_template() {
    let lab = Lab::start().await;
    let missing = lab.one("r0", Verb::Start, "a@1.service", None).await;
    assert_eq!(missing.error.unwrap().code, 404);
    lab.one(
        "r1",
        Verb::Submit,
        "a@.service",
        Some("[Unit]\nDescription=%i\n[Service]\nExecStart=/bin/true\n"),
    )
    .await;
    let started = lab.one("r2", Verb::Start, "a@1.service", None).await;
    assert!(started.created && started.desired == "launched", "{started:?}");
    let record = lab.record("a@1.service").await;
    let origin = record.template.unwrap();
    assert_eq!((origin.unit.as_str(), origin.generation.0), ("a@.service", 1));
    let refused = lab.one("r3", Verb::Start, "a@.service", None).await.error.unwrap();
    assert_eq!(refused.message, "cannot activate template \"a@.service\"");
}

#[tokio::test]
async fn other_text_replaces_only_if_asked_and_a_dry_run_writes_nothing() {
    let lab = Lab::start().await;
    lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    let other = "[Service]\nExecStart=/bin/sleep 2d\n";
    let kept = lab.one("r2", Verb::Submit, "a.service", Some(other)).await;
    assert!(kept.ok && !kept.changed && kept.warnings.len() == 1, "{kept:?}");
    let replace =
        Action { text: Some(other.into()), replace: true, ..Action::new("a.service", Verb::Submit) };
    let request = ChangeRequest {
        request_id: "r3".into(),
        dry_run: true,
        actions: vec![replace.clone()],
        ..ChangeRequest::default()
    };
    let report: ChangeReport = lab.client().post("/fleet/v2/requests", &request).await.unwrap();
    assert_eq!((report.results[0].generation, report.results[0].changed), (2, false));
    assert_eq!(lab.record("a.service").await.current.generation.0, 1);
    let replaced = lab.change("r3", vec![replace]).await.remove(0);
    assert_eq!((replaced.generation, replaced.desired.as_str()), (2, "launched"));
}

#[tokio::test]
async fn a_conflict_is_judged_again_on_what_the_other_wrote() {
    let lab = Lab::start().await;
    lab.one("r0", Verb::Submit, "a.service", Some(TEXT)).await;
    let starts = (0..8).map(|number| {
        let client = lab.client();
        async move {
            let actions = vec![Action::new("a.service", Verb::Start)];
            let request =
                ChangeRequest { request_id: format!("s{number}"), actions, ..ChangeRequest::default() };
            client.post::<ChangeReport>("/fleet/v2/requests", &request).await.unwrap().results.remove(0)
        }
    });
    let results = futures_util::future::join_all(starts).await;
    let done = results.iter().filter(|result| result.ok).count();
    assert!(done > 0);
    assert_eq!(lab.record("a.service").await.counters.start, done as u64);
}

#[tokio::test]
async fn nothing_is_written_to_a_store_that_is_not_trusted_or_on_hold() {
    let lab = Lab::start().await;
    lab.write(&Key::Hold, json!({"by": OWN, "since": 1, "why": "revision"})).await;
    let request = |id: &str| ChangeRequest {
        request_id: id.into(),
        actions: vec![Action { text: Some(TEXT.into()), ..Action::new("a.service", Verb::Submit) }],
        ..ChangeRequest::default()
    };
    let sent = lab.client().post::<ChangeReport>("/fleet/v2/requests", &request("r1")).await;
    assert!(sent.unwrap_err().to_string().contains("on hold"));
    let dry = lab
        .client()
        .post::<serde_json::Value>("/fleet/v2/cluster/adopt", &json!({"by": "me"}))
        .await
        .unwrap();
    assert_eq!((&dry["epoch"], &dry["done"]), (&json!(2), &json!(false)));
    let adopted = lab
        .client()
        .post::<serde_json::Value>("/fleet/v2/cluster/adopt", &json!({"yes": true}))
        .await
        .unwrap();
    assert_eq!(adopted["done"], true);
    lab.fake.session.send_modify(|session| session.trust = Some(Trust::Empty));
    let sent = lab.client().post::<ChangeReport>("/fleet/v2/requests", &request("r2")).await;
    assert!(sent.unwrap_err().to_string().contains("does not trust"));
    lab.fake.session.send_modify(|session| session.trust = Some(Trust::Own));
    assert!(
        lab.client().post::<ChangeReport>("/fleet/v2/requests", &request("r3")).await.unwrap().results[0].ok
    );
}

#[tokio::test]
async fn a_store_that_came_back_a_moment_ago_is_adopted_once_the_machine_has_looked_at_it() {
    let lab = Lab::with(Limits { settles: Duration::from_secs(60), ..Limits::default() }, |_| {}).await;
    lab.write(&Key::Hold, json!({"by": OWN, "since": 1, "why": "revision"})).await;
    let session = &lab.fake.session;
    let (judged, others) = (session.borrow().clone(), session.receiver_count());
    session.send_modify(|session| (session.trust, session.cluster) = (Some(Trust::Empty), None));
    let (client, request) = (lab.client(), json!({"yes": true}));
    let adopt = client.post::<serde_json::Value>("/fleet/v2/cluster/adopt", &request);
    let look = async {
        while session.receiver_count() == others {
            tokio::task::yield_now().await;
        }
        session.send_replace(judged);
    };
    let (adopted, ()) = tokio::join!(adopt, look);
    assert_eq!(adopted.unwrap()["done"], true);
}

#[tokio::test]
async fn a_machine_that_has_not_judged_the_store_adopts_nothing() {
    let lab = Lab::start().await;
    lab.write(&Key::Hold, json!({"by": OWN, "since": 1, "why": "revision"})).await;
    let (judged, ours) = (lab.fake.session.borrow().trust.clone(), ClusterId::parse("ours").unwrap());
    let other = ClusterId::parse("other").unwrap();
    for (trust, cluster, word) in [
        (None, None, "has not judged the registry yet"),
        (Some(Trust::Join), Some(ours.clone()), "has not joined its cluster yet"),
        // The registry was exchanged after the machine had looked at it.
        (judged.clone(), Some(other), "has not judged the registry yet"),
        (Some(Trust::Empty), None, "has not judged the registry yet"),
        (Some(Trust::Foreign { found: ours.clone() }), Some(ours.clone()), "that of cluster ours"),
    ] {
        lab.fake.session.send_modify(|session| {
            session.trust = trust.clone();
            session.cluster = cluster.map(|id| (id, Epoch(1)));
        });
        for yes in [false, true] {
            let request = json!({"yes": yes});
            let sent = lab.client().post::<serde_json::Value>("/fleet/v2/cluster/adopt", &request).await;
            let refused = sent.expect_err(word).api().unwrap().1.clone();
            assert!(refused.message.contains(word), "{trust:?}: {refused:?}");
            assert!(refused.remedy.is_some(), "{refused:?}");
        }
    }
    let held = lab.registry.read_trust_view(&machine(OWN)).await.unwrap();
    assert!(held.hold.is_some() && held.cluster.unwrap().value.epoch == Epoch(1));
}

#[tokio::test]
async fn why_judges_every_machine_and_absent_ones_can_be_forgotten() {
    let lab = Lab::start().await;
    lab.present(OWN, "10.0.0.1").await;
    lab.present("bbbbbbbb22222222", "10.0.0.2").await;
    let text = format!("{TEXT}[X-Fleet]\nMachineID=bbbbbbbb\n");
    lab.one("r1", Verb::Start, "a.service", Some(&text)).await;
    let why: Explanation = lab.client().get("/fleet/v2/units/a.service/why").await.unwrap();
    let verdicts: Vec<(bool, &str)> = why.machines.iter().map(|m| (m.ok, m.code.as_str())).collect();
    assert_eq!(verdicts, [(false, "machine-id"), (true, "")]);
    let one: Explanation = lab.client().get("/fleet/v2/units/a.service/why?machine=aaaaaaaa").await.unwrap();
    assert_eq!(one.machines.len(), 1);
    let forget = "/fleet/v2/machines/bbbbbbbb/forget";
    let refused = lab.client().post::<serde_json::Value>(forget, &json!({})).await.unwrap_err();
    assert!(refused.to_string().contains("is present"), "{refused}");
    lab.delete(&Key::Presence(machine("bbbbbbbb22222222"))).await;
    let done = lab.client().post::<serde_json::Value>(forget, &json!({"by": "me"})).await.unwrap();
    assert_eq!(done["changed"], true);
    let machines: MachineList = lab.client().get("/fleet/v2/machines").await.unwrap();
    assert_eq!(machines.machines.len(), 1);
}

#[tokio::test]
async fn a_unit_that_arrives_has_its_place_with_its_record() {
    let lab = Lab::start().await;
    lab.present("m1", "10.0.0.1").await;
    let arrives = |unit: &str, verb, text: &str, machine: Option<&str>| Action {
        text: Some(text.into()),
        arrival: Some(Arrival { machine: machine.map(str::to_owned) }),
        ..Action::new(unit, verb)
    };
    let global = "[Service]\nExecStart=/bin/true\n[X-Fleet]\nGlobal=true\n";
    let actions = vec![
        arrives("a.service", Verb::Start, TEXT, Some("m1")),
        arrives("far.service", Verb::Start, TEXT, Some("m9")),
        arrives("g.service", Verb::Start, global, Some("m1")),
        arrives("off.service", Verb::Submit, TEXT, Some("m1")),
        arrives("odd.service", Verb::Restart, TEXT, None),
    ];
    let results = lab.change("r1", actions.clone()).await;
    let codes: Vec<u16> = results.iter().map(|r| r.error.as_ref().map_or(200, |error| error.code)).collect();
    assert_eq!(codes, [200, 409, 200, 200, 400], "{results:?}");
    let error = results[1].error.as_ref().unwrap();
    assert_eq!(error.message, "machine m9 is not present in this cluster");
    assert_eq!(lab.record("a.service").await.counters, Counters::default());
    let read = lab.registry.read(&[Area::Placements]).await.unwrap().placements;
    let places: Vec<_> = read.iter().map(|(name, place)| (name.as_str(), &place.value)).collect();
    assert_eq!(places.len(), 1, "a global unit has none, nor has one that nobody wants");
    assert_eq!((places[0].0, &places[0].1.machine), ("a.service", &Some(machine("m1"))));
    assert_eq!(places[0].1.uid, lab.record("a.service").await.uid);

    // Again, also where the machine has gone since, it is as it was.
    lab.delete(&Key::Presence(machine("m1"))).await;
    let again = lab.change("r2", vec![actions[0].clone()]).await;
    assert!(again[0].ok && !again[0].changed, "{again:?}");
    let other = "[Service]\nExecStart=/bin/false\n";
    let conflict = lab.change("r3", vec![arrives("a.service", Verb::Start, other, Some("m1"))]).await;
    assert_eq!(conflict[0].error.as_ref().unwrap().code, 409, "{conflict:?}");
    assert_eq!(lab.record("a.service").await.current.generation.0, 1);
}
