//! A machine without etcd, on systemd of both releases; and how it joins a cluster with its units.

use fleet_tests::cluster::{Cluster, SOON, run_of, runs_of};
use fleet_tests::lab::{LabOptions, Machine, Release, wait_until};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";
const ETCD: &str = "etcd_servers = [\"http://10.77.0.1:2379\"]";

fn alone(subject: &str) -> LabOptions {
    LabOptions::for_test(subject).machines(1).etcd(0)
}

/// Writes a layer above the lab's file and starts fleetd anew.
fn configure(machine: &Machine<'_>, line: &str) {
    machine.run(&["mkdir", "-p", "/etc/fleet/fleetd.d"]).expect("a directory can be made");
    let path = machine.live_path("/etc/fleet/fleetd.d/store.toml").expect("the machine runs");
    std::fs::write(path, format!("{line}\n")).expect("the machine's disk takes files");
    machine.systemctl(&["restart", "fleetd.service"]).expect("fleetd starts with it");
}

fn starts_units_and_has_them_back(release: Release) {
    let cluster = Cluster::up(alone("alone").release(release));
    let m1 = cluster.machine("m1");
    cluster.start_all([("a.service", SLEEPS), ("b.service", SLEEPS)]);
    assert_eq!(cluster.status().expect("fleetd answers").store.kind, "embedded");
    let before = runs_of(&m1, &["a.service", "b.service"]);
    // Nothing of it depends on fleetd's life, and a killed one leaves a store that opens.
    let killed = m1.main_pid("fleetd.service").expect("systemd answers");
    m1.systemctl(&["kill", "--signal=SIGKILL", "fleetd.service"]).expect("fleetd can be killed");
    wait_until(SOON, "another fleetd to run", || {
        let now = m1.main_pid("fleetd.service").ok().flatten();
        now.is_some() && now != killed && m1.is_fleetd_running()
    });
    cluster.await_present(1);
    cluster.start("c.service", SLEEPS);
    assert_eq!(runs_of(&m1, &["a.service", "b.service"]), before);
    m1.reboot().expect("the machine boots again");
    wait_until(SOON, "the units to be back after the reboot", || {
        ["a.service", "b.service", "c.service"].iter().all(|unit| m1.is_unit_populated(unit))
    });
    cluster.await_present(1);
    cluster.ok(&["status", "a.service"]);
    cluster.ok(&["stop", "a.service"]);
    assert!(!m1.is_unit_populated("a.service"));
}

#[test]
fn a_machine_by_itself_starts_units_and_has_them_back_after_a_reboot_on_bookworm() {
    starts_units_and_has_them_back(Release::Bookworm);
}

#[test]
fn a_machine_by_itself_starts_units_and_has_them_back_after_a_reboot_on_trixie() {
    starts_units_and_has_them_back(Release::Trixie);
}

#[test]
fn a_machine_brings_its_units_into_a_cluster_and_refuses_names_that_are_taken() {
    let options = LabOptions::for_test("join").machines(2).machine_config("m1", "etcd_servers", "[]");
    let cluster = Cluster::boot(options);
    let (m1, m2) = (cluster.machine("m1"), cluster.machine("m2"));
    let there = cluster.file("there.service", SLEEPS);
    let on_m2 = m2.fleetctl(&["start", &there]).unwrap();
    assert!(on_m2.status.success(), "{}", on_m2.stderr);
    cluster.start_all([("a.service", SLEEPS), ("b.service", SLEEPS), ("there.service", SLEEPS)]);
    let before = runs_of(&m1, &["a.service", "b.service", "there.service"]);

    configure(&m1, ETCD);
    let taken = m1.fleetctl(&["machine", "join", "--adopt", "--yes"]).unwrap();
    assert!(!taken.status.success() && taken.stderr.contains("there.service"), "{}", taken.stderr);
    assert_eq!(runs_of(&m1, &["a.service", "b.service", "there.service"]), before, "nothing has happened");
    let gone = m2.fleetctl(&["destroy", "there.service"]).unwrap();
    assert!(gone.status.success(), "{}", gone.stderr);
    wait_until(SOON, "the name to be free", || {
        m2.fleetctl(&["cat", "there.service"]).is_ok_and(|output| !output.status.success())
    });

    let dry = m1.fleetctl(&["machine", "join", "--adopt"]).unwrap();
    assert!(dry.stdout.contains("a.service") && !dry.status.success(), "{} {}", dry.stdout, dry.stderr);
    let joined = m1.fleetctl(&["machine", "join", "--adopt", "--yes"]).unwrap();
    assert!(joined.status.success(), "{}", joined.stderr);
    cluster.await_present(2);
    for unit in ["a.service", "b.service", "there.service"] {
        cluster.await_row(unit, "it to be known as running where it runs", |row| {
            row.active == "active" && row.machine == m1.machine_id()
        });
    }
    // Orders of the new cluster are obeyed, and were not needed for what runs.
    let restarted = m2.fleetctl(&["restart", "b.service"]).unwrap();
    assert!(restarted.status.success(), "{}", restarted.stderr);
    assert_eq!(run_of(&m1, "a.service"), before["a.service"]);
    assert_ne!(run_of(&m1, "b.service"), before["b.service"]);

    // Back to no etcd at all is refused; what runs, runs.
    let etcd = m1.live_path("/etc/fleet/fleetd.d/store.toml").unwrap();
    std::fs::remove_file(etcd).unwrap();
    let refused = m1.systemctl(&["restart", "fleetd.service"]);
    assert!(refused.is_err());
    assert!(m1.journal("fleetd.service").unwrap().contains("etcd_servers is not set"));
    assert_eq!(run_of(&m1, "a.service"), before["a.service"]);
}

#[test]
fn a_backup_comes_back_on_a_machine_that_has_lost_its_state_and_its_units_run_on() {
    let cluster = Cluster::up(alone("backup"));
    let m1 = cluster.machine("m1");
    cluster.start_all([("a.service", SLEEPS), ("b.service", SLEEPS)]);
    let before = runs_of(&m1, &["a.service", "b.service"]);
    cluster.await_row("a.service", "its row to be written", |row| row.active == "active");
    let backup = std::path::PathBuf::from(cluster.file("empty", "")).with_file_name("backup.json");
    let backup = backup.to_str().expect("the lab's paths are text");
    let exported = m1.fleetctl(&["cluster", "export", backup]).unwrap();
    assert!(exported.status.success(), "{}", exported.stderr);
    m1.systemctl(&["stop", "fleetd.service"]).expect("fleetd can be stopped");
    m1.run(&["sh", "-c", "rm -rf /var/lib/fleet/*"]).expect("its state can be lost");
    m1.systemctl(&["start", "fleetd.service"]).expect("fleetd begins anew");
    cluster.await_present(1);
    assert_eq!(runs_of(&m1, &["a.service", "b.service"]), before);
    let dry = m1.fleetctl(&["cluster", "import", backup]).unwrap();
    assert!(
        dry.stdout.contains("Would stop nothing") && !dry.status.success(),
        "{} {}",
        dry.stdout,
        dry.stderr
    );
    let imported = m1.fleetctl(&["cluster", "import", "--yes", backup]).unwrap();
    assert!(imported.status.success(), "{}", imported.stderr);
    for unit in ["a.service", "b.service"] {
        cluster.await_row(unit, "its order to be carried out", |row| row.active == "active");
    }
    assert_eq!(runs_of(&m1, &["a.service", "b.service"]), before);
    // Orders of the cluster that came back are obeyed.
    cluster.ok(&["stop", "a.service"]);
    assert!(!m1.is_unit_populated("a.service"));
    cluster.start("c.service", SLEEPS);
    assert_eq!(run_of(&m1, "b.service"), before["b.service"]);
}

#[test]
fn two_machines_that_join_one_empty_etcd_at_once_keep_their_units_each() {
    let options = LabOptions::for_test("join-both").machines(2);
    let options =
        options.machine_config("m1", "etcd_servers", "[]").machine_config("m2", "etcd_servers", "[]");
    let cluster = Cluster::boot(options);
    let machines = [cluster.machine("m1"), cluster.machine("m2")];
    let units = ["a.service", "b.service"];
    for (machine, unit) in machines.iter().zip(units) {
        let path = cluster.file(unit, SLEEPS);
        let started = machine.fleetctl(&["start", &path]).unwrap();
        assert!(started.status.success(), "{}", started.stderr);
    }
    let before = [run_of(&machines[0], units[0]), run_of(&machines[1], units[1])];
    for machine in &machines {
        configure(machine, ETCD);
    }
    std::thread::scope(|scope| {
        for machine in &machines {
            scope.spawn(|| {
                // Whoever comes second is told so, and asks again.
                wait_until(SOON, "the machine to have joined", || {
                    let joined = machine.fleetctl(&["machine", "join", "--adopt", "--yes"]).unwrap();
                    joined.status.success()
                });
            });
        }
    });
    cluster.await_present(2);
    for ((machine, unit), before) in machines.iter().zip(units).zip(&before) {
        cluster.await_row(unit, "it to be known where it runs", |row| {
            row.active == "active" && row.machine == machine.machine_id()
        });
        assert_eq!(run_of(machine, unit), *before);
    }
    assert!(!machines[0].is_unit_populated("b.service") && !machines[1].is_unit_populated("a.service"));
}
