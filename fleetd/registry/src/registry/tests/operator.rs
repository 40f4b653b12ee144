//! What operators ask for: the cluster, its hold and brake, units, machines.

use fleet_core::ClusterId;
use fleet_core::records::{HoldRecord, MachineRecord};
use fleet_core::store_trust::{Member, Trust, judge};

use super::*;
use crate::codec::encode;
use crate::memory::{Fault, Injection};
use crate::registry::Outcome;
use crate::registry::cluster::{Adopted, Held, Resumed};
use crate::registry::machines::Said;
use crate::registry::units::UnitWrite;
use crate::store::Operation;

fn hold(by: &str) -> HoldRecord {
    of(json!({"by": by, "since": NOW, "why": "revision 5 after 9"}))
}

fn submit(name: &UnitName, expected: Revision, text: &str) -> UnitWrite {
    UnitWrite {
        unit: name.clone(),
        expected,
        placement: None,
        record: unit_record(text),
        content: Some(text.to_owned()),
        note: note("unit-created", name),
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_created_once_and_only_in_an_empty_prefix() {
    let store = MemoryStore::new(7);
    let registry = Registry::new(Arc::new(store.clone()), Keys::new("/fleet/").unwrap(), 1);
    // The answer is lost; asking again finds the own cluster.
    store.inject(Injection::next(Fault::DropReply).on(Operation::Txn));
    assert!(registry.create_cluster(&cluster_record("ours")).await.unwrap_err().is_unknown());
    assert!(matches!(registry.create_cluster(&cluster_record("ours")).await.unwrap(), Created::Done(_)));
    let Created::Exists(found) = registry.create_cluster(&cluster_record("theirs")).await.unwrap() else {
        panic!()
    };
    assert_eq!(found.value, cluster_record("ours"));

    let full = MemoryStore::new(7);
    full.txn(Txn::of(vec![Op::put("/fleet/job/x", "1")])).await.unwrap();
    let registry = Registry::new(Arc::new(full), Keys::new("/fleet/").unwrap(), 1);
    let created = registry.create_cluster(&cluster_record("ours")).await.unwrap();
    assert_eq!(created, Created::NotEmpty { keys: 1, sample: "/fleet/job/x".into() });
}

#[tokio::test(start_paused = true)]
async fn a_rolled_back_store_is_held_until_it_is_adopted_under_a_higher_epoch() {
    let fixture = cluster().await;
    let registry = &fixture.registry;
    assert_eq!(registry.adopt(Epoch(1), &asked("op")).await.unwrap(), Adopted::NotHeld);
    assert!(matches!(registry.put_hold(&hold("m1"), fixture.fence.cluster).await.unwrap(), Held::Done(_)));
    let Held::Already(first) = registry.put_hold(&hold("m2"), fixture.fence.cluster).await.unwrap() else {
        panic!()
    };
    assert_eq!(first.value, hold("m1"));
    assert_eq!(registry.reanchor_witness(&machine("m1"), &witness(3), fixture.fence).await.unwrap(), None);

    // A member that has seen epoch 4 before the store was rolled back.
    let adopted = registry.adopt(Epoch(4), &asked("op")).await.unwrap();
    let Adopted::Done { epoch: Epoch(5), .. } = adopted else { panic!("{adopted:?}") };
    let view = registry.read_trust_view(&machine("m1")).await.unwrap();
    let member = Member {
        v: 1,
        cluster: ClusterId::parse("ours").unwrap(),
        epoch: Epoch(4),
        store: "etcd".into(),
        witness: 3,
        seen: Revision(1_000),
        extra: Default::default(),
    };
    assert_eq!(judge(Some(&member), view.view()), Trust::Reanchor { epoch: Epoch(5) });
    let seen = registry.reanchor_witness(&machine("m1"), &witness(3), view.fence().unwrap()).await.unwrap();
    let member = Member { epoch: Epoch(5), seen: seen.unwrap(), ..member };
    let view = registry.read_trust_view(&machine("m1")).await.unwrap();
    assert_eq!(judge(Some(&member), view.view()), Trust::Own);
    let log = registry.events(10, None).await.unwrap().events;
    assert_eq!(log.last().unwrap().1.notes[0].kind, "cluster-adopted");
}

#[tokio::test(start_paused = true)]
async fn the_seen_revision_goes_down_by_re_anchoring_alone() {
    let fixture = cluster().await;
    let registry = &fixture.registry;
    let old = fixture.store.snapshot();
    for _ in 0..5 {
        fixture.put(&Key::Brake, "{}").await;
    }
    let seen = registry.read_all().await.unwrap().revision;
    fixture.store.restore(&old);
    assert!(registry.read_trust_view(&machine("m1")).await.unwrap().revision < seen);
    assert_eq!(registry.seen(), seen);
    let anchored = registry.reanchor_witness(&machine("m1"), &witness(1), fixture.fence).await.unwrap();
    assert!(anchored < Some(seen));
    assert_eq!(Some(registry.seen()), anchored);
}

#[tokio::test(start_paused = true)]
async fn units_are_read_for_a_write_with_what_it_compares() {
    let fixture = cluster().await;
    let names: Vec<UnitName> = (0..200).map(|i| unit(&format!("u{i}.service"))).collect();
    fixture.put(&Key::Unit(names[3].clone()), encode(&unit_record("text"))).await;
    fixture.put(&Key::Unit(names[150].clone()), r#"{"v": 99}"#).await;
    let before = fixture.registry.counters().reads();
    let found = fixture.registry.read_units(&names).await.unwrap();
    assert_eq!(fixture.registry.counters().reads() - before, 2);
    assert_eq!(found.fence(), Some(fixture.fence));
    assert_eq!(found.units.keys().collect::<Vec<_>>(), [&names[3]]);
    assert_eq!(found.undecodable[0].key, Key::Unit(names[150].clone()));
    fixture.put(&Key::Hold, encode(&hold("m1"))).await;
    assert_eq!(fixture.registry.read_units(&names[..1]).await.unwrap().fence(), None);
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_not_put_into_a_store_that_was_not_judged() {
    let fixture = cluster().await;
    assert_eq!(fixture.registry.put_hold(&hold("m1"), Revision(99)).await.unwrap(), Held::Fenced);
    let empty = Registry::new(Arc::new(MemoryStore::new(1)), Keys::new("/fleet/").unwrap(), 1);
    assert_eq!(empty.put_hold(&hold("m1"), fixture.fence.cluster).await.unwrap(), Held::Fenced);
    assert_eq!(empty.adopt(Epoch(0), &asked("op")).await.unwrap(), Adopted::NoCluster);
}

#[tokio::test(start_paused = true)]
async fn the_brake_is_released_once() {
    let fixture = cluster().await;
    let registry = &fixture.registry;
    let resume = || async { registry.resume_brake(&stamp("maintenance"), &asked("op")).await };
    assert_eq!(resume().await.unwrap(), Resumed::NotBraked);
    let brake = json!({"cause": "mass-loss", "state": "engaged", "since": NOW, "text": "3 of 4 lost"});
    fixture.put(&Key::Brake, serde_json::to_vec(&brake).unwrap()).await;
    assert!(matches!(resume().await.unwrap(), Resumed::Done(_)));
    assert_eq!(resume().await.unwrap(), Resumed::Already);
    let brake = registry.read_all().await.unwrap().brake.unwrap().value;
    assert_eq!(brake.released, Some(stamp("maintenance")));
}

#[tokio::test(start_paused = true)]
async fn instances_of_a_template_share_their_text_and_their_transactions() {
    let fixture = cluster().await;
    let writes: Vec<UnitWrite> =
        (0..300).map(|i| submit(&unit(&format!("web@{i}.service")), Revision(0), "text")).collect();
    let before = fixture.registry.counters().writes();
    let outcomes = fixture.registry.write_units(fixture.fence, &writes, &asked("op")).await;
    assert!(outcomes.iter().all(Outcome::is_applied));
    assert_eq!(fixture.registry.counters().writes() - before, 3);
    assert_eq!(fixture.registry.read_all().await.unwrap().units.len(), 300);
    assert_eq!(fixture.registry.get_content(&ContentHash::of(b"text")).await.unwrap(), "text");
    let log = fixture.registry.events(10, None).await.unwrap().events;
    assert_eq!(log.iter().map(|(_, event)| event.notes.len()).collect::<Vec<_>>().iter().sum::<usize>(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_changed_meanwhile_conflicts_alone() {
    let fixture = cluster().await;
    let (a, b) = (unit("a.service"), unit("b.service"));
    fixture.put(&Key::Unit(a.clone()), encode(&unit_record("old"))).await;
    let writes = [submit(&a, Revision(0), "new"), submit(&b, Revision(0), "other")];
    let outcomes = fixture.registry.write_units(fixture.fence, &writes, &asked("op")).await;
    assert_eq!(outcomes[0], Outcome::Conflict);
    assert!(outcomes[1].is_applied());
    let found = fixture.registry.read_unit(&a).await.unwrap().unwrap();
    assert_eq!(found.value, unit_record("old"));
    assert!(fixture.registry.get_content(&ContentHash::of(b"new")).await.is_err());
    let again =
        fixture.registry.write_units(fixture.fence, &[submit(&a, found.modified, "new")], &asked("op")).await;
    assert!(again[0].is_applied());
}

#[tokio::test(start_paused = true)]
async fn large_texts_are_spread_over_transactions() {
    let fixture = cluster().await;
    let text = |i: usize| format!("{i}{}", "x".repeat(250 << 10));
    let writes: Vec<UnitWrite> =
        (0..9).map(|i| submit(&unit(&format!("u{i}.service")), Revision(0), &text(i))).collect();
    let before = fixture.registry.counters().writes();
    let outcomes = fixture.registry.write_units(fixture.fence, &writes, &asked("op")).await;
    assert!(outcomes.iter().all(Outcome::is_applied));
    assert_eq!(fixture.registry.counters().writes() - before, 3);
}

#[tokio::test(start_paused = true)]
async fn units_are_not_written_under_a_hold() {
    let fixture = cluster().await;
    fixture.put(&Key::Hold, encode(&hold("m1"))).await;
    let writes = [submit(&unit("a.service"), Revision(0), "text")];
    assert_eq!(fixture.registry.write_units(fixture.fence, &writes, &asked("op")).await, [Outcome::Fenced]);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_machine_leaves_a_marker_and_nothing_else() {
    let fixture = cluster().await;
    let registry = &fixture.registry;
    let m1 = machine("m1");
    fixture.present("m1").await;
    fixture.put(&Key::Order(m1.clone(), unit("a.service")), encode(&order(1, "text", "gone"))).await;
    fixture.put(&Key::State(m1.clone(), unit("a.service")), encode(&row("running"))).await;
    let forget = |id: &str| {
        let id = machine(id);
        let registry = registry.clone();
        let fence = fixture.fence;
        async move { registry.forget_machine(fence, &id, &stamp("scrapped"), &asked("op")).await.unwrap() }
    };
    assert_eq!(forget("m1").await, Said::Present);
    assert_eq!(forget("m9").await, Said::NotFound);
    tokio::time::sleep(Duration::from_secs(11)).await;
    fixture.put(&Key::Lost(m1.clone()), r#"{"since": 5, "grace": 5000}"#).await;
    // A machine whose id begins alike keeps its own.
    fixture.put(&Key::Order(machine("m11"), unit("a.service")), encode(&order(1, "text", "gone"))).await;
    assert!(matches!(forget("m1").await, Said::Done(_)));
    assert_eq!(forget("m1").await, Said::Already);
    let snapshot = registry.read_all().await.unwrap();
    assert_eq!(snapshot.orders.keys().collect::<Vec<_>>(), [&machine("m11")]);
    assert!(snapshot.states.is_empty() && snapshot.lost.is_empty());
    assert_eq!(snapshot.machines[&m1].value.forgotten, Some(stamp("scrapped")));
    assert_eq!(registry.read_trust_view(&m1).await.unwrap().witness, None);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_returns_while_it_is_forgotten_is_not() {
    let fixture = cluster().await;
    fixture.put(&Key::Machine(machine("m1")), "{}").await;
    let slow = fixture.client("slow");
    let late = Injection::next(Fault::Delay(Duration::from_secs(1))).of_client("slow").after(1);
    fixture.store.inject(late);
    let (m1, why, who) = (machine("m1"), stamp("scrapped"), asked("op"));
    let (said, _) = tokio::join!(slow.forget_machine(fixture.fence, &m1, &why, &who), fixture.present("m1"));
    assert_eq!(said.unwrap(), Said::Present);
    assert_eq!(fixture.registry.read_all().await.unwrap().machines[&m1].value.forgotten, None);
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_confirmed_dead_only_while_it_is_not_present() {
    let fixture = cluster().await;
    let confirm = || async {
        fixture
            .registry
            .confirm_dead(fixture.fence, &machine("m1"), &stamp("unplugged"), &asked("op"))
            .await
            .unwrap()
    };
    fixture.present("m1").await;
    assert_eq!(confirm().await, Said::Present);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(matches!(confirm().await, Said::Done(_)));
    assert_eq!(confirm().await, Said::Already);
    fixture.put(&Key::Hold, encode(&hold("m1"))).await;
    assert_eq!(confirm().await, Said::Fenced);
}

#[tokio::test(start_paused = true)]
async fn a_machine_record_is_written_over_the_one_that_was_read() {
    let fixture = cluster().await;
    fixture.present("m1").await;
    let found = fixture.registry.read_all().await.unwrap().machines[&machine("m1")].clone();
    let record = MachineRecord { cordon: true, ..found.value };
    let note = EventNote { kind: "machine-cordoned".into(), unit: None, machine: None, why: String::new() };
    for expected in [true, false] {
        let outcome = fixture
            .registry
            .set_machine_record(
                fixture.fence,
                &machine("m1"),
                found.modified,
                &record,
                note.clone(),
                &asked("op"),
            )
            .await;
        assert_eq!(outcome.is_applied(), expected);
    }
}
