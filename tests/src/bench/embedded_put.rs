//! `embedded_put_*`: answered writes a second of the embedded store, each on the disk before its answer.
//!
//! The peer is what the disk allows: its own rate of small appends with an fsync, before and after in the same run, for
//! each writer, because one fsync may carry a write of every writer that waits.

use std::time::Duration;

use fleet_registry::embedded::put_rates;
use tokio::runtime::Builder;

use super::Say;
use super::figure::{Figure, Ratio, Samples, Target, directory};

/// Of each number of writers; the disk's pace changes from one to the next.
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(1);

/// # Errors
/// When `target/bench` cannot be written.
pub fn run(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    let one = measure("embedded_put_1", 1, 5_000.0, say)?;
    let many = measure("embedded_put_64", 64, 40_000.0, say)?;
    Ok(vec![one, many])
}

fn measure(name: &'static str, writers: u32, floor: f64, say: Say<'_>) -> anyhow::Result<Figure> {
    // As fleetd runs: one thread for everything that waits.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::fs::create_dir_all(directory())?;
    let (mut puts, mut bare) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        // Where the build is, and not in /tmp, which may be memory.
        let place = tempfile::tempdir_in(directory())?;
        let rates = runtime.block_on(put_rates(place.path(), writers as usize, TIME))?;
        say(&format!(
            "round {round}, {writers} writers: {:.0} puts/s; the disk does {:.0} fsyncs/s",
            rates.puts, rates.bare
        ));
        puts.push(rates.puts);
        bare.push(rates.bare);
    }
    let (puts, bare) = (Samples::new(puts), Samples::new(bare));
    let allowed = bare.median() * f64::from(writers);
    let target =
        Target { floor: Some(floor), peer: Some((allowed, Ratio::AtLeast(0.8))), ..Target::default() };
    Ok(Figure::new(name, "puts/s", &puts, puts.median(), target)
        .part("fsyncs_per_s", bare.median())
        .part("slowest_round", puts.min()))
}
