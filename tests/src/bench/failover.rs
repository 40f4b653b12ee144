//! `failover`: a machine with 20 units loses its power, unannounced.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::Say;
use super::cluster::{Cluster, monotonic, on_cluster, unit_text};
use super::figure::{Figure, Samples, Target};
use crate::lab::{Machine, wait_for};

/// Least loaded first: each of the three machines gets 20.
const UNITS: usize = 60;
const ON_ONE_MACHINE: usize = 20;
/// fleetd's default, which the lab leaves as it is.
const AGENT_TTL: Duration = Duration::from_secs(15);
const ALLOWANCE: Duration = Duration::from_secs(1);
/// When units have not moved by then they never will.
const DEADLINE: Duration = Duration::from_secs(60);

/// # Errors
/// When the lab does not boot, or units do not move at all.
pub fn run(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    on_cluster("bench-failover", |cluster| measure(cluster, say))
}

fn measure(cluster: &Cluster, say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    say("three machines are up");
    let (mut all, mut of_leader) = (Vec::new(), 0.0);
    for (round, kills_leader) in [false, false, true].into_iter().enumerate() {
        let taken = round_of(cluster, round, kills_leader)?.as_secs_f64();
        let whom = if kills_leader { "the leader's machine" } else { "a machine" };
        say(&format!(
            "{whom} lost its power: its {ON_ONE_MACHINE} units were active elsewhere after {taken:.2} s"
        ));
        all.push(taken);
        if kills_leader {
            of_leader = taken;
        }
    }
    let all = Samples::new(all);
    let limit = (AGENT_TTL + ALLOWANCE).as_secs_f64();
    // A promise, not an average: the slowest one counts.
    let figure =
        Figure::new("failover", "s", &all, all.max(), Target { limit: Some(limit), ..Target::default() });
    Ok(vec![figure.part("leader_killed_s", of_leader).part("fastest_s", all.min())])
}

fn round_of(cluster: &Cluster, round: usize, kills_leader: bool) -> anyhow::Result<Duration> {
    let prefix = format!("failover-{round}-");
    let units: Vec<_> = (0..UNITS)
        .map(|n| (format!("{prefix}{n}.service"), Some(unit_text(&format!("unit {n} of round {round}")))))
        .collect();
    cluster.start(&units)?;
    let leads = cluster.view()?.leader.context("somebody leads")?.machine;
    let machines = cluster.lab.machines();
    let (victims, others): (Vec<_>, Vec<_>) =
        machines.iter().partition(|machine| (machine.machine_id() == leads) == kills_leader);
    let victim = *victims.last().context("a machine to kill")?;
    let moving = running(victim, &prefix);
    ensure!(moving.len() == ON_ONE_MACHINE, "{} units run on {}", moving.len(), victim.name());
    let survivors: Vec<_> =
        others.into_iter().chain(victims.into_iter().filter(|m| m.name() != victim.name())).collect();

    let died = monotonic()?;
    victim.kill()?;
    wait_for(DEADLINE, "the units of the dead machine to run elsewhere", || {
        let everywhere: Vec<_> = survivors.iter().flat_map(|machine| running(machine, &prefix)).collect();
        moving.iter().all(|unit| everywhere.contains(unit)).then_some(())
    })?;
    let active = wait_for(DEADLINE, "systemd to call them active", || {
        let active = cluster.active_since(&format!("{prefix}*.service")).ok()?;
        moving.iter().map(|unit| active.get(unit).copied()).collect::<Option<Vec<_>>>()
    })?;
    let last = active.into_iter().max().context("units moved")?;

    victim.start()?;
    cluster.await_present(machines.len())?;
    cluster.destroy(&units)?;
    Ok(last.saturating_sub(died))
}

fn running(machine: &Machine<'_>, prefix: &str) -> Vec<String> {
    machine.running_units().into_iter().filter(|unit| unit.starts_with(prefix)).collect()
}
