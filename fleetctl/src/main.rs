//! The command line of the cluster. It speaks only the API, so it runs wherever a socket of fleetd can be reached.
//!
//! A table of contents: arguments are read in `cli` and `settings`, each command is one file in `commands`, and what
//! several of them share lies beside: where unit texts come from (`content`), sending changes (`change`), waiting for
//! them (`wait`), saying how they went (`report`), and reaching
//! machines without the API (`ssh`).

mod change;
mod cli;
mod commands;
mod connection;
mod content;
mod exit;
mod flags;
mod output;
mod report;
mod settings;
mod ssh;
mod wait;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    let parsed = match cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(exit) => return exit.into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result =
        runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(commands::run(parsed)));
    output::finish(result).into()
}
