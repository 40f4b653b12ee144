//! `fleetctl cat`: the text of a unit in its serialized form, which is what hashes are of.

use clap::Args;
use unit_files::{UnitFile, client_unit_name};

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::OutputFlag;
use crate::output::{self, json};

/// Print the text of a unit
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl cat web.service\n  fleetctl cat web@1")]
pub struct Cat {
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    #[command(flatten)]
    pub output: OutputFlag,
}

pub async fn run(connection: &Connection, command: Cat) -> anyhow::Result<Exit> {
    let [argument] = command.units.as_slice() else {
        output::note("One unit file must be provided");
        return Ok(Exit::FAILED);
    };
    let name = client_unit_name(argument);
    let text = match connection.text(&name).await {
        Ok(Some(text)) => text,
        Ok(None) => {
            return Ok(super::no_such_unit(connection, &name, format!("Unit {name} not found")).await);
        }
        Err(error) => {
            output::note(format!("Error retrieving Unit {name}: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    // What cannot be read is shown as it is stored.
    let file = UnitFile::parse_bytes(&text).ok();
    if command.output.is_json() {
        let options = file.as_ref().map(UnitFile::options);
        let text = String::from_utf8_lossy(&text);
        json::print(&serde_json::json!({ "name": name, "text": text, "options": options }))?;
    } else {
        output::raw(file.map_or(text, |file| file.serialize().into_bytes()))?;
    }
    Ok(Exit::DONE)
}
