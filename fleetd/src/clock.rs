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

/// `2026-01-31T07:57:22Z`, as status lines and logs show a point in time: an age in a line that is not rewritten
/// would be wrong a moment later.
#[must_use]
pub fn utc(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_read_as_utc() {
        assert_eq!(utc(Timestamp(1_795_506_840_116)), "2026-11-24T07:54:00Z");
    }
}
