//! The program. What it does is in the library, whose grammar the manual pages are made from as well.

use std::process::ExitCode;

fn main() -> ExitCode {
    fleetctl::run()
}
