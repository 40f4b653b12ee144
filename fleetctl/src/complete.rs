//! Completions for shells: of the grammar, and of the names that the cluster has at the moment.
//!
//! `FLEETCTL_COMPLETE=bash fleetctl` prints what a shell loads, and that calls this program again for every TAB. Names
//! come from the API within a budget that nobody notices; if it does not answer there are none, and nothing is said.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::time::Duration;

use clap::{Arg, Command, FromArgMatches};
use clap_complete::engine::ValueCompleter;
use clap_complete::{ArgValueCompleter, CompleteEnv, CompletionCandidate, PathCompleter};
use fleet_api::client::ClientError;
use fleet_api::v2::MachineState;

use crate::cli;
use crate::commands::{events, list_machines, list_unit_files, list_units};
use crate::connection::Connection;
use crate::exit::Exit;
use crate::output;
use crate::settings::{GlobalFlags, Settings};

/// Set by what a shell loads; the value is the shell.
const VARIABLE: &str = "FLEETCTL_COMPLETE";
/// For all that is asked at one TAB, with the connection.
const BUDGET: Duration = Duration::from_millis(300);

/// Answers a shell, if one asks.
pub fn answer() -> Option<Exit> {
    let arguments = std::env::args_os();
    let directory = std::env::current_dir().ok();
    // Found by its name, wherever a package or an upgrade puts it.
    let engine =
        CompleteEnv::with_factory(|| with_values(cli::grammar())).var(VARIABLE).completer("fleetctl");
    match engine.try_complete(arguments, directory.as_deref()) {
        Ok(false) => None,
        Ok(true) => Some(Exit::DONE),
        Err(error) => {
            output::note(format!("{VARIABLE}: {error}"));
            Some(Exit::USAGE)
        }
    }
}

/// The grammar, with what is known of the values of its arguments. They are told by their names, so that a new command
/// has completions without a word.
fn with_values(command: Command) -> Command {
    let verb = command.get_name().to_owned();
    command.mut_args(|argument| with_value(&verb, argument)).mut_subcommands(with_values)
}

fn with_value(verb: &str, argument: Arg) -> Arg {
    let completer = match argument.get_id().as_str() {
        "units" if matches!(verb, "submit" | "load" | "start" | "restart") => {
            ArgValueCompleter::new(|current: &OsStr| {
                let mut candidates = unit_candidates(current);
                candidates.extend(PathCompleter::file().complete(current));
                candidates
            })
        }
        "units" | "unit" => ArgValueCompleter::new(unit_candidates),
        "machine" => ArgValueCompleter::new(machine_candidates),
        // Of `ssh`, which finds a machine by either.
        "words" => ArgValueCompleter::new(|current: &OsStr| {
            let mut candidates = machine_candidates(current);
            candidates.extend(unit_candidates(current));
            candidates
        }),
        "fields" | "sort" => {
            let known = fields_of(verb);
            ArgValueCompleter::new(move |current: &OsStr| field_candidates(&known, current))
        }
        "file" | "cert_file" | "key_file" | "ca_file" | "known_hosts_file" => {
            ArgValueCompleter::new(PathCompleter::file())
        }
        _ => return argument,
    };
    argument.add(completer)
}

/// Those of the list that this command prints.
fn fields_of(verb: &str) -> Vec<&'static str> {
    match verb {
        "list-units" => list_units::FIELDS.iter().map(|field| field.name).collect(),
        "list-unit-files" => list_unit_files::FIELDS.iter().map(|field| field.name).collect(),
        "list-machines" => list_machines::FIELDS.iter().map(|field| field.name).collect(),
        "events" => events::FIELDS.iter().map(|field| field.name).collect(),
        _ => Vec::new(),
    }
}

/// Fields behind those that are written already.
fn field_candidates(known: &[&str], current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_str().unwrap_or_default();
    let begin = current.rfind([',', '-']).map_or(0, |last| last + 1);
    let (written, word) = current.split_at(begin);
    let fitting = known.iter().filter(|name| name.starts_with(word));
    fitting.map(|name| CompletionCandidate::new(format!("{written}{name}"))).collect()
}

fn unit_candidates(current: &OsStr) -> Vec<CompletionCandidate> {
    let units = ask(async |connection| connection.unit_names().await).unwrap_or_default();
    begun(current, units.into_iter().map(|unit| (unit.name, unit.description)))
}

fn machine_candidates(current: &OsStr) -> Vec<CompletionCandidate> {
    let list = ask(async |connection| connection.machines().await).unwrap_or_default();
    let machines = list.machines.into_iter().filter(|machine| machine.state != MachineState::Forgotten);
    begun(current, machines.map(|machine| (machine.id, format!("{} {}", machine.hostname, machine.ip))))
}

/// Those that begin as what is written, with what shells show beside them.
fn begun(current: &OsStr, names: impl Iterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let mut names: Vec<_> = names.filter(|(name, _)| name.starts_with(current)).collect();
    names.sort();
    let candidates = names.into_iter().map(|(name, about)| {
        let about = about.trim().to_owned();
        CompletionCandidate::new(name).help((!about.is_empty()).then(|| about.into()))
    });
    candidates.collect()
}

/// The answer of the API that the command line means, if it comes within the budget.
fn ask<T>(question: impl AsyncFnOnce(&Connection) -> Result<T, ClientError>) -> Option<T> {
    let connection = Connection::new(&settings()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(within(BUDGET, question(&connection)));
    // A name server that does not answer keeps a thread.
    runtime.shutdown_background();
    answer
}

async fn within<T>(budget: Duration, question: impl Future<Output = Result<T, ClientError>>) -> Option<T> {
    tokio::time::timeout(budget, question).await.ok()?.ok()
}

/// As the command that is being written would have them.
fn settings() -> Option<Settings> {
    let words: Vec<OsString> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let matches = cli::grammar().ignore_errors(true).try_get_matches_from(words).ok()?;
    let flags = GlobalFlags::from_arg_matches(&matches).ok()?;
    let mut settings = Settings::merge(&flags, |name| std::env::var(name).ok()).ok()?;
    // SSH could ask for a password in the middle of the line.
    if settings.ssh.tunnel.is_some() {
        return None;
    }
    settings.debug = false;
    Some(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_completed_behind_those_that_are_written() {
        let names = |current: &str| -> Vec<OsString> {
            let candidates = field_candidates(&["unit", "machine", "metadata"], OsStr::new(current));
            candidates.iter().map(|candidate| candidate.get_value().to_owned()).collect()
        };
        assert_eq!(names("m"), ["machine", "metadata"]);
        assert_eq!(names("unit,me"), ["unit,metadata"]);
        assert_eq!(names("unit,-u"), ["unit,-unit"]);
    }

    #[test]
    fn every_list_has_its_fields() {
        for command in with_values(cli::grammar()).get_subcommands() {
            let has_fields = command.get_arguments().any(|argument| argument.get_id() == "fields");
            assert_eq!(has_fields, !fields_of(command.get_name()).is_empty(), "{}", command.get_name());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_answer_within_the_budget_has_no_names() {
        let begun = tokio::time::Instant::now();
        assert_eq!(within::<()>(BUDGET, std::future::pending()).await, None);
        assert_eq!(begun.elapsed(), BUDGET);
    }
}
