//! `fleetctl submit`: the text is stored, and the unit is wanted nowhere yet.

use clap::Args;
use fleet_api::v2::Verb;

use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{ContentFlags, OutputFlag, ReasonFlag};

/// Store units without running them
#[derive(Args, Debug)]
#[command(after_help = r#"Examples:
  fleetctl submit web.service db.service
  fleetctl submit web@.service
  fleetctl submit --replace web.service"#)]
pub struct Submit {
    /// Names or files of units; an instance (web@1) is made from its template.
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    #[command(flatten)]
    pub content: ContentFlags,
    #[command(flatten)]
    pub output: OutputFlag,
    #[command(flatten)]
    pub reason: ReasonFlag,
}

pub async fn run(connection: &Connection, command: Submit) -> anyhow::Result<Exit> {
    let Submit { units, content, output, reason, .. } = &command;
    super::with_content(connection, Verb::Submit, units, content, None, *output, reason).await
}
