//! `fleetctl restart`: one new run of each unit, whatever it does now. Ends when the new run stands.

use clap::Args;
use fleet_api::v2::Verb;

use crate::change::{self, Options, Refused};
use crate::connection::Connection;
use crate::content;
use crate::exit::Exit;
use crate::flags::{OutputFlag, ReasonFlag, WaitFlags, go_bool};
use crate::output;

/// Stop units and start them again
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl restart web.service\n  fleetctl restart --timeout 5m db.service"
)]
pub struct Restart {
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    /// A global unit restarts on all machines at once, not one after the other.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub all_at_once: bool,
    #[command(flatten)]
    pub wait: WaitFlags,
    #[command(flatten)]
    pub output: OutputFlag,
    #[command(flatten)]
    pub reason: ReasonFlag,
}

pub async fn run(connection: &Connection, command: Restart) -> anyhow::Result<Exit> {
    let json = command.output.is_json();
    if command.units.is_empty() {
        return super::no_units_given(json);
    }
    let prepared = match content::prepare(connection, &command.units, Verb::Restart, false, json).await {
        Ok(prepared) => prepared,
        Err(error) => return Ok(super::creation_failed(connection, &error).await),
    };
    let desired = |one: &content::Prepared| one.before.as_ref().map(|unit| unit.desired.clone());
    let (inactive, mut wanted): (Vec<_>, Vec<_>) =
        prepared.into_iter().partition(|one| desired(one).as_deref() == Some("inactive"));
    let refused = inactive.into_iter().map(|one| Refused {
        text: format!("Unable to restart unit {} in state inactive", one.action.unit),
        unit: one.action.unit,
    });
    for one in &mut wanted {
        one.action.all_at_once = command.all_at_once;
        if !json && desired(one).as_deref() == Some("loaded") {
            output::log!("INFO", "Unit({}) already loaded, starting.", one.action.unit);
        }
    }
    let options =
        Options { wait: Some(&command.wait), json, why: &command.reason.why, refused: refused.collect() };
    change::carry_out(connection, Verb::Restart, wanted, &options).await
}
