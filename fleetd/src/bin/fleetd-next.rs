//! fleetd as a release to come might be: the same code, writing records of the next schema with a field more in each.
//!
//! The test of rolling upgrades puts it in fleetd's place, and fleetd back. No package has it; see
//! `fleet_core::records::next` for what differs.

use std::process::ExitCode;

#[path = "../main.rs"]
mod fleetd_of_tomorrow;

fn main() -> ExitCode {
    fleetd_of_tomorrow::main()
}
