//! `ready`: how long fleetd takes to serve, on one machine with 200 units in its embedded store.
//!
//! From the exec of the binary to systemd's receipt of `READY=1`, both by systemd's clock. Debian 12's does not say when it is
//! done with the unit's sandbox and executes the binary: Debian 13's machine is measured.

use std::time::Duration;

use anyhow::Context;

use super::Say;
use super::cluster::{Cluster, alone, millis, on_lab, unit_text};
use super::figure::{Figure, Samples, Target};
use crate::lab::{Machine, Release};

const UNITS: usize = 200;
/// A restart, the machine's units running: what an upgrade does.
const RESTARTS: usize = 20;
const MILLIS: f64 = 70.0;

/// # Errors
/// When the lab does not boot or a unit does not start.
pub fn run(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    on_lab(alone("bench-ready", Release::Trixie), |cluster| measure(cluster, say))
}

fn measure(cluster: &Cluster, say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    let units: Vec<_> = (0..UNITS)
        .map(|n| (format!("ready-{n}.service"), Some(unit_text(&format!("unit {n} of a restart")))))
        .collect();
    cluster.start(&units)?;
    say(&format!("{UNITS} units run; fleetd is restarted {RESTARTS} times"));
    let machine = cluster.lab.try_machine("m1")?;
    let (mut taken, mut sandboxed) = (Vec::new(), Vec::new());
    for _ in 0..RESTARTS {
        machine.fleetd_restart()?;
        let start = Start::of(&machine)?;
        taken.push(millis(start.ready.saturating_sub(start.executed)));
        sandboxed.push(millis(start.executed.saturating_sub(start.forked)));
        cluster.await_present(1)?;
    }
    let taken = Samples::new(taken);
    let target = Target { limit: Some(MILLIS), ..Target::default() };
    let figure = Figure::new("ready", "ms", &taken, taken.median(), target)
        .part("fastest_ms", taken.min())
        .part("sandbox_ms", Samples::new(sandboxed).median());
    Ok(vec![figure])
}

/// When the process that runs now came so far, on systemd's clock.
struct Start {
    forked: Duration,
    executed: Duration,
    ready: Duration,
}

impl Start {
    fn of(machine: &Machine<'_>) -> anyhow::Result<Start> {
        let at = |event: &str| -> anyhow::Result<Duration> {
            let property = format!("{event}TimestampMonotonic");
            let shown = machine.property("fleetd.service", &property)?;
            Ok(Duration::from_micros(shown.parse().with_context(|| format!("{property} is {shown:?}"))?))
        };
        Ok(Start {
            forked: at("ExecMainStart")?,
            executed: at("ExecMainHandoff")?,
            ready: at("ActiveEnter")?,
        })
    }
}
