//! The command line of fleetd, for the binary that reads it and for the manual page that is made from it.

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser};

use crate::config;

/// Runs the cluster's units on this machine.
#[derive(Parser, Debug)]
#[command(name = "fleetd", version, disable_version_flag = true, after_help = help())]
pub struct Arguments {
    /// Configuration file; one named *.conf is read as fleet 1.0 did [default: /etc/fleet/fleetd.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Print the version
    #[arg(long, short = 'v')]
    pub version: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Print the version
    Version,
    /// Print every key's value and where it comes from, and all that keeps fleetd from starting with it
    CheckConfig {
        /// toml: for reading; json: for programs
        #[arg(short, long, value_name = "FORMAT", default_value = "toml")]
        output: Output,
        /// Look for the files below this directory instead of /
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
    /// Print the configuration file that is packaged
    #[command(hide = true)]
    ConfigTemplate,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Output {
    Toml,
    Json,
}

fn help() -> String {
    let mut text =
        String::from("Keys of the configuration file; each is also an environment variable FLEET_<KEY>:\n");
    for key in config::KEYS {
        let default = key.default_text();
        let default = if default.is_empty() { "-" } else { &default };
        text.push_str(&format!("  {:<26} {} [{default}]\n", key.name, key.help));
    }
    text
}

/// The grammar as it is.
pub fn grammar() -> clap::Command {
    Arguments::command()
}
