//! `fleetctl import`: takes over what a fleet 1.0 runs, without a restart of any unit.
//!
//! Reads the other fleet (`source`), says what that comes to here (`plan`), and with `--yes` sends it. A unit keeps its
//! text, its wanted state and its machine; the agent there finds the text on disk and takes the unit over as it is.

mod plan;
mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use fleet_api::v2::{ActionResult, ChangeRequest};
use serde::Serialize;

use self::plan::{Entry, Fate, Lacking, Plan};
use self::source::{Fleet, SourceError};
use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{OutputFlag, ReasonFlag, go_bool};
use crate::output::{self, json};
use crate::settings::Settings;

/// Units in one request: with the largest texts it stays below what the API takes, and people see how far it is.
const AT_ONCE: usize = 50;

/// Take over the units of a running fleet 1.0, without a restart; prints what would come
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl import --from unix:///run/fleet.sock --save fleet-1.json\n  fleetctl import --from http://10.0.0.1:49153\n  fleetctl import --file fleet-1.json --yes\n\ndocs/usage/from-fleet-1.0.md has the whole recipe."
)]
pub struct Import {
    /// Where fleet 1.0 answers: unix:///PATH or http://HOST:PORT
    #[arg(long, value_name = "URL", required_unless_present = "file", conflicts_with = "file")]
    pub from: Option<String>,
    /// What --save has written, in place of a fleet that runs
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Only write what fleet 1.0 says to a new file; this cluster is not asked
    #[arg(long, value_name = "FILE", requires = "from", conflicts_with = "yes")]
    pub save: Option<PathBuf>,
    /// Do it; otherwise only what would come is printed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputFlag,
    #[command(flatten)]
    pub reason: ReasonFlag,
}

/// The document of `-o json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    from: &'a str,
    done: bool,
    units: &'a [Entry],
    /// Machines with metadata there that they lack here.
    machines: &'a [Lacking],
}

pub async fn run(connection: &Connection, settings: &Settings, command: Import) -> anyhow::Result<Exit> {
    let fleet = match read(settings, &command).await {
        Ok(fleet) => fleet,
        Err(error) => {
            output::note(format!("Error importing: {error}"));
            return Ok(if matches!(error, SourceError::Endpoint(_)) { Exit::USAGE } else { Exit::FAILED });
        }
    };
    if let Some(path) = &command.save {
        if let Err(error) = fleet.save(path) {
            output::note(format!("Error importing: {error}"));
            return Ok(Exit::FAILED);
        }
        output::note(format!("Saved {} units to {}.", fleet.units.len(), path.display()));
        return Ok(Exit::DONE);
    }
    let (here, machines) = match tokio::try_join!(connection.all_units(), connection.machines()) {
        Ok(both) => both,
        Err(error) => {
            output::note(format!("Error importing: cannot read this cluster: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    let here: BTreeMap<_, _> = here.units.into_iter().map(|unit| (unit.name.clone(), unit)).collect();
    let mut plan = Plan::of(&fleet, &here, &machines.machines);
    let goes = command.yes && plan.is_clear();
    let mut exit = Exit::DONE;
    if goes {
        exit = carry_out(connection, &command, &mut plan).await?;
    }
    let done = goes && exit == Exit::DONE;
    if command.output.is_json() {
        let (units, machines) = (&plan.units[..], &plan.machines[..]);
        json::print(&Report { from: &fleet.from, done, units, machines })?;
    } else {
        output::raw(text(&plan, &fleet.from, goes))?;
    }
    Ok(finish(&plan, command.yes, exit))
}

async fn read(settings: &Settings, command: &Import) -> Result<Fleet, SourceError> {
    match (&command.from, &command.file) {
        (_, Some(path)) => Fleet::of_file(path),
        (from, None) => Fleet::of_api(from.as_deref().unwrap_or_default(), settings.timeouts).await,
    }
}

/// Metadata before units: a unit whose machine lacks it would be moved at once.
async fn carry_out(connection: &Connection, command: &Import, plan: &mut Plan) -> anyhow::Result<Exit> {
    for lacking in plan.machines.iter_mut().filter(|lacking| !lacking.metadata.is_empty()) {
        if let Err(error) = connection.set_metadata(&lacking.machine, &lacking.metadata).await {
            output::note(format!("Error setting metadata of machine {}: {error}", lacking.machine));
            return Ok(change::exit_of(&error));
        }
        lacking.is_set = true;
    }
    let total = plan.count(Fate::New);
    let mut sent = 0;
    let mut exit = Exit::DONE;
    let mut new: Vec<&mut Entry> = plan.units.iter_mut().filter(|entry| entry.fate == Fate::New).collect();
    for chunk in new.chunks_mut(AT_ONCE) {
        let request = ChangeRequest {
            request_id: uuid::Uuid::new_v4().simple().to_string(),
            by: Some(change::who()),
            why: Some(command.reason.why.clone()).filter(|why| !why.is_empty()),
            actions: chunk.iter().filter_map(|entry| entry.action.clone()).collect(),
            ..ChangeRequest::default()
        };
        let report = match connection.change(request).await {
            Ok(report) => report,
            Err(error) => {
                output::note(format!(
                    "Error importing units: {error}; what has come stays, repeat the command"
                ));
                return Ok(change::exit_of(&error));
            }
        };
        for (entry, result) in chunk.iter_mut().zip(report.results) {
            if !judge(entry, &result) {
                exit = Exit::FAILED;
            }
        }
        sent += chunk.len();
        output::note(format!("Sent {sent} of {total} units."));
    }
    Ok(exit)
}

/// Whether it came. Somebody else may have been faster.
fn judge(entry: &mut Entry, result: &ActionResult) -> bool {
    if let Some(error) = &result.error {
        (entry.fate, entry.text) = (Fate::Refused, error.to_string());
    } else if result.ok {
        entry.fate = Fate::Imported;
    }
    result.ok
}

/// With `goes` what has become of it, also if that is not all; otherwise what would.
fn text(plan: &Plan, from: &str, goes: bool) -> String {
    let mut text = String::new();
    let (new, came, same) = (plan.count(Fate::New), plan.count(Fate::Imported), plan.count(Fate::Same));
    let (verb, count) = if goes { ("Imported", came) } else { ("Would import", new) };
    text.push_str(&format!("{verb} {count} units from {from}; {same} are here already.\n"));
    for entry in &plan.units {
        let place = if entry.machine.is_empty() {
            String::new()
        } else {
            format!(" on {}", output::machine_id(&entry.machine, false))
        };
        let note = if entry.text.is_empty() { String::new() } else { format!(" ({})", entry.text) };
        let line = match entry.fate {
            Fate::New if goes => format!("  {} {}{place}: not imported\n", entry.name, entry.desired),
            Fate::New | Fate::Imported => format!("  {} {}{place}{note}\n", entry.name, entry.desired),
            Fate::Same if entry.text == "here already" => continue,
            Fate::Same => format!("  {} {}: {}\n", entry.name, entry.desired, entry.text),
            Fate::Conflict | Fate::Refused => continue,
        };
        text.push_str(&line);
    }
    for lacking in &plan.machines {
        let machine = output::machine_id(&lacking.machine, false);
        let set = match (lacking.is_set, goes) {
            (true, _) => "Set",
            (false, true) => "Did not set",
            (false, false) => "Would set",
        };
        if !lacking.metadata.is_empty() {
            text.push_str(&format!("{set} metadata of {machine}: {}\n", pairs(&lacking.metadata)));
        }
        if !lacking.left.is_empty() {
            let left = pairs(&lacking.left);
            text.push_str(&format!("Left metadata of {machine} as they are here; there: {left}\n"));
        }
    }
    text
}

fn pairs(metadata: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

fn finish(plan: &Plan, yes: bool, exit: Exit) -> Exit {
    for entry in plan.units.iter().filter(|entry| matches!(entry.fate, Fate::Conflict | Fate::Refused)) {
        output::note(format!("Unable to import {}: {}", entry.name, entry.text));
    }
    let in_the_way = plan.count(Fate::Conflict) + plan.count(Fate::Refused);
    if in_the_way > 0 && exit == Exit::DONE {
        output::note(format!("Nothing was changed, because {in_the_way} units cannot come as they are."));
        return Exit::FAILED;
    }
    if !yes && plan.count(Fate::New) > 0 {
        output::note("Nothing was changed. Run it again with --yes to import them.");
        return Exit::FAILED;
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.into(),
            desired: "launched".into(),
            machine: String::new(),
            fate: Fate::New,
            text: String::new(),
            action: None,
        }
    }

    fn lacking(machine: &str, is_set: bool) -> Lacking {
        let metadata = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
        Lacking { machine: machine.into(), metadata, left: BTreeMap::new(), is_set }
    }

    #[test]
    fn after_a_failure_half_way_what_has_come_is_told_apart_from_what_has_not() {
        let mut came = entry("a.service");
        assert!(judge(&mut came, &ActionResult { ok: true, ..ActionResult::default() }));
        assert_eq!(came.fate, Fate::Imported);
        let plan = Plan {
            units: vec![came, entry("b.service")],
            machines: vec![lacking("m1", true), lacking("m2", false)],
        };
        assert_eq!(
            text(&plan, "there", true),
            "Imported 1 units from there; 0 are here already.\n  a.service launched\n  b.service launched: not \
             imported\nSet metadata of m1...: role=web\nDid not set metadata of m2...: role=web\n"
        );
    }

    #[test]
    fn what_would_come_is_told_as_such() {
        let plan = Plan { units: vec![entry("b.service")], machines: vec![lacking("m2", false)] };
        assert_eq!(
            text(&plan, "there", false),
            "Would import 1 units from there; 0 are here already.\n  b.service launched\nWould set metadata of m2...: \
             role=web\n"
        );
    }
}
