//! The chapters in which nothing breaks: machines, units of every kind, looking at them, stopping, starting, and the end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fleet_tests::lab::wait_for;

use crate::stage::{Stage, is_of_story};

/// A cluster that has just booted is complete by then.
const READY: Duration = Duration::from_secs(30);
/// No row of a unit takes longer to follow what systemd does.
pub const SOON: Duration = Duration::from_secs(10);
/// A unit that nobody can take is refused by then.
const REFUSED: Duration = Duration::from_secs(5);

const HELLOS: [&str; 3] = ["hello@1.service", "hello@2.service", "hello@3.service"];

/// # Errors
/// The first thing that is not as told.
pub fn tell(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    machines(stage)?;
    spread(stage)?;
    global(stage)?;
    pinned(stage)?;
    impossible(stage)?;
    looking(stage)?;
    stop_and_start(stage)
}

fn machines(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.chapter(
        "Three machines",
        "Each is a Debian with its own systemd, network address, disk and fleetd. They share an etcd.",
    );
    let began = Instant::now();
    let lab = stage.lab;
    wait_for(READY, "all machines to be listed, one of them as the leader", || {
        let words = ["list-machines", "--no-legend", "--fields", "machine,leader"];
        let output = stage.quietly("m1", &words).ok()?;
        let leads = output.stdout.lines().any(|line| line.ends_with("true"));
        (leads && output.stdout.lines().count() == lab.machines().len()).then_some(())
    })?;
    stage.measured("from booted to a complete cluster", began.elapsed(), None);
    stage.fleetctl("m1", 0, &["list-machines", "--fields", "machine,ip,hostname,leader"])?;
    stage.say("The leader decides where units run. Any fleetd serves the API for the whole cluster; here m3 is asked.");
    let output = stage.fleetctl("m3", 0, &["list-machines"])?;
    for machine in lab.machines() {
        let address = machine.address().to_string();
        ensure!(output.stdout.contains(&address), "list-machines on m3 lacks {address}");
    }
    Ok(())
}

fn spread(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.chapter(
        "Three instances of a template",
        "hello@.service says Conflicts=hello@*.service: no two instances share a machine.",
    );
    let arguments = ["start", "examples/hello/hello@1", "examples/hello/hello@2", "examples/hello/hello@3"];
    let began = Instant::now();
    stage.fleetctl("m1", 0, &arguments)?;
    stage.measured("three instances submitted and active", began.elapsed(), None);
    stage.fleetctl("m1", 0, &["list-units"])?;
    let rows = stage.rows("m1")?;
    let active = rows.iter().filter(|row| HELLOS.contains(&row.unit.as_str()) && row.active == "active");
    let on: BTreeSet<_> = active.map(|row| row.machine.clone()).collect();
    ensure!(on.len() == HELLOS.len(), "three instances are active on {on:?}, expected three machines");
    Ok(())
}

fn global(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.chapter("A global unit", "everywhere.service says Global=true: it runs on every machine.");
    stage.fleetctl("m1", 0, &["start", "examples/global/everywhere.service"])?;
    stage.wait_for_rows("m1", SOON, "everywhere.service to be active on three machines", |rows| {
        rows.iter().filter(|row| row.unit == "everywhere.service" && row.active == "active").count() == 3
    })?;
    stage.fleetctl("m1", 0, &["list-units"]).map(drop)
}

fn pinned(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.chapter(
        "A unit pinned by metadata",
        "ssd.service says MachineMetadata=disk=ssd: only m2 has that in its fleetd.toml.",
    );
    stage.fleetctl("m1", 0, &["start", "examples/pinned/ssd.service"])?;
    let rows = stage.rows("m1")?;
    let on = rows.iter().find(|row| row.unit == "ssd.service").context("ssd.service has a row")?;
    ensure!(on.machine == "m2" && on.active == "active", "ssd.service is {} on {}", on.active, on.machine);
    stage.say("Checked: it runs on m2.");
    Ok(())
}

fn impossible(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.chapter(
        "A unit that no machine can take",
        "moon.service wants site=moon. The answer comes at once, with the reason for every machine.",
    );
    let began = Instant::now();
    let refused = stage.fleetctl("m1", 5, &["start", "examples/impossible/moon.service"])?;
    stage.bounded("a unit that cannot be placed is refused", began.elapsed(), REFUSED)?;
    stage.say("It stays wanted, and the reasons can be asked for at any time:");
    let why = stage.fleetctl("m1", 0, &["why", "moon.service"])?;
    for machine in stage.lab.machines() {
        let id = machine.machine_id();
        let short = id.get(..8).unwrap_or(&id);
        for text in [format!("{}{}", refused.stdout, refused.stderr), why.stdout.clone()] {
            ensure!(text.contains(short), "no reason is given for {}", machine.name());
        }
    }
    stage.fleetctl("m1", 0, &["destroy", "moon.service"]).map(drop)
}

fn looking(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let rows = stage.rows("m1")?;
    let elsewhere = rows.iter().find(|row| HELLOS.contains(&row.unit.as_str()) && row.machine != "m1");
    let row = elsewhere.context("an instance runs elsewhere than on m1")?.clone();
    stage.chapter(
        "Looking at a unit that runs elsewhere",
        &format!(
            "{} runs on {}; m1 is asked and fetches status and journal from there.",
            row.unit, row.machine
        ),
    );
    let status = stage.fleetctl("m1", 0, &["status", &row.unit])?;
    ensure!(status.stdout.contains("active (running)"), "status does not say active (running)");
    let text = stage.fleetctl("m1", 0, &["cat", &row.unit])?;
    ensure!(text.stdout.contains("ExecStart="), "cat shows no ExecStart=");
    let journal = stage.fleetctl("m1", 0, &["journal", "--lines", "3", &row.unit])?;
    let line = format!("on {}", row.machine);
    ensure!(journal.stdout.contains(&line), "the journal lacks what the unit says {line:?}");
    Ok(())
}

fn stop_and_start(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.chapter("Stop and start", "A stopped unit keeps its machine; a start gives it a new run.");
    let before = stage.runs(&["m1", "m2", "m3"])?;
    let began = Instant::now();
    stage.fleetctl("m1", 0, &["stop", "hello@1.service"])?;
    stage.measured("stop", began.elapsed(), None);
    stage.wait_for_rows("m1", SOON, "hello@1.service to be inactive", |rows| {
        rows.iter().any(|row| row.unit == "hello@1.service" && row.active == "inactive")
    })?;
    stage.fleetctl("m1", 0, &["list-units"])?;
    let began = Instant::now();
    stage.fleetctl("m1", 0, &["start", "hello@1.service"])?;
    stage.measured("start", began.elapsed(), None);
    let after = stage.runs(&["m1", "m2", "m3"])?;
    for (place, run) in &before {
        let is_same = after.get(place) == Some(run);
        let (machine, unit) = place;
        ensure!(after.contains_key(place), "{unit} does not run on {machine} any more");
        ensure!(is_same == (unit != "hello@1.service"), "{unit} on {machine}: which run it has is wrong");
    }
    stage.say("Checked: hello@1 runs anew where it was; nothing else was touched.");
    Ok(())
}

/// Everything is destroyed.
///
/// # Errors
/// When something is left.
pub fn close(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.chapter(
        "The end",
        "Everything is destroyed: stopped on its machine, then forgotten by the cluster.",
    );
    let listed = stage.quietly("m1", &["list-unit-files", "--no-legend", "--fields", "unit"])?;
    let names: Vec<&str> = listed.stdout.lines().map(str::trim).collect();
    let began = Instant::now();
    stage.fleetctl("m1", 0, &[&["destroy"], names.as_slice()].concat())?;
    stage.measured("everything destroyed", began.elapsed(), None);
    stage.wait_for_rows("m1", SOON, "no unit to be listed", <[_]>::is_empty)?;
    let left = stage.quietly("m1", &["list-unit-files", "--no-legend"])?.stdout;
    ensure!(left.trim().is_empty(), "list-unit-files still shows:\n{left}");
    for machine in stage.lab.machines() {
        let running: Vec<_> = machine.running_units().into_iter().filter(|unit| is_of_story(unit)).collect();
        ensure!(running.is_empty(), "{} still runs {}", machine.name(), running.join(", "));
    }
    stage.say("Checked: no unit is listed, and none runs on any machine.");
    Ok(())
}
