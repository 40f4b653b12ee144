//! A clock that tests move by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::embedded::clock::Clock;

/// Time that goes by when a test says so. The writer looks at it with the next write.
#[derive(Clone)]
pub(super) struct Hands {
    begin: Instant,
    passed: Arc<AtomicU64>,
}

impl Hands {
    pub fn new() -> Self {
        Self { begin: Instant::now(), passed: Arc::default() }
    }

    pub fn clock(&self) -> Clock {
        let hands = self.clone();
        Clock::of(move || hands.begin + Duration::from_millis(hands.passed.load(Ordering::SeqCst)))
    }

    pub fn advance(&self, millis: u64) {
        self.passed.fetch_add(millis, Ordering::SeqCst);
    }
}
