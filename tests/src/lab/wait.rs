//! Waiting for a condition with a deadline: the one place of the test crate that sleeps.

use std::time::{Duration, Instant};

use super::LabError;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Polls `condition` every 5 to 20 ms until it gives a value, and returns that value.
///
/// # Errors
/// [`LabError::Deadline`] with `what` when the deadline passes first; `condition` is tried at least once.
pub fn wait_for<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, LabError> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if began.elapsed() >= deadline {
            return Err(LabError::Deadline { what: what.to_owned(), waited: began.elapsed() });
        }
        pause_for(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Like [`wait_for`] for a condition that is only true or false; panics with `what` when the deadline passes, as an
/// assertion would.
///
/// # Panics
/// When the condition is still false at the deadline.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let outcome = wait_for(deadline, what, || condition().then_some(()));
    assert!(outcome.is_ok(), "waited {} ms in vain: {what}", deadline.as_millis());
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks at a condition that has a deadline"
)]
pub(super) fn pause_for(pause: Duration) {
    std::thread::sleep(pause);
}
