//! `list_units`, `state_rows` and `version`: what a person or a script waits for, and what it costs.

use std::io::Read;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, ensure};
use fleet_api::v1::UnitStatePage;

use super::Say;
use super::cluster::{Cluster, millis};
use super::figure::{Figure, Samples, Target};
use super::filled::on_filled;
use super::process::{peak_mib_since, process_peak_mib, reset_peak};
use crate::lab::Machine;

const MACHINES: usize = 100;
const UNITS: usize = 2_000;
const ROWS: usize = 10_000;
const RUNS: usize = 30;
const LIST_MILLIS: f64 = 50.0;
const MIB: f64 = 20.0;
const VERSION_MILLIS: f64 = 5.0;

/// `list_units`, `list_units_memory` and `version`: fleetctl from its exec to its end, and the most memory it had.
///
/// # Errors
/// When the lab does not boot or the list has not every unit in it.
pub fn units(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    on_filled("bench-list", MACHINES, UNITS, |cluster| {
        say(&format!("{UNITS} units are active on {MACHINES} machines; they are listed {RUNS} times"));
        let machine = cluster.lab.try_machine("m1")?;
        let mut taken = Vec::new();
        for _ in 0..RUNS {
            let (elapsed, lines) = run(&machine, "list-units")?;
            ensure!(lines == UNITS + 1, "list-units printed {lines} lines for {UNITS} units");
            taken.push(elapsed);
        }
        let peaks: anyhow::Result<Vec<f64>> = (0..5).map(|_| peak(&machine, "list-units")).collect();
        let versions: anyhow::Result<Vec<f64>> =
            (0..100).map(|_| run(&machine, "version").map(|(elapsed, _)| elapsed)).collect();
        let (taken, peaks, versions) = (Samples::new(taken), Samples::new(peaks?), Samples::new(versions?));
        Ok(vec![
            Figure::new("list_units", "ms", &taken, taken.median(), limit(LIST_MILLIS))
                .part("fastest_ms", taken.min()),
            Figure::new("list_units_memory", "MiB", &peaks, peaks.max(), limit(MIB)),
            Figure::new("version", "ms", &versions, versions.median(), limit(VERSION_MILLIS)),
        ])
    })
}

/// `state_rows`: how much more memory fleetd has while a client of API v1 reads every page of 10,000 rows.
///
/// # Errors
/// When the lab does not boot or a row is missing.
pub fn rows(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    on_filled("bench-rows", MACHINES, ROWS, |cluster| {
        say(&format!("{ROWS} units are active on {MACHINES} machines"));
        let machine = cluster.lab.try_machine("m1")?;
        let (mut more, mut walked) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let before = reset_peak(&machine)?;
            let began = Instant::now();
            let rows = walk(cluster)?;
            walked.push(began.elapsed().as_secs_f64());
            ensure!(rows == ROWS, "{rows} of {ROWS} rows were answered");
            more.push(peak_mib_since(&machine, before)?);
        }
        let more = Samples::new(more);
        let figure = Figure::new("state_rows", "MiB more", &more, more.max(), limit(MIB));
        Ok(vec![figure.part("all_pages_s", Samples::new(walked).median())])
    })
}

fn limit(limit: f64) -> Target {
    Target { limit: Some(limit), ..Target::default() }
}

/// Every page of `/fleet/v1/state`, one after the other. Gives the number of rows.
fn walk(cluster: &Cluster) -> anyhow::Result<usize> {
    let client = cluster.client()?;
    cluster.runtime.block_on(async {
        let (mut rows, mut token) = (0, String::new());
        loop {
            let path = format!("/fleet/v1/state?nextPageToken={token}");
            let path = if token.is_empty() { "/fleet/v1/state" } else { &path };
            let page: UnitStatePage = client.get(path).await?;
            rows += page.states.len();
            token = page.next_page_token;
            if token.is_empty() {
                return Ok(rows);
            }
        }
    })
}

/// The most memory that fleetctl had when its output begins: it prints what it has put together, and cannot end before
/// somebody has read more than a pipe holds.
fn peak(machine: &Machine<'_>, verb: &str) -> anyhow::Result<f64> {
    let mut command = machine.fleetctl_command()?;
    let mut child = command.arg(verb).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut output = child.stdout.take().context("the output is piped")?;
    let mut first = [0];
    output.read_exact(&mut first)?;
    let peak = process_peak_mib(child.id());
    let mut rest = Vec::new();
    output.read_to_end(&mut rest)?;
    let status = child.wait()?;
    ensure!(status.success(), "fleetctl {verb} ended with {status}");
    peak
}

/// Milliseconds from the exec of `fleetctl VERB` to its end, and the lines that it printed.
fn run(machine: &Machine<'_>, verb: &str) -> anyhow::Result<(f64, usize)> {
    let mut command = machine.fleetctl_command()?;
    let began = Instant::now();
    let output = command.arg(verb).output()?;
    let elapsed = millis(began.elapsed());
    ensure!(output.status.success(), "fleetctl {verb} ended with {}", output.status);
    Ok((elapsed, output.stdout.iter().filter(|byte| **byte == b'\n').count()))
}
