//! Leadership and the engine's writes: what the fence keeps out.

use fleet_core::records::READS;

use super::*;
use crate::codec::encode;
use crate::memory::{Fault, Injection};
use crate::registry::Outcome;
use crate::store::{Operation, StoreError};

fn names(count: usize) -> Vec<UnitName> {
    (0..count).map(|i| unit(&format!("u{i:04}.service"))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_large_plan_is_packed_and_logs_one_event_for_each_transaction() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let groups: Vec<Group> = names(300).iter().zip(1..).map(|(name, i)| place(name, "m1", i)).collect();
    let before = fixture.store.calls(Operation::Txn);
    let outcomes = fixture.registry.apply_groups(leader, &groups, &asked("engine@m1")).await;
    assert!(outcomes.iter().all(Outcome::is_applied));
    // Two operations each and one event: 63 groups fill a transaction.
    assert_eq!(fixture.store.calls(Operation::Txn) - before, 5);
    let log = fixture.registry.events(100, None).await.unwrap().events;
    assert_eq!(log.len(), 5);
    assert_eq!(log.iter().map(|(_, event)| event.notes.len()).sum::<usize>(), 300);
    let snapshot = fixture.registry.read_all().await.unwrap();
    assert_eq!((snapshot.placements.len(), snapshot.orders[&machine("m1")].len()), (300, 300));
}

#[tokio::test(start_paused = true)]
async fn one_groups_conflict_leaves_the_others_written() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let names = names(100);
    fixture.put(&Key::Placement(names[10].clone()), encode(&placement("m2"))).await;
    let groups: Vec<Group> = names.iter().zip(1..).map(|(name, i)| place(name, "m1", i)).collect();
    let outcomes = fixture.registry.apply_groups(leader, &groups, &asked("engine@m1")).await;
    for (index, outcome) in outcomes.iter().enumerate() {
        assert_eq!(*outcome == Outcome::Conflict, index == 10, "{index}: {outcome:?}");
    }
    let snapshot = fixture.registry.read_all().await.unwrap();
    assert_eq!(snapshot.orders[&machine("m1")].len(), 99);
    assert_eq!(snapshot.placements[&names[10]].value.machine, Some(machine("m2")));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_builds_on_another_is_not_packed_with_it() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let name = unit("a.service");
    // Both claim the unit: the second must see what the first did.
    let groups = [place(&name, "m1", 1), place(&name, "m2", 2)];
    let outcomes = fixture.registry.apply_groups(leader, &groups, &asked("engine@m1")).await;
    assert!(outcomes[0].is_applied());
    assert_eq!(outcomes[1], Outcome::Conflict);
    let snapshot = fixture.registry.read_all().await.unwrap();
    assert_eq!(snapshot.orders.keys().collect::<Vec<_>>(), [&machine("m1")]);
}

#[tokio::test(start_paused = true)]
async fn a_group_sees_what_the_groups_before_it_wrote() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let brake = |text: &str| Group {
        compares: Vec::new(),
        writes: vec![Write::PutBrake(of(
            json!({"cause": "mass-loss", "state": "engaged", "since": NOW, "text": text}),
        ))],
        note: None,
    };
    // Decided from the absence of a placement that the first group writes; writes something else.
    let mut follower = brake("first");
    follower.compares.push(Condition::Placement(unit("a.service"), Revision(0)));
    let groups = [place(&unit("a.service"), "m1", 1), follower, brake("second"), brake("third")];
    let before = fixture.registry.counters().writes();
    let outcomes = fixture.registry.apply_groups(leader, &groups, &asked("engine@m1")).await;
    assert_eq!(outcomes.iter().map(Outcome::is_applied).collect::<Vec<_>>(), [true, false, true, true]);
    assert_eq!(fixture.registry.counters().writes() - before, 4);
    assert_eq!(fixture.registry.read_all().await.unwrap().brake.unwrap().value.text, "third");
}

#[tokio::test(start_paused = true)]
async fn a_zombie_leader_writes_nothing() {
    let fixture = cluster().await;
    let old = fixture.lead("m1").await;
    let lost = fixture.registry.campaign(&leader_record("m2"), fixture.lease(5).await, fixture.fence).await;
    let Ok(Campaign::Lost { holder: Some(holder) }) = lost else { panic!("{lost:?}") };
    assert_eq!(holder.value.machine, machine("m1"));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let new = fixture.lead("m2").await;
    assert!(new.term > old.term);
    let groups = [place(&unit("a.service"), "m1", 1), place(&unit("b.service"), "m1", 2)];
    let outcomes = fixture.registry.apply_groups(old, &groups, &asked("engine@m1")).await;
    assert_eq!(outcomes, [Outcome::Fenced, Outcome::Fenced]);
    // Nor does its resignation touch the new leader.
    fixture.registry.resign(old.term).await.unwrap();
    assert_eq!(fixture.registry.read_leader().await.unwrap().unwrap().value.machine, machine("m2"));
    assert!(fixture.registry.apply_groups(new, &groups, &asked("engine@m2")).await[0].is_applied());
    fixture.registry.resign(new.term).await.unwrap();
    assert_eq!(fixture.registry.read_leader().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_hold_or_a_changed_cluster_record_fences_the_leader() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let groups = [place(&unit("a.service"), "m1", 1)];
    fixture.put(&Key::Hold, "{}").await;
    assert_eq!(fixture.registry.apply_groups(leader, &groups, &asked("e")).await, [Outcome::Fenced]);
    let candidate = leader_record("m2");
    let campaign = || async {
        let lease = fixture.lease(5).await;
        fixture.registry.campaign(&candidate, lease, fixture.fence).await.unwrap()
    };
    assert!(matches!(campaign().await, Campaign::Lost { .. }));
    fixture.registry.resign(leader.term).await.unwrap();
    assert_eq!(campaign().await, Campaign::Fenced);

    fixture.write(vec![Op::delete(fixture.registry.keys().key(&Key::Hold))]).await;
    let leader = fixture.lead("m1").await;
    fixture.put(&Key::Cluster, encode(&cluster_record("ours"))).await;
    assert_eq!(fixture.registry.apply_groups(leader, &groups, &asked("e")).await, [Outcome::Fenced]);
    assert!(fixture.registry.read_all().await.unwrap().orders.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_never_places_twice() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let name = unit("a.service");
    let groups = [place(&name, "m1", 1), place(&unit("b.service"), "m1", 2)];
    fixture.store.inject(Injection::next(Fault::DropReply).on(Operation::Txn));
    let outcomes = fixture.registry.apply_groups(leader, &groups, &asked("engine@m1")).await;
    assert!(matches!(outcomes[0], Outcome::Unknown(_)), "{outcomes:?}");
    assert_eq!(fixture.registry.counters().unknown_outcomes(), 1);
    // An engine that decided again from what it knew before, without reading, would choose another machine.
    let again = fixture.registry.apply_groups(leader, &[place(&name, "m2", 3)], &asked("engine@m1")).await;
    assert_eq!(again, [Outcome::Conflict]);
    let snapshot = fixture.registry.read_all().await.unwrap();
    assert_eq!(snapshot.orders.keys().collect::<Vec<_>>(), [&machine("m1")]);
}

#[tokio::test(start_paused = true)]
async fn after_an_unknown_outcome_and_a_lost_connection_the_rest_is_skipped() {
    let fixture = cluster().await;
    let leader = fixture.lead("m1").await;
    let groups: Vec<Group> = names(200).iter().zip(1..).map(|(name, i)| place(name, "m1", i)).collect();
    fixture.store.inject(Injection::next(Fault::DropReply).on(Operation::Txn).after(1));
    let outcomes = fixture.registry.apply_groups(leader, &groups, &asked("engine@m1")).await;
    assert!(outcomes[..63].iter().all(Outcome::is_applied));
    assert!(outcomes[63..126].iter().all(|outcome| matches!(outcome, Outcome::Unknown(_))));
    assert!(outcomes[126..].iter().all(|outcome| *outcome == Outcome::Skipped));
}

#[tokio::test(start_paused = true)]
async fn a_campaign_whose_answer_was_lost_is_won_by_repeating_it() {
    let fixture = cluster().await;
    let lease = fixture.lease(5).await;
    fixture.store.inject(Injection::next(Fault::DropReply).on(Operation::Txn));
    let error = fixture.registry.campaign(&leader_record("m1"), lease, fixture.fence).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    let won = fixture.registry.campaign(&leader_record("m1"), lease, fixture.fence).await.unwrap();
    let leader = fixture.registry.read_leader().await.unwrap().unwrap();
    assert_eq!(won, Campaign::Won(Term(leader.created.0)));
}

#[tokio::test(start_paused = true)]
async fn a_unit_of_a_lost_machine_is_not_moved_when_its_presence_is_back() {
    let fixture = cluster().await;
    let leader = fixture.lead("m2").await;
    let name = unit("a.service");
    let lost = || Group {
        compares: vec![
            Condition::Presence(machine("m1"), Revision(0)),
            Condition::Lost(machine("m1"), Revision(0)),
        ],
        writes: vec![Write::PutLost(machine("m1"), of(json!({"since": NOW, "grace": 5_000})))],
        note: None,
    };
    assert!(fixture.registry.apply_groups(leader, &[lost()], &asked("e")).await[0].is_applied());
    let marker = fixture.registry.read_all().await.unwrap().lost[&machine("m1")].modified;
    fixture.present("m1").await;
    let mut group = place(&name, "m2", 1);
    group.compares.push(Condition::Lost(machine("m1"), marker));
    group.compares.push(Condition::Presence(machine("m1"), Revision(0)));
    assert_eq!(fixture.registry.apply_groups(leader, &[group], &asked("e")).await, [Outcome::Conflict]);
    assert!(fixture.registry.read_all().await.unwrap().lost.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_presence_is_too_new_to_read_is_not_called_lost() {
    let fixture = cluster().await;
    let leader = fixture.lead("m2").await;
    let mut presence = presence("m1", "n1");
    presence.v = READS + 1;
    fixture.put(&Key::Presence(machine("m1")), encode(&presence)).await;
    // What a leader would write to whom the machine is absent, because it cannot read it.
    let lost = Group {
        compares: vec![
            Condition::Presence(machine("m1"), Revision(0)),
            Condition::Lost(machine("m1"), Revision(0)),
        ],
        writes: vec![Write::PutLost(machine("m1"), of(json!({"since": NOW, "grace": 5_000})))],
        note: None,
    };
    assert_eq!(fixture.registry.apply_groups(leader, &[lost], &asked("e")).await, [Outcome::Conflict]);
    let snapshot = fixture.registry.read_all().await.unwrap();
    assert!(snapshot.lost.is_empty() && snapshot.undecodable.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn who_holds_nothing_writes_nothing_into_an_emptied_store() {
    let fixture = cluster().await;
    fixture.store.wipe();
    let nobody = LeaderFence { term: Term(0), cluster: Revision(0) };
    let groups = [place(&unit("a.service"), "m1", 1)];
    assert_eq!(fixture.registry.apply_groups(nobody, &groups, &asked("e")).await, [Outcome::Fenced]);
    let commit = crate::registry::commit::AgentCommit {
        machine: machine("m1"),
        presence: Revision(0),
        pass: None,
        witness: None,
        rows: vec![(unit("a.service"), Some(row("running")))],
        acknowledgements: Vec::new(),
    };
    assert!(fixture.registry.commit(commit).await.is_fenced());
    let fence = ClusterFence { cluster: Revision(0) };
    assert_eq!(fixture.registry.reanchor_witness(&machine("m1"), &witness(1), fence).await.unwrap(), None);
    let everything = crate::store::Range::new(fixture.registry.keys().whole());
    assert_eq!(fixture.store.range(everything).await.unwrap().count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_every_write_is_asked_once() {
    for refusal in [
        StoreError::NoSpace { operation: Operation::Txn },
        StoreError::Corrupt { operation: Operation::Txn, detail: "checksum".into() },
        StoreError::PermissionDenied { operation: Operation::Txn, detail: "no role".into() },
    ] {
        let fixture = cluster().await;
        let leader = fixture.lead("m1").await;
        let groups: Vec<Group> = names(100).iter().zip(1..).map(|(name, i)| place(name, "m1", i)).collect();
        let before = fixture.store.calls(Operation::Txn);
        fixture.store.inject(Injection::next(Fault::Fail(refusal.clone())).times(200).on(Operation::Txn));
        let outcomes = fixture.registry.apply_groups(leader, &groups, &asked("engine@m1")).await;
        assert_eq!(fixture.store.calls(Operation::Txn) - before, 1, "{refusal}");
        // 63 groups fill a transaction.
        assert!(outcomes[..63].iter().all(|outcome| *outcome == Outcome::Failed(refusal.clone())));
        assert!(outcomes[63..].iter().all(|outcome| *outcome == Outcome::Skipped));
    }
}
