//! P3 on real machines: what becomes of fleetd changes nothing in any workload. And a state
//! directory that takes no more keeps fleetd from acting, not units from running.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fleet_tests::cluster::{Cluster, Run, SOON, reloads, run_of, runs_of};
use fleet_tests::lab::{LabOptions, Machine, wait_until};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

/// 40 services of several kinds and 10 oneshots; those of the latter that end leave a line in `/var/lib/ran/NAME`.
fn fifty_units() -> Vec<(String, String)> {
    let mut units: Vec<(String, String)> = Vec::new();
    for n in 0..34 {
        units.push((format!("plain{n}.service"), SLEEPS.to_owned()));
    }
    for n in 0..4 {
        let text = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'mkdir -p /var/lib/ran; echo ran >> /var/lib/ran/%n'\n";
        units.push((format!("remains{n}.service"), text.to_owned()));
    }
    let notify = "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep infinity'\n";
    units.push(("notifies.service".to_owned(), notify.to_owned()));
    let instance = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
    units.push(("wanted.service".to_owned(), instance.to_owned()));
    for n in 0..10 {
        let text = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'mkdir -p /var/lib/ran; echo ran >> /var/lib/ran/%n'\n";
        units.push((format!("once{n}.service"), text.to_owned()));
    }
    units
}

/// Lines that the units have left, by unit.
fn marks(machine: &Machine<'_>) -> BTreeMap<String, usize> {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    let entries = std::fs::read_dir(machine.disk_path("/var/lib/ran")).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(entry.path()))).collect()
}

fn runs(machine: &Machine<'_>, units: &[(String, String)]) -> BTreeMap<String, Run> {
    let names: Vec<_> = units.iter().map(|(name, _)| name.as_str()).collect();
    runs_of(machine, &names)
}

/// Waits until another fleetd than `before` is active.
fn await_other_fleetd(machine: &Machine<'_>, before: Option<u32>) {
    wait_until(SOON, "another fleetd to be active", || {
        let now = machine.main_pid("fleetd.service").ok().flatten();
        now.is_some()
            && now != before
            && machine.property("fleetd.service", "ActiveState").is_ok_and(|state| state == "active")
    });
}

#[test]
fn p3_sigkill_sigterm_and_replacement_of_fleetd_under_50_units_change_nothing() {
    let cluster = Cluster::up(LabOptions::for_test("p3-fifty").machines(1));
    let m1 = cluster.machine("m1");
    let units = fifty_units();
    assert_eq!(units.len(), 50);
    cluster.start_all(units.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    let (before, reloaded) = (runs(&m1, &units), reloads(&m1));
    assert_eq!(before.len(), 50);
    let once: BTreeMap<_, _> = units
        .iter()
        .filter(|(_, text)| text.contains("oneshot"))
        .map(|(name, _)| (name.clone(), 1))
        .collect();
    assert_eq!(marks(&m1), once);

    let disturbances: [(&str, &dyn Fn()); 3] = [
        ("SIGKILL", &|| m1.fleetd_kill().unwrap()),
        ("SIGTERM", &|| m1.fleetd_restart().unwrap()),
        ("replacement", &|| {
            let binary = m1.disk_path("/usr/bin/fleetd");
            m1.fleetd_replace(&binary).unwrap();
        }),
    ];
    for (what, disturb) in disturbances {
        let fleetd = m1.main_pid("fleetd.service").unwrap();
        disturb();
        await_other_fleetd(&m1, fleetd);
        // A unit that comes and one that goes show that the new fleetd works on orders.
        cluster.start("probe.service", SLEEPS);
        cluster.ok(&["destroy", "probe.service"]);
        assert_eq!(runs(&m1, &units), before, "after {what}");
        assert_eq!(marks(&m1), once, "after {what}");
        assert_eq!(reloads(&m1), reloaded, "systemd was made to re-read its units by {what}");
    }
    let text = m1.journal("fleetd.service").unwrap();
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn p3_oneshot_does_not_run_again_whenever_fleetd_is_killed_during_its_start() {
    // m2 leads: no order waits for a new leader.
    let options = LabOptions::for_test("p3-moments").machines(2).metadata("m1", "runs=units");
    let cluster = Cluster::up(options.machine_config("m1", "engine", "\"never\""));
    let m1 = cluster.machine("m1");
    let text = "[Service]\nType=oneshot\nExecStartPre=/bin/sleep 0.3\nExecStart=/bin/sh -c 'mkdir -p /var/lib/ran; echo ran >> /var/lib/ran/%n; sleep 0.3'\n[X-Fleet]\nMachineMetadata=runs=units\n";
    type Moment<'a> = (&'a str, &'a dyn Fn(&str) -> bool);
    let moments: [Moment<'_>; 6] = [
        ("asked", &|_| true),
        ("written", &|unit| {
            m1.live_path(&format!("/run/fleet/units/{unit}")).is_ok_and(|path| path.exists())
        }),
        ("enqueued", &|unit| m1.property(unit, "ActiveState").is_ok_and(|state| state == "activating")),
        ("running", &|unit| m1.is_unit_populated(unit)),
        ("ran", &|unit| marks(&m1).contains_key(unit)),
        ("ended", &|unit| marks(&m1).contains_key(unit) && !m1.is_unit_populated(unit)),
    ];
    for (moment, has_come) in moments {
        let unit = format!("killed-when-{moment}.service");
        let fleetd = m1.main_pid("fleetd.service").unwrap();
        cluster.ok(&["start", "--no-block", &cluster.file(&unit, text)]);
        wait_until(SOON, &format!("{unit} to be {moment}"), || has_come(&unit));
        m1.fleetd_kill().unwrap();
        await_other_fleetd(&m1, fleetd);
        cluster.await_row(&unit, "the oneshot to have ended well", |row| {
            row.active == "inactive" && row.result == "success" && row.phase == "settled"
        });
    }
    // Many at once, killed in the middle of it.
    let many: Vec<_> = (0..20).map(|n| format!("many{n}.service")).collect();
    let files: Vec<_> = many.iter().map(|unit| cluster.file(unit, text)).collect();
    let fleetd = m1.main_pid("fleetd.service").unwrap();
    cluster
        .ok(&[&["start", "--no-block"], files.iter().map(String::as_str).collect::<Vec<_>>().as_slice()]
            .concat());
    wait_until(SOON, "the first of them to run", || many.iter().any(|unit| m1.is_unit_populated(unit)));
    m1.fleetd_kill().unwrap();
    await_other_fleetd(&m1, fleetd);
    wait_until(SOON, "all of them to have ended well", || {
        let rows = cluster.rows().unwrap_or_default();
        let has_ended = |unit: &String| {
            rows.iter().any(|row| row.unit == *unit && row.active == "inactive" && row.result == "success")
        };
        many.iter().all(has_ended)
    });
    m1.fleetd_restart().unwrap();
    cluster.ok(&["start", &cluster.file("probe.service", text)]);
    let (marks, expected) = (marks(&m1), moments.len() + many.len() + 1);
    assert!(marks.len() == expected && marks.values().all(|times| *times == 1), "{marks:?}");
}

#[test]
fn full_state_directory_is_reported_and_no_unit_is_touched() {
    let cluster = Cluster::up(LabOptions::for_test("full-disk").machines(1));
    let m1 = cluster.machine("m1");
    m1.fleetd_stop().unwrap();
    let small = "cp -a /var/lib/fleet /var/lib/fleet.was && mount -t tmpfs -o size=256k,mode=0700 tmpfs /var/lib/fleet \
        && cp -a /var/lib/fleet.was/. /var/lib/fleet/";
    m1.run(&["sh", "-c", small]).unwrap();
    m1.fleetd_start().unwrap();
    cluster.await_present(1);
    cluster.start_all([("a.service", SLEEPS), ("b.service", SLEEPS)]);
    let before = runs_of(&m1, &["a.service", "b.service"]);
    // dd fails when nothing more goes in: that is what it is for.
    m1.exec(&["dd", "if=/dev/zero", "of=/var/lib/fleet/filler", "bs=1k"]).unwrap();

    // Long enough not to fit into what is left of a page.
    let long = format!("{SLEEPS}{}", format!("# {}\n", "x".repeat(1000)).repeat(8));
    let late: Vec<_> = (0..10).map(|n| format!("late{n}.service")).collect();
    let files: Vec<_> = late.iter().map(|unit| cluster.file(unit, &format!("{long}# {unit}\n"))).collect();
    let start: Vec<_> =
        ["start", "--timeout", "3s"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let pending = cluster.ctl(&start);
    assert_eq!(pending.status.code(), Some(4), "{}{}", pending.stdout, pending.stderr);
    let stopped = cluster.ctl(&["stop", "--timeout", "2s", "b.service"]);
    assert_eq!(stopped.status.code(), Some(4), "{}{}", stopped.stdout, stopped.stderr);
    let says = |text: &str| text.contains("/var/lib/fleet: No space left");
    let status = m1.property("fleetd.service", "StatusText").unwrap();
    let local = cluster.status_on("m1").unwrap().local.text;
    assert!(says(&status) || says(&local), "STATUS={status}; cluster status: {local}");
    assert_eq!(runs_of(&m1, &["a.service", "b.service"]), before);
    assert_eq!(late.iter().find(|unit| m1.is_unit_populated(unit)), None);

    m1.run(&["rm", "/var/lib/fleet/filler"]).unwrap();
    late.iter().for_each(|unit| drop(cluster.await_active(unit)));
    wait_until(SOON, "b.service to stop", || !m1.is_unit_populated("b.service"));
    assert_eq!(run_of(&m1, "a.service"), before["a.service"]);
}
