//! The keeper's loop: grant, renew at a third of the time to live, grant anew after a loss.
//!
//! Runs on the keeper's thread; touches nothing but its store and its state.

use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::{End, LeaseOptions, LeaseState};
use crate::backoff::Backoff;
use crate::store::{Lease, LeaseId, Operation, Store, StoreError};

type State = watch::Sender<LeaseState>;

/// Returns when told to end.
pub(super) async fn run<S: Store>(
    store: &S,
    options: &LeaseOptions,
    state: &State,
    mut end: oneshot::Receiver<End>,
) {
    let chosen = tokio::select! {
        // Being dropped without a word counts as the option says.
        chosen = &mut end => chosen.unwrap_or(options.on_drop),
        // Ends in the middle of a call at worst: a renewal that got through is harmless, and a
        // grant whose answer is dropped runs out by itself.
        () = hold(store, options, state) => options.on_drop,
    };
    let id = match &*state.borrow() {
        LeaseState::Held { id, .. } | LeaseState::Silent { id, .. } => Some(*id),
        LeaseState::Pending { .. } | LeaseState::Lost { .. } | LeaseState::Ended => None,
    };
    if let (End::Revoke, Some(id)) = (chosen, id)
        && let Err(error) = store.lease_revoke(id).await
    {
        debug!(lease = %options.name, %id, %error, "lease not revoked, it will run out");
    }
}

async fn hold<S: Store>(store: &S, options: &LeaseOptions, state: &State) {
    let mut backoff = Backoff::new(options.backoff);
    loop {
        let sent = Instant::now();
        match store.lease_grant(options.ttl).await {
            Ok(lease) => {
                backoff.reset();
                info!(lease = %options.name, id = %lease.id, ttl = ?lease.ttl, "lease granted");
                note_held(options, state, lease.id, sent + lease.ttl, Operation::LeaseGrant);
                renew_until_dead(store, options, state, lease, sent).await;
            }
            Err(error) => {
                note_failed_grant(state, error);
                sleep_until(Instant::now() + backoff.next()).await;
            }
        }
    }
}

/// A failed grant must not hide that the last lease was lost.
fn note_failed_grant(state: &State, error: StoreError) {
    state.send_if_modified(|state| match state {
        LeaseState::Pending { last_error } => {
            *last_error = Some(error);
            true
        }
        _ => false,
    });
}

async fn renew_until_dead<S: Store>(
    store: &S,
    options: &LeaseOptions,
    state: &State,
    lease: Lease,
    granted: Instant,
) {
    let id = lease.id;
    let mut until = granted + lease.ttl;
    let mut next = granted + lease.ttl / 3;
    let mut last_error = None;
    loop {
        // After a failure the time may be up before the next attempt; it must not read as held then.
        if until < next
            && let Some(error) = last_error.take()
        {
            sleep_until(until).await;
            note_silence(options, state, id, until, error);
        }
        sleep_until(next).await;
        let sent = Instant::now();
        match renew(store, id, until).await {
            Ok(Duration::ZERO) => {
                warn!(lease = %options.name, %id, "lease lost, asking for another");
                state.send_replace(LeaseState::Lost { id, since: Instant::now() });
                return;
            }
            Ok(ttl) => {
                until = sent + ttl;
                next = sent + ttl / 3;
                note_held(options, state, id, until, Operation::LeaseKeepAlive);
            }
            Err(error) => {
                // Soon again: a third of the time to live is for several attempts.
                next = Instant::now() + lease.ttl / 12;
                debug!(lease = %options.name, %id, %error, "lease not renewed");
                note_silence(options, state, id, until, error.clone());
                last_error = Some(error);
            }
        }
    }
}

/// One renewal. While the lease may be alive, an attempt is given up when the time is up, so that
/// the state is true at that moment.
async fn renew<S: Store>(store: &S, id: LeaseId, until: Instant) -> Result<Duration, StoreError> {
    let call = store.lease_keep_alive(id);
    let after = until.saturating_duration_since(Instant::now());
    if after.is_zero() {
        return call.await;
    }
    match timeout(after, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Timeout { operation: Operation::LeaseKeepAlive, after }),
    }
}

/// An answer that comes after the time it gives is none.
fn note_held(options: &LeaseOptions, state: &State, id: LeaseId, until: Instant, operation: Operation) {
    if Instant::now() < until {
        state.send_replace(LeaseState::Held { id, until });
    } else {
        let error = StoreError::Timeout { operation, after: options.ttl };
        note_silence(options, state, id, until, error);
    }
}

fn note_silence(options: &LeaseOptions, state: &State, id: LeaseId, until: Instant, error: StoreError) {
    let now = Instant::now();
    if now < until {
        return;
    }
    state.send_if_modified(|state| match state {
        LeaseState::Silent { last_error, .. } => {
            *last_error = error;
            false
        }
        _ => {
            warn!(lease = %options.name, %id, "lease not renewed in time, it may be lost");
            *state = LeaseState::Silent { id, since: now, last_error: error };
            true
        }
    });
}
