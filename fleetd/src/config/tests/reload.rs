//! What SIGHUP changes.

use std::sync::{Arc, Mutex};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::super::reload::{Change, Reloaded, Reloader, run};
use super::*;

/// A running fleetd's reloader, and the verbosities that were applied.
fn running(machine: &Machine) -> (Reloader, Arc<Mutex<Vec<u8>>>) {
    let applied = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&applied);
    let apply = move |config: &Config| seen.lock().unwrap().push(config.verbosity);
    (Reloader::new(machine.sources(), machine.config(), apply), applied)
}

fn done(reloaded: Reloaded) -> (Vec<Change>, Vec<Change>) {
    match reloaded {
        Reloaded::Done { in_effect, at_restart, .. } => (in_effect, at_restart),
        Reloaded::Refused(problems) => panic!("{problems}"),
    }
}

fn change(key: &'static str, from: &str, to: &str) -> Change {
    Change { key, from: from.to_owned(), to: to.to_owned() }
}

#[test]
fn what_can_change_in_place_does_and_the_rest_waits_for_a_restart() {
    let machine = Machine::with("etcd_username = \"fleet\"");
    let (mut reloader, applied) = running(&machine);
    assert_eq!(done(reloader.again()), (vec![], vec![]));
    assert_eq!(*applied.lock().unwrap(), Vec::<u8>::new(), "nothing has changed");

    machine.write(
        "etc/fleet/fleetd.d/a.toml",
        "verbosity = 2\nagent_ttl = \"20s\"\netcd_password = \"hunter2\"",
    );
    machine.allow("etc/fleet/fleetd.d/a.toml", 0o600);
    let waiting =
        vec![change("etcd_password", "(hidden)", "(hidden)"), change("agent_ttl", "\"15s\"", "\"20s\"")];
    assert_eq!(done(reloader.again()), (vec![change("verbosity", "0", "2")], waiting.clone()));
    assert_eq!(*applied.lock().unwrap(), [2]);
    assert_eq!(done(reloader.again()), (vec![], waiting), "what waits is named until it is in effect");

    std::fs::remove_file(machine.path("etc/fleet/fleetd.d/a.toml")).unwrap();
    assert_eq!(done(reloader.again()), (vec![change("verbosity", "2", "0")], vec![]));
}

#[test]
fn what_a_machine_says_of_itself_changes_in_place() {
    let machine = Machine::with("metadata = \"disk=ssd\"");
    let (mut reloader, _) = running(&machine);
    machine
        .write("etc/fleet/fleetd.toml", &format!("{ETCD}public_ip = \"10.0.0.9\"\nmetadata = \"disk=hdd\""));
    let changes = vec![
        change("public_ip", "\"\"", "\"10.0.0.9\""),
        change("metadata", "{ disk = \"ssd\" }", "{ disk = \"hdd\" }"),
    ];
    assert_eq!(done(reloader.again()), (changes, vec![]));
}

#[test]
fn a_bad_file_keeps_the_configuration_in_effect() {
    let machine = Machine::with("verbosity = 1");
    let (mut reloader, applied) = running(&machine);
    machine.write("etc/fleet/fleetd.toml", &format!("{ETCD}verbosity = 2\nengine = 5"));
    match reloader.again() {
        Reloaded::Refused(problems) => assert_eq!(problems.0.len(), 1),
        Reloaded::Done { .. } => panic!("a bad file was taken"),
    }
    assert_eq!(*applied.lock().unwrap(), Vec::<u8>::new());
    machine.write("etc/fleet/fleetd.toml", &format!("{ETCD}verbosity = 2"));
    assert_eq!(done(reloader.again()).0, [change("verbosity", "1", "2")]);
}

#[tokio::test]
async fn sighup_reads_everything_again() {
    let machine = Machine::with("");
    let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
    let apply = move |config: &Config| told.send(config.verbosity).unwrap();
    let reloader = Reloader::new(machine.sources(), machine.config(), apply);
    let hangup = signal(SignalKind::hangup()).unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(reloader, hangup, shutdown.clone()));
    machine.write("run/fleet/fleetd.d/a.toml", "verbosity = 1");
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(10), hear.recv()).await;
    assert_eq!(heard.unwrap(), Some(1));
    shutdown.cancel();
    task.await.unwrap();
}
