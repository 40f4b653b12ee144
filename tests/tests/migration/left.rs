//! Machines as fleet 1.0 leaves them when its daemon is killed: units that it wrote, linked and started by its own calls,
//! in the order of its specification, and its service.

use fleet_tests::lab::Machine;

use crate::old_fleet::OldState;

const MANAGER: [&str; 4] =
    ["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];

/// A call of PID 1, as the daemon made them over D-Bus.
fn call(machine: &Machine<'_>, arguments: &[&str]) {
    let words: Vec<&str> = ["busctl"].iter().chain(&MANAGER).chain(arguments).copied().collect();
    machine.run(&words).expect("systemd does what fleet 1.0 asked of it");
}

/// Writes, links and enables; what is launched is started after one reload.
pub fn leave(machine: &Machine<'_>, units: &[(&str, &str, &str)]) {
    let directory = machine.live_path("/run/fleet/units").expect("the machine runs");
    std::fs::create_dir_all(&directory).expect("/run is writable");
    for (name, text, _) in units {
        std::fs::write(directory.join(name), text).expect("/run is writable");
        let path = format!("/run/fleet/units/{name}");
        call(machine, &["LinkUnitFiles", "asbb", "1", &path, "true", "true"]);
        if text.contains("[Install]") {
            call(machine, &["EnableUnitFiles", "asbb", "1", &path, "true", "true"]);
        }
    }
    call(machine, &["Reload"]);
    for (name, _, desired) in units {
        if *desired == "launched" {
            call(machine, &["StartUnit", "ss", name, "replace"]);
        }
    }
}

/// What its agent publishes of a unit.
pub fn state_of(machine: &Machine<'_>, unit: &str, hash: &str) -> OldState {
    let property = |name: &str| machine.property(unit, name).expect("the machine answers");
    OldState {
        unit: unit.to_owned(),
        machine: machine.machine_id(),
        hash: hash.to_owned(),
        load: property("LoadState"),
        active: property("ActiveState"),
        sub: property("SubState"),
    }
}

/// Its daemon, as far as systemd can tell.
pub fn run_daemon(machine: &Machine<'_>) {
    let text = "[Service]\nExecStart=/bin/sleep infinity\nRestart=always\nRestartSec=100ms\n";
    let path = machine.live_path("/run/systemd/system/fleet.service").expect("the machine runs");
    std::fs::write(path, text).expect("/run is writable");
    machine.systemctl(&["start", "fleet.service"]).expect("it starts");
}
