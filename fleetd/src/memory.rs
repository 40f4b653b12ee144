//! Memory that nobody uses is given back to the machine.
//!
//! A batch of hundreds of units, or a relist, leaves the heap with holes that the C library keeps: several times what
//! a machine at rest needs. `main` supervises the one task here; it touches nothing else.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Often enough that a burst is forgotten within a minute; a look at a heap without holes takes microseconds.
const BETWEEN_LOOKS: Duration = Duration::from_secs(30);

/// Returns free pages of the heap now and then, until `shutdown`.
pub async fn give_back(shutdown: CancellationToken) {
    // Cancel-safe: a sleep has no state worth keeping.
    while shutdown.run_until_cancelled(tokio::time::sleep(BETWEEN_LOOKS)).await.is_some() {
        trim();
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim(3) is only there as a foreign function")]
fn trim() {
    // SAFETY: it takes a number, may be called from any thread at any time, and changes no live allocation.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Other C libraries give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
