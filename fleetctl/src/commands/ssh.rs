//! `fleetctl ssh`: a shell or a command on a machine, found by its id or by a unit it runs.

use clap::Args;
use fleet_api::v2::MachineState;
use unit_files::client_unit_name;

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{go_bool, machine_beginning};
use crate::output;
use crate::ssh::SshOptions;

/// Open a shell on a machine, or run a command there
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl ssh 1f0c44d2\n  fleetctl ssh web.service\n  fleetctl ssh --machine 1f0c44d2 -- journalctl -b"
)]
pub struct Ssh {
    /// A machine, by the beginning of its id, or a unit; and the command to run.
    #[arg(value_name = "TARGET|COMMAND")]
    pub words: Vec<String>,
    /// The command, if it has options.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// The machine, by the beginning of its id.
    #[arg(long, value_name = "MACHINE")]
    pub machine: Option<String>,
    /// The machine that this unit is on.
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// Forward the agent that holds the keys.
    #[arg(short = 'A', long, alias = "A", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub forward_agent: bool,
    #[arg(long, value_name = "PORT", default_value_t = 22)]
    pub ssh_port: u16,
}

/// Why no machine is found; printed after `Unable to proceed: `. The words are those of fleet 1.0.
#[derive(Debug, thiserror::Error)]
enum TargetError {
    #[error("one machine or unit must be provided")]
    None,
    #[error("machine does not exist")]
    NoMachine,
    #[error("found more than one machine")]
    Machines,
    #[error("unit does not exist")]
    NoUnit,
    #[error("global units unsupported")]
    Global,
    #[error("unit is on no machine")]
    Unplaced,
    #[error("ambiguous argument, both machine and unit found for `{0}`; name it with --machine or --unit")]
    Ambiguous(String),
    #[error("could not find matching unit or machine")]
    Neither,
    #[error(transparent)]
    Api(#[from] fleet_api::client::ClientError),
}

pub async fn run(connection: &Connection, options: &SshOptions, command: Ssh) -> anyhow::Result<Exit> {
    if command.machine.is_some() && command.unit.is_some() {
        output::note("Both machine and unit flags provided, please specify only one.");
        return Ok(Exit::FAILED);
    }
    let mut words = command.words.clone();
    let found = match (&command.machine, &command.unit) {
        (Some(beginning), _) => by_machine(connection, beginning).await,
        (None, Some(unit)) => by_unit(connection, unit).await,
        (None, None) if words.is_empty() => Err(TargetError::None),
        (None, None) => by_either(connection, &words.remove(0)).await,
    };
    let address = match found {
        Ok(address) => address,
        Err(error) => {
            output::note(format!("Unable to proceed: {error}"));
            if matches!(error, TargetError::NoUnit | TargetError::Neither)
                && let Some(unit) = command.unit.as_ref().or(command.words.first())
            {
                super::hint(connection, &[client_unit_name(unit)]).await;
            }
            return Ok(exit_of(&error));
        }
    };
    if address.is_empty() {
        output::note("Could not determine address of machine.");
        return Ok(Exit::FAILED);
    }
    // What a machine publishes is its own word: a text that starts with a dash would be an option of the operator's ssh.
    if address.parse::<std::net::IpAddr>().is_err() {
        output::note(format!(
            "The machine publishes {address:?}, which is no IP address; correct its public_ip."
        ));
        return Ok(Exit::FAILED);
    }
    let remote = if command.command.is_empty() { words } else { command.command };
    let port = (command.ssh_port != 22).then(|| command.ssh_port.to_string());
    let words = options.to_machine(&address, port.as_deref(), command.forward_agent, &remote);
    match options.run(&words).await {
        Ok(code) => Ok(Exit::of_remote(code)),
        Err(error) => {
            output::note(format!("Failed building SSH client: {error}; is OpenSSH installed?"));
            Ok(Exit::FAILED)
        }
    }
}

fn exit_of(error: &TargetError) -> Exit {
    match error {
        TargetError::Api(error) => change::exit_of(error),
        _ => Exit::FAILED,
    }
}

/// The address of the machine whose id begins as `named` does.
async fn by_machine(connection: &Connection, named: &str) -> Result<String, TargetError> {
    let beginning = machine_beginning(named).ok_or(TargetError::NoMachine)?;
    let list = connection.machines().await?;
    let mut matching = list
        .machines
        .into_iter()
        .filter(|m| m.state != MachineState::Forgotten && m.id.starts_with(beginning));
    let machine = matching.next().ok_or(TargetError::NoMachine)?;
    if matching.next().is_some() {
        return Err(TargetError::Machines);
    }
    Ok(machine.ip)
}

async fn by_unit(connection: &Connection, argument: &str) -> Result<String, TargetError> {
    let unit = connection.unit(&client_unit_name(argument)).await?.ok_or(TargetError::NoUnit)?;
    if unit.global {
        return Err(TargetError::Global);
    }
    let machine = unit.placement.and_then(|placement| placement.machine).ok_or(TargetError::Unplaced)?;
    if machine.ip.is_empty() { by_machine(connection, &machine.id).await } else { Ok(machine.ip) }
}

async fn by_either(connection: &Connection, argument: &str) -> Result<String, TargetError> {
    let machine = match by_machine(connection, argument).await {
        Ok(address) => Some(address),
        Err(TargetError::NoMachine) => None,
        Err(error) => return Err(error),
    };
    match (by_unit(connection, argument).await, machine) {
        (Ok(_), Some(_)) => Err(TargetError::Ambiguous(argument.to_owned())),
        (Err(TargetError::NoUnit), Some(address)) | (Ok(address), None) => Ok(address),
        (Err(TargetError::NoUnit), None) => Err(TargetError::Neither),
        (Err(error), _) => Err(error),
    }
}
