//! The paused runtime that a simulated cluster needs.

/// Runs a simulation to its end, in a runtime of its own. Everything that waits for time waits for the simulated one.
///
/// # Panics
/// With what went wrong in the simulation.
#[expect(clippy::panic, reason = "fails a test as an assertion does")]
pub fn simulate<T>(simulation: impl Future<Output = anyhow::Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime can be made");
    let outcome = runtime.block_on(simulation);
    // Calls of fleetds that were killed in them never return.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| panic!("{error:#}"))
}
