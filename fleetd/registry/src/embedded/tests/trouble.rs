//! A disk that is full or gone while the store runs.

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{sleep, timeout};

use super::disk::{Failing, Machine};
use super::hands::Hands;
use super::run::{append, created, open, view};
use crate::embedded::EmbeddedStore;
use crate::embedded::base;
use crate::embedded::clock::Clock;
use crate::embedded::log::AppendError;
use crate::store::{
    Alarm, KeyRange, Op, Operation, Range, Revision, Store, StoreError, Txn, WatchReply, WatchRequest,
};

#[test]
fn full_disk_at_any_operation_refuses_the_group_and_keeps_the_others() {
    for failing in [Failing::Growth, Failing::Writes] {
        let mut refusals = 0;
        for grace in 0..150 {
            let machine = Machine::of(created());
            let (mut log, mut state) = open(&machine).unwrap();
            machine.fail(failing, grace);
            for number in 0..40 {
                let before = state.clone();
                match append(&mut log, &mut state, number) {
                    Ok(()) => {}
                    Err(AppendError::NoSpace) => {
                        refusals += 1;
                        state = before;
                        let (_, found) = open(&Machine::of(machine.images())).unwrap();
                        assert_eq!(view(&found), view(&state), "{failing:?} after {grace}, group {number}");
                        machine.fail(Failing::Nothing, 0);
                        append(&mut log, &mut state, number).unwrap();
                    }
                    Err(error) => panic!("{failing:?} after {grace}, group {number}: {error:?}"),
                }
            }
            drop(log);
            assert_eq!(view(&open(&machine).unwrap().1), view(&state), "{failing:?} after {grace}");
        }
        assert!(refusals > 5, "{failing:?}: {refusals}");
    }
}

#[test]
fn full_disk_at_the_start_still_opens() {
    let machine = Machine::of(created());
    let (mut log, mut state) = open(&machine).unwrap();
    for number in 0..40 {
        append(&mut log, &mut state, number).unwrap();
    }
    drop(log);
    machine.fail(Failing::Writes, 0);
    let (_, found) = open(&machine).unwrap();
    assert_eq!(view(&found), view(&state));
}

fn start(machine: &Machine) -> EmbeddedStore {
    start_by(machine, Clock::system())
}

fn start_by(machine: &Machine, clock: Clock) -> EmbeddedStore {
    EmbeddedStore::on_disks(machine.disks(), Path::new("registry-under-test"), clock).unwrap()
}

fn put(value: &str) -> Txn {
    Txn::of(vec![Op::put("/a", value.to_owned())])
}

async fn value(store: &EmbeddedStore) -> String {
    let reply = store.range(Range::key("/a")).await.unwrap();
    String::from_utf8(reply.kvs[0].value.to_vec()).unwrap()
}

#[tokio::test]
async fn full_disk_refuses_writes_and_goes_on_reading_watching_and_renewing() {
    let machine = Machine::of(created());
    let hands = Hands::new();
    let store = start_by(&machine, hands.clock());
    let lease = store.lease_grant(Duration::from_secs(1)).await.unwrap();
    store.txn(Txn::of(vec![Op::put_leased("/p", "x", lease.id)])).await.unwrap();
    let before = store.txn(put("before")).await.unwrap().header.revision;
    let mut watch = store.watch(WatchRequest::new(vec![KeyRange::key("/a")], before.next())).await.unwrap();
    machine.fail(Failing::Writes, 0);
    let refused = Err(StoreError::NoSpace { operation: Operation::Txn });
    // The second one is refused without being tried.
    assert_eq!(store.txn(put("lost")).await, refused);
    assert_eq!(store.txn(put("lost")).await, refused);
    assert_eq!(value(&store).await, "before");
    let status = store.status().await.unwrap();
    assert!(matches!(status.alarms[..], [Alarm::NoSpace { .. }]));
    assert_eq!(status.header.revision, before);
    // Long enough for the lease to run out; its end cannot be written, so it lives.
    for _ in 0..10 {
        hands.advance(300);
        assert!(!store.lease_keep_alive(lease.id).await.unwrap().is_zero());
        assert_eq!(store.txn(put("lost")).await, refused);
    }
    machine.fail(Failing::Nothing, 0);
    // Until the next attempt is due.
    assert_eq!(store.txn(put("lost")).await, refused);
    for _ in 0..2 {
        hands.advance(500);
        assert!(!store.lease_keep_alive(lease.id).await.unwrap().is_zero());
    }
    let revision = store.txn(put("after")).await.expect("the disk has space again").header.revision;
    assert_eq!(revision, before.next());
    assert_eq!(store.status().await.unwrap().alarms, []);
    match watch.next().await {
        Some(WatchReply::Events(batch)) => assert_eq!((batch.revision, batch.events.len()), (revision, 1)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn space_on_a_disk_that_was_full_is_noticed_before_somebody_writes() {
    let machine = Machine::of(created());
    let hands = Hands::new();
    let store = start_by(&machine, hands.clock());
    let before = store.txn(put("before")).await.unwrap().header.revision;
    machine.fail(Failing::Writes, 0);
    store.txn(put("lost")).await.unwrap_err();
    assert!(matches!(store.status().await.unwrap().alarms[..], [Alarm::NoSpace { .. }]));
    machine.fail(Failing::Nothing, 0);
    hands.advance(1_100);
    let noticed = timeout(Duration::from_secs(10), async {
        while !store.status().await.unwrap().alarms.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    noticed.await.expect("the disk is tried again");
    assert_eq!(store.txn(put("after")).await.unwrap().header.revision, before.next());
    drop(store);
    assert_eq!(value(&start(&machine)).await, "after");
}

#[tokio::test]
async fn lease_that_runs_out_on_a_full_disk_ends_when_there_is_space() {
    let machine = Machine::of(created());
    let hands = Hands::new();
    let store = start_by(&machine, hands.clock());
    let lease = store.lease_grant(Duration::from_secs(1)).await.unwrap();
    store.txn(Txn::of(vec![Op::put_leased("/p", "x", lease.id)])).await.unwrap();
    machine.fail(Failing::Writes, 0);
    for _ in 0..3 {
        hands.advance(500);
        let refused = store.txn(put("lost")).await;
        assert_eq!(refused, Err(StoreError::NoSpace { operation: Operation::Txn }));
        assert_eq!(store.range(Range::key("/p")).await.unwrap().count, 1);
    }
    machine.fail(Failing::Nothing, 0);
    // Its time was given to it anew while the disk was full.
    hands.advance(1_000);
    store.txn(put("after")).await.unwrap();
    assert_eq!(store.range(Range::key("/p")).await.unwrap().count, 0);
    assert_eq!(store.lease_ttl(lease.id).await, Ok(None));
}

#[tokio::test]
async fn failed_fsync_leaves_the_write_open_and_ends_all_writing() {
    let machine = Machine::of(created());
    let store = start(&machine);
    store.txn(put("before")).await.unwrap();
    machine.fail(Failing::Syncs, 0);
    assert!(matches!(store.txn(put("unknown")).await, Err(StoreError::Unknown { .. })));
    machine.fail(Failing::Nothing, 0);
    let refused = store.txn(put("refused")).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Disk { detail, .. } if detail.contains("fsync")), "{refused:?}");
    assert_eq!(value(&store).await, "before");
    let alarms = store.status().await.unwrap().alarms;
    assert!(matches!(&alarms[..], [Alarm::Disk { detail }] if detail.contains("fsync")), "{alarms:?}");
    drop(store);
    let store = start(&machine);
    let found = value(&store).await;
    assert!(found == "before" || found == "unknown", "{found}");
    assert!(store.txn(put("after")).await.unwrap().header.revision > Revision(2));
}

/// Waits until a write is under way that began after `ops` operations.
async fn reaches_the_disk(machine: &Machine, ops: usize) {
    let begun = timeout(Duration::from_secs(4), async {
        while machine.op_count() == ops {
            sleep(Duration::from_millis(5)).await;
        }
    });
    begun.await.expect("the write reaches the disk");
}

#[test]
fn base_that_finds_no_space_gives_back_what_it_took() {
    let mut refusals = 0;
    for grace in 0..30 {
        let machine = Machine::of(created());
        let (_, state) = open(&machine).unwrap();
        machine.fail(Failing::Growth, grace);
        if let Err(error) = base::write(&machine.disks().bases[1], 7, &state) {
            assert!(matches!(error, base::WriteError::NoSpace), "{error:?}");
            assert_eq!(machine.images()[1].len(), 0, "after {grace} operations");
            refusals += 1;
        }
    }
    assert!(refusals > 0);
}

#[tokio::test]
async fn disk_that_hangs_delays_writes_alone() {
    let machine = Machine::of(created());
    let hands = Hands::new();
    let store = start_by(&machine, hands.clock());
    let lease = store.lease_grant(Duration::from_secs(1)).await.unwrap();
    let before = store.txn(put("before")).await.unwrap().header.revision;
    let mut watch = store.watch(WatchRequest::new(vec![KeyRange::prefix("/")], before.next())).await.unwrap();
    machine.stall(true);
    let ops = machine.op_count();
    let writer = tokio::spawn({
        let store = store.clone();
        async move { store.txn(put("after")).await }
    });
    reaches_the_disk(&machine, ops).await;
    for _ in 0..5 {
        hands.advance(300);
        assert_eq!(value(&store).await, "before");
        assert!(!store.lease_keep_alive(lease.id).await.unwrap().is_zero());
        assert!(watch.next().now_or_never().is_none(), "told before it is safe");
    }
    assert!(!writer.is_finished());
    machine.stall(false);
    let after = writer.await.unwrap().unwrap().header.revision;
    assert!(matches!(watch.next().await, Some(WatchReply::Events(batch)) if batch.revision == after));
    assert!(store.lease_ttl(lease.id).await.unwrap().is_some());
}

#[tokio::test]
async fn disk_that_hangs_too_long_is_told_and_what_has_not_begun_is_not_done() {
    let machine = Machine::of(created());
    let store = start(&machine);
    store.txn(put("before")).await.unwrap();
    machine.stall(true);
    let put_key = |key: &'static str| {
        let store = store.clone();
        tokio::spawn(async move { store.txn(Txn::of(vec![Op::put(key, "x")])).await })
    };
    let ops = machine.op_count();
    let first = put_key("/begun");
    reaches_the_disk(&machine, ops).await;
    // Nothing but the time for an answer is waited for from here on.
    tokio::time::pause();
    let second = put_key("/waiting");
    for outcome in [first.await.unwrap(), second.await.unwrap()] {
        assert!(matches!(outcome, Err(StoreError::Unknown { .. })), "{outcome:?}");
    }
    tokio::time::resume();
    machine.stall(false);
    store.txn(put("after")).await.unwrap();
    assert_eq!(store.range(Range::key("/begun")).await.unwrap().count, 1);
    assert_eq!(store.range(Range::key("/waiting")).await.unwrap().count, 0);
}
