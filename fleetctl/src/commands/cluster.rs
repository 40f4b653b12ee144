//! `fleetctl cluster`: the state of the whole, and the operator's word when it holds back.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use fleet_api::v2::{AdoptEffect, AdoptRequest, ClusterView, Requester};

use super::{health, transfer};
use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{OutputFlag, ReasonFlag, go_bool};
use crate::output::{self, json};

/// What a store that does not answer leaves open.
const UNKNOWN: &str = "unknown, because the store does not answer";

/// Show and steer the cluster as a whole
#[derive(Args, Debug)]
pub struct Cluster {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show leader, store, machines, and what is held back
    #[command(after_help = "Examples:\n  fleetctl cluster status\n  fleetctl cluster status -o json")]
    Status(OutputFlag),
    /// Show whether the store is well, member by member, and what to do if not; exits with 1 then
    #[command(after_help = "Examples:\n  fleetctl cluster health\n  fleetctl cluster health -o json")]
    Health(OutputFlag),
    /// Take the store as it is after it was rolled back; prints what would stop
    #[command(
        after_help = "Examples:\n  fleetctl cluster adopt\n  fleetctl cluster adopt --yes --why \"restored from last night's backup\""
    )]
    Adopt(Adopt),
    /// Print the cluster as a document: a backup, or what another store is filled from
    #[command(after_help = "Examples:\n  fleetctl cluster export cluster.json")]
    Export(Export),
    /// Make the cluster of an export in a store that has none, or none with units; prints what would stop and start
    #[command(
        after_help = "Examples:\n  fleetctl cluster import cluster.json\n  fleetctl cluster import --yes cluster.json"
    )]
    Import(Import),
    /// Let go on what the brake holds back
    #[command(after_help = "Examples:\n  fleetctl cluster resume --why \"rack 3 is really gone\"")]
    Resume(Resume),
}

#[derive(Args, Debug)]
pub struct Adopt {
    /// Do it; otherwise only the consequences are printed.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputFlag,
    #[command(flatten)]
    pub reason: ReasonFlag,
}

#[derive(Args, Debug)]
pub struct Export {
    /// A new file to write it to, readable by its owner alone; standard output without it.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Import {
    /// What `fleetctl cluster export` printed; - is standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Do it; otherwise only what it holds is printed.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputFlag,
}

#[derive(Args, Debug)]
pub struct Resume {
    #[command(flatten)]
    pub output: OutputFlag,
    #[command(flatten)]
    pub reason: ReasonFlag,
}

pub async fn run(connection: &Connection, command: Cluster) -> anyhow::Result<Exit> {
    match command.action {
        Action::Status(output) => status(connection, output).await,
        Action::Health(output) => health::run(connection, output).await,
        Action::Adopt(adopt) => self::adopt(connection, adopt).await,
        Action::Export(command) => transfer::export(connection, command).await,
        Action::Import(command) => transfer::import(connection, command).await,
        Action::Resume(resume) => self::resume(connection, resume).await,
    }
}

async fn status(connection: &Connection, output: OutputFlag) -> anyhow::Result<Exit> {
    let view = match connection.cluster().await {
        Ok(view) => view,
        Err(error) => {
            output::note(format!("Error retrieving the state of the cluster: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    if output.is_json() {
        json::print(&view)?;
    } else {
        output::raw(status_text(&view))?;
    }
    Ok(Exit::DONE)
}

fn status_text(view: &ClusterView) -> String {
    let mut lines = vec![("Cluster", format!("{}, epoch {}", output::or_dash(&view.id), view.epoch))];
    let store = if view.store.answers { "answers" } else { "does not answer" };
    lines.push((
        "Store",
        format!("{}, revision {}, {store}", output::or_dash(&view.store.kind), view.store.revision),
    ));
    lines.push((
        "Leader",
        match &view.leader {
            None if !view.store.answers => UNKNOWN.to_owned(),
            None => "nobody".to_owned(),
            Some(leader) => format!(
                "{}, version {}, since {}",
                output::machine_text(&leader.machine, &leader.ip, false),
                output::or_dash(&leader.version),
                output::time_text(leader.since)
            ),
        },
    ));
    let counts = &view.machines;
    let known = |text: String| if view.store.answers { text } else { UNKNOWN.to_owned() };
    lines.push((
        "Machines",
        known(format!(
            "{} present, {} missing, {} lost, {}{} cordoned",
            counts.present,
            counts.missing,
            counts.lost,
            if counts.expected > 0 { format!("{} expected, ", counts.expected) } else { String::new() },
            counts.cordoned
        )),
    ));
    lines.push(("Units", known(view.units.to_string())));
    if let Some(hold) = &view.hold {
        lines.push((
            "HOLD",
            format!(
                "since {}, found by {}: {}; nothing is applied until fleetctl cluster adopt",
                output::time_text(hold.since),
                output::machine_id(&hold.by, false),
                hold.why
            ),
        ));
    }
    if let Some(import) = &view.import {
        lines.push((
            "IMPORT",
            format!(
                "of cluster {}, begun by {} at {}, goes on or broke off: {}",
                import.cluster,
                import.by,
                output::time_text(import.since),
                import.remedy
            ),
        ));
    }
    if let Some(brake) = &view.brake {
        lines.push((
            "BRAKE",
            format!(
                "{} ({}) since {}: {}; {} units held back; fleetctl cluster resume lets them go",
                brake.state,
                brake.cause,
                output::time_text(brake.since),
                brake.text,
                brake.held
            ),
        ));
    }
    let local = &view.local;
    let mut connection = local.connection.clone();
    if local.text.starts_with(&connection) {
        // It says the same, and more.
        connection.clone_from(&local.text);
    } else {
        if let Some(since) = local.holding_since {
            let _infallible = write!(connection, ", holding since {}", output::time_text(since));
        }
        if !local.text.is_empty() {
            let _infallible = write!(connection, ": {}", local.text);
        }
    }
    lines.push((
        "Asked",
        format!(
            "{} ({}), version {}, {connection}",
            output::machine_id(&local.machine, false),
            output::or_dash(&local.hostname),
            output::or_dash(&local.version)
        ),
    ));
    if let Some(audit) = local.last_audit {
        lines.push(("Last audit", format!("{} ago", output::ago(audit))));
    }
    lines.iter().fold(String::new(), |mut out, (name, text)| {
        let _infallible = writeln!(out, "{name:>10}: {text}");
        out
    })
}

async fn adopt(connection: &Connection, command: Adopt) -> anyhow::Result<Exit> {
    let request = AdoptRequest { yes: command.yes, by: change::who(), why: command.reason.why };
    let report = match connection.adopt(&request).await {
        Ok(report) => report,
        Err(error) => {
            output::note(format!("Error adopting the store: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    if command.output.is_json() {
        json::print(&report)?;
    } else {
        let verb = if report.done { "Stops" } else { "Would stop" };
        output::raw(effects(verb, &report.would_stop))?;
        let verb = if report.done { "Starts" } else { "Would start" };
        output::raw(effects(verb, &report.would_start))?;
        if report.done {
            output::line(format!("Adopted; the epoch is now {}.", report.epoch))?;
        }
    }
    if report.done {
        return Ok(Exit::DONE);
    }
    output::note("Nothing was changed. Run it again with --yes to adopt the store as it is.");
    Ok(Exit::FAILED)
}

pub(super) fn effects(verb: &str, effects: &[AdoptEffect]) -> String {
    if effects.is_empty() {
        return format!("{verb} nothing.\n");
    }
    let mut out = format!("{verb} {} units:\n", effects.len());
    for effect in effects {
        let machine = output::machine_id(&effect.machine, false);
        let _infallible = writeln!(out, "  {} on {machine}: {}", effect.unit, effect.why);
    }
    out
}

async fn resume(connection: &Connection, command: Resume) -> anyhow::Result<Exit> {
    let requester = Requester { by: change::who(), why: command.reason.why };
    match connection.resume(&requester).await {
        Ok(done) if command.output.is_json() => json::print(&done)?,
        Ok(done) => output::line(done.text)?,
        Err(error) => {
            output::note(format!("Error releasing the brake: {error}"));
            return Ok(change::exit_of(&error));
        }
    }
    Ok(Exit::DONE)
}
