//! P5, P6 and P9 on real machines: every wait ends with a code that means something, and no request is lost or done
//! twice.

use std::time::{Duration, Instant};

use fleet_tests::cluster::{Cluster, SOON, run_of, runs_of, succeeded};
use fleet_tests::lab::{Cut, LabOptions, Machine, wait_until};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";
const COUNTED: &str =
    "[Service]\nExecStartPre=/bin/sh -c 'echo ran >> /var/lib/%n'\nExecStart=/bin/sleep infinity\n";

fn lines_of(machine: &Machine<'_>, path: &str) -> usize {
    std::fs::read_to_string(machine.disk_path(path)).unwrap_or_default().lines().count()
}

/// m1 runs what is asked for and never leads; m2 leads.
fn led_by_m2(subject: &str) -> Cluster {
    let options = LabOptions::for_test(subject).machines(2).agent_ttl("60s");
    let options = options.metadata("m1", "runs=units").machine_config("m1", "engine", "\"never\"");
    Cluster::up(options)
}

fn on_m1(text: &str) -> String {
    format!("{text}[X-Fleet]\nMachineMetadata=runs=units\n")
}

fn by_m2<'a>(cluster: &'a Cluster) -> impl Fn(&[&str]) -> String + 'a {
    |arguments| succeeded(arguments, cluster.machine("m2").fleetctl(arguments).expect("fleetctl runs"))
}

#[test]
fn p5_unplaceable_unit_ends_with_5_within_5_seconds_and_a_reason_for_every_machine() {
    let options = LabOptions::for_test("p5").metadata("m1", "disk=hdd").metadata("m2", "disk=ssd,site=b");
    let cluster = Cluster::up(options);
    let text = format!("{SLEEPS}[X-Fleet]\nMachineMetadata=disk=ssd\nMachineMetadata=site=moon\n");
    let began = Instant::now();
    let output = cluster.ctl(&["start", &cluster.file("moon.service", &text)]);
    assert_eq!(output.status.code(), Some(5), "{}{}", output.stdout, output.stderr);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let why = cluster.ok(&["why", "moon.service"]);
    for machine in cluster.lab.machines() {
        let address = machine.address().to_string();
        assert!(why.lines().any(|line| line.contains(&address) && line.contains("no")), "{why}");
    }
    assert!(why.contains("disk") && why.contains("site"), "{why}");
    // Wanted all the same: a machine that fits gets it without another command.
    let m3 = cluster.machine("m3");
    m3.run(&["sh", "-c", "echo 'metadata = \"disk=ssd,site=moon\"' >> /etc/fleet/fleetd.toml"]).unwrap();
    m3.fleetd_restart().unwrap();
    cluster.await_active("moon.service");
    assert!(m3.is_unit_populated("moon.service"));
}

#[test]
fn p6_two_restarts_requested_while_fleetd_is_away_are_one_restart() {
    let cluster = led_by_m2("p6-restarts");
    let (m1, by_m2) = (cluster.machine("m1"), by_m2(&cluster));
    cluster.start("a.service", &on_m1(COUNTED));
    let before = run_of(&m1, "a.service");
    m1.fleetd_stop().unwrap();
    by_m2(&["restart", "--no-block", "a.service"]);
    by_m2(&["restart", "--no-block", "a.service"]);
    assert_eq!(run_of(&m1, "a.service"), before);

    m1.fleetd_start().unwrap();
    wait_until(SOON, "both requests to be done", || {
        let orders = cluster.unit("a.service").map(|unit| unit.orders).unwrap_or_default();
        orders.iter().any(|order| order.applied && order.counters.restart == 2)
    });
    cluster.start("probe.service", &on_m1(SLEEPS));
    assert_ne!(run_of(&m1, "a.service").invocation, before.invocation);
    assert_eq!(lines_of(&m1, "/var/lib/a.service"), 2, "one start and one restart");
    // And with fleetd there, each is one.
    cluster.ok(&["restart", "a.service"]);
    assert_eq!(lines_of(&m1, "/var/lib/a.service"), 3);
}

#[test]
fn p6_what_was_asked_while_fleetd_was_away_is_done_although_etcd_was_compacted() {
    let cluster = led_by_m2("p6-compaction");
    let (m1, by_m2) = (cluster.machine("m1"), by_m2(&cluster));
    cluster
        .start_all([("kept.service", on_m1(COUNTED).as_str()), ("stopped.service", on_m1(COUNTED).as_str())]);
    let kept = run_of(&m1, "kept.service");
    let change = |stop: &str, start: &str| {
        by_m2(&["stop", "--no-block", stop]);
        by_m2(&["start", "--no-block", &cluster.file(start, &on_m1(SLEEPS))]);
        wait_until(SOON, "the order to be written", || {
            let keys = cluster.lab.etcd().ctl(&["get", "--prefix", "--keys-only", "/fleet/assignments/"]);
            keys.is_ok_and(|keys| keys.contains(start))
        });
        let revision = by_m2(&["cluster", "status", "-o", "json"]);
        let revision: fleet_api::v2::ClusterView = serde_json::from_str(&revision).unwrap();
        cluster.lab.etcd().ctl(&["compact", &revision.store.revision.to_string()]).unwrap();
    };
    let settle = |stop: &str, start: &str| {
        wait_until(SOON, "what was asked to be done", || {
            m1.is_unit_populated(start) && !m1.is_unit_populated(stop)
        });
        assert_eq!(run_of(&m1, "kept.service"), kept);
    };
    // fleetd was not there.
    m1.fleetd_stop().unwrap();
    change("stopped.service", "new.service");
    m1.fleetd_start().unwrap();
    settle("stopped.service", "new.service");
    // It was there, and its watch was cut off and cannot go on where it was.
    m1.partition(&["etcd"], Cut::Reject).unwrap();
    cluster.lab.etcd().stop(None).unwrap();
    cluster.lab.etcd().start(None).unwrap();
    cluster_leads(&cluster);
    change("new.service", "newer.service");
    m1.heal().unwrap();
    settle("new.service", "newer.service");
}

/// Waits until m2 leads again.
fn cluster_leads(cluster: &Cluster) {
    wait_until(SOON, "m2 to lead", || {
        cluster.status_on("m2").is_ok_and(|view| {
            view.leader.is_some_and(|leader| leader.machine == cluster.machine("m2").machine_id())
        })
    });
}

#[test]
fn p9_every_wait_ends_with_a_code_that_means_something() {
    let cluster = Cluster::up(LabOptions::for_test("p9").machines(1).agent_ttl("3s"));
    let slow =
        "[Service]\nTimeoutStartSec=infinity\nExecStartPre=/bin/sleep 600\nExecStart=/bin/sleep infinity\n";
    let fails = "[Service]\nType=oneshot\nExecStart=/bin/false\n";
    let nowhere = format!("{SLEEPS}[X-Fleet]\nMachineMetadata=site=moon\n");
    let (good, slow) = (cluster.file("good.service", SLEEPS), cluster.file("slow.service", slow));
    let (fails, nowhere) = (cluster.file("fails.service", fails), cluster.file("nowhere.service", &nowhere));
    let code = |arguments: &[&str]| {
        let began = Instant::now();
        let output = cluster.ctl(arguments);
        assert!(began.elapsed() < SOON, "{arguments:?} took {:?}", began.elapsed());
        (output.status.code().unwrap(), format!("{}{}", output.stdout, output.stderr))
    };
    let expect = |arguments: &[&str], expected: i32| {
        let (code, text) = code(arguments);
        assert_eq!(code, expected, "{arguments:?}: {text}");
        text
    };
    expect(&["start", &good], 0);
    expect(&["start", &fails], 1);
    expect(&["start", "there-is-none.service"], 1);
    expect(&["strat", "good.service"], 2);
    expect(&["start", "--timeout", "soon", &good], 2);
    expect(&["start", "--timeout", "1s", &slow], 4);
    expect(&["start", "--block-attempts", "1", &slow], 4);
    expect(&["start", &nowhere], 5);
    // Of several the highest; the good one is done all the same.
    expect(&["start", "--timeout", "8s", &fails, &nowhere, &cluster.file("good2.service", SLEEPS)], 5);
    cluster.await_active("good2.service");
    expect(&["stop", "good.service"], 0);
    expect(&["destroy", "slow.service", "fails.service"], 0);

    cluster.lab.etcd().stop(None).unwrap();
    let text = expect(&["start", "--timeout", "5s", "good.service"], 6);
    assert!(text.contains("registry") || text.contains("etcd"), "{text}");
    expect(&["stop", "--timeout", "5s", "good2.service"], 6);
}

#[test]
fn p9_start_in_a_cluster_that_nobody_leads_ends_with_6_and_says_so() {
    let cluster =
        Cluster::boot(LabOptions::for_test("p9-nobody").machines(1).config_key("engine", "\"never\""));
    wait_until(SOON, "the machine to be present", || {
        cluster.machines().is_ok_and(|machines| machines.len() == 1)
    });
    let output = cluster.ctl(&["start", "--timeout", "5s", &cluster.file("a.service", SLEEPS)]);
    assert_eq!(output.status.code(), Some(6), "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains("lead"), "{}", output.stderr);
}

#[test]
fn status_cat_and_journal_of_a_unit_elsewhere_are_given_by_any_machine() {
    let cluster = Cluster::up(LabOptions::for_test("elsewhere").machines(2));
    let text = "[Service]\nExecStart=/bin/sh -c 'echo said by the unit; exec sleep infinity'\n";
    cluster.start("a.service", text);
    let place = cluster.place_of("a.service");
    for asked in cluster.lab.machines() {
        let ok = |arguments: &[&str]| succeeded(arguments, asked.fleetctl(arguments).unwrap());
        let status = ok(&["status", "a.service"]);
        assert!(status.contains("active (running)"), "{status}");
        wait_until(SOON, "the line in the journal", || {
            ok(&["journal", "a.service"]).contains("said by the unit")
        });
        assert_eq!(ok(&["cat", "a.service"]), text);
    }
    // Of a machine that is gone the reason is said, within bounds.
    let other = cluster.lab.machines().into_iter().find(|machine| machine.name() != place.name()).unwrap();
    let before = runs_of(&other, &["fleetd.service"]);
    place.kill().unwrap();
    let began = Instant::now();
    let output = other.fleetctl(&["status", "a.service"]).unwrap();
    assert_ne!(output.status.code(), Some(0), "{}", output.stdout);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(!output.stderr.is_empty());
    assert_eq!(runs_of(&other, &["fleetd.service"]), before);
}
