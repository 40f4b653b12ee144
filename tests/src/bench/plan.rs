//! `plan_noop`, `plan_full` and `plan_place`: the engine's pure pass on large clusters, on one core.
//!
//! Measured is the thread's own processor time: what else the host does at the moment is not the plan's.

use std::hint::black_box;
use std::time::Duration;

use anyhow::ensure;
use fleet_core::plan::{Write, plan};
use fleet_core::world::World;
use nix::time::{ClockId, clock_gettime};

use super::Say;
use super::cluster::millis;
use super::figure::{Figure, Samples, Target};
use super::synthetic::{NOW, Synthetic};

const MACHINES: usize = 1_000;
/// More passes than this settle no plan that is right.
const PASSES_TO_REST: usize = 5;

/// `plan_noop` and `plan_full`: 20,000 units stand where they belong.
///
/// # Errors
/// When the synthetic cluster does not come to rest.
pub fn noop(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    const UNITS: usize = 20_000;
    let mut synthetic = Synthetic::default();
    let mut world = world(&mut synthetic, UNITS)?;
    let mut passes = 0;
    loop {
        let planned = plan(&world, &synthetic.policy(), NOW);
        let rests = planned.groups.is_empty();
        synthetic.carry_out(&mut world, &planned);
        if rests && world.dirty().is_empty() {
            break;
        }
        passes += 1;
        ensure!(passes <= PASSES_TO_REST, "the synthetic cluster does not come to rest");
    }
    ensure!(world.placed() == UNITS, "{} of {UNITS} units were placed", world.placed());
    say(&format!("{UNITS} units stand on {MACHINES} machines"));

    let policy = synthetic.policy();
    let clean = timed(200, || {
        black_box(plan(black_box(&world), &policy, NOW));
    })?;
    world.mark_everything();
    let full = timed(20, || {
        black_box(plan(black_box(&world), &policy, NOW));
    })?;
    let limit = Target { limit: Some(2.0), ..Target::default() };
    Ok(vec![
        Figure::new("plan_noop", "ms", &clean, clean.median(), limit),
        Figure::new("plan_full", "ms", &full, full.median(), Target::default()),
    ])
}

/// `plan_place`: 100,000 new units at once.
///
/// # Errors
/// When the plan leaves a unit without a machine.
pub fn place(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    const UNITS: usize = 100_000;
    let mut synthetic = Synthetic::default();
    let world = world(&mut synthetic, UNITS)?;
    let policy = synthetic.policy();
    let first = plan(&world, &policy, NOW);
    let orders = first.groups.iter().flat_map(|group| &group.writes);
    let orders = orders.filter(|write| matches!(write, Write::PutOrder(..))).count();
    ensure!(orders == UNITS, "{orders} of {UNITS} units got a machine");
    drop(first);
    say(&format!("{UNITS} new units, {MACHINES} machines"));
    let mut taken = Vec::new();
    for _ in 0..7 {
        let began = processor_time()?;
        let planned = black_box(plan(black_box(&world), &policy, NOW));
        taken.push((processor_time()? - began).as_secs_f64());
        // The engine hands it to the registry; taking it apart is not planning.
        drop(planned);
    }
    let taken = Samples::new(taken);
    let figure = Figure::new(
        "plan_place",
        "s",
        &taken,
        taken.median(),
        Target { limit: Some(1.0), ..Target::default() },
    );
    Ok(vec![figure.part("fastest", taken.min())])
}

/// Milliseconds of each pass, after one that does not count.
fn timed(samples: usize, mut pass: impl FnMut()) -> anyhow::Result<Samples> {
    pass();
    let mut taken = Vec::new();
    for _ in 0..samples {
        let began = processor_time()?;
        pass();
        taken.push(millis(processor_time()? - began));
    }
    Ok(Samples::new(taken))
}

fn processor_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// A cluster of ten zones with `units` units of which four in five ask for nothing, and the fifth in equal parts for
/// instances apart (`Conflicts=` with a glob), a zone (`MachineMetadata=`), or another unit's machine (`MachineOf=`).
fn world(synthetic: &mut Synthetic, units: usize) -> anyhow::Result<World> {
    let mut events = vec![synthetic.cluster()?];
    for n in 0..MACHINES {
        let metadata = [("zone", format!("z{}", n % 10)), ("disk", "ssd".to_owned())];
        events.extend(synthetic.machine(&format!("{:032x}", n * 0x9e37_79b9), &metadata)?);
    }
    for n in 0..units {
        // Fifteen units: three that ask for something, twelve that do not.
        let (name, section) = match n % 15 {
            0 => {
                // Ten instances a template.
                let (app, instance) = (n / 150, n / 15 % 10);
                (format!("app{app}@{instance}.service"), format!("Conflicts=app{app}@*.service"))
            }
            5 => (format!("zoned-{n}.service"), format!("MachineMetadata=zone=z{}", n / 15 % 10)),
            10 => (format!("sidecar-{n}.service"), format!("MachineOf=web-{}.service", n - 1)),
            _ => (format!("web-{n}.service"), String::new()),
        };
        events.push(synthetic.unit(&name, &section)?);
    }
    Ok(World::from_events(events))
}
