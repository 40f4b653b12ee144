//! `fleetctl stop`: units keep their machine and do not run.

use clap::Args;
use fleet_api::v2::Verb;

use crate::change::{self, Options, Refused};
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{OutputFlag, ReasonFlag, WaitFlags};

/// Stop units; they stay loaded on their machines
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl stop web.service\n  fleetctl stop --no-block web@1 web@2")]
pub struct Stop {
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    #[command(flatten)]
    pub wait: WaitFlags,
    #[command(flatten)]
    pub output: OutputFlag,
    #[command(flatten)]
    pub reason: ReasonFlag,
}

pub async fn run(connection: &Connection, command: Stop) -> anyhow::Result<Exit> {
    let units = match super::known_or_note(connection, Verb::Stop, &command.units, command.output).await? {
        Ok(units) => units,
        Err(exit) => return Ok(exit),
    };
    // Judged by what is wanted, not by what runs: a unit that waits for a machine can be withdrawn.
    let (inactive, wanted): (Vec<_>, Vec<_>) = units.into_iter().partition(|unit| unit.desired == "inactive");
    let refused = inactive.into_iter().map(|unit| Refused {
        text: format!("Unable to stop unit {} in state inactive", unit.name),
        unit: unit.name,
    });
    let prepared = wanted.into_iter().map(|unit| super::prepared(unit, Verb::Stop)).collect();
    let options = Options {
        wait: Some(&command.wait),
        json: command.output.is_json(),
        why: &command.reason.why,
        refused: refused.collect(),
    };
    change::carry_out(connection, Verb::Stop, prepared, &options).await
}
