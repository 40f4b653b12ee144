//! What time it is for leases, and for the next attempt on a full disk.
//!
//! Handed to a store when it is opened, so that a test can let a lease run out by saying so.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

#[derive(Clone)]
pub(super) struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    /// Leases run on the system's own clock: a runtime whose clock is paused does not stop them.
    pub fn system() -> Self {
        Self::of(|| Instant::from_std(std::time::Instant::now()))
    }

    /// `now` must not go back.
    pub fn of(now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn now(&self) -> Instant {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
