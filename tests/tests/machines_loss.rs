//! P4 and failover on real machines: power cuts, reboots, and boots without the registry.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fleet_api::v2::{MachineState, StateView};
use fleet_tests::cluster::{Cluster, Run, SOON, run_of, runs_of};
use fleet_tests::lab::{LabOptions, Machine, Power, wait_for, wait_until};
use nix::time::{ClockId, clock_gettime};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";
const EVERYWHERE: &str = "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nGlobal=true\n";
/// Leaves a line for each run.
const COUNTED: &str =
    "[Service]\nExecStartPre=/bin/sh -c 'echo ran >> /var/lib/%n'\nExecStart=/bin/sleep infinity\n";
/// What two labs and a compiler on two cores may add to a time that is promised for an idle host.
const MARGIN: Duration = Duration::from_secs(3);

fn pinned(text: &str, machine: &Machine<'_>) -> String {
    format!("{text}[X-Fleet]\nMachineID={}\n", machine.machine_id())
}

fn lines_of(machine: &Machine<'_>, path: &str) -> usize {
    std::fs::read_to_string(machine.disk_path(path)).unwrap_or_default().lines().count()
}

/// The clock that machines and this process share.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every kernel has this clock").into()
}

fn began(run: &Run) -> Duration {
    Duration::from_micros(run.entered.parse().expect("systemd prints microseconds"))
}

#[test]
fn p4_units_of_a_lost_machine_read_unknown_until_they_move_or_it_returns() {
    let cluster = Cluster::up(LabOptions::for_test("p4-unknown").agent_ttl("6s"));
    let m3 = cluster.machine("m3");
    cluster.start("stays.service", &pinned(COUNTED, &m3));
    // The busiest machine gets no new unit: m3 runs one and the others will run two.
    for machine in [cluster.machine("m1"), cluster.machine("m2")] {
        let names = [format!("x{}.service", machine.name()), format!("y{}.service", machine.name())];
        let text = pinned(SLEEPS, &machine);
        cluster.start_all(names.iter().map(|name| (name.as_str(), text.as_str())));
    }
    cluster.start("moves.service", SLEEPS);
    assert_eq!(cluster.place_of("moves.service").name(), "m3");

    m3.kill().unwrap();
    let mut seen = BTreeSet::new();
    let elsewhere = wait_for(SOON, "moves.service to be active elsewhere", || {
        let rows = cluster.rows().ok()?;
        let is_present = cluster
            .machines()
            .ok()?
            .iter()
            .any(|machine| machine.id == m3.machine_id() && machine.state == MachineState::Present);
        // Judged by what was known before the rows and after them.
        if !is_present {
            let lost = cluster.rows().ok()?;
            seen.extend(lost.into_iter().filter(|row| row.machine == m3.machine_id()).map(|row| row.active));
        }
        let moved = |row: &StateView| {
            row.unit == "moves.service" && row.active == "active" && row.machine != m3.machine_id()
        };
        rows.into_iter().find(moved)
    });
    let elsewhere = cluster.machine_of(&elsewhere.unwrap().machine);
    assert_eq!(seen, BTreeSet::from(["unknown".to_owned()]), "what rows of a lost machine say");
    // A unit that only this machine can run keeps its row, and says why it does not run.
    let row = cluster
        .await_row("stays.service", "the row of the pinned unit", |row| row.machine == m3.machine_id());
    assert_eq!(row.active, "unknown");
    let v1 = cluster.ok(&["list-units", "--no-legend", "--fields", "unit,active"]);
    assert!(v1.lines().any(|line| line.starts_with("stays.service") && line.ends_with("unknown")), "{v1}");
    let moved = run_of(&elsewhere, "moves.service");

    m3.start().unwrap();
    cluster.await_present(3);
    cluster.await_row("stays.service", "the pinned unit to be back", |row| {
        row.active == "active" && row.machine == m3.machine_id()
    });
    wait_until(SOON, "one row for what moved", || {
        let machines: Vec<_> = cluster.rows_of("moves.service").into_iter().map(|row| row.machine).collect();
        machines == [elsewhere.machine_id()]
    });
    assert_eq!(run_of(&elsewhere, "moves.service"), moved);
    assert!(!m3.is_unit_populated("moves.service"));
    assert_eq!(lines_of(&m3, "/var/lib/stays.service"), 2, "once before the power cut and once after it");
}

#[test]
fn failover_of_20_units_takes_no_longer_than_agent_ttl_and_a_second() {
    let ttl = Duration::from_secs(3);
    let options = LabOptions::for_test("failover").agent_ttl("3s");
    let cluster =
        Cluster::up(options.machine_config("m3", "engine", "\"never\"").metadata("m3", "first=yes"));
    let m3 = cluster.machine("m3");
    let names: Vec<_> = (0..20).map(|n| format!("f{n}.service")).collect();
    let everyone = format!("{SLEEPS}[X-Fleet]\nMachineMetadata=first=yes\n");
    cluster.start_all(names.iter().map(|name| (name.as_str(), everyone.as_str())));
    // From now on any machine will do, which moves nothing and restarts nothing.
    let before = runs_of(&m3, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let files: Vec<_> = names.iter().map(|name| cluster.file(name, SLEEPS)).collect();
    cluster
        .ok(&[&["start", "--replace"], files.iter().map(String::as_str).collect::<Vec<_>>().as_slice()]
            .concat());
    assert_eq!(runs_of(&m3, &names.iter().map(String::as_str).collect::<Vec<_>>()), before);

    let killed = monotonic();
    m3.kill().unwrap();
    wait_until(SOON, "all 20 units to run elsewhere", || {
        let populated = |name: &String| {
            cluster.machine("m1").is_unit_populated(name) || cluster.machine("m2").is_unit_populated(name)
        };
        names.iter().all(populated)
    });
    let runs = names.iter().map(|name| {
        let on = ["m1", "m2"].into_iter().find(|machine| cluster.machine(machine).is_unit_populated(name));
        run_of(&cluster.machine(on.unwrap()), name)
    });
    let last = runs.map(|run| began(&run)).max().unwrap();
    let took = last.saturating_sub(killed);
    assert!(took <= ttl + Duration::from_secs(1) + MARGIN, "it took {took:?}");
    for name in &names {
        cluster.await_row(name, "the row to say so", |row| {
            row.active == "active" && row.machine != m3.machine_id()
        });
    }
}

#[test]
fn after_a_reboot_units_come_back_once_and_no_other_machine_is_disturbed() {
    let cluster = Cluster::up(LabOptions::for_test("reboot").agent_ttl("9s"));
    cluster.start_all([("c1.service", COUNTED), ("c2.service", COUNTED), ("c3.service", COUNTED)]);
    cluster.start("everywhere.service", EVERYWHERE);
    let rebooted = cluster.place_of("c1.service");
    cluster.start(
        "once.service",
        &pinned("[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo ran >> /var/lib/%n'\n", &rebooted),
    );
    cluster.start("stopped.service", &pinned(COUNTED, &rebooted));
    cluster.ok(&["stop", "stopped.service"]);
    let others: Vec<_> =
        cluster.lab.machines().into_iter().filter(|other| other.name() != rebooted.name()).collect();
    let units = ["c1.service", "c2.service", "c3.service", "everywhere.service"];
    let before: Vec<_> = others.iter().map(|machine| runs_of(machine, &units)).collect();

    rebooted.reboot().unwrap();
    let boot = rebooted.boot_id().unwrap();
    cluster.await_present(3);
    let is_back = |row: &StateView| row.machine == rebooted.machine_id() && row.active == "active";
    cluster.await_row("c1.service", "c1.service to be back where it was", is_back);
    cluster.await_row("everywhere.service", "the global unit to be back", is_back);
    wait_until(SOON, "the oneshot to run once in this boot", || {
        lines_of(&rebooted, "/var/lib/once.service") == 2
    });
    cluster.start("probe.service", &pinned(SLEEPS, &rebooted));
    assert_eq!(lines_of(&rebooted, "/var/lib/c1.service"), 2, "once before the reboot and once after it");
    assert_eq!(lines_of(&rebooted, "/var/lib/once.service"), 2);
    assert_eq!(lines_of(&rebooted, "/var/lib/stopped.service"), 1, "what was stopped stays stopped");
    assert_eq!(others.iter().map(|machine| runs_of(machine, &units)).collect::<Vec<_>>(), before);
    assert_eq!(rebooted.boot_id().unwrap(), boot);
}

#[test]
fn machine_that_boots_while_etcd_is_away_starts_its_units_within_10_seconds() {
    let cluster = Cluster::up(LabOptions::for_test("offline-boot").machines(1).agent_ttl("3s"));
    let m1 = cluster.machine("m1");
    cluster.start_all([("c1.service", COUNTED), ("c2.service", COUNTED)]);
    cluster.start("stopped.service", COUNTED);
    cluster.ok(&["stop", "stopped.service"]);
    cluster.start("gone.service", COUNTED);
    cluster.ok(&["destroy", "gone.service"]);
    m1.kill().unwrap();
    cluster.lab.etcd().stop(None).unwrap();

    m1.start().unwrap();
    for unit in ["c1.service", "c2.service"] {
        wait_until(SOON, &format!("{unit} to run"), || run_of(&m1, unit).active == "active");
    }
    let fleetd = began(&run_of(&m1, "fleetd.service"));
    let runs = runs_of(&m1, &["c1.service", "c2.service"]);
    for (unit, run) in &runs {
        let waited = began(run).saturating_sub(fleetd);
        assert!(waited <= Duration::from_secs(10) + MARGIN, "{unit} came {waited:?} after fleetd");
    }
    assert_eq!(cluster.status_on("m1").unwrap().local.connection, "disconnected");

    cluster.lab.etcd().start(None).unwrap();
    cluster.await_present(1);
    cluster.start("probe.service", SLEEPS);
    assert_eq!(runs_of(&m1, &["c1.service", "c2.service"]), runs, "the registry's return restarts nothing");
    assert_eq!(lines_of(&m1, "/var/lib/c1.service"), 2);
    assert_eq!((lines_of(&m1, "/var/lib/stopped.service"), lines_of(&m1, "/var/lib/gone.service")), (1, 1));
}

#[test]
fn machine_that_is_forgotten_leaves_no_row_behind_and_is_taken_again_when_it_returns() {
    let cluster = Cluster::up(LabOptions::for_test("forget").agent_ttl("3s"));
    let m3 = cluster.machine("m3");
    cluster.start("stays.service", &pinned(SLEEPS, &m3));
    // A machine that is there is not forgotten.
    let refused = cluster.ctl(&["machine", "forget", &m3.machine_id()[..8]]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stdout);
    m3.kill().unwrap();
    let state = || {
        let machines = cluster.machines().ok()?;
        machines.into_iter().find(|machine| machine.id == m3.machine_id()).map(|machine| machine.state)
    };
    wait_until(SOON, "m3 to be lost", || state() == Some(MachineState::Lost));
    cluster.ok(&["machine", "forget", &m3.machine_id()[..8], "--why", "scrapped"]);
    wait_until(SOON, "no row of m3", || {
        cluster.rows().is_ok_and(|rows| rows.iter().all(|row| row.machine != m3.machine_id()))
    });
    assert!(matches!(state(), None | Some(MachineState::Forgotten)), "{:?}", state());

    let began = Instant::now();
    m3.start().unwrap();
    assert_eq!(m3.power().unwrap(), Power::Running);
    cluster.await_present(3);
    cluster.await_active("stays.service");
    assert!(began.elapsed() < SOON);
}
