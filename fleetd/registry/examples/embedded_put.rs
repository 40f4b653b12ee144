//! Puts per second of the embedded store with 1 and with 64 writers, beside the bare fsync rate.
//!
//! `cargo run --release -p fleet-registry --example embedded_put [DIRECTORY]`

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use fleet_registry::embedded::put_rates;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    for writers in [1, 64] {
        let directory = tempfile::tempdir_in(&parent)?;
        let rates = put_rates(directory.path(), writers, Duration::from_secs(5)).await?;
        writeln!(
            std::io::stdout(),
            "{writers} writers: {:.0} puts/s; bare appends with fsync: {:.0}/s ({:.0} %)",
            rates.puts,
            rates.bare,
            rates.puts / rates.bare * 100.0
        )?;
    }
    Ok(())
}
