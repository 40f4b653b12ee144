//! `fleetctl cluster export|import` and `fleetctl machine join`: a cluster moves to another store, and a machine with
//! it.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context as _;
use fleet_api::v2::{ImportRequest, JoinMode, JoinReport, JoinRequest};

use super::cluster::{Export, Import, effects};
use super::machine::Join;
use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::output::{self, json};

/// Units that are named before the rest is counted.
const NAMED: usize = 20;

pub async fn export(connection: &Connection, command: Export) -> anyhow::Result<Exit> {
    let document = match connection.export().await {
        Ok(document) => document,
        Err(error) => {
            output::note(format!("Error exporting the cluster: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    let Some(path) = command.file else {
        output::raw(&document)?;
        return Ok(Exit::DONE);
    };
    // Never over an earlier backup. Unit files may hold secrets.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let mut file =
        file.with_context(|| format!("cannot make {}; name a file that does not exist", path.display()))?;
    let written = file.write_all(&document).and_then(|()| file.sync_all());
    written.with_context(|| format!("cannot write {}; what is there now is not complete", path.display()))?;
    output::note(format!("Exported {} entries to {}.", entries(&document), path.display()));
    Ok(Exit::DONE)
}

/// Lines without the first.
fn entries(document: &[u8]) -> usize {
    document.iter().filter(|byte| **byte == b'\n').count().saturating_sub(1)
}

pub async fn import(connection: &Connection, command: Import) -> anyhow::Result<Exit> {
    let document = read(&command.file)?;
    let request = ImportRequest { document, yes: command.yes, by: change::who() };
    let report = match connection.import(&request).await {
        Ok(report) => report,
        Err(error) => {
            output::note(format!("Error importing {}: {error}", command.file.display()));
            return Ok(change::exit_of(&error));
        }
    };
    if command.output.is_json() {
        json::print(&report)?;
    } else {
        let verb = if report.done { "Imported" } else { "Would import" };
        output::line(format!(
            "{verb} cluster {} with {} units and {} machines; its epoch is then {}.",
            report.cluster, report.units, report.machines, report.epoch
        ))?;
        output::line(format!("Newest change in it: {}.", output::time_text(report.newest)))?;
        let (stops, starts) = if report.done { ("Stops", "Starts") } else { ("Would stop", "Would start") };
        output::raw(effects(stops, &report.would_stop))?;
        output::raw(effects(starts, &report.would_start))?;
        if report.machines > 1 {
            output::line(
                "The other machines follow the document when they come; what that stops or starts there is not known here.",
            )?;
        }
    }
    if report.done {
        return Ok(Exit::DONE);
    }
    output::note("Nothing was changed. Run it again with --yes to import it.");
    Ok(Exit::FAILED)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}

pub async fn join(connection: &Connection, command: Join) -> anyhow::Result<Exit> {
    let mode = if command.abandon { JoinMode::Abandon } else { JoinMode::Adopt };
    let request = JoinRequest { mode, yes: command.yes, by: change::who() };
    let report = match connection.join(&request).await {
        Ok(report) => report,
        Err(error) => {
            output::note(format!("Error joining the cluster: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    if command.output.is_json() {
        json::print(&report)?;
    } else {
        output::raw(join_text(&report, mode))?;
    }
    if report.done {
        return Ok(Exit::DONE);
    }
    output::note("Nothing was changed. Run it again with --yes to do it.");
    Ok(Exit::FAILED)
}

fn join_text(report: &JoinReport, mode: JoinMode) -> String {
    let (leaves, units) = if report.done { ("left", "went") } else { ("leaves", "go") };
    let machine = output::machine_id(&report.machine, false);
    let to = match report.to.as_str() {
        "" => "a new cluster".to_owned(),
        to if to == report.from => "it moves to the configured etcd as it is".to_owned(),
        to => format!("cluster {to}"),
    };
    let mut text = format!("{machine} {leaves} cluster {} for: {to}.\n", report.from);
    let named = report.units.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let rest = report.units.len().saturating_sub(NAMED);
    let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
    text.push_str(&match (report.units.len(), mode) {
        (0, _) => "It has no units.\n".to_owned(),
        (_, JoinMode::Adopt) => format!("Its units {units} with it and run on: {named}{more}.\n"),
        (_, JoinMode::Abandon) => {
            format!("Its units are given up, those that run go on and belong to nobody: {named}{more}.\n")
        }
    });
    text
}
