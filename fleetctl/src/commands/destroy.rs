//! `fleetctl destroy`: units stop everywhere and are forgotten. Ends when every present machine has let go.

use clap::Args;
use fleet_api::v2::Verb;

use crate::change::{self, Options};
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{OutputFlag, ReasonFlag, WaitFlags, go_bool};

/// Stop units everywhere and remove them from the cluster
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl destroy web.service\n  fleetctl destroy --why \"replaced by web2\" web@1 web@2"
)]
pub struct Destroy {
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    /// Do not wait for machines on which the stop is stuck.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub force: bool,
    #[command(flatten)]
    pub wait: WaitFlags,
    #[command(flatten)]
    pub output: OutputFlag,
    #[command(flatten)]
    pub reason: ReasonFlag,
}

pub async fn run(connection: &Connection, command: Destroy) -> anyhow::Result<Exit> {
    let units = match super::known_or_note(connection, Verb::Destroy, &command.units, command.output).await? {
        Ok(units) => units,
        Err(exit) => return Ok(exit),
    };
    let mut prepared: Vec<_> = units.into_iter().map(|unit| super::prepared(unit, Verb::Destroy)).collect();
    for one in &mut prepared {
        one.action.force = command.force;
    }
    let options = Options {
        wait: Some(&command.wait),
        json: command.output.is_json(),
        why: &command.reason.why,
        refused: Vec::new(),
    };
    change::carry_out(connection, Verb::Destroy, prepared, &options).await
}
