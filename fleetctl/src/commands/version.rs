//! `fleetctl version`: of this program; that of the machines is in `list-machines` and `cluster status`.

use clap::Args;

use crate::exit::Exit;
use crate::flags::OutputFlag;
use crate::output::{self, json};

/// Print the version of this program
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl version\n  fleetctl version -o json")]
pub struct Version {
    #[command(flatten)]
    pub output: OutputFlag,
}

pub fn print(output: OutputFlag) -> anyhow::Result<Exit> {
    let version = env!("CARGO_PKG_VERSION");
    if output.is_json() {
        json::print(&serde_json::json!({ "version": version }))?;
    } else {
        output::line(format!("fleetctl version {version}"))?;
    }
    Ok(Exit::DONE)
}
