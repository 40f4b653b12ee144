//! The command line of the cluster. It speaks only the API, so it runs wherever a socket of fleetd can be reached.
//!
//! A table of contents: arguments are read in `cli` and `settings`, each command is one file in `commands`, and what
//! several of them share lies beside: where unit texts come from (`content`), sending changes (`change`), waiting for
//! them (`wait`), saying how they went (`report`), finding what was meant (`suggest`), completing it for a shell
//! (`complete`), and reaching machines without the API (`ssh`).

mod change;
mod cli;
mod commands;
mod complete;
mod connection;
mod content;
mod exit;
mod flags;
mod output;
mod report;
mod settings;
mod ssh;
mod suggest;
mod wait;
mod watch;

use std::process::ExitCode;

pub use cli::grammar;

/// The whole program, with the arguments and the environment of this process.
pub fn run() -> ExitCode {
    if let Some(exit) = complete::answer() {
        return exit.into();
    }
    let parsed = match cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(exit) => return exit.into(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::finish(Err(error.into())).into(),
    };
    let result = runtime.block_on(commands::run(parsed));
    // Whoever still reads standard input, as fd-forward may, would be waited for.
    runtime.shutdown_background();
    output::finish(result).into()
}
