//! Waiting longer after each failure, with jitter, so that a thousand clients of a store that
//! comes back do not arrive at once. Used by what retries in this crate.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Bounds of the waits and the seed of their jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffOptions {
    /// Upper bound of the first wait; doubles with each failure.
    pub first: Duration,
    /// Upper bound of all waits.
    pub most: Duration,
    /// Differs between machines, else their waits are the same.
    pub seed: u64,
}

impl BackoffOptions {
    /// From a quarter of a second to ten.
    pub fn new(seed: u64) -> Self {
        Self { first: Duration::from_millis(250), most: Duration::from_secs(10), seed }
    }
}

#[derive(Debug)]
pub(crate) struct Backoff {
    options: BackoffOptions,
    random: StdRng,
    failures: u32,
}

impl Backoff {
    pub fn new(options: BackoffOptions) -> Self {
        Self { options, random: StdRng::seed_from_u64(options.seed), failures: 0 }
    }

    /// The wait before the next attempt: between a fifth of the bound and the bound.
    pub fn next(&mut self) -> Duration {
        let bound =
            self.options.first.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.options.most);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(self.random.random_range(0.2..=1.0))
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_over_after_success() {
        let options = BackoffOptions { first: Duration::from_secs(1), most: Duration::from_secs(4), seed: 7 };
        let mut backoff = Backoff::new(options);
        for bound in [1, 2, 4, 4] {
            let (wait, bound) = (backoff.next(), Duration::from_secs(bound));
            assert!(bound / 5 <= wait && wait <= bound, "{wait:?} is not within {bound:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }
}
