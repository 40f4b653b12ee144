//! A cluster of fleet 1.0 becomes one of ours: machines as the old daemons leave them, its API as the specification has
//! it, `fleetctl import`. No unit is stopped, started or moved; the recipe is that of `docs/usage/from-fleet-1.0.md`.

mod left;
mod old_fleet;
mod page;

use std::collections::{BTreeMap, BTreeSet};

use fleet_tests::cluster::{Cluster, Run, SOON, reloads, runs_of, succeeded};
use fleet_tests::lab::{ExecOutput, LabOptions, Machine, Release, wait_until};
use serde_json::Value;
use unit_files::UnitFile;

use left::{leave, run_daemon, state_of};
use old_fleet::{OldFleet, OldState, OldUnit, Told};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";
const WEB: &str = "[Unit]\nDescription=Front\n\n[Service]\nExecStart=/bin/sleep infinity\n\n[Install]\nWantedBy=multi-user.target\nAlias=front.service\n";
const SPREAD: &str = "[Service]\nExecStart=/bin/sleep infinity\n\n[X-Fleet]\nConflicts=spread@*.service\n";
const SIDE: &str = "[Service]\nExecStart=/bin/sleep infinity\n\n[X-Fleet]\nMachineOf=spread@2.service\nMachineMetadata=role=side\n";
const GLOBAL: &str = "[Service]\nExecStart=/bin/sleep infinity\n\n[X-Fleet]\nGlobal=true\n";
const TIMER: &str = "[Timer]\nOnActiveSec=1h\n\n[Install]\nWantedBy=timers.target\n";
const ONCE: &str = "[Service]\nType=oneshot\nExecStart=/bin/true\n";
const FAILS: &str = "[Service]\nType=oneshot\nExecStart=/bin/false\n";

/// Name, text, wanted state, machine of the lab (`-`: nowhere, `*`: global).
const UNITS: [(&str, &str, &str, &str); 13] = [
    ("a-side.service", SIDE, "launched", "m2"),
    ("ended.service", ONCE, "launched", "m1"),
    ("fails.service", FAILS, "launched", "m3"),
    ("global.service", GLOBAL, "launched", "*"),
    ("later.service", SLEEPS, "inactive", "-"),
    ("lone.service", SLEEPS, "loaded", "m3"),
    ("spread@.service", SPREAD, "inactive", "-"),
    ("spread@1.service", SPREAD, "launched", "m1"),
    ("spread@2.service", SPREAD, "launched", "m2"),
    ("spread@3.service", SPREAD, "launched", "m3"),
    ("tick.service", ONCE, "loaded", "m1"),
    ("tick.timer", TIMER, "launched", "m1"),
    ("web.service", WEB, "launched", "m1"),
];

fn units_of(machine: &str) -> Vec<(&'static str, &'static str, &'static str)> {
    let here =
        UNITS.iter().filter(|(_, _, desired, at)| (*at == machine || *at == "*") && *desired != "inactive");
    here.map(|(name, text, desired, _)| (*name, *text, *desired)).collect()
}

fn hash_of(text: &str) -> String {
    UnitFile::parse(text).expect("it parses").unit_hash().to_string()
}

type Runs = BTreeMap<String, BTreeMap<String, Run>>;

fn all_runs(cluster: &Cluster) -> Runs {
    let of = |machine: &Machine<'_>| {
        let names: Vec<&str> = units_of(machine.name()).into_iter().map(|(name, _, _)| name).collect();
        (machine.name().to_owned(), runs_of(machine, &names))
    };
    cluster.lab.machines().iter().map(of).collect()
}

/// Three machines with what fleet 1.0 has left on them, and its API.
fn left_by_fleet_1(cluster: &Cluster) -> OldFleet {
    let mut told = Told::default();
    let ids: BTreeMap<String, String> = cluster
        .lab
        .machines()
        .iter()
        .map(|machine| (machine.name().to_owned(), machine.machine_id()))
        .collect();
    for (name, text, desired, at) in UNITS {
        let machine = ids.get(at).cloned().unwrap_or_default();
        told.units.insert(name.to_owned(), OldUnit { text: text.to_owned(), desired, machine });
    }
    for machine in cluster.lab.machines() {
        machine.fleetd_stop().expect("fleetd stops");
        leave(&machine, &units_of(machine.name()));
        for (name, text, _) in units_of(machine.name()) {
            let is_over =
                || !matches!(state_of(&machine, name, "").active.as_str(), "activating" | "deactivating");
            wait_until(SOON, &format!("{name} to be what it becomes"), is_over);
            told.states.push(state_of(&machine, name, &hash_of(text)));
        }
        // Set at run time there, so that no file of the machine has it.
        let role = if machine.name() == "m2" { "side" } else { "other" };
        let metadata = BTreeMap::from([("role".to_owned(), role.to_owned())]);
        told.machines.insert(machine.machine_id(), (metadata, machine.address().to_string()));
        machine.fleetd_start().expect("fleetd starts");
    }
    told.states.sort_by(|a, b| (&a.unit, &a.machine).cmp(&(&b.unit, &b.machine)));
    cluster.await_present(3);
    OldFleet::start(&cluster.lab.directory().join("fleet-1.sock"), told)
}

fn failed(output: &ExecOutput, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}{}", output.stdout, output.stderr);
    output.stderr.clone()
}

fn document(output: &ExecOutput) -> Value {
    serde_json::from_str(&output.stdout).expect("a document")
}

/// Every unit that is wanted on a machine has been carried out there.
fn await_taken_over(cluster: &Cluster, machines: &[&str]) {
    for name in machines {
        let id = cluster.machine(name).machine_id();
        for (unit, _, _) in units_of(name) {
            cluster.await_row(unit, &format!("{unit} to be taken over on {name}"), |row| {
                row.machine == id
                    && row.phase == "settled"
                    && !row.hash.is_empty()
                    && row.last_error.is_none()
            });
        }
    }
}

/// A line of the page's recipe, by `fleetctl` or as a command on these machines, with the places of the lab.
fn play(cluster: &Cluster, old: &OldFleet, line: &str, machines: &[&str]) -> ExecOutput {
    let Some(arguments) = line.strip_prefix("fleetctl ") else {
        let mut last = None;
        for machine in machines {
            let output = cluster.machine(machine).exec(&["/bin/sh", "-c", line]).expect("the machine runs");
            assert!(output.status.success(), "{line} on {machine}: {}{}", output.stdout, output.stderr);
            last = Some(output);
        }
        return last.expect("some machine");
    };
    let (url, file) = (old.url(), cluster.lab.directory().join("fleet-1.json").display().to_string());
    let words = arguments.split(' ').map(|word| match word {
        "unix:///run/fleet.sock" => url.as_str(),
        "fleet-1.json" => file.as_str(),
        word => word,
    });
    cluster.ctl(&words.collect::<Vec<&str>>())
}

/// What `list-units` shows, in the words of both.
fn listed(states: &[OldState]) -> BTreeSet<[String; 6]> {
    let row = |state: &OldState| {
        let OldState { unit, machine, hash, load, active, sub } = state.clone();
        [unit, machine, hash, load, active, sub]
    };
    states.iter().map(row).collect()
}

fn listed_here(cluster: &Cluster) -> BTreeSet<[String; 6]> {
    let rows = cluster.rows().expect("fleetd answers").into_iter();
    rows.map(|row| [row.unit, row.machine, row.hash, row.load, row.active, row.sub]).collect()
}

#[test]
fn a_cluster_of_fleet_1_is_taken_over_without_a_restart_of_any_unit() {
    let cluster = Cluster::up(LabOptions::for_test("migration").machines(3));
    let old = left_by_fleet_1(&cluster);
    let (m1, m2) = (cluster.machine("m1"), cluster.machine("m2"));
    for machine in cluster.lab.machines() {
        run_daemon(&machine);
    }
    let recipe = page::recipe();
    let [save, no_restart, reload, kill, machines, look, import, list] = &recipe[..] else {
        panic!("the recipe has other lines: {recipe:#?}")
    };
    let play = |line: &str, machines: &[&str]| play(&cluster, &old, line, machines);
    let before = all_runs(&cluster);
    let reloads_before: Vec<usize> = cluster.lab.machines().iter().map(reloads).collect();

    // Nothing is changed unless it is asked for, and all pages are read.
    let dry = cluster.ctl(&["import", "--from", &old.url()]);
    assert!(failed(&dry, 1).contains("Run it again with --yes"), "{}", dry.stderr);
    assert!(dry.stdout.contains("Would import 13 units"), "{}", dry.stdout);
    assert!(dry.stdout.contains("web.service launched on "), "{}", dry.stdout);
    assert!(old.told().asked.iter().filter(|path| path.starts_with("/fleet/v1/units?")).count() >= 4);
    assert!(cluster.unit("web.service").is_none());

    // As the page says, but that the daemon of m1 is forgotten.
    succeeded(&[save], play(save, &[]));
    assert!(failed(&play(save, &[]), 1).contains("name a file that does not exist"));
    for line in [no_restart, reload, kill] {
        play(line, &["m2", "m3"]);
    }
    let shown = succeeded(&[machines], play(machines, &[]));
    assert_eq!(shown.lines().count(), 4, "{shown}");
    assert!(failed(&play(look, &[]), 1).contains("Run it again with --yes"));
    succeeded(&[import], play(import, &[]));
    await_taken_over(&cluster, &["m2", "m3"]);
    // Where the old daemon lives it is not fought with: the units run on, nothing moves, and the row says why.
    let waits = cluster.await_row("web.service", "web.service to wait", |row| {
        row.last_error.as_ref().is_some_and(|error| error.code == "fleet-1-runs")
    });
    assert_eq!((waits.machine.as_str(), waits.active.as_str()), (&*m1.machine_id(), "active"));
    assert_eq!(waits.phase, "retrying");
    assert_eq!(all_runs(&cluster), before, "{}", cluster.ok(&["events"]));
    for line in [no_restart, reload, kill] {
        play(line, &["m1"]);
    }
    // It stays ended, whoever starts it: a socket of its own, a boot, a person.
    for machine in cluster.lab.machines() {
        machine.systemctl(&["start", "fleet.service"]).expect("a start whose condition fails is no error");
        let active = machine.property("fleet.service", "ActiveState").expect("the machine answers");
        assert!(matches!(&*active, "inactive" | "failed"), "fleet.service is {active} on {}", machine.name());
    }
    await_taken_over(&cluster, &["m1"]);

    assert_eq!(all_runs(&cluster), before, "units ran on, the same runs on the same machines");
    wait_until(SOON, "list-units to show what fleet 1.0 showed", || {
        listed_here(&cluster) == listed(&old.told().states)
    });
    for (machine, before) in cluster.lab.machines().iter().zip(reloads_before) {
        let more = reloads(machine) - before;
        // One of the recipe, and those of the takeover, which units that come together share.
        assert!(more <= 4, "{} was reloaded {more} times", machine.name());
    }
    succeeded(&[list], play(list, &[]));
    for (name, _, desired, _) in UNITS {
        assert_eq!(cluster.unit(name).expect("it came").desired, desired, "{name}");
    }
    assert_eq!(m2.machine_id(), cluster.place_of("a-side.service").machine_id());

    // Once more is nothing more, and neither is a new fleetd.
    let revisions =
        |cluster: &Cluster| UNITS.map(|(name, ..)| cluster.unit(name).expect("it is here").revision);
    let as_imported = revisions(&cluster);
    let again = cluster.ok(&["import", "--from", &old.url(), "--yes"]);
    assert!(again.contains("Imported 0 units") && again.contains("13 are here already"), "{again}");
    assert_eq!(revisions(&cluster), as_imported);
    for machine in cluster.lab.machines() {
        machine.fleetd_restart().expect("fleetd starts again");
    }
    cluster.await_present(3);
    await_taken_over(&cluster, &["m1", "m2", "m3"]);
    assert_eq!(all_runs(&cluster), before);

    // Another text restarts what it is for, and that alone.
    let file = cluster.file("web.service", &WEB.replace("Front", "Front, new").replace("infinity", "1d"));
    cluster.ok(&["start", "--replace", &file]);
    let mut after = all_runs(&cluster);
    let is_other = |run: Option<Run>, old: &Run| run.is_some_and(|run| run.invocation != old.invocation);
    let web = &before["m1"]["web.service"];
    assert!(is_other(
        after.get_mut("m1").and_then(|runs| runs.insert("web.service".into(), web.clone())),
        web
    ));
    assert_eq!(after, before, "nothing else was touched");

    // What has come from there can go as any other.
    cluster.ok(&["destroy", "web.service"]);
    for path in [
        "fleet/units/web.service",
        "systemd/system/web.service",
        "systemd/system/multi-user.target.wants/web.service",
    ] {
        let path = m1.live_path(&format!("/run/{path}")).expect("m1 runs");
        assert!(path.symlink_metadata().is_err(), "{} is left", path.display());
    }
}

#[test]
fn what_stands_in_the_way_of_an_import_is_named_and_nothing_is_changed() {
    let cluster = Cluster::up(LabOptions::for_test("in-the-way").machines(1));
    let here = cluster.machine("m1").machine_id();
    let nowhere = cluster.lab.directory().join("nobody.sock");
    let refused = cluster.ctl(&["import", "--from", &format!("unix://{}", nowhere.display())]);
    let error = failed(&refused, 1);
    assert!(
        error.contains("cannot read units of the fleet at") && error.contains("--from names the socket"),
        "{error}"
    );
    assert!(failed(&cluster.ctl(&["import", "--from", "nothing"]), 2).contains("URL scheme undefined"));

    let unit =
        |text: &str, desired, machine: &str| OldUnit { text: text.into(), desired, machine: machine.into() };
    let mut told = Told::default();
    told.machines.insert(here, (BTreeMap::new(), String::new()));
    told.units.insert("free.service".into(), unit(SLEEPS, "inactive", ""));
    told.units.insert("taken.service".into(), unit(WEB, "inactive", ""));
    told.units.insert("far.service".into(), unit(SLEEPS, "launched", "00000000000000000000000000000009"));
    let old = OldFleet::start(&cluster.lab.directory().join("fleet-1.sock"), told);
    cluster.start("taken.service", SLEEPS);
    let run = runs_of(&cluster.machine("m1"), &["taken.service"]);

    old.told().is_cut_off = true;
    let error = failed(&cluster.ctl(&["import", "--from", &old.url()]), 1);
    assert!(error.contains("fleet server unable to communicate with etcd"), "{error}");
    old.told().is_cut_off = false;

    let error = failed(&cluster.ctl(&["import", "--from", &old.url(), "--yes"]), 1);
    assert!(
        error.contains("Unable to import taken.service: a unit of that name is here with another text"),
        "{error}"
    );
    assert!(
        error.contains("Unable to import far.service: its machine 00000000000000000000000000000009"),
        "{error}"
    );
    assert!(error.contains("Nothing was changed"), "{error}");
    let judged = document(&cluster.ctl(&["import", "--from", &old.url(), "-o", "json"]));
    let fates: BTreeMap<&str, &str> = judged["units"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|unit| Some((unit["name"].as_str()?, unit["fate"].as_str()?)))
        .collect();
    let expected = [("far.service", "refused"), ("free.service", "new"), ("taken.service", "conflict")];
    assert_eq!((fates, &judged["done"]), (BTreeMap::from(expected), &Value::from(false)));
    assert!(cluster.unit("free.service").is_none());
    assert_eq!(runs_of(&cluster.machine("m1"), &["taken.service"]), run);

    // What stood in the way has gone.
    old.told().units.remove("far.service");
    cluster.ok(&["destroy", "taken.service"]);
    let done = succeeded(&["import"], cluster.ctl(&["import", "--from", &old.url(), "--yes", "-o", "json"]));
    assert!(done.contains(r#""done": true"#) || done.contains(r#""done":true"#), "{done}");
    assert_eq!(cluster.unit("free.service").expect("it came").desired, "inactive");
}

#[test]
fn links_that_a_newer_systemd_made_for_fleet_1_are_taken_over_too() {
    let cluster = Cluster::up(LabOptions::for_test("newer").machines(1).release(Release::Trixie));
    let m1 = cluster.machine("m1");
    let units = [
        ("tick.timer", TIMER, "launched"),
        ("tick.service", ONCE, "loaded"),
        ("web.service", WEB, "launched"),
    ];
    let names = units.map(|(name, _, _)| name);
    m1.fleetd_stop().expect("fleetd stops");
    leave(&m1, &units);
    wait_until(SOON, "web.service to run", || state_of(&m1, "web.service", "").active == "active");
    let before = runs_of(&m1, &names);
    m1.fleetd_start().expect("fleetd starts");
    cluster.await_present(1);
    let mut told = Told::default();
    for (name, text, desired) in units {
        told.units.insert(name.into(), OldUnit { text: text.into(), desired, machine: m1.machine_id() });
    }
    let old = OldFleet::start(&cluster.lab.directory().join("fleet-1.sock"), told);
    cluster.ok(&["import", "--from", &old.url(), "--yes"]);
    for name in names {
        cluster.await_row(name, "it to be taken over", |row| row.phase == "settled" && !row.hash.is_empty());
    }
    assert_eq!(runs_of(&m1, &names), before);
    cluster.ok(&["destroy", "web.service"]);
    let link = m1.live_path("/run/systemd/system/multi-user.target.wants/web.service").expect("m1 runs");
    assert!(link.symlink_metadata().is_err(), "{} is left", link.display());
}
