//! The keeper over the in-memory store: on a paused clock as a task, on the real one as a thread.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, advance, sleep, timeout};

use super::{End, LeaseKeeper, LeaseOptions, LeaseState};
use crate::memory::{Fault, Injection, Link, MemoryStore};
use crate::store::{LeaseId, Operation, Store, StoreError};

const TTL: Duration = Duration::from_secs(9);

fn options() -> LeaseOptions {
    LeaseOptions::new("test-lease", TTL, 1)
}

async fn wait_for(
    state: &mut watch::Receiver<LeaseState>,
    condition: impl FnMut(&LeaseState) -> bool,
) -> LeaseState {
    let found = timeout(Duration::from_secs(120), state.wait_for(condition)).await;
    found.expect("the state is reached in time").expect("the keeper lives").clone()
}

async fn held(state: &mut watch::Receiver<LeaseState>) -> LeaseId {
    match wait_for(state, |state| matches!(state, LeaseState::Held { .. })).await {
        LeaseState::Held { id, .. } => id,
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn lease_is_renewed_at_a_third_of_its_time() {
    let store = MemoryStore::new(7);
    let keeper = LeaseKeeper::on_task(options(), store.client("m1"));
    let mut state = keeper.state();
    let id = held(&mut state).await;
    let begin = Instant::now();
    let mut renewals = 0;
    while begin.elapsed() < Duration::from_secs(300) {
        state.changed().await.unwrap();
        assert_eq!(state.borrow_and_update().held_at(Instant::now()), Some(id));
        renewals += 1;
    }
    assert_eq!(renewals, 100);
    assert_eq!(store.calls(Operation::LeaseKeepAlive), 100);
}

#[tokio::test(start_paused = true)]
async fn dead_lease_is_told_and_replaced() {
    let store = MemoryStore::new(7);
    let keeper = LeaseKeeper::on_task(options(), store.client("m1"));
    let mut state = keeper.state();
    let first = held(&mut state).await;
    store.lease_revoke(first).await.unwrap();
    store.inject(Injection::next(Fault::Delay(Duration::from_secs(1))).on(Operation::LeaseGrant));
    let lost = wait_for(&mut state, |state| matches!(state, LeaseState::Lost { .. })).await;
    assert!(matches!(lost, LeaseState::Lost { id, .. } if id == first));
    assert_ne!(held(&mut state).await, first);
}

#[tokio::test(start_paused = true)]
async fn lease_is_not_called_held_beyond_its_time() {
    let store = MemoryStore::new(7);
    let keeper = LeaseKeeper::on_task(options(), store.client("m1"));
    let mut state = keeper.state();
    let id = held(&mut state).await;
    let begin = Instant::now();
    store.set_link("m1", Link::Silent);
    let silent = wait_for(&mut state, |state| matches!(state, LeaseState::Silent { .. })).await;
    assert_eq!(silent.held_at(Instant::now()), None);
    assert!(begin.elapsed() <= TTL, "{:?}", begin.elapsed());
    // Dead in the store by now: the first answer says so.
    store.set_link("m1", Link::Open);
    let second =
        wait_for(&mut state, |state| matches!(state, LeaseState::Held { id: now, .. } if *now != id)).await;
    assert!(second.held_at(Instant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn refused_renewals_end_being_held_at_the_end_of_the_time() {
    // A ninth of a second is no multiple of the pause between attempts.
    for pause in [0, 111, 500] {
        let store = MemoryStore::new(7);
        let keeper = LeaseKeeper::on_task(options(), store.client("m1"));
        let mut state = keeper.state();
        held(&mut state).await;
        let begin = Instant::now();
        sleep(Duration::from_millis(pause)).await;
        store.inject(
            Injection::next(Fault::Delay(Duration::from_millis(pause)))
                .on(Operation::LeaseKeepAlive)
                .times(100),
        );
        let refused = StoreError::NoSpace { operation: Operation::LeaseKeepAlive };
        store.inject(Injection::next(Fault::Fail(refused.clone())).on(Operation::LeaseKeepAlive).times(100));
        let silent = wait_for(&mut state, |state| matches!(state, LeaseState::Silent { .. })).await;
        assert_eq!(begin.elapsed(), TTL);
        assert!(matches!(silent, LeaseState::Silent { since, .. } if since == begin + TTL));
    }
}

#[tokio::test(start_paused = true)]
async fn answer_that_comes_after_the_end_is_not_called_held() {
    let store = MemoryStore::new(7);
    let late = Injection::next(Fault::Delay(TTL + TTL / 9));
    store.inject(late.clone().on(Operation::LeaseGrant));
    store.inject(late.on(Operation::LeaseKeepAlive));
    let keeper = LeaseKeeper::on_task(options(), store.client("m1"));
    let mut state = keeper.state();
    let mut told = Vec::new();
    loop {
        state.changed().await.unwrap();
        let state = state.borrow_and_update().clone();
        if let LeaseState::Held { until, .. } = state {
            assert!(Instant::now() < until, "held until {until:?}, {told:?}");
            break;
        }
        told.push(state);
    }
}

#[tokio::test(start_paused = true)]
async fn lease_that_outlived_a_silence_is_held_again() {
    let store = MemoryStore::new(7);
    let keeper = LeaseKeeper::on_task(options(), store.client("m1"));
    let mut state = keeper.state();
    let id = held(&mut state).await;
    store.set_link("m1", Link::Refused);
    advance(TTL / 2).await;
    // A new leader of the store gives every lease its full time again.
    store.elect();
    wait_for(&mut state, |state| matches!(state, LeaseState::Silent { .. })).await;
    store.set_link("m1", Link::Open);
    assert_eq!(held(&mut state).await, id);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_do_not_lose_the_lease() {
    let store = MemoryStore::new(7);
    let keeper = LeaseKeeper::on_task(options(), store.client("m1"));
    let mut state = keeper.state();
    let id = held(&mut state).await;
    store.inject(Injection::next(Fault::DropReply).on(Operation::LeaseKeepAlive).times(2));
    for _ in 0..30 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(state.borrow_and_update().held_at(Instant::now()), Some(id));
    }
}

#[tokio::test(start_paused = true)]
async fn store_that_is_away_at_the_start_is_told_and_retried() {
    let store = MemoryStore::new(7);
    store.set_all_links(Link::Refused);
    let keeper = LeaseKeeper::on_task(options(), store.client("m1"));
    let mut state = keeper.state();
    wait_for(&mut state, |state| matches!(state, LeaseState::Pending { last_error: Some(_) })).await;
    store.set_all_links(Link::Open);
    held(&mut state).await;
}

#[tokio::test(start_paused = true)]
async fn closing_revokes_or_leaves_as_told() {
    let store = MemoryStore::new(7);
    for (end, is_alive) in [(End::Revoke, false), (End::Leave, true)] {
        let keeper = LeaseKeeper::on_task(options(), store.client("m1"));
        let id = held(&mut keeper.state()).await;
        keeper.close(end).await;
        assert_eq!(store.lease_ttl(id).await.unwrap().is_some(), is_alive, "{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_does_what_the_options_say() {
    let store = MemoryStore::new(7);
    for (end, is_alive) in [(End::Revoke, false), (End::Leave, true)] {
        let keeper = LeaseKeeper::on_task(LeaseOptions { on_drop: end, ..options() }, store.client("m1"));
        let mut state = keeper.state();
        let id = held(&mut state).await;
        drop(keeper);
        wait_for(&mut state, |state| *state == LeaseState::Ended).await;
        assert_eq!(store.lease_ttl(id).await.unwrap().is_some(), is_alive, "{end:?}");
    }
}

/// On the real clock, because the thread has a runtime of its own.
#[tokio::test]
async fn blocked_main_runtime_does_not_delay_a_renewal() {
    let store = MemoryStore::new(7);
    let options = LeaseOptions { ttl: Duration::from_secs(1), ..options() };
    let theirs = store.client("m1");
    let keeper = LeaseKeeper::on_thread(options, move || Ok(theirs)).unwrap();
    let mut state = keeper.state();
    let id = held(&mut state).await;
    // Three lifetimes in which this runtime runs nothing at all.
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        std::hint::spin_loop();
    }
    assert_eq!(state.borrow().held_at(Instant::now()), Some(id));
    assert!(store.lease_ttl(id).await.unwrap().is_some());
    keeper.close(End::Revoke).await;
    assert_eq!(store.lease_ttl(id).await.unwrap(), None);
}

#[tokio::test]
async fn store_that_cannot_be_made_is_told() {
    let refused = StoreError::Endpoint { endpoint: "x".into(), detail: "no".into() };
    let error = refused.clone();
    let keeper = LeaseKeeper::on_thread(options(), move || Err::<MemoryStore, _>(error)).unwrap();
    let pending = LeaseState::Pending { last_error: Some(refused) };
    wait_for(&mut keeper.state(), |state| *state == pending).await;
    keeper.close(End::Leave).await;
}
