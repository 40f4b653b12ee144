//! The Debian packages, on systemd of both releases: a machine with nothing but them starts units at once and has them
//! back after a reboot; an upgrade, a way back, a removal and a purge disturb no unit; what a package installs is as
//! closed as it says.
//!
//! The packages are made by `scripts/deb.sh` from the binaries that all labs run.

use std::path::{Path, PathBuf};
use std::process::Command;

use fleet_tests::cluster::{SOON, run_of};
use fleet_tests::lab::{Lab, LabOptions, Machine, Release, wait_until};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";
/// Of `systemd-analyze security`: 0 is closed, 10 open.
const EXPOSURE_MOST: f64 = 4.0;

/// Where a binary of ours lies: named by the environment, else beside the tests.
fn binary(program: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let running = std::env::current_exe().expect("/proc/self/exe can be read");
    let found =
        running.ancestors().skip(1).take(2).map(|place| place.join(program)).find(|path| path.is_file());
    found.expect("the binaries are built: cargo build -p fleetd -p fleetctl (make test does)")
}

/// Makes both packages in `directory`; gives their paths.
fn make_packages(directory: &Path, revision: &str) -> Vec<PathBuf> {
    let programs = directory.join("bin");
    std::fs::create_dir_all(&programs).expect("a directory");
    for (program, variable) in [("fleetd", "FLEETD_BIN"), ("fleetctl", "FLEETCTL_BIN")] {
        std::fs::copy(binary(program, variable), programs.join(program)).expect("the binary can be copied");
    }
    let made = Command::new(Path::new(TOP).join("scripts/deb.sh"))
        .env("BIN_DIR", &programs)
        .env("OUT_DIR", directory)
        .env("REVISION", revision)
        .env("COMPRESS", "none")
        .output()
        .expect("the script runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8_lossy(&made.stdout).lines().map(PathBuf::from).collect()
}

/// Puts the packages of two revisions on m1, and gives their paths there: fleetd, fleetctl.
fn put_packages(lab: &Lab, revisions: [&str; 2]) -> [[String; 2]; 2] {
    let m1 = lab.machine("m1");
    let directory = tempfile::tempdir().expect("a temporary directory");
    revisions.map(|revision| {
        let packages = make_packages(directory.path(), revision);
        let paths = packages.iter().map(|package| {
            let name = package.file_name().expect("a file").to_string_lossy();
            let path = format!("/root/{name}");
            std::fs::copy(package, m1.live_path(&path).expect("m1 runs")).expect("the disk takes files");
            path
        });
        let paths: Vec<_> = paths.collect();
        paths.try_into().expect("the daemon and the command line")
    })
}

fn dpkg(machine: &Machine<'_>, arguments: &[&str]) -> String {
    machine.run(&[&["dpkg"], arguments].concat()).expect("dpkg succeeds")
}

fn exposure(machine: &Machine<'_>) -> f64 {
    let told = machine
        .run(&["systemd-analyze", "security", "--no-pager", "fleetd.service"])
        .expect("it is analysed");
    let last =
        told.lines().last().and_then(|line| line.split_once(": ")).expect("the last line is the sum").1;
    last.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

fn is_active(machine: &Machine<'_>, unit: &str) -> bool {
    machine.property(unit, "ActiveState").is_ok_and(|state| state == "active")
}

fn installs_upgrades_and_goes(release: Release) {
    let lab = Lab::up(LabOptions::for_test("package").machines(1).etcd(0).systemd_only().release(release))
        .expect("the lab boots");
    let m1 = lab.machine("m1");
    let [[fleetd, fleetctl], [next, _]] = put_packages(&lab, ["1", "2"]);
    std::fs::write(m1.live_path("/root/hello.service").expect("m1 runs"), SLEEPS)
        .expect("the disk takes files");

    // Nothing is configured and nothing is waited for.
    dpkg(&m1, &["--install", &fleetd, &fleetctl]);
    m1.run(&["fleetctl", "start", "/root/hello.service"]).expect("the unit starts at once");
    let status = m1.run(&["fleetctl", "status", "hello.service"]).expect("the unit is shown");
    assert!(status.contains("active (running)"), "{status}");
    m1.run(&["fleetctl", "journal", "hello.service"]).expect("its journal is shown");
    assert!(exposure(&m1) <= EXPOSURE_MOST, "{}", exposure(&m1));
    let socket = m1.run(&["stat", "--format=%U:%G %a", "/run/fleet.sock"]).expect("the socket is there");
    assert_eq!(socket, "root:fleet 660");

    m1.reboot().expect("the machine boots again");
    wait_until(SOON, "the unit to be back after the reboot", || is_active(&m1, "hello.service"));
    let (before, bound) = (run_of(&m1, "hello.service"), run_of(&m1, "fleetd.socket"));
    let pid = || m1.main_pid("fleetd.service").expect("systemd answers");

    // Upgrade, and the way back: another fleetd, the same run of the unit, the socket bound throughout.
    for package in [&next, &fleetd] {
        let old = pid();
        dpkg(&m1, &["--install", package]);
        m1.run(&["fleetctl", "list-units"]).expect("the new fleetd answers");
        assert!(pid().is_some() && pid() != old);
        assert_eq!(run_of(&m1, "hello.service"), before);
        assert_eq!(run_of(&m1, "fleetd.socket"), bound);
    }

    // Removed, the state stays, and a new installation goes on where it was.
    dpkg(&m1, &["--remove", "fleetd"]);
    assert!(!is_active(&m1, "fleetd.service") && !is_active(&m1, "fleetd.socket"));
    assert_eq!(run_of(&m1, "hello.service"), before);
    dpkg(&m1, &["--install", &next]);
    m1.run(&["fleetctl", "cat", "hello.service"]).expect("the registry is there");
    assert_eq!(run_of(&m1, "hello.service"), before);

    // Purged, the unit is a plain file of systemd, also after it has read its units again.
    dpkg(&m1, &["--purge", "fleetd", "fleetctl"]);
    m1.systemctl(&["daemon-reload"]).expect("systemd reads its units");
    assert_eq!(run_of(&m1, "hello.service"), before);
    let text = m1.systemctl(&["cat", "hello.service"]).expect("the unit has its file");
    assert!(text.contains(SLEEPS), "{text}");
    let left = "ls -d /var/lib/fleet /etc/fleet /run/fleet.sock /usr/bin/fleet* /etc/systemd/system/*/fleet* 2>/dev/null; true";
    assert_eq!(m1.run(&["sh", "-c", left]).expect("ls runs"), "");
    assert_eq!(m1.run(&["systemctl", "--failed", "--quiet", "--no-legend"]).expect("systemd answers"), "");
    m1.systemctl(&["stop", "hello.service"]).expect("a plain unit stops");
}

#[test]
fn packages_start_units_at_once_and_leave_them_running_on_bookworm() {
    installs_upgrades_and_goes(Release::Bookworm);
}

#[test]
fn packages_start_units_at_once_and_leave_them_running_on_trixie() {
    installs_upgrades_and_goes(Release::Trixie);
}
