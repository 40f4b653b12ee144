//! `fleet-lab`: a cluster of real machines on this one, for a person who wants to try something, for `make demo`, and
//! as the background process of every lab. Everything it does is in `fleet_tests::lab`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks on its standard streams"
)]

mod arguments;
mod commands;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::run(arguments::Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fleet-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
