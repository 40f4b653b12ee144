//! P1 on real machines: whatever becomes of the registry, nothing stops and nothing stale starts.

use std::time::Duration;

use fleet_api::v2::{ClusterView, MachineState};
use fleet_tests::cluster::{Cluster, Run, SOON, run_of, runs_of};
use fleet_tests::lab::{Cut, LabOptions, Machine, wait_for, wait_until};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";
const EVERYWHERE: &str = "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nGlobal=true\n";
/// Leaves a line for each time it ran.
const ONCE: &str = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo ran >> /var/lib/once'\n";

/// Short, so that an outage of several times its length is a short test.
const TTL: &str = "3s";
const LONGER_THAN_TWO_TTL: Duration = Duration::from_secs(7);

fn three_machines(subject: &str) -> Cluster {
    Cluster::up(LabOptions::for_test(subject).agent_ttl(TTL))
}

/// Every run on every machine that has one.
fn all_runs(cluster: &Cluster, units: &[&str]) -> Vec<(String, String, Run)> {
    let mut runs = Vec::new();
    for machine in cluster.lab.machines() {
        for (unit, run) in runs_of(&machine, units) {
            runs.push((machine.name().to_owned(), unit, run));
        }
    }
    runs
}

/// What a machine says of its own connection, when its fleetd answers.
fn local(cluster: &Cluster, machine: &Machine<'_>) -> Option<fleet_api::v2::LocalView> {
    cluster.status_on(machine.name()).ok().map(|view: ClusterView| view.local)
}

fn is_disconnected(cluster: &Cluster, machine: &Machine<'_>) -> bool {
    local(cluster, machine)
        .is_some_and(|local| local.connection == "disconnected" && local.holding_since.is_some())
}

fn is_connected(cluster: &Cluster, machine: &Machine<'_>) -> bool {
    local(cluster, machine).is_some_and(|local| local.connection == "connected")
}

fn await_connected(cluster: &Cluster) {
    for machine in cluster.lab.machines() {
        wait_until(SOON, &format!("{} to be connected", machine.name()), || is_connected(cluster, &machine));
    }
    cluster.await_present(cluster.lab.machines().len());
}

/// Waits until every machine has been without the registry for more than twice the `agent_ttl`.
fn await_outage(cluster: &Cluster) {
    for machine in cluster.lab.machines() {
        let what = format!("{} to say that it holds", machine.name());
        wait_until(SOON, &what, || is_disconnected(cluster, &machine));
    }
    let began = std::time::Instant::now();
    wait_until(SOON, "the outage to last", || began.elapsed() > LONGER_THAN_TWO_TTL);
    for machine in cluster.lab.machines() {
        assert!(
            is_disconnected(cluster, &machine),
            "{} came back to a registry that is away",
            machine.name()
        );
    }
}

/// Keys of fleet in etcd.
fn keys(cluster: &Cluster) -> Vec<String> {
    let listed = cluster.lab.etcd().ctl(&["get", "--prefix", "--keys-only", "/"]).expect("etcd answers");
    listed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Four services over three machines, one on each, and a oneshot that has ended.
fn workload(cluster: &Cluster) -> Vec<&'static str> {
    let services = ["s1.service", "s2.service", "s3.service", "s4.service"];
    cluster.start_all(services.map(|name| (name, SLEEPS)));
    cluster.start_all([("everywhere.service", EVERYWHERE), ("once.service", ONCE)]);
    cluster.await_row("once.service", "the oneshot to end well", |row| {
        row.active == "inactive" && row.result == "success"
    });
    services.into_iter().chain(["everywhere.service", "once.service"]).collect()
}

/// How often the oneshot ran, on whichever machine.
fn times_once_ran(cluster: &Cluster) -> usize {
    let lines = |machine: &Machine<'_>| {
        let text = std::fs::read_to_string(machine.disk_path("/var/lib/once")).unwrap_or_default();
        text.lines().count()
    };
    cluster.lab.machines().iter().map(lines).sum()
}

#[test]
fn p1_etcd_stopped_for_a_while_stops_nothing() {
    let cluster = three_machines("p1-stopped");
    let units = workload(&cluster);
    let before = all_runs(&cluster, &units);

    cluster.lab.etcd().stop(None).unwrap();
    await_outage(&cluster);
    assert_eq!(all_runs(&cluster, &units), before, "while etcd is away");
    let refused = cluster.ctl(&["stop", "s1.service"]);
    assert_eq!(refused.status.code(), Some(6), "{}", refused.stderr);

    cluster.lab.etcd().start(None).unwrap();
    await_connected(&cluster);
    cluster.start("after.service", SLEEPS);
    assert_eq!(all_runs(&cluster, &units), before, "after etcd came back");
    assert_eq!(times_once_ran(&cluster), 1);
    let moved = cluster.events().unwrap().events.into_iter().flat_map(|event| event.notes);
    assert_eq!(moved.filter(|note| note.kind == "unit-moved").count(), 0);
}

#[test]
fn p1_etcd_without_majority_and_etcd_that_hangs_stop_nothing() {
    let cluster = Cluster::up(LabOptions::for_test("p1-hangs").machines(2).etcd(3).agent_ttl(TTL));
    cluster.start_all([("s1.service", SLEEPS), ("s2.service", SLEEPS)]);
    let units = ["s1.service", "s2.service"];
    let before = all_runs(&cluster, &units);

    cluster.lab.etcd().kill(Some(2)).unwrap();
    cluster.lab.etcd().kill(Some(3)).unwrap();
    await_outage(&cluster);
    assert_eq!(all_runs(&cluster, &units), before, "while etcd answers with errors");
    cluster.lab.etcd().freeze(Some(1)).unwrap();
    await_outage(&cluster);
    assert_eq!(all_runs(&cluster, &units), before, "while etcd does not answer");

    cluster.lab.etcd().thaw(Some(1)).unwrap();
    cluster.lab.etcd().start(None).unwrap();
    await_connected(&cluster);
    cluster.start("after.service", SLEEPS);
    assert_eq!(all_runs(&cluster, &units), before, "after etcd came back");
}

#[test]
fn p1_etcd_emptied_stops_nothing_and_a_restored_backup_is_taken_after_adopt() {
    let cluster = three_machines("p1-emptied");
    let units = workload(&cluster);
    let backup = cluster.lab.directory().join("files/backup.snapshot");
    cluster.lab.etcd().snapshot(&backup).unwrap();
    cluster.start("after-backup.service", SLEEPS);
    let before = all_runs(&cluster, &units);

    cluster.lab.etcd().wipe().unwrap();
    for machine in cluster.lab.machines() {
        let what = format!("{} to say what is wrong and what to do", machine.name());
        wait_until(SOON, &what, || {
            local(&cluster, &machine).is_some_and(|local| {
                local.connection != "connected" && local.text.contains("restore a backup")
            })
        });
    }
    let began = std::time::Instant::now();
    wait_until(SOON, "several agent_ttl to pass", || began.elapsed() > LONGER_THAN_TWO_TTL);
    assert_eq!(keys(&cluster), Vec::<String>::new(), "nothing is written to a store that is not ours");
    assert_eq!(all_runs(&cluster, &units), before, "while the store is empty");
    assert_ne!(cluster.ctl(&["start", &cluster.file("new.service", SLEEPS)]).status.code(), Some(0));

    cluster.lab.etcd().restore(&backup).unwrap();
    await_hold(&cluster);
    assert_eq!(all_runs(&cluster, &units), before, "while the backup is held");
    cluster.ok(&["cluster", "adopt", "--yes", "--why", "restored from backup"]);
    await_connected(&cluster);
    cluster.start("after.service", SLEEPS);
    assert_eq!(all_runs(&cluster, &units), before, "after the backup was adopted");
    assert_eq!(times_once_ran(&cluster), 1);
}

fn await_hold(cluster: &Cluster) {
    let held = wait_for(SOON, "the store to be held", || cluster.status().ok()?.hold);
    let hold = held.expect("whoever notices first puts the hold");
    assert!(!hold.why.is_empty() && !hold.by.is_empty(), "{hold:?}");
    let text = cluster.ok(&["cluster", "status"]);
    assert!(text.contains("HOLD") && text.contains("fleetctl cluster adopt"), "{text}");
}

#[test]
fn p1_store_restored_from_an_older_snapshot_is_held_until_adopt() {
    let cluster = three_machines("p1-restored");
    let units = workload(&cluster);
    cluster.start("destroyed-later.service", SLEEPS);
    let backup = cluster.lab.directory().join("files/backup.snapshot");
    cluster.lab.etcd().snapshot(&backup).unwrap();
    // What the snapshot does not know: one unit less, one more, one that was stopped.
    cluster.ok(&["destroy", "destroyed-later.service"]);
    cluster.start("made-later.service", SLEEPS);
    cluster.ok(&["stop", "s4.service"]);
    let all: Vec<_> =
        units.iter().copied().chain(["destroyed-later.service", "made-later.service"]).collect();
    let before = all_runs(&cluster, &all);

    cluster.lab.etcd().restore(&backup).unwrap();
    await_hold(&cluster);
    let began = std::time::Instant::now();
    wait_until(SOON, "several agent_ttl to pass", || began.elapsed() > LONGER_THAN_TWO_TTL);
    assert_eq!(all_runs(&cluster, &all), before, "neither stopped nor started while held");

    // Without --yes it only tells.
    let told = cluster.ctl(&["cluster", "adopt"]);
    assert_eq!(told.status.code(), Some(1), "{}{}", told.stdout, told.stderr);
    assert!(told.stderr.contains("--yes"), "{}", told.stderr);
    assert!(cluster.status().unwrap().hold.is_some());
    assert_eq!(all_runs(&cluster, &all), before);

    let epoch = cluster.status().unwrap().epoch;
    cluster.ok(&["cluster", "adopt", "--yes"]);
    await_connected(&cluster);
    assert!(cluster.status().unwrap().epoch > epoch);
    assert!(cluster.status().unwrap().hold.is_none());
    // The store wins: what it wants runs again, and what it does not know is left alone.
    cluster.await_active("destroyed-later.service");
    cluster.start("after.service", SLEEPS);
    let untouched: Vec<_> =
        ["s1.service", "s2.service", "s3.service", "everywhere.service", "made-later.service"].into();
    let kept = |runs: &[(String, String, Run)]| -> Vec<_> {
        runs.iter().filter(|(_, unit, _)| untouched.contains(&unit.as_str())).cloned().collect()
    };
    assert_eq!(kept(&all_runs(&cluster, &all)), kept(&before), "after the store was adopted");
    assert_eq!(times_once_ran(&cluster), 1);
    cluster
        .await_row("made-later.service", "a unit that the store does not know to be shown", |row| row.orphan);
}

#[test]
fn p1_partitioned_machine_keeps_its_units_and_gives_up_on_return_only_what_moved() {
    let cluster = three_machines("p1-partition");
    cluster.start_all([("a.service", SLEEPS), ("b.service", SLEEPS), ("c.service", SLEEPS)]);
    cluster.start("everywhere.service", EVERYWHERE);
    let cut = cluster.place_of("a.service");
    let (mine, global) = (run_of(&cut, "a.service"), run_of(&cut, "everywhere.service"));
    let others: Vec<_> =
        cluster.lab.machines().into_iter().filter(|machine| machine.name() != cut.name()).collect();
    let asked = others[0].clone();
    let rows = || {
        let output = asked.fleetctl(&["list-units", "-o", "json"]).ok()?;
        serde_json::from_str::<fleet_api::v2::StateList>(&output.stdout).ok().map(|list| list.states)
    };

    cut.partition(&["etcd"], Cut::Drop).unwrap();
    let copy = wait_for(SOON, "a.service to run elsewhere", || {
        let row = |row: &fleet_api::v2::StateView| {
            row.unit == "a.service" && row.active == "active" && row.machine != cut.machine_id()
        };
        rows()?.into_iter().find(row)
    });
    let copy = cluster.machine_of(&copy.unwrap().machine);
    let moved = run_of(&copy, "a.service");
    assert!(is_disconnected(&cluster, &cut));
    assert_eq!(run_of(&cut, "a.service"), mine, "the old copy runs on: nobody told its machine otherwise");
    assert_eq!(run_of(&cut, "everywhere.service"), global);

    cut.heal().unwrap();
    wait_until(SOON, "the copy that was left behind to stop", || {
        run_of(&cut, "a.service").active == "inactive"
    });
    await_connected(&cluster);
    assert_eq!(run_of(&copy, "a.service"), moved, "the new copy is undisturbed");
    assert_eq!(run_of(&cut, "everywhere.service"), global, "what did not move is undisturbed");
    let listed = || cluster.rows_of("a.service").iter().map(|row| row.machine.clone()).collect::<Vec<_>>();
    wait_until(SOON, "one row for a.service", || listed() == [copy.machine_id()]);
}

#[test]
fn unreachable_etcd_at_start_is_said_and_fleetd_goes_on_when_it_comes() {
    let cluster = Cluster::boot(LabOptions::for_test("no-etcd").machines(1).fleetd_may_fail().agent_ttl(TTL));
    let m1 = cluster.machine("m1");
    m1.fleetd_stop().unwrap();
    cluster.lab.etcd().stop(None).unwrap();
    // As on its first boot.
    m1.run(&["sh", "-c", "rm -rf /var/lib/fleet/*"]).unwrap();
    cluster.lab.etcd().wipe().unwrap();
    cluster.lab.etcd().stop(None).unwrap();

    m1.fleetd_start().unwrap();
    wait_until(SOON, "fleetd to say that it is disconnected", || {
        cluster
            .status_on("m1")
            .is_ok_and(|view| view.local.connection == "disconnected" && !view.store.answers)
    });
    let status = m1.property("fleetd.service", "StatusText").unwrap();
    assert!(status.contains("disconnected"), "{status}");
    let refused = cluster.ctl(&["start", "--timeout", "2s", &cluster.file("a.service", SLEEPS)]);
    assert_eq!(refused.status.code(), Some(6), "{}", refused.stderr);

    cluster.lab.etcd().start(None).unwrap();
    cluster.await_present(1);
    cluster.start("a.service", SLEEPS);
}

#[test]
fn machine_with_a_wrong_prefix_writes_nothing_there_and_keeps_its_units() {
    let cluster = Cluster::up(LabOptions::for_test("prefix").machines(1).agent_ttl(TTL));
    let m1 = cluster.machine("m1");
    cluster.start("a.service", SLEEPS);
    let before = run_of(&m1, "a.service");
    m1.run(&["sh", "-c", "echo 'etcd_key_prefix = \"/flet/\"' >> /etc/fleet/fleetd.toml"]).unwrap();
    m1.fleetd_restart().unwrap();
    let said = wait_for(SOON, "fleetd to say that this is not its cluster", || {
        let local = cluster.status_on("m1").ok()?.local;
        (local.connection != "connected" && !local.text.is_empty()).then_some(local.text)
    });
    let said = said.unwrap();
    assert!(said.contains("/flet/") || said.contains("prefix") || said.contains("backup"), "{said}");
    wait_until(SOON, "its presence under the right prefix to end", || {
        !keys(&cluster).iter().any(|key| key.starts_with("/fleet/presence/"))
    });
    assert_eq!(keys(&cluster).iter().find(|key| key.starts_with("/flet/")), None);
    assert_eq!(run_of(&m1, "a.service"), before);

    m1.run(&["sed", "-i", "/etcd_key_prefix/d", "/etc/fleet/fleetd.toml"]).unwrap();
    m1.fleetd_restart().unwrap();
    cluster.await_present(1);
    cluster.start("b.service", SLEEPS);
    assert_eq!(run_of(&m1, "a.service"), before);
}

#[test]
fn record_from_the_future_freezes_its_unit_and_no_other() {
    let cluster = Cluster::up(LabOptions::for_test("future").machines(2));
    cluster.start_all([("a.service", SLEEPS), ("b.service", SLEEPS)]);
    let units = ["a.service", "b.service"];
    let before = all_runs(&cluster, &units);
    let put = |key: &str| {
        let stored = cluster.lab.etcd().ctl(&["get", "--print-value-only", key]).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&stored).unwrap();
        record["v"] = 99.into();
        record["of_the_future"] = "kept".into();
        cluster.lab.etcd().ctl(&["put", key, &record.to_string()]).unwrap();
    };
    put("/fleet/units/a.service");
    let place = cluster.machine_of(&cluster.await_active("a.service").machine);
    put(&format!("/fleet/assignments/{}/a.service", place.machine_id()));

    // The other unit obeys, a new one comes, and a new leader reads the same record.
    cluster.ok(&["restart", "b.service"]);
    cluster.start("c.service", SLEEPS);
    for machine in cluster.lab.machines() {
        machine.fleetd_restart().unwrap();
    }
    cluster.await_present(2);
    cluster.ok(&["stop", "b.service"]);
    cluster.start("d.service", SLEEPS);
    for request in
        [["stop", "a.service"], ["destroy", "a.service"], ["start", "a.service"], ["status", "a.service"]]
    {
        let refused = cluster.ctl(&request);
        assert_eq!(refused.status.code(), Some(1), "{request:?}: {}{}", refused.stdout, refused.stderr);
        assert!(refused.stderr.contains("Update fleetd"), "{request:?}: {}", refused.stderr);
    }
    let listed = cluster.ctl(&["list-unit-files"]);
    assert!(
        listed.stderr.contains("a.service") && listed.stderr.contains("newer release"),
        "{}",
        listed.stderr
    );
    assert_eq!(all_runs(&cluster, &["a.service"]), {
        before.iter().filter(|(_, unit, _)| unit == "a.service").cloned().collect::<Vec<_>>()
    });
    let kept = cluster.lab.etcd().ctl(&["get", "--print-value-only", "/fleet/units/a.service"]).unwrap();
    assert!(kept.contains("of_the_future"), "{kept}");
    assert!(cluster.machines().unwrap().iter().all(|machine| machine.state == MachineState::Present));
}
