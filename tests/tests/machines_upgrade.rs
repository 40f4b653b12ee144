//! A rolling upgrade of fleetd on real machines, and the way back, under load: today's fleetd and one of a release to
//! come, whose records have a later schema and a field more each.
//!
//! What is true throughout: no unit is disturbed that nobody ordered about; every order is carried out once and
//! answered truthfully; leadership changes hands when the leader's own fleetd is replaced, once, and never else; what
//! the newer release has added, in the registry and on the machines' disks, is still there when the older one has
//! written over it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fleet_api::v2::MachineState;
use fleet_tests::cluster::{Cluster, Run, SOON, fleetd, next_fleetd, runs_of, succeeded};
use fleet_tests::lab::{LabOptions, Machine, wait_until};
use serde_json::Value;

/// A start or a stop takes well below a second, a change of leadership between two of them included.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);
const NEXT: &str = "+next";
/// What the release to come adds to every record.
const FIELD: &str = "next_release";
const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";
/// Leaves a line for each of its runs.
const COUNTED: &str = "[Service]\nExecStartPre=/bin/sh -c 'mkdir -p /var/lib/ran; echo ran >> /var/lib/ran/%n'\nExecStart=/bin/sleep infinity\n";
const ENDED: &str =
    "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'mkdir -p /var/lib/ran; echo ran >> /var/lib/ran/%n'\n";

/// Units that nobody orders about while fleetds are replaced.
const STAYING: [(&str, &str); 8] = [
    ("stay1.service", SLEEPS),
    ("stay2.service", SLEEPS),
    ("stay3.service", SLEEPS),
    ("stay4.service", SLEEPS),
    ("stay5.service", SLEEPS),
    ("stay-counted.service", COUNTED),
    ("stay-ended.service", ENDED),
    ("stay-global.service", "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nGlobal=true\n"),
];

fn staying() -> Vec<&'static str> {
    STAYING.iter().map(|(name, _)| *name).collect()
}

/// A start of what runs, or has ended well, does nothing to it; everybody's record of it is written anew.
fn rewrite_records(cluster: &Cluster) {
    cluster.ok(&[&["start"], staying().as_slice()].concat());
}

fn all_runs(cluster: &Cluster) -> BTreeMap<String, BTreeMap<String, Run>> {
    let machines = cluster.lab.machines().into_iter();
    machines.map(|machine| (machine.name().to_owned(), runs_of(&machine, &staying()))).collect()
}

/// How often a unit has run, anywhere.
fn times_run(cluster: &Cluster, unit: &str) -> usize {
    let lines = |machine: &Machine<'_>| {
        let marks = machine.disk_path(&format!("/var/lib/ran/{unit}"));
        std::fs::read_to_string(marks).unwrap_or_default().lines().count()
    };
    cluster.lab.machines().iter().map(lines).sum()
}

/// As a package installs it: systemd holds the API's socket while fleetd is replaced.
fn hold_socket(machine: &Machine<'_>) {
    machine.systemctl(&["stop", "fleetd.service"]).expect("fleetd stops");
    machine.systemctl(&["start", "fleetd.socket"]).expect("the socket is bound");
    machine.systemctl(&["start", "fleetd.service"]).expect("fleetd starts");
}

/// Replaces fleetd, and waits for what the pages tell an operator to wait for.
fn replace(cluster: &Cluster, machine: &Machine<'_>, binary: &Path, is_next: bool) {
    machine.fleetd_replace(binary).expect("the new fleetd starts");
    wait_until(SOON, &format!("the other fleetd of {} to be connected", machine.name()), || {
        let local = cluster.status_on(machine.name()).map(|view| view.local).unwrap_or_default();
        let machines = cluster.machines().unwrap_or_default();
        let is_known = |id: String| {
            machines.iter().any(|view| {
                view.id == id
                    && view.state == MachineState::Present
                    && view.version.ends_with(NEXT) == is_next
            })
        };
        local.connection == "connected"
            && local.version.ends_with(NEXT) == is_next
            && is_known(machine.machine_id())
    });
}

/// Everybody's fleetd, the leader's last; every client of the load has answers from between two of them.
fn roll(cluster: &Cluster, binary: &Path, is_next: bool, load: &Load) {
    let leader = cluster.status().expect("fleetd answers").leader.expect("somebody leads").machine;
    let (last, first): (Vec<_>, Vec<_>) =
        cluster.lab.machines().into_iter().partition(|machine| machine.machine_id() == leader);
    for machine in first.iter().chain(&last) {
        let before = load.answered();
        replace(cluster, machine, binary, is_next);
        wait_until(SOON, "every client to have been answered twice more", || {
            load.answered().iter().zip(&before).all(|(now, before)| *now >= before + 2)
        });
    }
    wait_until(SOON, "one of the new release to lead", || {
        let leader = cluster.status().ok().and_then(|view| view.leader);
        leader.is_some_and(|leader| leader.version.ends_with(NEXT) == is_next)
    });
}

/// Everything that is written to the leader key.
struct LeaderWatch {
    child: Child,
    log: PathBuf,
}

impl LeaderWatch {
    fn start(cluster: &Cluster) -> LeaderWatch {
        let log = cluster.lab.directory().join("leaders.log");
        let file = File::create(&log).expect("the lab's directory takes files");
        let mut command = cluster.lab.etcd().etcdctl();
        // From the first revision on: the leader that there is shows that the watch works.
        command.args(["watch", "--rev=1", "/fleet/engine/leader"]).stdin(Stdio::null()).stdout(file);
        LeaderWatch { child: command.spawn().expect("etcdctl runs"), log }
    }

    /// The leaders in their order.
    fn leaders(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.filter_map(|record| record["machine"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for LeaderWatch {
    fn drop(&mut self) {
        // It may have died by itself; either way it is reaped.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Clients that order units about.
#[derive(Default)]
struct Load {
    /// Answers so far, by client.
    answers: [AtomicUsize; 3],
    ends: AtomicBool,
}

impl Load {
    fn answered(&self) -> [usize; 3] {
        self.answers.each_ref().map(|answers| answers.load(Ordering::Relaxed))
    }

    /// One client, of every machine in turn: units come, run, stop, run and go, one after the other, and after each
    /// answer it looks whether it is true. Gives how long the slowest took.
    fn run(&self, cluster: &Cluster, client: usize) -> Duration {
        let machines = cluster.lab.machines();
        let is_running =
            |unit: &str| machines.iter().filter(|machine| machine.is_unit_populated(unit)).count();
        let mut slowest = Duration::ZERO;
        for cycle in 0.. {
            if self.ends.load(Ordering::Relaxed) {
                break;
            }
            let unit = format!("load{client}-{cycle}.service");
            let file = cluster.file(&unit, COUNTED);
            let steps: [(&[&str], usize, usize); 5] = [
                (&["submit", &file], 0, 0),
                (&["start", &unit], 1, 1),
                (&["stop", &unit], 0, 1),
                (&["start", &unit], 1, 2),
                (&["destroy", &unit], 0, 2),
            ];
            for (words, copies, runs) in steps {
                let asked = self.answers[client].load(Ordering::Relaxed);
                let machine = &machines[(client + asked) % machines.len()];
                let began = Instant::now();
                succeeded(words, machine.fleetctl(words).expect("fleetctl runs"));
                slowest = slowest.max(began.elapsed());
                if words[0] == "destroy" {
                    wait_until(SOON, "the destroyed unit to be gone", || is_running(&unit) == 0);
                }
                let now = (is_running(&unit), times_run(cluster, &unit));
                assert_eq!(now, (copies, runs), "{unit} after {words:?} on {}", machine.name());
                self.answers[client].fetch_add(1, Ordering::Relaxed);
            }
        }
        slowest
    }
}

/// Records by key, of what outlives its writer; without those of the load's units.
fn records(cluster: &Cluster) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for area in ["units/", "placements/", "states/", "witness/"] {
        let text =
            cluster.lab.etcd().ctl(&["get", "--prefix", &format!("/fleet/{area}")]).expect("etcd answers");
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        for pair in lines.chunks_exact(2) {
            if !pair[0].contains("/load") {
                found.insert(pair[0].to_owned(), serde_json::from_str(pair[1]).expect("a record is JSON"));
            }
        }
    }
    found
}

/// What a machine keeps on its disk: the member file, and the last record of each unit.
fn on_disk(machine: &Machine<'_>) -> BTreeMap<String, Value> {
    let read = |path: &str| std::fs::read_to_string(machine.disk_path(path)).expect("the file is there");
    let member = serde_json::from_str(&read("/var/lib/fleet/member.json")).expect("the member file is JSON");
    let log = read("/var/lib/fleet/records.log");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    let named = lines.filter_map(|line| {
        let unit = line["unit"].as_str()?.to_owned();
        (!unit.starts_with("load")).then(|| (unit, line["record"].clone()))
    });
    named.chain([("member.json".to_owned(), member)]).collect()
}

/// What the release to come has added is there as it was, under its schema, although what else the records say is not.
#[track_caller]
fn assert_rewritten_whole(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) {
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (key, old) in before {
        let new = &after[key];
        assert!(old[FIELD].is_object() && old["v"] == 2, "{key} was not written by the newer release: {old}");
        assert_eq!((&new[FIELD], &new["v"]), (&old[FIELD], &old["v"]), "{key}: {old} became {new}");
        assert_ne!(new, old, "{key} was not written by the older release");
    }
}

/// No fleetd has met anything that it could not read, or worse.
fn assert_nothing_was_unreadable(machine: &Machine<'_>) {
    let journal = machine.journal("fleetd.service").expect("the machine has a journal");
    let bad = ["panicked", "cannot be read", "left out", "written by a newer release", "was lost"];
    let found: Vec<_> = journal.lines().filter(|line| bad.iter().any(|word| line.contains(word))).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn p3_a_rolling_upgrade_and_the_way_back_under_load_disturb_no_unit_and_lose_no_order_and_no_field() {
    let (today, next) = (fleetd(), next_fleetd());
    let cluster = Cluster::up(LabOptions::for_test("upgrade").machines(3));
    cluster.lab.machines().iter().for_each(hold_socket);
    cluster.await_present(3);
    cluster.start_all(STAYING);
    let before = all_runs(&cluster);
    let watch = LeaderWatch::start(&cluster);
    wait_until(SOON, "the leader to be seen", || !watch.leaders().is_empty());
    let elected = watch.leaders().len();

    let load = Load::default();
    let (written, on_disks) = std::thread::scope(|scope| {
        let clients = [0, 1, 2].map(|client| {
            let (cluster, load) = (&cluster, &load);
            scope.spawn(move || load.run(cluster, client))
        });
        // However this ends, the load ends with it.
        let rolled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            roll(&cluster, &next, true, &load);
            rewrite_records(&cluster);
            let machines = cluster.lab.machines();
            let written = (records(&cluster), machines.iter().map(on_disk).collect::<Vec<_>>());
            roll(&cluster, &today, false, &load);
            rewrite_records(&cluster);
            written
        }));
        load.ends.store(true, Ordering::Relaxed);
        for client in clients {
            let slowest = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert!(slowest < LONGEST_ANSWER, "a client waited {slowest:?} for an answer");
        }
        rolled.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });

    let leaders = watch.leaders();
    assert_eq!(leaders.len(), elected + 2, "each roll is one change of leadership: {leaders:?}");
    assert_eq!(all_runs(&cluster), before);
    assert_eq!(times_run(&cluster, "stay-ended.service"), 1);
    assert_rewritten_whole(&written, &records(&cluster));
    for (machine, disk) in cluster.lab.machines().iter().zip(&on_disks) {
        assert_rewritten_whole(disk, &on_disk(machine));
        assert_nothing_was_unreadable(machine);
    }
}

#[test]
fn p3_a_machine_by_itself_is_upgraded_and_set_back_and_keeps_its_registry_and_its_units() {
    let (today, next) = (fleetd(), next_fleetd());
    let cluster = Cluster::up(LabOptions::for_test("upgrade-alone").machines(1).etcd(0));
    let m1 = cluster.machine("m1");
    hold_socket(&m1);
    cluster.start_all(STAYING);
    let before = all_runs(&cluster);
    let exported = || {
        let text = cluster.ok(&["cluster", "export"]);
        let lines = text.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let records = lines.filter_map(|line| {
            let key = line["key"].as_str()?.to_owned();
            let is_kept = ["units/", "placements/", "states/"].iter().any(|area| key.starts_with(area));
            let value = serde_json::from_str(line["value"].as_str()?).ok()?;
            is_kept.then_some((key, value))
        });
        records.collect::<BTreeMap<String, Value>>()
    };

    replace(&cluster, &m1, &next, true);
    rewrite_records(&cluster);
    let (written, disk) = (exported(), on_disk(&m1));
    replace(&cluster, &m1, &today, false);
    rewrite_records(&cluster);
    assert_rewritten_whole(&written, &exported());
    assert_rewritten_whole(&disk, &on_disk(&m1));
    assert_eq!(all_runs(&cluster), before);
    assert_nothing_was_unreadable(&m1);

    // What the newer release has left is also enough to boot with.
    m1.reboot().expect("the machine boots again");
    for (unit, _) in STAYING.iter().filter(|(_, text)| *text != ENDED) {
        wait_until(SOON, "the units to be back after the reboot", || m1.is_unit_populated(unit));
    }
}
