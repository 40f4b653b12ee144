//! `fleetctl cluster export|import` and `fleetctl machine join`: a cluster moves to another store, and a machine with
//! it.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context as _;
use fleet_api::v2::{ExpectedMachine, ImportRequest, JoinMode, JoinReport, JoinRequest};

use unit_files::client_unit_name;

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
        output::raw(expected_text(&report.expected))?;
    }
    if report.done {
        return Ok(Exit::DONE);
    }
    output::note("Nothing was changed. Run it again with --yes to import it.");
    Ok(Exit::FAILED)
}

fn expected_text(expected: &[ExpectedMachine]) -> String {
    if expected.is_empty() {
        return String::new();
    }
    let mut text = "Expected, until they come to this store; the units of each wait for it:\n".to_owned();
    for ExpectedMachine { machine, units } in expected {
        let plural = if *units == 1 { "" } else { "s" };
        text.push_str(&format!("  {machine} with {units} unit{plural}\n"));
    }
    text.push_str("What they stop or start when they come is not known here. For one that is off and will never come, as after new hardware: fleetctl machine confirm-dead ID\n");
    text
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
    let bring = command.bring.iter().map(|name| client_unit_name(name)).collect();
    let leave_missing = command.leave_missing;
    let request = JoinRequest { mode, bring, leave_missing, yes: command.yes, by: change::who() };
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
    let listed = named(&report.units);
    text.push_str(&match (report.units.len(), mode) {
        (0, _) if report.missing.is_empty() => "It has no units.\n".to_owned(),
        (0, _) => String::new(),
        (_, JoinMode::Adopt) => format!("Its units {units} with it and run on: {listed}.\n"),
        (_, JoinMode::Abandon) => {
            format!("Its units are given up, those that run go on and belong to nobody: {listed}.\n")
        }
    });
    if !report.missing.is_empty() {
        text.push_str("Not in the cluster: destroyed there, or submitted here after the export:\n");
        for name in &report.missing {
            let taken = if report.taken.contains(name) {
                "; another unit has that name: stop the old one by hand"
            } else {
                ""
            };
            text.push_str(&format!("  {name}{taken}\n"));
        }
        text.push_str("Those that run go on and belong to nobody.\n");
        text.push_str(&if report.done {
            let (store, before) = (&report.store, &report.store_before);
            format!("To bring one after all, move {store} back to {before} and run this again with --bring UNIT.\n")
        } else {
            "To bring one, run this with --bring UNIT; to give the rest up, with --leave-missing.\n".to_owned()
        });
    }
    if report.done {
        text.push_str(&format!("Its own store is kept in {}.\n", report.store));
    }
    text
}

fn named(units: &[String]) -> String {
    let named = units.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match units.len().saturating_sub(NAMED) {
        0 => named,
        rest => format!("{named} and {rest} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_names_the_machines_that_units_wait_for_and_what_to_do_about_one_that_never_comes() {
        let machine = |units| ExpectedMachine { machine: "1f0c44d2".into(), units };
        let expected = [machine(10), machine(1)];
        let text = expected_text(&expected);
        assert!(
            text.contains("1f0c44d2 with 10 units\n  1f0c44d2 with 1 unit\n")
                && text.contains("machine confirm-dead ID"),
            "{text}"
        );
        assert_eq!(expected_text(&[]), "");
    }

    #[test]
    fn a_join_lists_apart_what_the_cluster_does_not_have_and_says_how_to_bring_it() {
        let missing: Vec<String> = (0..NAMED + 5).map(|number| format!("u{number}.service")).collect();
        let report = JoinReport {
            from: "ours".into(),
            to: "ours".into(),
            units: vec!["a.service".into()],
            missing: missing.clone(),
            taken: vec!["u7.service".into()],
            store: "/var/lib/fleet/registry".into(),
            store_before: "/var/lib/fleet/registry".into(),
            ..JoinReport::default()
        };
        let dry = join_text(&report, JoinMode::Adopt);
        assert!(
            dry.contains("run on: a.service.\nNot in the cluster: destroyed there, or submitted here"),
            "{dry}"
        );
        // Each of them, however many: they have to be named.
        assert!(missing.iter().all(|name| dry.contains(&format!("\n  {name}"))), "{dry}");
        assert!(
            dry.contains("  u7.service; another unit has that name: stop the old one by hand\n"),
            "{dry}"
        );
        assert!(dry.contains("--bring UNIT") && dry.contains("--leave-missing"), "{dry}");
        let store = "/var/lib/fleet/registry.moved.1".to_owned();
        let done = join_text(&JoinReport { done: true, store, ..report }, JoinMode::Adopt);
        assert!(
            done.contains("move /var/lib/fleet/registry.moved.1 back to /var/lib/fleet/registry "),
            "{done}"
        );
        assert!(done.ends_with("Its own store is kept in /var/lib/fleet/registry.moved.1.\n"), "{done}");
    }
}
