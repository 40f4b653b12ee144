//! The Debian packages and `make install`, on systemd of both releases: a machine with nothing but them starts units at
//! once and has them back after a reboot; an upgrade, a way back, a removal and a purge disturb no unit; the service is as
//! closed as the page says and can do what it must.
//!
//! The commands are those of `docs/usage/install.md`. The packages are made by `scripts/deb.sh` from the binaries that all
//! labs run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fleet_tests::cluster::{Cluster, SOON, run_of};
use fleet_tests::lab::{ExecOutput, LabOptions, Machine, Release, wait_until};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PAGE: &str = "docs/usage/install.md";
/// Blocks of commands on the page, all of them: each is followed by one of the stories below.
const BLOCKS: [&str; 8] = ["install", "member", "upgrade", "downgrade", "remove", "purge", "source", "stop"];
/// Of `systemd-analyze security`: 0 is closed, 10 open.
const EXPOSURE_MOST: f64 = 4.0;

/// Runs each story on a machine of each release.
macro_rules! on_both_releases {
    ($($story:ident)*) => {$(
        mod $story {
            #[test]
            fn on_systemd_252() {
                super::$story(super::Release::Bookworm);
            }
            #[test]
            fn on_systemd_257() {
                super::$story(super::Release::Trixie);
            }
        }
    )*};
}

on_both_releases! {
    a_machine_with_nothing_but_the_packages_starts_a_unit_and_has_it_back_after_a_reboot
    the_service_is_as_closed_as_the_page_says_and_does_what_it_must
    an_upgrade_a_way_back_and_a_failed_upgrade_leave_every_unit_in_the_run_it_had
    removed_and_purged_packages_leave_units_running_as_plain_files
    make_install_makes_a_machine_of_fleet_without_a_package
}

fn page() -> String {
    std::fs::read_to_string(Path::new(TOP).join(PAGE)).expect("the page is there")
}

/// The commands of one block of the page, without those that build.
fn block(name: &str) -> String {
    let page = page();
    let rest = page.split(&format!("\n```sh {name}\n")).nth(1).expect("the page has the block");
    let lines = rest.lines().take_while(|line| *line != "```");
    lines.filter(|line| !line.starts_with("make ")).collect::<Vec<_>>().join("\n")
}

/// Follows a block of the page on the machine; gives what it printed on both streams.
fn follow(machine: &Machine<'_>, name: &str) -> String {
    let ended = sh(machine, &block(name));
    assert!(ended.status.success(), "{PAGE}, {name}: {ended:?}");
    ended.stdout + &ended.stderr
}

fn sh(machine: &Machine<'_>, lines: &str) -> ExecOutput {
    machine.exec(&["sh", "-ec", &format!("cd /root\n{lines}")]).expect("sh runs")
}

/// What a command prints that has to succeed.
fn told(machine: &Machine<'_>, line: &str) -> String {
    machine.run(&["sh", "-ec", &format!("cd /root\n{line}")]).expect("the command succeeds")
}

fn write(machine: &Machine<'_>, path: &str, text: &str) {
    std::fs::write(machine.live_path(path).expect("the machine runs"), text).expect("the disk takes files");
}

fn is_active(machine: &Machine<'_>, unit: &str) -> bool {
    machine.property(unit, "ActiveState").is_ok_and(|state| state == "active")
}

/// Where a binary of ours lies: named by the environment, else beside the tests.
fn binary(program: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let running = std::env::current_exe().expect("/proc/self/exe can be read");
    let found =
        running.ancestors().skip(1).take(2).map(|place| place.join(program)).find(|path| path.is_file());
    found.expect("the binaries are built: cargo build --bins -p fleetd -p fleetctl -p fleet-tests")
}

/// Both binaries, and what writes their manual pages, in one directory, as `BIN_DIR` of the scripts.
fn programs() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (program, variable) in
        [("fleetd", "FLEETD_BIN"), ("fleetctl", "FLEETCTL_BIN"), ("fleet-man", "FLEET_MAN_BIN")]
    {
        std::fs::copy(binary(program, variable), directory.path().join(program)).expect("a copy");
    }
    directory
}

/// Makes the packages in `directory`; gives their paths: fleetd, fleetctl.
fn make_packages(programs: &Path, directory: &Path, revision: &str) -> [PathBuf; 2] {
    let mut script = Command::new(Path::new(TOP).join("scripts/deb.sh"));
    script.env("BIN_DIR", programs).env("OUT_DIR", directory);
    let made = script.env("REVISION", revision).env("COMPRESS", "none").output().expect("the script runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let paths: Vec<_> = String::from_utf8_lossy(&made.stdout).lines().map(PathBuf::from).collect();
    paths.try_into().expect("the daemon and the command line")
}

/// `make install` into `destination`.
fn make_install(programs: &Path, destination: &Path, prefix: &str) {
    let made = Command::new("make")
        .args(["--no-print-directory", "install"])
        .args([format!("DESTDIR={}", destination.display()), format!("PREFIX={prefix}")])
        .env("BIN_DIR", programs)
        .current_dir(TOP)
        .output()
        .expect("make runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A machine with systemd of the release and nothing of fleet.
fn bare_machine(release: Release) -> Cluster {
    let options = LabOptions::for_test("package").machines(1).etcd(0).systemd_only().release(release);
    let cluster = Cluster::boot(options);
    let m1 = cluster.machine("m1");
    let version = match release {
        Release::Bookworm => "systemd 252 ",
        Release::Trixie => "systemd 257 ",
    };
    let shown = m1.systemctl(&["--version"]).expect("systemctl runs");
    assert!(shown.starts_with(version), "{shown}");
    assert_eq!(left_on(&m1), "");
    // Nobody is there to say yes.
    write(&m1, "/etc/apt/apt.conf.d/yes", "APT::Get::Assume-Yes \"true\";\n");
    cluster
}

/// What belongs to the packages; what units need to run on is not named here.
fn left_on(machine: &Machine<'_>) -> String {
    let places = "/usr/bin/fleet* /etc/fleet /var/lib/fleet /run/fleet.sock /etc/systemd/system/*/fleet* \
                  /usr/lib/systemd/system/fleet* /usr/lib/systemd/system/*/*fleet* /usr/lib/*.d/fleet*";
    told(machine, &format!("ls -d {places} 2>/dev/null || true"))
}

/// Puts the packages where the page has them, and the daemon's next revision.
fn bring_packages(machine: &Machine<'_>) {
    let (programs, directory) = (programs(), tempfile::tempdir().expect("a temporary directory"));
    let [fleetd, fleetctl] = make_packages(programs.path(), directory.path(), "1");
    let [next, _] = make_packages(programs.path(), directory.path(), "2");
    let live = |path: &str| machine.live_path(path).expect("the machine runs");
    std::fs::create_dir_all(live("/root/target/debian")).expect("a directory");
    for (package, path) in [
        (&fleetd, "/root/target/debian/fleetd_1.deb"),
        (&fleetctl, "/root/target/debian/fleetctl_1.deb"),
        (&fleetd, "/root/fleetd_0.1.0-1_amd64.deb"),
        (&next, "/root/fleetd_0.2.0-1_amd64.deb"),
    ] {
        std::fs::copy(package, live(path)).expect("the disk takes files");
    }
}

/// A machine on which the page's first block has been followed.
fn installed_machine(release: Release) -> Cluster {
    let cluster = bare_machine(release);
    let m1 = cluster.machine("m1");
    bring_packages(&m1);
    let shown = follow(&m1, "install");
    assert!(shown.contains("active (running)"), "{shown}");
    cluster
}

fn a_machine_with_nothing_but_the_packages_starts_a_unit_and_has_it_back_after_a_reboot(release: Release) {
    // Installed, started and its status shown, with nothing configured and nothing waited for.
    let cluster = installed_machine(release);
    let m1 = cluster.machine("m1");
    let before = run_of(&m1, "hello.service");

    m1.reboot().expect("the machine boots again");
    // Nobody connects to the socket meanwhile: fleetd starts by itself.
    wait_until(SOON, "the unit to be back after the reboot", || is_active(&m1, "hello.service"));
    assert!(is_active(&m1, "fleetd.service") && is_active(&m1, "fleetd.socket"));
    assert_ne!(run_of(&m1, "hello.service").invocation, before.invocation);
    let status = told(&m1, "fleetctl status hello.service");
    assert!(status.contains("active (running)"), "{status}");

    // The page's way to keep it down keeps it down, and no unit notices.
    let before = run_of(&m1, "hello.service");
    follow(&m1, "stop");
    assert!(!sh(&m1, "fleetctl list-units").status.success());
    assert!(!is_active(&m1, "fleetd.service"));
    assert_eq!(run_of(&m1, "hello.service"), before);
}

fn the_service_is_as_closed_as_the_page_says_and_does_what_it_must(release: Release) {
    let cluster = installed_machine(release);
    let m1 = cluster.machine("m1");
    let analysed = told(&m1, "systemd-analyze security --no-pager fleetd.service | tail -n 1");
    let exposure = analysed.split_once(": ").and_then(|(_, rest)| rest.split(' ').next()).expect("a number");
    assert!(exposure.parse::<f64>().expect("a number") <= EXPOSURE_MOST, "{analysed}");
    assert!(page().contains(&format!("says {exposure} on systemd 252 and on 257")), "{analysed}");
    let floor = told(&m1, "systemctl show --value --property MemoryMin system.slice fleetd.service");
    assert_eq!(floor.split_whitespace().collect::<Vec<_>>(), ["16777216", "16777216"]);

    // Who may read and talk: the state is root's alone, the socket its group's, unit files are everybody's.
    let modes = told(&m1, "stat --format='%U:%G %a' /var/lib/fleet /run/fleet /run/fleet.sock /etc/fleet");
    assert_eq!(
        modes.lines().collect::<Vec<_>>(),
        ["root:root 700", "root:fleet 755", "root:fleet 660", "root:root 755"]
    );
    let closed = "find /run/fleet/units /run/systemd/system -type f ! -perm -444 -o -type d ! -perm -555";
    assert_eq!(told(&m1, closed), "");
    let complaints = told(&m1, "journalctl --boot --grep='Configuration file .*fleet' || true");
    assert!(!complaints.contains("world-inaccessible"), "{complaints}");
    told(&m1, "useradd alice");
    let refused = sh(&m1, "runuser -u alice -- fleetctl list-units");
    assert!(!refused.status.success() && refused.stderr.contains("group"), "{refused:?}");
    follow(&m1, "member");
    assert!(told(&m1, "runuser -u alice -- fleetctl list-units").contains("hello.service"));

    // Processes of other users in a status, journals, and a journal that is followed by a program of fleetd's.
    write(
        &m1,
        "/root/other.service",
        "[Service]\nUser=nobody\nExecStart=sh -c 'echo from-other; sleep 1d'\n",
    );
    told(&m1, "fleetctl start other.service");
    assert!(told(&m1, "fleetctl status other.service").contains("sleep 1d"));
    wait_until(SOON, "the journal to have what the unit says", || {
        told(&m1, "fleetctl journal other.service").contains("from-other")
    });
    let mut following = m1.command("fleetctl").expect("m1 runs");
    following.args(["journal", "--follow", "other.service"]).stdout(Stdio::piped());
    let mut following = following.spawn().expect("fleetctl runs");
    let lines = BufReader::new(following.stdout.take().expect("a pipe")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("from-other")));
    following.kill().and_then(|()| following.wait()).expect("it ends");

    // Configuration of another user that nobody else reads, a reload without /bin/kill, and a port below 1024.
    write(&m1, "/etc/fleet/fleetd.d/closed.toml", "metadata = \"disk=ssd\"\n");
    told(&m1, "cd /etc/fleet/fleetd.d; chown nobody closed.toml; chmod 400 closed.toml; rm -f /bin/kill");
    m1.systemctl(&["reload", "fleetd.service"]).expect("it is told");
    wait_until(SOON, "the metadata to change in place", || {
        told(&m1, "fleetctl list-machines").contains("disk=ssd")
    });
    write(&m1, "/etc/fleet/fleetd.d/port.toml", "listen = \"tcp://127.0.0.1:80\"\n");
    m1.fleetd_restart().expect("the port is bound");
    assert!(told(&m1, "fleetctl --endpoint http://127.0.0.1:80 list-units").contains("hello.service"));

    // Nothing else can be written, whatever fleetd is made to do.
    let inside = "nsenter --mount --target $(systemctl show --value --property MainPID fleetd.service)";
    for place in ["/etc/fleet", "/usr/bin", "/var/lib", "/root", "/boot", "/sys/fs/cgroup"] {
        assert!(!sh(&m1, &format!("{inside} mkdir {place}/made")).status.success(), "{place}");
    }
    told(&m1, &format!("{inside} mkdir /run/made /var/lib/fleet/made"));
}

fn an_upgrade_a_way_back_and_a_failed_upgrade_leave_every_unit_in_the_run_it_had(release: Release) {
    let cluster = installed_machine(release);
    let m1 = cluster.machine("m1");
    let run = || (run_of(&m1, "hello.service"), run_of(&m1, "fleetd.socket"));
    let before = run();
    let pid = || m1.main_pid("fleetd.service").expect("systemd answers");
    let version = || told(&m1, "dpkg-query --show --showformat='${Status} ${Version}' fleetd");
    let revision =
        |revision: &str| assert_eq!(version().split('-').next_back(), Some(revision), "{}", version());

    // Another fleetd, the same run of the unit, the socket bound throughout.
    for (way, to) in [("upgrade", "2"), ("downgrade", "1")] {
        let old = pid();
        follow(&m1, way);
        revision(to);
        assert!(pid().is_some() && pid() != old);
        assert_eq!(
            told(&m1, "readlink /proc/$(systemctl show --value -P MainPID fleetd)/exe"),
            "/usr/bin/fleetd"
        );
        assert!(told(&m1, "fleetctl list-units").contains("running"));
        assert_eq!(run(), before);
    }

    // The new one does not start: apt says where to look, and it starts once the cause is gone.
    write(&m1, "/etc/fleet/fleetd.d/bad.toml", "of_another_version = 1\n");
    assert!(follow(&m1, "upgrade").contains("systemctl status fleetd.service"));
    revision("2");
    assert!(!is_active(&m1, "fleetd.service"));
    assert_eq!(run(), before);
    told(&m1, "rm /etc/fleet/fleetd.d/bad.toml");
    wait_until(SOON, "fleetd to start by itself", || is_active(&m1, "fleetd.service"));

    // An archive that ends in the middle: dpkg goes back to the old one.
    told(&m1, "head --bytes=4000000 fleetd_0.1.0-1_amd64.deb > torn.deb");
    let torn = sh(&m1, "dpkg --install torn.deb");
    assert!(!torn.status.success(), "{torn:?}");
    assert!(version().starts_with("install ok installed "), "{}", version());
    revision("2");
    assert!(told(&m1, "fleetctl list-units").contains("running"));
    assert_eq!(run(), before);

    // Disabled, nothing is started, not even by an upgrade; enabled again, the unit is still in its run.
    m1.systemctl(&["disable", "--now", "fleetd.socket", "fleetd.service"]).expect("both stop");
    follow(&m1, "downgrade");
    assert!(!is_active(&m1, "fleetd.service") && !is_active(&m1, "fleetd.socket"));
    m1.systemctl(&["enable", "--now", "fleetd.socket", "fleetd.service"]).expect("both start");
    assert!(told(&m1, "fleetctl list-units").contains("running"));
    assert_eq!(run().0, before.0);
}

fn removed_and_purged_packages_leave_units_running_as_plain_files(release: Release) {
    let cluster = installed_machine(release);
    let m1 = cluster.machine("m1");
    let before = run_of(&m1, "hello.service");

    // Removed, the state stays, and a new installation goes on where it was.
    follow(&m1, "remove");
    assert!(!is_active(&m1, "fleetd.service") && !is_active(&m1, "fleetd.socket"));
    assert_eq!(run_of(&m1, "hello.service"), before);
    told(&m1, "apt install ./fleetd_0.1.0-1_amd64.deb");
    assert!(is_active(&m1, "fleetd.service") && is_active(&m1, "fleetd.socket"));
    assert!(told(&m1, "fleetctl cat hello.service").contains("sleep 1d"));
    assert_eq!(run_of(&m1, "hello.service"), before);

    // Purged, the unit is a plain file of systemd, also after it has read its units again. Others' files stay.
    write(&m1, "/etc/fleet/fleetd.d/mine.toml", "verbosity = 1\n");
    follow(&m1, "purge");
    told(&m1, "apt purge fleetctl");
    m1.systemctl(&["daemon-reload"]).expect("systemd reads its units");
    assert_eq!(run_of(&m1, "hello.service"), before);
    assert!(told(&m1, "systemctl cat hello.service").contains("ExecStart=/bin/sleep 1d"));
    assert_eq!(told(&m1, "find /etc/fleet -type f"), "/etc/fleet/fleetd.d/mine.toml");
    told(&m1, "rm -r /etc/fleet");
    assert_eq!(left_on(&m1), "");
    assert_eq!(told(&m1, "systemctl --failed --quiet --no-legend"), "");

    // A fleetd with a new registry does not stop what it finds.
    follow(&m1, "install");
    assert_eq!(run_of(&m1, "hello.service"), before);
    told(&m1, "apt purge fleetd");
    m1.systemctl(&["restart", "hello.service"]).expect("a plain unit is systemd's to restart");
    m1.reboot().expect("the machine boots again");
    assert_eq!(m1.property("hello.service", "LoadState").expect("systemd answers"), "not-found");
}

fn make_install_makes_a_machine_of_fleet_without_a_package(release: Release) {
    let cluster = bare_machine(release);
    let m1 = cluster.machine("m1");
    make_install(programs().path(), &m1.live_path("/").expect("m1 runs"), "/usr");
    follow(&m1, "source");
    write(&m1, "/root/hello.service", "[Service]\nExecStart=/bin/sleep 1d\n");
    told(&m1, "fleetctl start hello.service");
    assert_eq!(told(&m1, "stat --format=%U:%G /run/fleet.sock"), "root:fleet");
    m1.reboot().expect("the machine boots again");
    wait_until(SOON, "the unit to be back after the reboot", || is_active(&m1, "hello.service"));
}

/// Files and directories below `root` by their paths there, with their modes.
fn tree(root: &Path) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("it can be listed").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("it is there"));
            let name = path.strip_prefix(root).expect("it is below").to_string_lossy().into_owned();
            found.insert(name, meta.permissions().mode());
            if meta.is_dir() {
                directories.push(path);
            }
        }
    }
    found
}

#[test]
fn the_packages_hold_what_make_install_installs_and_the_page_names_every_file() {
    let (programs, top) = (programs(), tempfile::tempdir().expect("a temporary directory"));
    let (unpacked, installed) = (top.path().join("unpacked"), top.path().join("installed"));
    for package in make_packages(programs.path(), top.path(), "1") {
        let done = Command::new("dpkg-deb").arg("--extract").arg(package).arg(&unpacked).status();
        assert!(done.expect("dpkg-deb runs").success());
    }
    make_install(programs.path(), &installed, "/usr");
    let mut packaged = tree(&unpacked);
    // Debian's own: the licence and the changelogs.
    packaged.retain(|path, _| !path.starts_with("usr/share/doc"));
    let files = tree(&installed);
    assert_eq!(packaged, files);
    for path in files.keys().filter(|path| installed.join(path).is_file() && !path.starts_with("usr/bin/")) {
        let (one, other) = (std::fs::read(installed.join(path)), std::fs::read(unpacked.join(path)));
        assert_eq!(one.expect("it is there"), other.expect("it is there"), "{path}");
        // Of the manual pages the page names the directories: there is one for each command.
        let name = match path.rsplit_once('/').expect("a directory") {
            (directory, _) if directory.starts_with("usr/share/man/") => directory,
            (_, name) => name,
        };
        assert!(page().contains(name), "{PAGE} does not name {path}");
    }
    for path in [
        "usr/share/man/man1/fleetctl.1.gz",
        "usr/share/man/man1/fleetctl-list-units.1.gz",
        "usr/share/man/man1/fleetctl-machine-forget.1.gz",
        "usr/share/man/man8/fleetd.8.gz",
        "usr/share/bash-completion/completions/fleetctl",
        "usr/share/zsh/vendor-completions/_fleetctl",
        "usr/share/fish/vendor_completions.d/fleetctl.fish",
    ] {
        assert_eq!(files.get(path).map(|mode| mode & 0o777), Some(0o644), "{path}");
        assert!(std::fs::metadata(installed.join(path)).is_ok_and(|file| file.len() > 100), "{path}");
    }
    // Nothing of fleetd/dist is forgotten.
    let all = tree(&Path::new(TOP).join("fleetd/dist"));
    assert_eq!(all.keys().find(|path| !files.contains_key(*path)), None);
}

#[test]
fn make_install_keeps_a_configuration_and_takes_another_prefix() {
    let (programs, top) = (programs(), tempfile::tempdir().expect("a temporary directory"));
    let configuration = top.path().join("etc/fleet/fleetd.toml");
    std::fs::create_dir_all(configuration.parent().expect("a directory")).expect("a directory");
    std::fs::write(&configuration, "verbosity = 1\n").expect("a file");
    make_install(programs.path(), top.path(), "/usr/local");
    assert_eq!(std::fs::read_to_string(&configuration).expect("it is there"), "verbosity = 1\n");
    let local = top.path().join("usr/local");
    let service = std::fs::read_to_string(local.join("lib/systemd/system/fleetd.service")).expect("a file");
    assert!(service.contains("\nExecStart=/usr/local/bin/fleetd\n"), "{service}");
    assert!(local.join("bin/fleetctl").is_file());
    let in_usr: Vec<_> = std::fs::read_dir(top.path().join("usr")).expect("a directory").flatten().collect();
    assert_eq!(in_usr.len(), 1, "{in_usr:?}");
}

#[test]
fn every_block_of_commands_on_the_page_is_followed_by_a_story() {
    let page = page();
    let blocks: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("```")).collect();
    let mut followed: BTreeSet<_> = BLOCKS.iter().map(|name| format!("sh {name}")).collect();
    // What closes a block.
    followed.insert(String::new());
    assert_eq!(blocks, followed.iter().map(String::as_str).collect());
}
