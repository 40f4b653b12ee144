//! The chapters in which something breaks: a machine loses its power, fleetd is killed, etcd goes away.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fleet_tests::lab::wait_for;

use crate::stage::{Runs, Stage};
use crate::story::SOON;

/// fleetd's default, which the lab leaves as it is.
const AGENT_TTL: Duration = Duration::from_secs(15);
/// What failover may take beyond that.
const ALLOWANCE: Duration = Duration::from_secs(1);
/// When it has not happened by then it never will.
const DEADLINE: Duration = Duration::from_secs(60);
const WITHOUT_ETCD: Duration = Duration::from_secs(30);
/// After so many seconds every machine has noticed.
const LOOK_AT_STATUS: u64 = 15;

const ALL: [&str; 3] = ["m1", "m2", "m3"];
const VICTIM: &str = "m3";
const SURVIVORS: [&str; 2] = ["m1", "m2"];
const WORKER: &str = "[Unit]\nDescription=Worker %i\n\n[Service]\nExecStart=/bin/sleep infinity\n";

/// # Errors
/// The first thing that is not as told.
pub fn tell(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let untouched = power_cut(stage)?;
    power_back(stage, &untouched)?;
    fleetd_killed(stage)?;
    etcd_away(stage)
}

fn power_cut(stage: &mut Stage<'_>) -> anyhow::Result<Runs> {
    stage.chapter(
        "A machine dies",
        "Six workers that may run anywhere are started; then m3 loses its power, without warning.",
    );
    let directory = tempdir(stage)?;
    let template = directory.join("worker@.service");
    std::fs::write(&template, WORKER).with_context(|| format!("write {}", template.display()))?;
    for line in std::iter::once("worker@.service:").chain(WORKER.lines()) {
        stage.say(&format!("| {line}"));
    }
    let workers = ["worker@1", "worker@2", "worker@3", "worker@4", "worker@5", "worker@6"];
    stage.fleetctl_in(&directory, "m1", 0, &[&["start"], workers.as_slice()].concat())?;
    let doomed: Vec<String> = stage.runs(&[VICTIM])?.into_keys().map(|(_, unit)| unit).collect();
    let moving: Vec<&String> = doomed.iter().filter(|unit| unit.starts_with("worker@")).collect();
    ensure!(!moving.is_empty(), "no worker runs on {VICTIM}");
    let untouched = stage.runs(&SURVIVORS)?;
    stage.say(&format!("On {VICTIM} run {}.", doomed.join(", ")));

    let died = Instant::now();
    stage.lab.try_machine(VICTIM)?.kill()?;
    stage.say(&format!("{VICTIM} is off. Nobody told the cluster."));
    stage.wait_for_rows("m1", DEADLINE, "the units of the dead machine to read unknown", |rows| {
        let mut of_victim = rows.iter().filter(|row| row.machine == VICTIM).peekable();
        of_victim.peek().is_some() && of_victim.all(|row| row.active == "unknown")
    })?;
    stage.measured("until its units read unknown", died.elapsed(), None);
    stage.fleetctl("m1", 0, &["list-units"])?;
    let survivors =
        SURVIVORS.iter().map(|name| stage.lab.try_machine(name)).collect::<Result<Vec<_>, _>>()?;
    wait_for(DEADLINE, "the workers of the dead machine to run elsewhere", || {
        let runs = |unit: &str| survivors.iter().any(|machine| machine.is_unit_populated(unit));
        moving.iter().all(|unit| runs(unit)).then_some(())
    })?;
    let taken = died.elapsed();
    stage.bounded("until its workers run elsewhere (agent_ttl is 15 s)", taken, AGENT_TTL + ALLOWANCE)?;
    stage.wait_for_rows("m1", SOON, "the moved workers to be listed as active", |rows| {
        moving.iter().all(|unit| {
            rows.iter().any(|row| row.unit == **unit && row.machine != VICTIM && row.active == "active")
        })
    })?;
    stage.fleetctl("m1", 0, &["list-units"])?;
    if let Some(hello) = doomed.iter().find(|unit| unit.starts_with("hello@")) {
        stage.say(&format!("{hello} waits: the other two machines have an instance already."));
        stage.fleetctl("m1", 0, &["why", hello])?;
    }
    stage.undisturbed(&untouched, &SURVIVORS)?;
    drop(std::fs::remove_dir_all(directory));
    stage.runs(&SURVIVORS)
}

fn power_back(stage: &mut Stage<'_>, untouched: &Runs) -> anyhow::Result<()> {
    stage.chapter(
        "The machine comes back",
        "m3 boots. It gets its global unit and its instance of hello; what moved stays where it is.",
    );
    let began = Instant::now();
    stage.lab.try_machine(VICTIM)?.start()?;
    stage.measured("m3 boots", began.elapsed(), None);
    stage.wait_for_rows("m1", DEADLINE, "m3 to run its units again", |rows| {
        let runs = |unit: &str| {
            rows.iter()
                .any(|row| row.machine == VICTIM && row.unit.starts_with(unit) && row.active == "active")
        };
        runs("everywhere.service") && runs("hello@")
    })?;
    let victim = stage.lab.try_machine(VICTIM)?;
    wait_for(SOON, "what is listed as active to run", || {
        victim.is_unit_populated("everywhere.service").then_some(())
    })?;
    stage.measured("from power to its units active", began.elapsed(), None);
    stage.fleetctl("m1", 0, &["list-units"])?;
    stage.undisturbed(untouched, &SURVIVORS)
}

fn fleetd_killed(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.chapter(
        "fleetd is killed",
        "SIGKILL for fleetd on every machine, under all running units. systemd starts it again.",
    );
    let before = stage.runs(&ALL)?;
    let machines = stage.lab.machines();
    let pids =
        machines.iter().map(|machine| machine.main_pid("fleetd.service")).collect::<Result<Vec<_>, _>>()?;
    let began = Instant::now();
    for machine in &machines {
        machine.fleetd_kill()?;
    }
    for (machine, old) in machines.iter().zip(pids) {
        wait_for(DEADLINE, "a new fleetd", || {
            let pid = machine.main_pid("fleetd.service").ok()?;
            (pid.is_some() && pid != old).then_some(())
        })?;
        machine.await_fleetd()?;
    }
    let machines = machines.len();
    wait_for(DEADLINE, "the cluster to be complete again", || {
        let output = stage.quietly("m2", &["list-machines", "--no-legend"]).ok()?;
        (output.stdout.lines().count() == machines).then_some(())
    })?;
    stage.measured("fleetd killed everywhere, cluster complete again", began.elapsed(), None);
    stage.say("Does it still take orders? hello@1 gets a new run:");
    stage.fleetctl("m2", 0, &["restart", "hello@1.service"])?;
    let others: Runs = before.into_iter().filter(|((_, unit), _)| unit != "hello@1.service").collect();
    stage.undisturbed(&others, &ALL)
}

fn etcd_away(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.chapter(
        "etcd is away for 30 seconds",
        "Without the registry nothing new is decided, and nothing stops: absence is no order.",
    );
    let before = stage.runs(&ALL)?;
    stage.lab.etcd().stop(None)?;
    let stopped = Instant::now();
    for second in 1..=WITHOUT_ETCD.as_secs() {
        let next = Duration::from_secs(second);
        wait_for(DEADLINE, "a second to pass", || (stopped.elapsed() >= next).then_some(()))?;
        for (machine, unit) in before.keys() {
            let lives = stage.lab.try_machine(machine)?.is_unit_populated(unit);
            ensure!(lives, "{unit} on {machine} stopped within {second} s after etcd");
        }
        if second % 10 == 0 {
            stage.say(&format!("{second} s without etcd: all {} units run.", before.len()));
        }
        if second == LOOK_AT_STATUS {
            // Not the exit code: what a machine can say of itself without the registry is what matters here.
            let status = stage.quietly("m1", &["cluster", "status"])?;
            stage.say("(m1) $ fleetctl cluster status");
            for line in status.stdout.lines().chain(status.stderr.lines()) {
                stage.say(&format!("| {line}"));
            }
        }
    }
    stage.undisturbed(&before, &ALL)?;
    let began = Instant::now();
    stage.lab.etcd().start(None)?;
    let machines = stage.lab.machines().len();
    wait_for(DEADLINE, "the cluster to be complete again", || {
        let output = stage.quietly("m1", &["list-machines", "--no-legend"]).ok()?;
        (output.stdout.lines().count() == machines).then_some(())
    })?;
    stage.measured("etcd started again, cluster complete", began.elapsed(), None);
    let began = Instant::now();
    stage.fleetctl("m1", 0, &["restart", "hello@1.service"])?;
    stage.measured("first order after etcd came back", began.elapsed(), None);
    let others: Runs = before.into_iter().filter(|((_, unit), _)| unit != "hello@1.service").collect();
    stage.undisturbed(&others, &ALL)
}

/// A place for the demo's own unit file.
fn tempdir(stage: &Stage<'_>) -> anyhow::Result<std::path::PathBuf> {
    let directory = stage.lab.directory().join("story");
    std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory)
}
