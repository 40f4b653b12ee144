//! Packing against the in-memory store.

use std::time::Duration;

use super::{Group, GroupOutcome, execute};
use crate::memory::{Fault, Injection, Link, MemoryStore};
use crate::store::{Compare, LeaseId, Op, Operation, Range, Revision, Store, StoreError, Txn};

async fn put(store: &MemoryStore, key: &str, value: &str) -> Revision {
    let txn = Txn::of(vec![Op::put(key.to_owned(), value.to_owned())]);
    store.txn(txn).await.unwrap().header.revision
}

/// A store in which `m1` leads, and the fence of that term.
async fn led() -> (MemoryStore, Vec<Compare>) {
    let store = MemoryStore::new(7);
    let term = put(&store, "/leader", "m1").await;
    (store, vec![Compare::create_revision("/leader", term)])
}

/// Places one unit: what an engine writes for it.
fn place(unit: usize) -> Group {
    Group {
        compares: vec![Compare::absent(format!("/placements/{unit:05}")), Compare::absent("/hold")],
        ops: vec![
            Op::put(format!("/placements/{unit:05}"), "m1"),
            Op::put(format!("/assignments/m1/{unit:05}"), "launched"),
        ],
    }
}

async fn count(store: &MemoryStore, prefix: &str) -> u64 {
    store.range(Range::prefix(prefix.to_owned())).await.unwrap().count
}

fn applied(outcomes: &[GroupOutcome]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, GroupOutcome::Applied { .. })).count()
}

#[tokio::test]
async fn groups_share_transactions_up_to_the_limits() {
    let (store, fence) = led().await;
    let groups: Vec<Group> = (0..1_000).map(place).collect();
    let before = store.calls(Operation::Txn);
    let outcomes = execute(&store, &fence, &groups).await;
    assert_eq!(applied(&outcomes), 1_000);
    assert_eq!(count(&store, "/assignments/").await, 1_000);
    // 64 groups of two operations fill one; equal compares of all groups count once.
    assert_eq!(store.calls(Operation::Txn) - before, 16);
}

#[tokio::test]
async fn one_conflict_does_not_hold_up_the_others() {
    let (store, fence) = led().await;
    put(&store, "/placements/00007", "m2").await;
    let groups: Vec<Group> = (0..20).map(place).collect();
    let outcomes = execute(&store, &fence, &groups).await;
    assert_eq!(applied(&outcomes), 19);
    assert_eq!(outcomes[7], GroupOutcome::Conflict);
    assert_eq!(count(&store, "/assignments/m1/").await, 19);
}

#[tokio::test]
async fn superseded_leader_writes_nothing_and_stops_at_once() {
    let (store, fence) = led().await;
    store.txn(Txn::of(vec![Op::delete("/leader")])).await.unwrap();
    put(&store, "/leader", "m2").await;
    let groups: Vec<Group> = (0..500).map(place).collect();
    let before = store.calls(Operation::Txn);
    let outcomes = execute(&store, &fence, &groups).await;
    assert!(outcomes[..64].iter().all(|outcome| *outcome == GroupOutcome::Fenced));
    assert!(outcomes[64..].iter().all(|outcome| *outcome == GroupOutcome::Skipped));
    assert_eq!(count(&store, "/assignments/").await, 0);
    assert_eq!(store.calls(Operation::Txn) - before, 1);
}

#[tokio::test(start_paused = true)]
async fn unknown_outcome_ends_the_run_and_is_told_for_the_whole_pack() {
    let (store, fence) = led().await;
    let groups: Vec<Group> = (0..200).map(place).collect();
    store.inject(Injection::next(Fault::DropReply).on(Operation::Txn).after(1));
    let outcomes = execute(&store, &fence, &groups).await;
    assert_eq!(applied(&outcomes), 64);
    assert!(outcomes[64..128].iter().all(|outcome| matches!(outcome, GroupOutcome::Unknown(_))));
    assert!(outcomes[128..].iter().all(|outcome| *outcome == GroupOutcome::Skipped));
    // It was applied; running the same plan again places nothing twice.
    let again = execute(&store, &fence, &groups).await;
    assert!(again[..128].iter().all(|outcome| *outcome == GroupOutcome::Conflict));
    assert_eq!(applied(&again), 72);
}

#[tokio::test]
async fn store_that_is_away_fails_the_pack_and_skips_the_rest() {
    let (store, fence) = led().await;
    store.set_link("m1", Link::Refused);
    let outcomes = execute(&store.client("m1"), &fence, &[place(1), place(2)]).await;
    assert!(
        matches!(outcomes.as_slice(), [GroupOutcome::Failed(_), GroupOutcome::Failed(_)]),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn group_that_the_store_refuses_fails_alone() {
    let (store, fence) = led().await;
    let poison = Group { compares: vec![], ops: vec![Op::put_leased("/p", "x", LeaseId(99))] };
    let huge = Group { compares: vec![], ops: (0..129).map(|i| Op::put(format!("/h/{i}"), "x")).collect() };
    let outcomes = execute(&store, &fence, &[place(1), poison, huge, place(2)]).await;
    assert_eq!(applied(&outcomes), 2);
    assert_eq!(outcomes[1], GroupOutcome::Failed(StoreError::LeaseNotFound { id: LeaseId(99) }));
    assert!(matches!(outcomes[2], GroupOutcome::Failed(StoreError::TxnTooLarge { .. })));
}

#[tokio::test]
async fn group_that_builds_on_an_earlier_one_sees_it_done() {
    let (store, fence) = led().await;
    let make = Group { compares: vec![Compare::absent("/a")], ops: vec![Op::put("/a", "1")] };
    let build = Group { compares: vec![Compare::value("/a", "1")], ops: vec![Op::put("/b", "1")] };
    let change = Group { compares: vec![], ops: vec![Op::put("/a", "2")] };
    let clash = Group { compares: vec![Compare::absent("/a")], ops: vec![Op::put("/c", "1")] };
    let remove = Group { compares: vec![], ops: vec![Op::delete_prefix("/a")] };
    let renew = Group { compares: vec![Compare::absent("/a")], ops: vec![Op::put("/a", "3")] };
    let outcomes = execute(&store, &fence, &[make, build, change, clash, remove, renew]).await;
    assert_eq!(outcomes[3], GroupOutcome::Conflict);
    assert_eq!(applied(&outcomes), 5);
}

#[tokio::test]
async fn large_values_are_split_before_the_store_would_refuse_them() {
    let (store, fence) = led().await;
    let groups: Vec<Group> = (0..10)
        .map(|i| Group { compares: vec![], ops: vec![Op::put(format!("/t/{i}"), "x".repeat(300 << 10))] })
        .collect();
    let before = store.calls(Operation::Txn);
    assert_eq!(applied(&execute(&store, &fence, &groups).await), 10);
    assert_eq!(store.calls(Operation::Txn) - before, 4);
}

#[tokio::test(start_paused = true)]
async fn nothing_to_do_asks_nothing() {
    let (store, fence) = led().await;
    store.inject(Injection::next(Fault::Delay(Duration::from_secs(1))).times(100));
    assert_eq!(execute(&store, &fence, &[]).await, []);
}
