//! The one place that reads the wall clock. Tasks take a [`Clock`], so that a simulation on a paused runtime has a
//! wall clock that moves with it.

use std::time::{SystemTime, UNIX_EPOCH};

use fleet_core::Timestamp;
use tokio::time::Instant;

#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's wall clock.
    Wall,
    /// Starts at a fixed time and moves with the runtime's clock.
    Simulated { start: Timestamp, from: Instant },
}

impl Clock {
    /// A clock for simulations; call it inside the paused runtime.
    #[must_use]
    pub fn simulated(start: Timestamp) -> Clock {
        Clock::Simulated { start, from: Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::Wall => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Clock::Simulated { start, from } => start.plus(from.elapsed().into()),
        }
    }
}
