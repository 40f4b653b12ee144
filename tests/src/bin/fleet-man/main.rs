//! `fleet-man`: writes the manual pages of fleetctl and fleetd into a directory, from the grammars that read the command
//! lines. `scripts/install.sh` runs it; nothing of it is installed.
//!
//! One page for each command, as people ask for them: fleetctl(1), fleetctl-start(1), fleetd(8), fleetd-check-config(8).
#![expect(clippy::print_stderr, reason = "a command line talks on its standard streams")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Command, Parser};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// Writes fleet's manual pages.
#[derive(Debug, Parser)]
#[command(name = "fleet-man", version)]
struct Arguments {
    /// Where to; it has to exist
    directory: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { directory } = Arguments::parse();
    let written = pages(fleetctl::grammar(), "1", &directory)
        .and_then(|()| pages(fleetd::arguments::grammar(), "8", &directory));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet-man: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The page of `command` and of all below it, but for what is hidden from the help as well.
fn pages(command: Command, section: &str, directory: &Path) -> anyhow::Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below.clone(), section, directory)?;
    }
    page(command, section, directory)
}

fn page(command: Command, section: &str, directory: &Path) -> anyhow::Result<()> {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let is_group = command.get_subcommands().any(|below| !below.is_hide_set());
    let mut command = command.disable_help_subcommand(true);
    // As the help has it: every flag of every command would hide what is the command's own.
    let usage = command.render_usage().to_string();
    let man = Man::new(command.override_usage(usage.trim_start_matches("Usage: ").to_owned()))
        .section(section)
        .source(concat!("fleet ", env!("CARGO_PKG_VERSION")))
        .manual("fleet");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if is_group {
        man.render_subcommands_section(&mut text)?;
    }
    notes(&after).to_writer(&mut text)?;
    let path = directory.join(man.get_filename());
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// What the help says last: examples and tables keep their lines, the rest is prose.
fn notes(text: &str) -> Roff {
    let mut roff = Roff::new();
    let mut is_table = false;
    let mut is_begun = false;
    for line in text.lines() {
        if line == "Examples:" {
            roff.control("SH", ["EXAMPLES"]);
            is_begun = true;
            continue;
        }
        if !is_begun && !line.is_empty() {
            roff.control("SH", ["NOTES"]);
            is_begun = true;
        }
        let is_row = line.starts_with("  ");
        if is_row != is_table {
            roff.control(if is_row { "nf" } else { "fi" }, []);
            is_table = is_row;
        }
        if line.is_empty() {
            roff.control("PP", []);
            continue;
        }
        if !is_row {
            roff.control("br", []);
        }
        roff.text([roman(line)]);
    }
    if is_table {
        roff.control("fi", []);
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_keep_their_lines() {
        let text = notes("Examples:\n  fleetctl cat a\n  fleetctl cat b\n\nFields: unit.").render();
        let (_, body) = text.split_once(".SH EXAMPLES\n").unwrap();
        assert_eq!(body, ".nf\n  fleetctl cat a\n  fleetctl cat b\n.fi\n.PP\n.br\nFields: unit.\n");
    }

    #[test]
    fn every_command_that_is_not_hidden_has_a_page_under_the_name_that_man_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        pages(fleetctl::grammar(), "1", directory.path()).unwrap();
        pages(fleetd::arguments::grammar(), "8", directory.path()).unwrap();
        for name in [
            "fleetctl.1",
            "fleetctl-list-units.1",
            "fleetctl-cluster-status.1",
            "fleetd.8",
            "fleetd-check-config.8",
        ] {
            let text = std::fs::read_to_string(directory.path().join(name)).unwrap();
            let begin = format!(".SH NAME\n{} \\- ", name.rsplit_once('.').unwrap().0.replace('-', "\\-"));
            assert!(text.contains(&begin), "{name}: {text}");
        }
        for name in
            ["fleetctl-verify.1", "fleetctl-fd-forward.1", "fleetctl-help.1", "fleetd-config-template.8"]
        {
            assert!(!directory.path().join(name).exists(), "{name}");
        }
    }
}
