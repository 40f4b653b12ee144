//! Holding a lease: granting, renewing, and saying truthfully whether it is held.
//!
//! Used for machine presence and for leadership. The keeper runs on a thread of its own with its
//! own runtime and its own connection, so that no pass, encode or slow request of the daemon can
//! delay a renewal. It attaches no keys: that is its user's, on every [`LeaseState::Held`] with an
//! id it has not seen.

use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use crate::backoff::BackoffOptions;
use crate::store::{LeaseId, Store, StoreError};

mod renew;
#[cfg(test)]
mod tests;

/// What to hold and how.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// Names the thread (15 bytes of it) and log lines.
    pub name: String,
    /// Whole seconds, rounded down; renewed at a third of it.
    pub ttl: Duration,
    /// What dropping the keeper does.
    pub on_drop: End,
    /// Between failed grants; `most` should be well below the time a failover may take.
    pub backoff: BackoffOptions,
}

impl LeaseOptions {
    /// Leaves the lease to run out when dropped; retries a failed grant after at most two seconds.
    pub fn new(name: impl Into<String>, ttl: Duration, seed: u64) -> Self {
        let backoff = BackoffOptions { most: Duration::from_secs(2), ..BackoffOptions::new(seed) };
        Self { name: name.into(), ttl, on_drop: End::Leave, backoff }
    }
}

/// What happens to the lease when its keeper ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Revoked: its keys vanish at once.
    Revoke,
    /// Left to run out, so that a successor on the same machine can take it over in time.
    Leave,
}

/// Whether the lease is held, as far as its keeper knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseState {
    /// Not granted yet; `last_error` is why the last attempt failed.
    Pending { last_error: Option<StoreError> },
    /// Granted or renewed. `until` counts from when the request was sent, so that the store gives
    /// up the lease no earlier, unless it is revoked or the store loses it.
    Held { id: LeaseId, until: Instant },
    /// The store says that the lease is dead; another one is being asked for.
    Lost { id: LeaseId, since: Instant },
    /// No answer until the time was up: the lease may be alive or dead. Renewal goes on.
    Silent { id: LeaseId, since: Instant, last_error: StoreError },
    /// The keeper has ended.
    Ended,
}

impl LeaseState {
    /// The lease, if it is certainly alive at `now`.
    pub fn held_at(&self, now: Instant) -> Option<LeaseId> {
        match self {
            Self::Held { id, until } if now < *until => Some(*id),
            _ => None,
        }
    }
}

/// Keeps one lease until dropped or [closed](Self::close).
#[derive(Debug)]
pub struct LeaseKeeper {
    state: watch::Receiver<LeaseState>,
    /// `None` once an end was chosen.
    end: Option<oneshot::Sender<End>>,
    on_drop: End,
    /// Only of a keeper that lives on the caller's runtime.
    task: Option<JoinHandle<()>>,
}

/// Why a keeper could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the lease thread {name:?} cannot be started; check the limits on threads and open files")]
pub struct StartLeaseError {
    name: String,
    source: std::io::Error,
}

impl LeaseKeeper {
    /// Starts a keeper on its own thread. `connect` runs there, because a connection belongs to
    /// the runtime that makes it.
    ///
    /// # Errors
    /// When the system refuses a thread or a runtime.
    pub fn on_thread<S: Store>(
        options: LeaseOptions,
        connect: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
    ) -> Result<Self, StartLeaseError> {
        let name = options.name.clone();
        let failed = |source| StartLeaseError { name: name.clone(), source };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (keeper, state, end) = Self::wires(&options);
        let body = move || {
            runtime.block_on(async move {
                match connect() {
                    Ok(store) => renew::run(&store, &options, &state, end).await,
                    Err(error) => {
                        warn!(lease = %options.name, %error, "no store to hold the lease in");
                        state.send_replace(LeaseState::Pending { last_error: Some(error) });
                        // Stay until told to end: the state says why nothing happens.
                        let _ = end.await;
                    }
                }
                state.send_replace(LeaseState::Ended);
            });
        };
        std::thread::Builder::new().name(name.clone()).spawn(body).map_err(failed)?;
        Ok(keeper)
    }

    /// Starts a keeper as a task of the current runtime, for simulations on a paused clock.
    pub fn on_task<S: Store>(options: LeaseOptions, store: S) -> Self {
        let (mut keeper, state, end) = Self::wires(&options);
        keeper.task = Some(tokio::spawn(async move {
            renew::run(&store, &options, &state, end).await;
            state.send_replace(LeaseState::Ended);
        }));
        keeper
    }

    fn wires(options: &LeaseOptions) -> (Self, watch::Sender<LeaseState>, oneshot::Receiver<End>) {
        let (state_sender, state) = watch::channel(LeaseState::Pending { last_error: None });
        let (end_sender, end) = oneshot::channel();
        let keeper = Self { state, end: Some(end_sender), on_drop: options.on_drop, task: None };
        (keeper, state_sender, end)
    }

    /// The state and its changes.
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Ends the keeper and waits until it has, at most one request time-out of its store.
    pub async fn close(mut self, end: End) {
        if let Some(sender) = self.end.take() {
            // A keeper that is gone already needs no message.
            let _ = sender.send(end);
        }
        // An error means that the keeper's side is gone, which is what is waited for.
        let _ = self.state.wait_for(|state| *state == LeaseState::Ended).await;
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        if let Some(sender) = self.end.take() {
            let _ = sender.send(self.on_drop);
        }
    }
}
