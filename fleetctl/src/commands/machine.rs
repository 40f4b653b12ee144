//! `fleetctl machine`: the operator's word on a machine that is away.

use clap::{Args, Subcommand};
use fleet_api::paths;
use fleet_api::v2::Requester;

use super::transfer;
use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{MACHINE_ID_LENGTH, OutputFlag, ReasonFlag, go_bool, machine_beginning};
use crate::output::{self, json};

/// Say what became of a machine that is away
#[derive(Args, Debug)]
pub struct Machine {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Forget a machine that will not come back: its rows and orders go
    #[command(after_help = "Examples:\n  fleetctl machine forget 1f0c44d2 --why \"scrapped\"")]
    Forget(About),
    /// Move the machine that answers from its own store to the configured etcd
    #[command(
        after_help = "Examples:\n  fleetctl machine join --adopt\n  fleetctl machine join --adopt --yes\n  fleetctl machine join --adopt --bring new.service --yes\n  fleetctl machine join --abandon --yes"
    )]
    Join(Join),
    /// Confirm that a machine is off, so that its exclusive units may move at once
    #[command(
        after_help = "Examples:\n  fleetctl machine confirm-dead 1f0c44d2 --why \"power cut in rack 3\""
    )]
    ConfirmDead(About),
}

#[derive(Args, Debug)]
pub struct About {
    /// The machine, by the beginning of its id.
    #[arg(value_name = "MACHINE")]
    pub machine: String,
    #[command(flatten)]
    pub output: OutputFlag,
    #[command(flatten)]
    pub reason: ReasonFlag,
}

#[derive(Args, Debug)]
pub struct Join {
    /// Its units become units of the cluster that it joins, and run on.
    #[arg(long, required_unless_present = "abandon")]
    pub adopt: bool,
    /// Its units are given up: those that run go on, and belong to nobody.
    #[arg(long, conflicts_with = "adopt")]
    pub abandon: bool,
    /// After an import by hand: bring these units too, which the machine's own store has and the cluster has not. They
    /// were destroyed in the cluster, or submitted here after the export; --adopt without --yes lists them.
    #[arg(long, value_name = "UNIT", num_args = 1.., conflicts_with = "abandon")]
    pub bring: Vec<String>,
    /// Give up what the cluster does not have and --bring does not name: those that run go on, and belong to nobody.
    /// Without it nothing is done while there are such units.
    #[arg(long, conflicts_with = "abandon")]
    pub leave_missing: bool,
    /// Do it; otherwise only the consequences are printed.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputFlag,
}

pub async fn run(connection: &Connection, command: Machine) -> anyhow::Result<Exit> {
    let (pattern, what, about) = match command.action {
        Action::Forget(about) => (paths::MACHINE_FORGET, "forgetting", about),
        Action::Join(command) => return transfer::join(connection, command).await,
        Action::ConfirmDead(about) => (paths::MACHINE_CONFIRM_DEAD, "confirming the death of", about),
    };
    let machine = match resolve(connection, &about.machine).await {
        Ok(machine) => machine,
        Err(exit) => return Ok(exit),
    };
    let requester = Requester { by: change::who(), why: about.reason.why };
    match connection.machine_request(pattern, &machine, &requester).await {
        Ok(done) if about.output.is_json() => json::print(&done)?,
        Ok(done) => output::line(done.text)?,
        Err(error) => {
            output::note(format!("Error {what} machine {machine}: {error}"));
            return Ok(change::exit_of(&error));
        }
    }
    Ok(Exit::DONE)
}

/// The full id of the only machine whose id begins as `named` does. What is wrong is printed.
pub async fn resolve(connection: &Connection, named: &str) -> Result<String, Exit> {
    let Some(beginning) = machine_beginning(named) else {
        output::note(format!(
            "No machine is named by {named:?}; give the beginning of an id, see fleetctl list-machines --all"
        ));
        return Err(Exit::FAILED);
    };
    if beginning.len() >= MACHINE_ID_LENGTH {
        return Ok(beginning.to_owned());
    }
    let list = connection.machines().await.map_err(|error| {
        output::note(format!("Error retrieving list of machines: {error}"));
        change::exit_of(&error)
    })?;
    let mut matching = list.machines.iter().filter(|machine| machine.id.starts_with(beginning));
    match (matching.next(), matching.next()) {
        (Some(machine), None) => Ok(machine.id.clone()),
        (None, _) => {
            output::note(format!(
                "Machine {beginning} does not exist; see fleetctl list-machines --all --full"
            ));
            Err(Exit::FAILED)
        }
        (Some(first), Some(second)) => {
            output::note(format!(
                "Machine {beginning} is ambiguous: {} and {} begin so; give more of the id",
                first.id, second.id
            ));
            Err(Exit::FAILED)
        }
    }
}
