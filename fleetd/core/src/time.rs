//! Points in time and lengths of time, as numbers: nothing here reads a clock.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, as the machine that wrote it saw its wall clock. Differences between stamps of
/// different machines are clamped at zero, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(pub u64);

impl Timestamp {
    /// The time from `earlier` to `self`, zero if `earlier` lies ahead (clocks of two machines differ).
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    #[must_use]
    pub fn plus(self, span: Span) -> Timestamp {
        Timestamp(self.0.saturating_add(span.0))
    }
}

impl Span {
    #[must_use]
    pub const fn from_secs(secs: u64) -> Span {
        Span(secs * 1000)
    }
    #[must_use]
    pub fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl From<std::time::Duration> for Span {
    fn from(duration: std::time::Duration) -> Span {
        Span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Span {
    /// `850ms`, `12s`, `4m10s`, `3h5m`, `2d4h`: what a person reads in a table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0 / 1000;
        match secs {
            0 => write!(f, "{}ms", self.0),
            1..=59 => write!(f, "{secs}s"),
            60..=3599 => write!(f, "{}m{}s", secs / 60, secs % 60),
            3600..=86_399 => write!(f, "{}h{}m", secs / 3600, secs / 60 % 60),
            _ => write!(f, "{}d{}h", secs / 86_400, secs / 3600 % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_disagreeing_clocks_is_never_negative() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Span(0));
        assert_eq!(Timestamp(9).since(Timestamp(5)), Span(4));
    }

    #[test]
    fn spans_read_well() {
        let read: Vec<String> =
            [850, 12_000, 250_000, 11_100_000, 187_200_000].map(|ms| Span(ms).to_string()).to_vec();
        assert_eq!(read, ["850ms", "12s", "4m10s", "3h5m", "2d4h"]);
    }
}
