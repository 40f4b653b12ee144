//! Presence, acknowledgements and state rows.

use fleet_core::records::MachineRecord;
use fleet_core::{BootId, Nonce};

use super::*;
use crate::codec::encode;
use crate::registry::Outcome;
use crate::registry::commit::{Acknowledgement, AgentCommit};

fn commit(presence: Revision, pass: Option<ClusterFence>) -> AgentCommit {
    AgentCommit {
        machine: machine("m1"),
        presence,
        pass,
        witness: None,
        rows: Vec::new(),
        acknowledgements: Vec::new(),
    }
}

impl Fixture<MemoryStore> {
    /// An order for `m1` and its row; the order's mod revision.
    async fn ordered(&self, name: &UnitName, sequence: u64, wanted: &str) -> Revision {
        let key = Key::Order(machine("m1"), name.clone());
        self.put(&key, encode(&order(sequence, "text", wanted))).await;
        self.put(&Key::State(machine("m1"), name.clone()), encode(&row("running"))).await;
        self.registry.read_all().await.unwrap().orders[&machine("m1")][name].modified
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_deletes_the_order_it_saw_and_no_newer_one() {
    let fixture = cluster().await;
    let presence = fixture.present("m1").await;
    let (a, b) = (unit("a.service"), unit("b.service"));
    let seen_a = fixture.ordered(&a, 1, "gone").await;
    let seen_b = fixture.ordered(&b, 2, "gone").await;
    // Meanwhile b is wanted again.
    fixture.ordered(&b, 3, "launched").await;
    let report = fixture
        .registry
        .commit(AgentCommit {
            witness: Some(witness(1)),
            acknowledgements: vec![
                Acknowledgement { unit: b.clone(), order: seen_b },
                Acknowledgement { unit: a.clone(), order: seen_a },
            ],
            rows: vec![(a.clone(), Some(row("dead"))), (unit("c.service"), Some(row("running")))],
            ..commit(presence, Some(fixture.fence))
        })
        .await;
    assert_eq!(report.acknowledgements[0], (b.clone(), Outcome::Conflict));
    assert!(report.acknowledgements[1].1.is_applied() && report.is_witness_written && !report.is_fenced());
    // The row of what is gone was not written again.
    assert_eq!(report.rows.len(), 1);
    let snapshot = fixture.registry.read_all().await.unwrap();
    assert_eq!(snapshot.orders[&machine("m1")].keys().collect::<Vec<_>>(), [&b]);
    assert_eq!(snapshot.orders[&machine("m1")][&b].value.number.sequence, 3);
    assert_eq!(
        snapshot.states[&machine("m1")].keys().map(UnitName::as_str).collect::<Vec<_>>(),
        ["b.service", "c.service"]
    );
    let view = fixture.registry.read_trust_view(&machine("m1")).await.unwrap();
    assert_eq!(view.witness.unwrap().value, witness(1));
}

#[tokio::test(start_paused = true)]
async fn the_witness_is_raised_with_the_first_write_and_not_without_one() {
    let fixture = cluster().await;
    let presence = fixture.present("m1").await;
    let a = unit("a.service");
    let seen = fixture.ordered(&a, 1, "gone").await;
    fixture.ordered(&a, 2, "launched").await;
    let report = fixture
        .registry
        .commit(AgentCommit {
            witness: Some(witness(1)),
            acknowledgements: vec![Acknowledgement { unit: a, order: seen }],
            ..commit(presence, Some(fixture.fence))
        })
        .await;
    assert!(!report.is_witness_written);
    let view = fixture.registry.read_trust_view(&machine("m1")).await.unwrap();
    assert_eq!(view.witness.unwrap().value, witness(0));
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_presence_writes_nothing() {
    let fixture = cluster().await;
    let presence = fixture.present("m1").await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    let rows = vec![(unit("a.service"), Some(row("running")))];
    let late = AgentCommit { rows: rows.clone(), ..commit(presence, None) };
    assert!(fixture.registry.commit(late.clone()).await.is_fenced());
    // Nor under the presence of its next life.
    let again = fixture.present("m1").await;
    assert!(again > presence);
    assert!(fixture.registry.commit(late).await.is_fenced());
    let report = fixture.registry.commit(AgentCommit { rows, ..commit(again, None) }).await;
    assert!(report.rows[0].1.is_applied() && !report.is_witness_written);
}

#[tokio::test(start_paused = true)]
async fn under_a_hold_states_are_reported_but_no_pass_is_written() {
    let fixture = cluster().await;
    let presence = fixture.present("m1").await;
    let a = unit("a.service");
    let seen = fixture.ordered(&a, 1, "gone").await;
    fixture.put(&Key::Hold, "{}").await;
    let report = fixture
        .registry
        .commit(AgentCommit {
            acknowledgements: vec![Acknowledgement { unit: a.clone(), order: seen }],
            ..commit(presence, Some(fixture.fence))
        })
        .await;
    assert!(report.is_fenced());
    assert!(fixture.registry.read_all().await.unwrap().orders.contains_key(&machine("m1")));
    let report = fixture
        .registry
        .commit(AgentCommit { rows: vec![(a, Some(row("failed")))], ..commit(presence, None) })
        .await;
    assert!(report.rows[0].1.is_applied());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_rows_take_eight_transactions() {
    let fixture = cluster().await;
    let presence = fixture.present("m1").await;
    let rows = (0..1_000).map(|i| (unit(&format!("u{i}.service")), Some(row("running")))).collect();
    let before = fixture.registry.counters().writes();
    let report = fixture
        .registry
        .commit(AgentCommit { rows, witness: Some(witness(1)), ..commit(presence, Some(fixture.fence)) })
        .await;
    assert!(report.rows.iter().all(|(_, outcome)| outcome.is_applied()) && report.is_witness_written);
    assert_eq!(fixture.registry.counters().writes() - before, 8);
    let witness = fixture.registry.keys().key(&Key::Witness(machine("m1")));
    let found = fixture.store.range(crate::store::Range::key(witness)).await.unwrap();
    // Once when the machine was new, once for the pass.
    assert_eq!(found.kvs[0].version, 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_machine_gets_its_record_and_its_witness() {
    let fixture = cluster().await;
    let lease = fixture.lease(10).await;
    let mut announcement = fixture.announcement("m1", "n1", lease);
    announcement.witness = witness(4);
    let announced = fixture.registry.announce(&announcement).await.unwrap();
    let Announced::Present { created, revision, is_takeover: false, was_lost: None, is_new: true } =
        announced
    else {
        panic!("{announced:?}")
    };
    assert_eq!(created, revision);
    let view = fixture.registry.read_trust_view(&machine("m1")).await.unwrap();
    assert_eq!(view.witness.unwrap().value.passes, 4);
    assert_eq!(
        view.machine.unwrap().value,
        MachineRecord { v: SCHEMA, first_seen: NOW, ..MachineRecord::default() }
    );
}

#[tokio::test(start_paused = true)]
async fn a_restarted_fleetd_takes_its_presence_over_at_once() {
    let fixture = cluster().await;
    let created = fixture.present("m1").await;
    let lease = fixture.lease(10).await;
    let announced = fixture.registry.announce(&fixture.announcement("m1", "n1", lease)).await.unwrap();
    let Announced::Present { created: again, is_takeover: true, is_new: false, .. } = announced else {
        panic!("{announced:?}")
    };
    assert_eq!(created, again);
    // The old lease runs out and takes nothing with it.
    tokio::time::sleep(Duration::from_secs(6)).await;
    fixture.store.lease_keep_alive(lease).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(fixture.registry.read_all().await.unwrap().presence.contains_key(&machine("m1")));
}

#[tokio::test(start_paused = true)]
async fn another_boots_or_another_machines_presence_is_left_alone_until_it_runs_out() {
    let fixture = cluster().await;
    let holder_lease = fixture.lease(10).await;
    fixture.registry.announce(&fixture.announcement("m1", "n1", holder_lease)).await.unwrap();
    let before = fixture.registry.read_all().await.unwrap();
    let mut other = fixture.announcement("m1", "n1", fixture.lease(60).await);
    other.record.boot = BootId::parse("boot2").unwrap();
    let mut clone = fixture.announcement("m1", "n1", fixture.lease(60).await);
    clone.record.nonce = Nonce::parse("n2").unwrap();
    for announcement in [&other, &clone] {
        let held = fixture.registry.announce(announcement).await.unwrap();
        let Announced::HeldByOther { holder: Some(holder), lease: Some(lease) } = held else {
            panic!("{held:?}")
        };
        assert_eq!((holder.value.nonce.as_str(), lease), ("n1", holder_lease));
    }
    assert_eq!(fixture.registry.read_all().await.unwrap(), before);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(matches!(
        fixture.registry.announce(&other).await.unwrap(),
        Announced::Present { is_takeover: false, .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_returns_takes_the_marks_off() {
    let fixture = cluster().await;
    fixture.put(&Key::Lost(machine("m1")), r#"{"since": 5, "grace": 5000}"#).await;
    let record = json!({"v": 1, "first_seen": 3, "cordon": true, "forgotten": {"at": 4},
        "confirmed_dead": {"stamp": {"at": 4}}, "new_field": 1});
    fixture.put(&Key::Machine(machine("m1")), serde_json::to_vec(&record).unwrap()).await;
    let mut announcement = fixture.announcement("m1", "n1", fixture.lease(10).await);
    announcement.witness = witness(9);
    let announced = fixture.registry.announce(&announcement).await.unwrap();
    let Announced::Present { was_lost: Some(lost), is_new: true, .. } = announced else {
        panic!("{announced:?}")
    };
    assert_eq!(lost.since, Timestamp(5));
    let snapshot = fixture.registry.read_all().await.unwrap();
    assert!(snapshot.lost.is_empty());
    let record = &snapshot.machines[&machine("m1")].value;
    assert!(record.forgotten.is_none() && record.confirmed_dead.is_none() && record.cordon);
    assert!(record.extra.contains_key("new_field"));
    // Disk and store agree on the witness again.
    let view = fixture.registry.read_trust_view(&machine("m1")).await.unwrap();
    assert_eq!(view.witness.unwrap().value.passes, 9);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_announced_in_a_store_that_was_not_judged() {
    let fixture = cluster().await;
    let mut announcement = fixture.announcement("m1", "n1", fixture.lease(10).await);
    announcement.cluster = Revision(99);
    assert_eq!(fixture.registry.announce(&announcement).await.unwrap(), Announced::Fenced);
    assert!(fixture.registry.read_all().await.unwrap().presence.is_empty());
}

#[tokio::test(start_paused = true)]
async fn presence_is_updated_by_its_holder_only() {
    let fixture = cluster().await;
    let lease = fixture.lease(10).await;
    let announcement = fixture.announcement("m1", "n1", lease);
    let announced = fixture.registry.announce(&announcement).await.unwrap();
    let Announced::Present { created, .. } = announced else { panic!("{announced:?}") };
    let mut record = announcement.record;
    record.metadata.insert("rack".into(), "r1".into());
    assert!(fixture.registry.update_presence(&record, lease, created).await.unwrap());
    let snapshot = fixture.registry.read_all().await.unwrap();
    assert_eq!(snapshot.presence[&machine("m1")].value, record);
    assert_eq!(snapshot.presence[&machine("m1")].created, created);
    assert!(!fixture.registry.update_presence(&record, lease, Revision(1)).await.unwrap());
}
