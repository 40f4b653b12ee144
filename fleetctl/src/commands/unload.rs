//! `fleetctl unload`: units leave their machines; their texts stay stored.

use clap::Args;
use fleet_api::v2::Verb;

use crate::change::{self, Options};
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{OutputFlag, ReasonFlag, WaitFlags};

/// Stop units and take them off their machines
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl unload web.service\n  fleetctl unload --timeout 30s web@1 web@2"
)]
pub struct Unload {
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    #[command(flatten)]
    pub wait: WaitFlags,
    #[command(flatten)]
    pub output: OutputFlag,
    #[command(flatten)]
    pub reason: ReasonFlag,
}

pub async fn run(connection: &Connection, command: Unload) -> anyhow::Result<Exit> {
    let units = match super::known_or_note(connection, Verb::Unload, &command.units, command.output).await? {
        Ok(units) => units,
        Err(exit) => return Ok(exit),
    };
    let wanted = units.into_iter().filter(|unit| unit.desired != "inactive");
    let prepared = wanted.map(|unit| super::prepared(unit, Verb::Unload)).collect();
    let options = Options {
        wait: Some(&command.wait),
        json: command.output.is_json(),
        why: &command.reason.why,
        refused: Vec::new(),
    };
    change::carry_out(connection, Verb::Unload, prepared, &options).await
}
