//! The command line's grammar. Each command's own flags are in its file.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::commands;
use crate::exit::Exit;
use crate::output;
use crate::settings::GlobalFlags;

/// Runs systemd units on a cluster of machines.
#[derive(Debug, Parser)]
#[command(
    name = "fleetctl",
    infer_subcommands = true,
    disable_version_flag = true,
    max_term_width = 100,
    after_help = "Unambiguous beginnings of commands work: fleetctl list-m.\n\
                  Exit codes: 0 done, 1 failed or no answer from the API, 2 wrong usage, 4 still pending,\n\
                  5 no machine can take it, 6 nobody leads or the registry does not answer."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalFlags,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Submit(commands::submit::Submit),
    Load(commands::load::Load),
    Start(commands::start::Start),
    Stop(commands::stop::Stop),
    Unload(commands::unload::Unload),
    Destroy(commands::destroy::Destroy),
    Restart(commands::restart::Restart),
    Status(commands::status::Status),
    Cat(commands::cat::Cat),
    Journal(commands::journal::Journal),
    ListUnits(commands::list_units::ListUnits),
    ListUnitFiles(commands::list_unit_files::ListUnitFiles),
    ListMachines(commands::list_machines::ListMachines),
    Ssh(commands::ssh::Ssh),
    Why(commands::why::Why),
    Events(commands::events::Events),
    Cluster(commands::cluster::Cluster),
    Machine(commands::machine::Machine),
    Import(commands::import::Import),
    #[command(hide = true)]
    Verify(commands::verify::Verify),
    #[command(hide = true)]
    FdForward(commands::fd_forward::FdForward),
    Version(commands::version::Version),
}

/// Reads the arguments. What needs no command, such as help, is printed here; its exit code is the error.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => Ok(cli),
        Err(error) => {
            if error.kind() == ErrorKind::InvalidSubcommand {
                if arguments.get(1).is_some_and(|first| first == "help") {
                    return Err(no_such_topic(&error));
                }
                output::note(unknown_command(&error));
                return Err(Exit::USAGE);
            }
            // Help that nobody reads is no error.
            let _unread = error.print();
            Err(if error.use_stderr() { Exit::USAGE } else { Exit::DONE })
        }
    }
}

/// The grammar as it is, for whatever is made from it: manual pages and completions.
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// The whole help, for a call without arguments.
pub fn overview() -> String {
    Cli::command().render_long_help().to_string()
}

/// Who asks for help gets it, as in fleet 1.0, if not the one that was asked for.
fn no_such_topic(error: &clap::Error) -> Exit {
    output::note(format!("Unknown help topic [`{}`].", unknown_word(error)));
    // Help that nobody reads is no error.
    let _unread = output::raw(overview());
    Exit::DONE
}

fn unknown_word(error: &clap::Error) -> &str {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => word.as_str(),
        _ => "",
    }
}

fn unknown_command(error: &clap::Error) -> String {
    let word = unknown_word(error);
    let mut text = format!("Error: unknown command \"{word}\" for \"fleetctl\"\n");
    if let Some(ContextValue::Strings(candidates)) = error.get(ContextKind::SuggestedSubcommand)
        && !candidates.is_empty()
    {
        text.push_str("\nDid you mean this?\n");
        // The nearest is last in clap's list and first in ours.
        for candidate in candidates.iter().rev() {
            text.push('\t');
            text.push_str(candidate);
            text.push('\n');
        }
    }
    text.push_str("\nRun 'fleetctl --help' for usage.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("fleetctl").chain(arguments.split_whitespace()))
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_in_its_help() {
        fn check(command: &clap::Command) {
            let is_group = command.has_subcommands();
            let is_builtin = command.get_name() == "help";
            if !is_group && !is_builtin && !command.is_hide_set() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:\n  fleetctl "), "{} has no examples", command.get_name());
                assert!(command.get_about().is_some(), "{} says not what it does", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        Cli::command().get_subcommands().for_each(check);
    }

    #[test]
    fn every_list_says_its_fields_in_its_help() {
        fn said<Row>(command: &str, fields: &[crate::output::list::Field<Row>]) {
            let grammar = grammar();
            let help = grammar.find_subcommand(command).unwrap().get_after_help().unwrap().to_string();
            let line = help.lines().find_map(|line| line.strip_prefix("Fields: ")).unwrap();
            let said: Vec<&str> = line.trim_end_matches('.').split(' ').collect();
            let known: Vec<&str> =
                fields.iter().map(|field| field.name).filter(|name| *name != "tmachine").collect();
            assert_eq!(said, known, "{command}");
        }
        said("list-units", &commands::list_units::FIELDS);
        said("list-unit-files", &commands::list_unit_files::FIELDS);
        said("list-machines", &commands::list_machines::FIELDS);
        said("events", &commands::events::FIELDS);
    }

    #[test]
    fn unambiguous_beginnings_are_commands_and_ambiguous_ones_are_not() {
        assert!(matches!(read("list-m").unwrap().command, Some(Command::ListMachines(_))));
        assert!(matches!(read("sub x").unwrap().command, Some(Command::Submit(_))));
        assert_eq!(read("st x").unwrap_err().kind(), ErrorKind::InvalidSubcommand);
        assert_eq!(read("list").unwrap_err().kind(), ErrorKind::InvalidSubcommand);
    }

    #[test]
    fn single_letters_work_with_one_dash_and_with_two() {
        for arguments in ["list-units -l", "list-units --l", "list-units --full", "list-units --full=true"] {
            let Some(Command::ListUnits(list)) = read(arguments).unwrap().command else {
                panic!("{arguments}")
            };
            assert!(list.list.full, "{arguments}");
        }
        for arguments in ["journal -f x", "journal --f x", "journal --follow x"] {
            let Some(Command::Journal(journal)) = read(arguments).unwrap().command else {
                panic!("{arguments}")
            };
            assert!(journal.follow, "{arguments}");
        }
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for arguments in [
            "--endpoint http://h:1 cat x",
            "cat x --endpoint=http://h:1",
            "--version=false cat x --endpoint http://h:1",
        ] {
            assert_eq!(
                read(arguments).unwrap().global.endpoint.as_deref(),
                Some("http://h:1"),
                "{arguments}"
            );
        }
        assert!(read("list-units --version").unwrap().global.version);
        assert!(read("-v").unwrap().global.version);
    }

    #[test]
    fn booleans_take_a_value_only_behind_an_equals_sign() {
        let Some(Command::Stop(stop)) = read("stop --no-block a b").unwrap().command else { panic!("stop") };
        assert!(stop.wait.no_block && stop.units == ["a", "b"]);
        let Some(Command::Stop(stop)) = read("stop --no-block=F a").unwrap().command else { panic!("stop") };
        assert!(!stop.wait.no_block);
        assert!(read("stop --no-block=perhaps a").is_err());
        assert!(read("list-machines --no-legend true").is_ok());
    }

    #[test]
    fn a_typo_gets_the_command_that_was_meant() {
        let text = unknown_command(&read("strat x").unwrap_err());
        assert!(text.starts_with("Error: unknown command \"strat\" for \"fleetctl\"\n"), "{text}");
        assert!(text.contains("Did you mean this?\n\tstart\n"), "{text}");
    }
}
