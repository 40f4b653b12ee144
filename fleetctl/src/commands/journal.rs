//! `fleetctl journal`: what `journalctl` says on the unit's machine, asked through the API, with its exit code.

use clap::Args;
use fleet_api::v2::JournalLine;
use unit_files::client_unit_name;

use crate::change;
use crate::commands::machine;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::go_bool;
use crate::output;

/// Print the journal of a unit on its machine
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl journal web.service\n  fleetctl journal -f --lines 100 web.service\n  fleetctl journal --output json web.service"
)]
pub struct Journal {
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    /// How many lines from the end.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub lines: u32,
    /// Go on with new lines as they come.
    #[arg(short = 'f', long, alias = "f", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub follow: bool,
    /// Form of the lines, as journalctl's --output: short, short-iso, cat, json, ...
    #[arg(short, long, value_name = "MODE", default_value = "short")]
    pub output: String,
    /// Ask this machine, by the beginning of its id.
    #[arg(long, value_name = "MACHINE")]
    pub machine: Option<String>,
    /// Accepted without effect: no SSH is involved.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool)]
    pub sudo: bool,
    #[arg(long, hide = true)]
    pub ssh_port: Option<String>,
}

pub async fn run(connection: &Connection, command: Journal) -> anyhow::Result<Exit> {
    let [argument] = command.units.as_slice() else {
        return Ok(failed("One unit file must be provided."));
    };
    let name = client_unit_name(argument);
    let unit = match connection.unit(&name).await {
        Ok(Some(unit)) => unit,
        Ok(None) => {
            return Ok(super::no_such_unit(connection, &name, format!("Unit {name} does not exist.")).await);
        }
        Err(error) => {
            output::note(format!("Error retrieving Unit {name}: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    let machine = match &command.machine {
        Some(beginning) => match machine::resolve(connection, beginning).await {
            Ok(id) => Some(id),
            Err(exit) => return Ok(exit),
        },
        None if unit.global => {
            output::note(format!("Unable to retrieve journal of global unit {name}."));
            return Ok(failed("  name one of its machines with --machine; see fleetctl list-units"));
        }
        None if unit.desired == "inactive" => {
            return Ok(failed(format!("Unit {name} does not appear to be running.")));
        }
        None => None,
    };
    let lines = command.lines.to_string();
    let opened = connection.journal(&name, machine.as_deref(), &lines, command.follow, &command.output).await;
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(error) => return Ok(failed(format!("Unable to retrieve journal of unit {name}: {error}"))),
    };
    loop {
        let line = match stream.next::<JournalLine>().await {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(failed(format!("The journal of unit {name} broke off; try again"))),
            Err(error) => return Ok(failed(format!("The journal of unit {name} broke off: {error}"))),
        };
        if let Some(text) = line.text {
            output::raw(text)?;
        }
        if let Some(error) = line.error {
            return Ok(failed(format!("The journal of unit {name} broke off: {error}")));
        }
        if let Some(code) = line.exit_code {
            return Ok(Exit::of_remote(code));
        }
    }
}

fn failed(text: impl AsRef<str>) -> Exit {
    output::note(text);
    Exit::FAILED
}
