//! `mass_start`: 300 new units in one request, against the same machines' systemd driven directly.

use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use fleet_api::v2::Verb;

use super::Say;
use super::cluster::{Cluster, monotonic, on_cluster, unit_text};
use super::figure::{Figure, Ratio, Samples, Target};
use crate::lab::{Machine, wait_for};

const UNITS: usize = 300;
/// Each round measures both, so that what else the host does hits both alike.
const ROUNDS: usize = 5;
const ALL_ACTIVE: Duration = Duration::from_secs(60);

/// # Errors
/// When the lab does not boot or a unit does not start.
pub fn run(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    on_cluster("bench-mass", |cluster| measure(cluster, say))
}

fn measure(cluster: &Cluster, say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    say("three machines are up");
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    let (mut accepted, mut first, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let fleet = through_fleet(cluster, round)?;
        let direct = directly(cluster, round)?;
        say(&format!(
            "round {}: {UNITS} units were active after {:.2} s through fleet, after {:.2} s directly",
            round + 1,
            fleet.active.as_secs_f64(),
            direct.as_secs_f64()
        ));
        ours.push(rate(fleet.active));
        peers.push(rate(direct));
        accepted.push(fleet.accepted.as_secs_f64());
        first.push(fleet.first_active.as_secs_f64());
        told.push(fleet.told.as_secs_f64());
    }
    let (ours, peers) = (Samples::new(ours), Samples::new(peers));
    let target = Target { peer: Some((peers.median(), Ratio::AtLeast(0.7))), ..Target::default() };
    let figure = Figure::new("mass_start", "units/s", &ours, ours.median(), target)
        .part("accepted_s", Samples::new(accepted).median())
        .part("first_active_s", Samples::new(first).median())
        .part("told_done_s", Samples::new(told).median())
        .part("best_units_per_s", ours.max())
        .part("best_peer_units_per_s", peers.max());
    Ok(vec![figure])
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred units")]
fn rate(taken: Duration) -> f64 {
    UNITS as f64 / taken.as_secs_f64()
}

struct Taken {
    accepted: Duration,
    first_active: Duration,
    active: Duration,
    told: Duration,
}

fn through_fleet(cluster: &Cluster, round: usize) -> anyhow::Result<Taken> {
    let units: Vec<_> = (0..UNITS)
        .map(|n| {
            (format!("mass-{round}-{n}.service"), Some(unit_text(&format!("unit {n} of round {round}"))))
        })
        .collect();
    let client = cluster.client()?;
    let sent = monotonic()?;
    let results = cluster.request(&client, Verb::Start, &units)?;
    let accepted = monotonic()? - sent;
    cluster.wait(&client, &results)?;
    let told = monotonic()? - sent;
    let active = cluster.active_since(&format!("mass-{round}-*.service"))?;
    ensure!(active.len() == UNITS, "{} of {UNITS} units are active", active.len());
    let first = active.values().min().context("units are active")?.saturating_sub(sent);
    let last = active.values().max().context("units are active")?.saturating_sub(sent);
    cluster.destroy(&units)?;
    Ok(Taken { accepted, first_active: first, active: last, told })
}

/// Each machine writes and links its share of new files and starts them with one `systemctl`, all machines at once.
fn directly(cluster: &Cluster, round: usize) -> anyhow::Result<Duration> {
    let machines = cluster.lab.machines();
    let share = UNITS / machines.len();
    let mut shells =
        machines.iter().map(|machine| shell(machine, round, share)).collect::<Result<Vec<_>, _>>()?;
    let began = monotonic()?;
    for shell in &mut shells {
        shell.stdin.take().context("the shell has an input")?.write_all(b"go\n")?;
    }
    for shell in &mut shells {
        ensure!(shell.wait()?.success(), "systemctl start failed on a machine");
    }
    let pattern = format!("direct-{round}-*.service");
    let active = wait_for(ALL_ACTIVE, "the units started directly", || {
        cluster.active_since(&pattern).ok().filter(|active| active.len() == UNITS)
    })?;
    let last = active.values().max().context("units are active")?;
    for machine in &machines {
        machine.systemctl(&["stop", &pattern])?;
        machine.run(&[
            "sh",
            "-c",
            "rm -rf /run/direct /run/systemd/system/direct-*; systemctl daemon-reload",
        ])?;
    }
    Ok(last.saturating_sub(began))
}

/// A shell on the machine that waits for a line, so that starting shells is not measured.
fn shell(machine: &Machine<'_>, round: usize, units: usize) -> anyhow::Result<Child> {
    let script = r#"
        mkdir -p /run/direct
        read -r go
        names=
        n=0
        while [ "$n" -lt "$2" ]; do
            name=direct-$1-$n.service
            printf '%s' "$3" >"/run/direct/$name"
            names="$names $name"
            n=$((n + 1))
        done
        # One ln for all: a process for each link would be slower than what is compared with it.
        cd /run/direct && ln -s $(for name in $names; do echo "/run/direct/$name"; done) /run/systemd/system/
        exec systemctl start $names"#;
    let mut command = machine.command("sh")?;
    // Names differ between machines as well: each has files of its own.
    let tag = format!("{round}-{}", machine.name());
    command.args(["-c", script, "sh", &tag, &units.to_string(), &unit_text("started directly")]);
    command.stdin(Stdio::piped()).spawn().context("start a shell on the machine")
}
