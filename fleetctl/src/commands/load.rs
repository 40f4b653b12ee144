//! `fleetctl load`: units get a machine and are linked there, ready to start.

use clap::Args;
use fleet_api::v2::Verb;

use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{ContentFlags, OutputFlag, ReasonFlag, WaitFlags};

/// Place units on machines without starting them
#[derive(Args, Debug)]
#[command(after_help = r#"Examples:
  fleetctl load web.service
  fleetctl load --no-block web@1 web@2"#)]
pub struct Load {
    /// Names or files of units; an instance (web@1) is made from its template.
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    #[command(flatten)]
    pub content: ContentFlags,
    #[command(flatten)]
    pub wait: WaitFlags,
    #[command(flatten)]
    pub output: OutputFlag,
    #[command(flatten)]
    pub reason: ReasonFlag,
}

pub async fn run(connection: &Connection, command: Load) -> anyhow::Result<Exit> {
    let Load { units, content, output, reason, .. } = &command;
    super::with_content(connection, Verb::Load, units, content, Some(&command.wait), *output, reason).await
}
