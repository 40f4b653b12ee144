//! `fleetctl verify`: gone since fleet 1.0; says so and exits with 2, as there.

use clap::Args;

use crate::exit::Exit;
use crate::output;

/// Deprecated
#[derive(Args, Debug)]
pub struct Verify {
    #[arg(hide = true)]
    pub units: Vec<String>,
}

pub fn run() -> Exit {
    output::note("Command \"verify\" is deprecated, DEPRECATED - No longer works");
    output::note("WARNING: The signed/verified units feature is DEPRECATED and cannot be used.");
    Exit::USAGE
}
