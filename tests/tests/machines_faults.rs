//! Faults of what carries fleetd, on real machines: a leader that stands still, machines that hang, many lost at once,
//! a systemd and a bus that go away under a running fleetd.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_tests::cluster::{Cluster, SOON, reloads, run_of, runs_of};
use fleet_tests::lab::{LabOptions, wait_for, wait_until};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

/// Where each unit has processes; every machine has to be running.
fn places<'a>(cluster: &Cluster, units: &'a [String]) -> BTreeMap<&'a str, Vec<String>> {
    let on = |unit: &String| {
        let machines = cluster.lab.machines().into_iter();
        machines
            .filter(|machine| machine.is_unit_populated(unit))
            .map(|machine| machine.name().to_owned())
            .collect()
    };
    units.iter().map(|unit| (unit.as_str(), on(unit))).collect()
}

fn leader(cluster: &Cluster, asked: &str) -> Option<String> {
    let id = cluster.status_on(asked).ok()?.leader?.machine;
    Some(cluster.machine_of(&id).name().to_owned())
}

#[test]
fn leader_that_stands_still_is_replaced_and_writes_nothing_when_it_goes_on() {
    let cluster = Cluster::up(LabOptions::for_test("zombie").agent_ttl("60s"));
    let first = leader(&cluster, "m1").unwrap();
    let others: Vec<_> = ["m1", "m2", "m3"].into_iter().filter(|name| *name != first).collect();
    let asked = cluster.machine(others[0]);
    let pid = cluster.machine(&first).main_pid("fleetd.service").unwrap().unwrap().to_string();
    cluster.machine(&first).run(&["kill", "-STOP", &pid]).unwrap();
    wait_until(SOON, "another leader", || leader(&cluster, others[0]).is_some_and(|now| now != first));

    let units: Vec<_> = (0..12).map(|n| format!("u{n}.service")).collect();
    let files: Vec<_> = units.iter().map(|unit| cluster.file(unit, SLEEPS)).collect();
    let start: Vec<_> = ["start", "--no-block"].into_iter().chain(files.iter().map(String::as_str)).collect();
    assert!(asked.fleetctl(&start).unwrap().status.success());
    // Those placed on the machine that stands still wait for its agent, the others run.
    wait_until(SOON, "units to run", || {
        others
            .iter()
            .flat_map(|name| cluster.machine(name).running_units())
            .filter(|unit| units.contains(unit))
            .count()
            >= 8
    });
    let second = leader(&cluster, others[0]).unwrap();
    cluster.machine(&first).run(&["kill", "-CONT", &pid]).unwrap();
    wait_until(SOON, "every unit to run on one machine", || {
        places(&cluster, &units).values().all(|machines| machines.len() == 1)
    });
    let before = places(&cluster, &units);
    cluster.start("probe.service", SLEEPS);
    assert_eq!(leader(&cluster, &first), Some(second));
    assert_eq!(places(&cluster, &units), before, "nothing was placed twice or moved");
}

#[test]
fn leader_killed_in_the_middle_of_many_starts_costs_none_of_them() {
    let options = LabOptions::for_test("leader-killed").agent_ttl("3s");
    let cluster = Cluster::up(options);
    let first = leader(&cluster, "m1").unwrap();
    let asked = cluster.lab.machines().into_iter().find(|machine| machine.name() != first).unwrap();
    let units: Vec<_> = (0..40).map(|n| format!("u{n}.service")).collect();
    let files: Vec<_> = units.iter().map(|unit| cluster.file(unit, SLEEPS)).collect();
    let start: Vec<_> = ["start"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let mut command = asked.fleetctl_command().unwrap();
    let mut child = command.args(&start).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_until(SOON, "the first of them to run", || {
        cluster.lab.machines().iter().any(|machine| units.iter().any(|unit| machine.is_unit_populated(unit)))
    });
    cluster.machine(&first).kill().unwrap();
    let status = wait_for(Duration::from_secs(40), "fleetctl to end", || child.try_wait().unwrap());
    assert!(status.unwrap().success());
    wait_until(SOON, "each to run on one machine", || {
        places(&cluster, &units).values().all(|machines| machines.len() == 1)
    });
    // Back again, it is a machine like the others and disturbs nothing.
    let before = places(&cluster, &units);
    cluster.machine(&first).start().unwrap();
    cluster.await_present(3);
    cluster.start("probe.service", SLEEPS);
    assert_eq!(places(&cluster, &units), before);
}

#[test]
fn machine_that_hangs_and_goes_on_gives_up_what_moved_and_keeps_the_rest() {
    let cluster = Cluster::up(LabOptions::for_test("hangs").agent_ttl("3s"));
    let m3 = cluster.machine("m3");
    let stays = format!("{SLEEPS}[X-Fleet]\nMachineID={}\n", m3.machine_id());
    cluster.start_all([("a.service", SLEEPS), ("b.service", SLEEPS), ("c.service", SLEEPS)]);
    cluster.start("stays.service", &stays);
    let moving = ["a.service", "b.service", "c.service"]
        .into_iter()
        .find(|unit| cluster.place_of(unit).name() == "m3");
    let moving = moving.unwrap();
    let kept = run_of(&m3, "stays.service");

    m3.freeze().unwrap();
    let row = cluster.await_row(moving, "it to run elsewhere", |row| {
        row.active == "active" && row.machine != m3.machine_id()
    });
    let elsewhere = cluster.machine_of(&row.machine);
    let moved = run_of(&elsewhere, moving);
    m3.thaw().unwrap();
    wait_until(SOON, "the old copy to be stopped", || !m3.is_unit_populated(moving));
    cluster.await_present(3);
    cluster.start("probe.service", SLEEPS);
    assert_eq!(run_of(&elsewhere, moving), moved);
    assert_eq!(run_of(&m3, "stays.service"), kept);
    wait_until(SOON, "the row to be true again", || {
        cluster.rows_of("stays.service").iter().any(|row| row.active == "active")
    });
}

#[test]
fn many_machines_lost_at_once_move_nothing_until_the_operator_says_so() {
    let cluster = Cluster::up(LabOptions::for_test("brake").machines(4).agent_ttl("3s"));
    let first = leader(&cluster, "m1").unwrap();
    let units: Vec<_> = (0..8).map(|n| format!("u{n}.service")).collect();
    cluster.start_all(units.iter().map(|unit| (unit.as_str(), SLEEPS)));
    let lost: Vec<_> =
        cluster.lab.machines().into_iter().filter(|machine| machine.name() != first).take(3).collect();
    let survivor = cluster.machine(&first);
    let before = run_of(&survivor, units.iter().find(|unit| survivor.is_unit_populated(unit)).unwrap());
    let ids: Vec<_> = lost.iter().map(|machine| machine.machine_id()).collect();
    // Two at the same moment, as when a switch dies, and then another one.
    std::thread::scope(|scope| {
        for machine in &lost[..2] {
            scope.spawn(|| machine.kill().unwrap());
        }
    });
    let holds = |held| {
        let brake = || cluster.status().ok()?.brake.filter(|brake| brake.held == held);
        let found = wait_for(SOON, "the brake to hold the units of the lost machines", brake);
        assert!(found.is_ok(), "{held}: {:#?}", cluster.status());
    };
    holds(4);
    lost[2].kill().unwrap();
    holds(6);
    let text = cluster.ok(&["cluster", "status"]);
    assert!(text.contains("BRAKE") && text.contains("fleetctl cluster resume"), "{text}");
    // New work goes on meanwhile, and what is lost reads unknown.
    cluster.start("new.service", SLEEPS);
    let rows = cluster.rows().unwrap();
    assert_eq!(
        rows.iter().filter(|row| ids.contains(&row.machine) && row.active == "unknown").count(),
        6,
        "{rows:#?}"
    );
    assert_eq!(units.iter().filter(|unit| survivor.is_unit_populated(unit)).count(), 2);

    cluster.ok(&["cluster", "resume", "--why", "the switch is gone for good"]);
    wait_until(SOON, "all units to run on the last machine", || {
        units.iter().all(|unit| survivor.is_unit_populated(unit))
    });
    let same = units.iter().find(|unit| run_of(&survivor, unit) == before);
    assert!(same.is_some(), "what ran there was disturbed");
}

#[test]
fn systemd_executed_again_and_a_bus_that_dies_under_fleetd_disturb_no_unit() {
    let cluster = Cluster::up(LabOptions::for_test("bus").machines(1));
    let m1 = cluster.machine("m1");
    cluster.start_all([("a.service", SLEEPS), ("b.service", SLEEPS)]);
    let units = ["a.service", "b.service", "fleetd.service"];
    let before = runs_of(&m1, &units);
    m1.systemctl(&["daemon-reexec"]).unwrap();
    cluster.start("after-reexec.service", SLEEPS);
    assert_eq!(runs_of(&m1, &units), before);
    m1.systemctl(&["kill", "--signal=SIGKILL", "dbus.service"]).unwrap();
    cluster.start("after-bus.service", SLEEPS);
    cluster.ok(&["destroy", "b.service"]);
    assert!(!m1.is_unit_populated("b.service"));
    assert_eq!(run_of(&m1, "a.service"), before["a.service"]);
    assert_eq!(run_of(&m1, "fleetd.service"), before["fleetd.service"]);
    // Somebody else's reload is no reason for anything either.
    let count = reloads(&m1);
    m1.systemctl(&["daemon-reload"]).unwrap();
    cluster.start("after-reload.service", SLEEPS);
    assert_eq!(reloads(&m1), count + 1);
    assert_eq!(run_of(&m1, "a.service"), before["a.service"]);
}
