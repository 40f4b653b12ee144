//! `fleetctl start`: units are stored if need be, get a machine, and run; it ends when they do.

use clap::Args;
use fleet_api::v2::Verb;

use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{ContentFlags, OutputFlag, ReasonFlag, WaitFlags};

/// Start units, storing and placing them first if need be
#[derive(Args, Debug)]
#[command(after_help = r#"Examples:
  fleetctl start web.service
  fleetctl start web@{1..3}
  fleetctl start --timeout 5m big.service
  fleetctl start --replace --why "new version" web.service"#)]
pub struct Start {
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

pub async fn run(connection: &Connection, command: Start) -> anyhow::Result<Exit> {
    let Start { units, content, output, reason, .. } = &command;
    super::with_content(connection, Verb::Start, units, content, Some(&command.wait), *output, reason).await
}
