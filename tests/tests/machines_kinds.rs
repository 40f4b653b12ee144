//! Kinds of units and what they do by themselves, on a real systemd: fleet orders, systemd and the unit's own logic
//! rule.

use fleet_tests::cluster::{Cluster, SOON, run_of};
use fleet_tests::lab::{LabOptions, Machine, wait_until};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

fn one_machine(subject: &str) -> Cluster {
    Cluster::up(LabOptions::for_test(subject).machines(1))
}

fn text_of(machine: &Machine<'_>, path: &str) -> String {
    std::fs::read_to_string(machine.disk_path(path)).unwrap_or_default()
}

#[test]
fn socket_timer_and_path_units_start_the_services_that_belong_to_them() {
    let cluster = Cluster::up(LabOptions::for_test("kinds").machines(2));
    let service = |stem: &str| {
        let text = format!("[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo ran >> /var/lib/{stem}'\n");
        cluster.ok(&["load", &cluster.file(&format!("{stem}.service"), &text)]);
    };
    let beside = |stem: &str| format!("[X-Fleet]\nMachineOf={stem}.service\n");
    service("ticks");
    let timer = format!("[Timer]\nOnActiveSec=200ms\nAccuracySec=10ms\n{}", beside("ticks"));
    cluster.start("ticks.timer", &timer);
    let machine = cluster.place_of("ticks.service");
    assert_eq!(cluster.place_of("ticks.timer").name(), machine.name());
    wait_until(SOON, "the timer to start its service", || text_of(&machine, "/var/lib/ticks") == "ran\n");

    service("watches");
    cluster.start("watches.path", &format!("[Path]\nPathExists=/run/now\n{}", beside("watches")));
    let machine = cluster.place_of("watches.path");
    assert_eq!(text_of(&machine, "/var/lib/watches"), "");
    machine.run(&["sh", "-c", "touch /run/now; sleep 0.2; rm /run/now"]).unwrap();
    wait_until(SOON, "the path to start its service", || !text_of(&machine, "/var/lib/watches").is_empty());

    cluster.ok(&["load", &cluster.file("asked.service", SLEEPS)]);
    cluster.start("asked.socket", &format!("[Socket]\nListenStream=/run/asked.sock\n{}", beside("asked")));
    let row = cluster.await_row("asked.socket", "the socket to listen", |row| row.sub == "listening");
    let machine = cluster.machine_of(&row.machine);
    let socket = machine.live_path("/run/asked.sock").unwrap();
    assert!(!machine.is_unit_populated("asked.service"));
    drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    wait_until(SOON, "the socket to start its service", || machine.is_unit_populated("asked.service"));
    cluster.ok(&["destroy", "asked.socket", "ticks.timer", "watches.path"]);
    assert_eq!(machine.property("asked.socket", "ActiveState").unwrap(), "inactive");
    assert!(machine.is_unit_populated("asked.service"), "a service that its socket started goes on");
}

#[test]
fn timer_that_stands_apart_from_its_service_fails_with_what_it_lacks() {
    let cluster = Cluster::up(LabOptions::for_test("apart").machines(2));
    cluster.ok(&["load", &cluster.file("a.service", SLEEPS)]);
    let output = cluster.ctl(&["start", &cluster.file("a.timer", "[Timer]\nOnActiveSec=1h\n")]);
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    assert_ne!(cluster.place_of("a.timer").name(), cluster.place_of("a.service").name());
    assert!(output.stderr.contains("MachineOf="), "{}", output.stderr);
}

#[test]
fn local_stop_is_respected_and_shown_and_a_start_asked_for_runs_it_again() {
    let cluster = one_machine("local-stop");
    let m1 = cluster.machine("m1");
    cluster.start_all([("a.service", SLEEPS), ("b.service", SLEEPS)]);
    let other = run_of(&m1, "b.service");
    m1.systemctl(&["stop", "a.service"]).unwrap();
    cluster.await_row("a.service", "the stop to be shown", |row| row.active == "inactive");
    m1.fleetd_restart().unwrap();
    cluster.start("probe.service", SLEEPS);
    assert!(!m1.is_unit_populated("a.service"), "what was stopped by hand stays stopped");
    cluster.ok(&["start", "a.service"]);
    assert!(m1.is_unit_populated("a.service"));
    assert_eq!(run_of(&m1, "b.service"), other);
}

#[test]
fn unit_that_dies_is_restarted_by_its_own_rules_and_the_count_is_shown() {
    let cluster = one_machine("restarts");
    let m1 = cluster.machine("m1");
    let text = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=50ms\nExecStart=/bin/sleep infinity\n";
    cluster.start("a.service", text);
    let dies = "[Service]\nExecStart=/bin/sleep infinity\n";
    cluster.start("b.service", dies);
    for n in 1..=3_u32 {
        let before = m1.main_pid("a.service").unwrap().unwrap();
        m1.run(&["kill", "-KILL", &before.to_string()]).unwrap();
        wait_until(SOON, "systemd to start it again", || {
            m1.main_pid("a.service").unwrap().is_some_and(|now| now != before)
        });
        cluster.await_row("a.service", "the count to be shown", |row| {
            row.restarts == n && row.active == "active"
        });
    }
    let pid = m1.main_pid("b.service").unwrap().unwrap();
    m1.run(&["kill", "-KILL", &pid.to_string()]).unwrap();
    let row = cluster.await_row("b.service", "the death to be shown", |row| row.active == "failed");
    assert_eq!(row.result, "signal");
    m1.fleetd_restart().unwrap();
    cluster.start("probe.service", SLEEPS);
    assert_eq!(run_of(&m1, "b.service").active, "failed", "it has no Restart=: fleetd has no opinion");
    cluster.ok(&["restart", "b.service"]);
    cluster.await_active("b.service");
}

#[test]
fn unit_whose_condition_does_not_hold_is_skipped_and_said_to_be() {
    let cluster = one_machine("condition");
    let m1 = cluster.machine("m1");
    let text = "[Unit]\nConditionPathExists=/var/lib/there-is-no-such\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo ran >> /var/lib/ran'\n";
    let output = cluster.ctl(&["start", "--timeout", "5s", &cluster.file("skipped.service", text)]);
    let told = format!("{}{}", output.stdout, output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 4), "it is no wait: {told}");
    assert!(told.to_lowercase().contains("condition"), "{told}");
    assert_eq!(text_of(&m1, "/var/lib/ran"), "");
    // Not tried again by itself, only when asked.
    m1.run(&["touch", "/var/lib/there-is-no-such"]).unwrap();
    m1.fleetd_restart().unwrap();
    cluster.start("probe.service", SLEEPS);
    assert_eq!(text_of(&m1, "/var/lib/ran"), "");
    cluster.ok(&["restart", "skipped.service"]);
    wait_until(SOON, "it to run now", || text_of(&m1, "/var/lib/ran") == "ran\n");
}

#[test]
fn name_destroyed_and_submitted_again_stops_completely_with_the_old_text_first() {
    let cluster = one_machine("again");
    let m1 = cluster.machine("m1");
    let version = |n: u8| {
        format!(
            "[Service]\nExecStart=/bin/sh -c 'echo start{n} >> /var/lib/log; exec sleep infinity'\n\
             ExecStop=/bin/sh -c 'sleep 1; echo stop{n} >> /var/lib/log'\n\
             ExecStopPost=/bin/sh -c 'sleep 0.3; echo post{n} >> /var/lib/log'\n"
        )
    };
    cluster.start("a.service", &version(1));
    let uid = cluster.unit("a.service").unwrap().uid;
    cluster.ok(&["destroy", "--no-block", "a.service"]);
    wait_until(SOON, "it to be stopping", || run_of(&m1, "a.service").active == "deactivating");
    cluster.ok(&["start", &cluster.file("a.service", &version(2))]);
    wait_until(SOON, "the new one to run", || text_of(&m1, "/var/lib/log").contains("start2"));
    assert_eq!(text_of(&m1, "/var/lib/log"), "start1\nstop1\npost1\nstart2\n");
    assert_ne!(cluster.unit("a.service").unwrap().uid, uid);
    cluster.ok(&["destroy", "a.service"]);
    assert_eq!(text_of(&m1, "/var/lib/log"), "start1\nstop1\npost1\nstart2\nstop2\npost2\n");
}

#[test]
fn units_that_need_each_other_start_in_their_order_whatever_order_they_came_in() {
    let cluster = one_machine("order");
    let m1 = cluster.machine("m1");
    let logs = |after: &str| {
        format!(
            "[Unit]\n{after}[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'sleep 0.2; echo %n >> /var/lib/log'\n"
        )
    };
    cluster.start_all([
        ("c.service", logs("Requires=b.service\nAfter=b.service\n").as_str()),
        ("b.service", logs("Requires=a.service\nAfter=a.service\n").as_str()),
        ("a.service", logs("").as_str()),
    ]);
    assert_eq!(text_of(&m1, "/var/lib/log"), "a.service\nb.service\nc.service\n");
}
