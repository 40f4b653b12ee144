//! The commands, one file each: its arguments and what it does. No command knows another.

pub mod cat;
pub mod cluster;
pub mod destroy;
pub mod events;
pub mod fd_forward;
pub mod health;
pub mod import;
pub mod journal;
pub mod list_machines;
pub mod list_unit_files;
pub mod list_units;
pub mod load;
pub mod machine;
pub mod restart;
pub mod ssh;
pub mod start;
pub mod status;
pub mod stop;
pub mod submit;
pub mod transfer;
pub mod unload;
pub mod verify;
pub mod version;
pub mod why;

use std::collections::BTreeSet;
use std::time::Duration;

use fleet_api::client::ClientError;
use fleet_api::v2::{Action, UnitView, Verb};
use unit_files::client_unit_name;

use crate::change::{self, Options};
use crate::cli::{self, Cli, Command};
use crate::connection::Connection;
use crate::content::{self, Prepared};
use crate::exit::Exit;
use crate::flags::{ContentFlags, OutputFlag, ReasonFlag, WaitFlags};
use crate::output::{self, json};
use crate::settings::Settings;
use crate::suggest;

/// For a hint nobody waits longer; the error it is about has been said.
const HINT_WITHIN: Duration = Duration::from_secs(1);

/// Runs what was asked for.
pub async fn run(cli: Cli) -> anyhow::Result<Exit> {
    if cli.global.version {
        return version::print(OutputFlag::default());
    }
    let command = match cli.command {
        None => {
            output::raw(cli::overview())?;
            return Ok(Exit::DONE);
        }
        Some(Command::Version(command)) => return version::print(command.output),
        Some(Command::Verify(_)) => return Ok(verify::run()),
        Some(Command::FdForward(command)) => return fd_forward::run(command).await,
        Some(command) => command,
    };
    let settings = match Settings::merge(&cli.global, |name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(error) => {
            output::note(format!("Unable to initialize client: {error}"));
            return Ok(if error.is_usage() { Exit::USAGE } else { Exit::FAILED });
        }
    };
    output::colour::choose(settings.color);
    for warning in &settings.warnings {
        output::log!("WARN", "{warning}");
    }
    let connection = Connection::new(&settings);
    match command {
        Command::Submit(command) => submit::run(&connection, command).await,
        Command::Load(command) => load::run(&connection, command).await,
        Command::Start(command) => start::run(&connection, command).await,
        Command::Stop(command) => stop::run(&connection, command).await,
        Command::Unload(command) => unload::run(&connection, command).await,
        Command::Destroy(command) => destroy::run(&connection, command).await,
        Command::Restart(command) => restart::run(&connection, command).await,
        Command::Status(command) => status::run(&connection, command).await,
        Command::Cat(command) => cat::run(&connection, command).await,
        Command::Journal(command) => journal::run(&connection, command).await,
        Command::ListUnits(command) => list_units::run(&connection, command).await,
        Command::ListUnitFiles(command) => list_unit_files::run(&connection, command).await,
        Command::ListMachines(command) => list_machines::run(&connection, command).await,
        Command::Ssh(command) => ssh::run(&connection, &settings.ssh, command).await,
        Command::Why(command) => why::run(&connection, command).await,
        Command::Events(command) => events::run(&connection, command).await,
        Command::Cluster(command) => cluster::run(&connection, command).await,
        Command::Machine(command) => machine::run(&connection, command).await,
        Command::Import(command) => import::run(&connection, &settings, command).await,
        Command::Verify(_) | Command::FdForward(_) | Command::Version(_) => {
            unreachable!("commands without a server have run above")
        }
    }
}

/// Said by every command that takes units and got none; exit 0 as in fleet 1.0, for scripts with an empty list.
fn no_units_given(json: bool) -> anyhow::Result<Exit> {
    nothing_to_do("No units given", json)
}

/// A success that sends nothing. Programs get their document all the same.
fn nothing_to_do(why: &str, json: bool) -> anyhow::Result<Exit> {
    output::note(why);
    if json {
        json::print(&serde_json::json!({ "results": [] }))?;
    }
    Ok(Exit::DONE)
}

/// The common course of the commands that may create units.
async fn with_content(
    connection: &Connection,
    verb: Verb,
    units: &[String],
    content: &ContentFlags,
    wait: Option<&WaitFlags>,
    output: OutputFlag,
    reason: &ReasonFlag,
) -> anyhow::Result<Exit> {
    let json = output.is_json();
    if units.is_empty() {
        return no_units_given(json);
    }
    let mut prepared = match content::prepare(connection, units, verb, content.replace, json).await {
        Ok(prepared) => prepared,
        Err(error) => return Ok(creation_failed(connection, &error).await),
    };
    for one in &mut prepared {
        one.action.all_at_once = content.all_at_once;
    }
    change::carry_out(
        connection,
        verb,
        prepared,
        &Options { wait, json, why: &reason.why, refused: Vec::new() },
    )
    .await
}

async fn creation_failed(connection: &Connection, error: &content::ContentError) -> Exit {
    output::note(format!("Error creating units: {error}"));
    match error {
        content::ContentError::Api(error) => return change::exit_of(error),
        content::ContentError::Nowhere(unit) => hint(connection, std::slice::from_ref(unit)).await,
        content::ContentError::NoTemplate { template, .. } => {
            hint(connection, std::slice::from_ref(template)).await;
        }
        _ => {}
    }
    Exit::FAILED
}

/// Says which units may have been meant by names that do not exist, a line each; nothing if none may, or if the API does
/// not say which there are.
async fn hint(connection: &Connection, unknown: &[String]) {
    let Ok(Ok(known)) = tokio::time::timeout(HINT_WITHIN, connection.unit_names()).await else { return };
    let known: Vec<String> = known.into_iter().map(|unit| unit.name).collect();
    for name in unknown {
        if let Some(line) = suggest::line(&suggest::nearest_units(name, &known)) {
            output::note(line);
        }
    }
}

/// The end of a command whose unit does not exist.
async fn no_such_unit(connection: &Connection, name: &str, text: String) -> Exit {
    output::note(text);
    hint(connection, &[name.to_owned()]).await;
    Exit::FAILED
}

/// The units that the registry has and the names of those that it has not, in the order of the arguments and each once.
async fn known_units(
    connection: &Connection,
    arguments: &[String],
) -> Result<(Vec<UnitView>, Vec<String>), ClientError> {
    let mut seen = BTreeSet::new();
    let names: Vec<String> = arguments
        .iter()
        .map(|argument| client_unit_name(argument))
        .filter(|name| seen.insert(name.clone()))
        .collect();
    let mut known = connection.units(&names).await?;
    let (mut units, mut unknown) = (Vec::new(), Vec::new());
    for name in names {
        match known.remove(&name) {
            Some(unit) => units.push(unit),
            None => unknown.push(name),
        }
    }
    Ok((units, unknown))
}

/// The common course of the commands that withdraw units: unknown names are named and skipped, and none known is no
/// error. The inner error is the end of the command.
async fn known_or_note(
    connection: &Connection,
    verb: Verb,
    arguments: &[String],
    output: OutputFlag,
) -> anyhow::Result<Result<Vec<UnitView>, Exit>> {
    if arguments.is_empty() {
        return no_units_given(output.is_json()).map(Err);
    }
    match known_units(connection, arguments).await {
        Ok((units, unknown)) if units.is_empty() => {
            let exit = nothing_to_do("Units not found in registry", output.is_json())?;
            hint(connection, &unknown).await;
            Ok(Err(exit))
        }
        Ok((units, unknown)) => {
            // fleet 1.0 says nothing, and a typo is taken for a success.
            if !unknown.is_empty() {
                output::note(format!("Units not found in registry: {}", unknown.join(" ")));
                hint(connection, &unknown).await;
            }
            Ok(Ok(units))
        }
        Err(error) => {
            output::note(format!("Error {} units: {error}", crate::report::gerund(verb)));
            Ok(Err(change::exit_of(&error)))
        }
    }
}

fn prepared(unit: UnitView, verb: Verb) -> Prepared {
    Prepared { action: Action::new(unit.name.as_str(), verb), before: Some(unit), warnings: Vec::new() }
}
