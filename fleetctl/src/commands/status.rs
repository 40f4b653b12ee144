//! `fleetctl status`: what `systemctl status` says on the unit's machine, asked through the API, with its exit code.

use std::fmt::Write;

use clap::Args;
use fleet_api::v2::UnitView;
use unit_files::client_unit_name;

use crate::change;
use crate::commands::machine;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::OutputFlag;
use crate::output::{self, json};

/// Show what systemd says of units on their machines
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl status web.service\n  fleetctl status --machine 1f0c44d2 node-exporter.service"
)]
pub struct Status {
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    /// Ask this machine, by the beginning of its id; otherwise the unit's, or each of a global unit's.
    #[arg(long, value_name = "MACHINE")]
    pub machine: Option<String>,
    #[command(flatten)]
    pub output: OutputFlag,
    /// Accepted without effect: no SSH is involved.
    #[arg(long, hide = true)]
    pub ssh_port: Option<String>,
}

pub async fn run(connection: &Connection, command: Status) -> anyhow::Result<Exit> {
    let machine = match &command.machine {
        None => None,
        Some(beginning) => match machine::resolve(connection, beginning).await {
            Ok(id) => Some(id),
            Err(exit) => return Ok(exit),
        },
    };
    let mut reports = Vec::new();
    let mut exit = Exit::DONE;
    for (index, argument) in command.units.iter().enumerate() {
        if index > 0 && !command.output.is_json() {
            output::line("")?;
        }
        exit =
            one(connection, &client_unit_name(argument), machine.as_deref(), &command, &mut reports).await?;
        // As in fleet 1.0: the first that is not well ends the command.
        if exit != Exit::DONE {
            break;
        }
    }
    if command.output.is_json() {
        json::print(&serde_json::json!({ "units": reports }))?;
    }
    Ok(exit)
}

async fn one(
    connection: &Connection,
    name: &str,
    machine: Option<&str>,
    command: &Status,
    reports: &mut Vec<serde_json::Value>,
) -> anyhow::Result<Exit> {
    let unit = match connection.unit(name).await {
        Ok(Some(unit)) => unit,
        Ok(None) => {
            return Ok(super::no_such_unit(connection, name, format!("Unit {name} does not exist.")).await);
        }
        Err(error) => {
            output::note(format!("Error retrieving Unit {name}: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    let machines = machines_of(&unit, machine);
    if machines.is_empty() {
        let mut text = format!("Unit {name} does not appear to be loaded.");
        if unit.desired != "inactive" {
            let desired = &unit.desired;
            let _infallible =
                write!(text, "\n  it is wanted {desired} and no machine has it; see fleetctl why {name}");
        }
        return Ok(failed(text));
    }
    let mut exit = Exit::DONE;
    let several = unit.global && machine.is_none();
    for (index, id) in machines.iter().enumerate() {
        let report = match connection.status(name, Some(id)).await {
            Ok(report) => report,
            Err(error) => {
                // One machine that does not answer hides no other.
                exit = exit
                    .max(failed(format!("Error asking machine {}: {error}", output::machine_id(id, false))));
                continue;
            }
        };
        exit = exit.max(Exit::of_remote(report.exit_code));
        if command.output.is_json() {
            reports.push(serde_json::json!({ "unit": name, "report": report }));
            continue;
        }
        if several {
            let gap = if index > 0 { "\n" } else { "" };
            output::raw(format!(
                "{gap}On {}:\n",
                output::machine_text(&report.machine.id, &report.machine.ip, false)
            ))?;
        }
        output::raw(&report.text)?;
    }
    Ok(exit)
}

/// Where to ask. A unit that is wanted nowhere is loaded nowhere.
fn machines_of(unit: &UnitView, asked: Option<&str>) -> Vec<String> {
    if let Some(machine) = asked {
        return vec![machine.to_owned()];
    }
    if unit.global {
        return unit
            .orders
            .iter()
            .filter(|order| order.wanted != "gone")
            .map(|order| order.machine.clone())
            .collect();
    }
    let placed = unit.placement.as_ref().and_then(|placement| placement.machine.as_ref());
    if unit.desired == "inactive" {
        return Vec::new();
    }
    placed.map(|machine| machine.id.clone()).into_iter().collect()
}

fn failed(text: String) -> Exit {
    output::note(text);
    Exit::FAILED
}
