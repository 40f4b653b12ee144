//! The lab keeps what it promises: machines that behave as machines, faults that are faults, nothing left behind.
//! Real systemd and real etcd, no fleetd.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fleet_tests::lab::{
    Cut, Lab, LabOptions, Machine, Power, known_labs, lab_directory, wait_for, wait_until,
};

const SOON: Duration = Duration::from_secs(10);

/// Whether a TCP connection from the machine to etcd's first member is made within a second.
fn reaches_etcd(machine: &Machine<'_>) -> bool {
    reaches(machine, "10.77.0.1", 2379)
}

fn reaches(machine: &Machine<'_>, address: &str, port: u16) -> bool {
    let attempt = format!("exec 3<>/dev/tcp/{address}/{port}");
    machine.exec(&["timeout", "1", "bash", "-c", &attempt]).expect("the machine runs").status.success()
}

/// Cgroup directories of a lab, in any tree of this host.
fn cgroups_of(name: &str) -> Vec<String> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"]
        .iter()
        .map(|root| format!("{root}/fleet-lab/{name}"))
        .filter(|path| Path::new(path).exists())
        .collect()
}

fn signal(pid: i32, signal: &str) {
    let status = Command::new("/bin/kill").args([signal, &pid.to_string()]).status().expect("kill is there");
    assert!(status.success());
}

#[test]
fn machine_keeps_its_id_and_its_disk_over_reboot_and_power_cut() {
    let lab = Lab::up(LabOptions::for_test("reboot").machines(1).etcd(0).systemd_only()).unwrap();
    let m1 = lab.machine("m1");
    let id = m1.run(&["cat", "/etc/machine-id"]).unwrap();
    assert_eq!(id, m1.machine_id());
    m1.run(&["sh", "-c", "mkdir -p /var/lib/fleet && echo kept > /var/lib/fleet/state"]).unwrap();
    let first = m1.boot_id().unwrap();

    m1.reboot().unwrap();
    let second = m1.boot_id().unwrap();
    assert_ne!(first, second);
    assert_eq!(m1.run(&["cat", "/etc/machine-id", "/var/lib/fleet/state"]).unwrap(), format!("{id}\nkept"));

    m1.kill().unwrap();
    assert_eq!(m1.power().unwrap(), Power::Off);
    assert_eq!(std::fs::read_to_string(m1.disk_path("/var/lib/fleet/state")).unwrap(), "kept\n");
    m1.start().unwrap();
    assert_ne!(second, m1.boot_id().unwrap());
    assert_eq!(m1.run(&["cat", "/etc/machine-id", "/var/lib/fleet/state"]).unwrap(), format!("{id}\nkept"));
    assert!(m1.last_boot().unwrap().unwrap() < SOON);
}

#[test]
fn machine_that_reboots_by_itself_comes_back_and_one_that_powers_off_stays_off() {
    let lab = Lab::up(LabOptions::for_test("self-reboot").machines(1).etcd(0).systemd_only()).unwrap();
    let m1 = lab.machine("m1");
    let before = m1.boot_id().unwrap();
    // The command may be cut off by the very reboot it asks for.
    drop(m1.exec(&["systemctl", "reboot"]));
    wait_until(SOON, "the machine to be back", || m1.boot_id().is_ok_and(|now| now != before));
    wait_until(SOON, "the boot to be complete", || m1.power().unwrap() == Power::Running);

    m1.power_off().unwrap();
    assert_eq!(m1.power().unwrap(), Power::Off);
    let error = m1.exec(&["true"]).unwrap_err().to_string();
    assert!(error.contains("fleet-lab start m1"), "{error}");
    assert!(m1.power_off().is_err());
}

#[test]
fn two_labs_side_by_side_do_not_meet() {
    let one = Lab::up(LabOptions::for_test("side-one").machines(1).systemd_only()).unwrap();
    let two = Lab::up(LabOptions::for_test("side-two").machines(1).systemd_only()).unwrap();
    one.etcd().ctl(&["put", "who", "one"]).unwrap();
    two.etcd().ctl(&["put", "who", "two"]).unwrap();
    assert_eq!(one.etcd().ctl(&["get", "--print-value-only", "who"]).unwrap(), "one\n");
    assert_eq!(one.machine("m1").address(), two.machine("m1").address());
    one.machine("m1").run(&["systemd-run", "--unit=only-here", "sleep", "1000"]).unwrap();
    wait_until(SOON, "the unit to run", || one.machine("m1").is_unit_populated("only-here.service"));
    assert!(!two.machine("m1").is_unit_populated("only-here.service"));
    assert!(Lab::up(LabOptions::new(one.name()).machines(0)).unwrap_err().to_string().contains("already up"));

    let name = one.name().to_owned();
    drop(one);
    assert!(!lab_directory(&name).exists());
    assert_eq!(cgroups_of(&name), Vec::<String>::new());
    assert_eq!(two.etcd().ctl(&["get", "--print-value-only", "who"]).unwrap(), "two\n");
    two.machine("m1").run(&["true"]).unwrap();
}

#[test]
fn supervisor_killed_without_warning_takes_everything_along_and_down_removes_the_rest() {
    let options = LabOptions::for_test("sigkill").machines(2).systemd_only();
    let name = options.name.clone();
    let lab = Lab::up_detached(options, &mut |_| {}).unwrap();
    let leaders: Vec<_> = lab.machines().iter().map(|machine| machine.leader().unwrap()).collect();
    signal(lab.supervisor_pid(), "-KILL");
    wait_until(SOON, "PID 1 of every machine to die", || {
        leaders.iter().all(|pid| !Path::new(&format!("/proc/{pid}/root/run")).exists())
    });
    wait_until(SOON, "the lab to count as dead", || !known_labs().unwrap().contains(&(name.clone(), true)));
    Lab::down(&name).unwrap();
    assert!(!lab_directory(&name).exists());
    assert_eq!(cgroups_of(&name), Vec::<String>::new());
    // The name is free again.
    drop(Lab::up(LabOptions::new(&name).machines(1).etcd(0).systemd_only()).unwrap());
    assert!(!lab_directory(&name).exists());
}

#[test]
fn lab_ends_with_the_process_that_holds_it() {
    let name = LabOptions::for_test("orphan").name;
    // Until it is detached, the command line holds its lab as a test holds one.
    let mut holder = Command::new(env!("CARGO_BIN_EXE_fleet-lab"))
        .args(["up", "--no-fleetd", "--machines", "2", "--name", &name])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let services = |root: &String| Path::new(&format!("{root}/m1/payload/system.slice")).exists();
    wait_until(Duration::from_secs(300), "a machine to boot", || cgroups_of(&name).iter().any(services));
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until(SOON, "the lab to end by itself", || {
        !lab_directory(&name).exists() && cgroups_of(&name).is_empty()
    });
}

#[test]
fn partition_cuts_what_it_names_and_heals() {
    let lab = Lab::up(LabOptions::for_test("partition").machines(2).systemd_only()).unwrap();
    let (m1, m2) = (lab.machine("m1"), lab.machine("m2"));
    let listener = ["systemd-socket-activate", "--accept", "--listen=8080", "cat"];
    m2.run(&[&["systemd-run", "--unit=listener"], listener.as_slice()].concat()).unwrap();
    let m2_listens = || reaches(&m1, "10.77.0.12", 8080);
    wait_until(SOON, "the listener on m2", m2_listens);
    assert!(reaches_etcd(&m1));

    m1.partition(&["etcd"], Cut::Reject).unwrap();
    let began = Instant::now();
    assert!(!reaches_etcd(&m1));
    assert!(began.elapsed() < Duration::from_millis(900), "a refusal comes at once");
    assert!(reaches_etcd(&m2));
    assert!(m2_listens(), "only etcd is cut");

    m1.partition(&["m2"], Cut::Drop).unwrap();
    assert!(!m2_listens());
    assert!(reaches_etcd(&m1), "an earlier cut is replaced");

    m1.partition(&[], Cut::Drop).unwrap();
    assert!(!reaches_etcd(&m1));
    let status = lab.status().unwrap();
    assert_eq!(status.machines[0].partition.as_deref(), Some("everything"));

    m1.heal().unwrap();
    assert!(reaches_etcd(&m1));
    m1.heal().unwrap();
    assert!(m1.partition(&["m9"], Cut::Drop).is_err());
}

#[test]
fn etcd_keeps_its_data_over_stop_kill_and_freeze_and_loses_it_when_wiped() {
    let lab = Lab::up(LabOptions::for_test("etcd").machines(0)).unwrap();
    let etcd = lab.etcd();
    let value = || etcd.ctl(&["get", "--print-value-only", "key"]).unwrap();
    etcd.ctl(&["put", "key", "old"]).unwrap();
    etcd.stop(None).unwrap();
    assert!(etcd.ctl(&["--command-timeout=300ms", "get", "key"]).is_err());
    etcd.start(None).unwrap();
    assert_eq!(value(), "old\n");
    etcd.kill(Some(1)).unwrap();
    etcd.start(Some(1)).unwrap();
    assert_eq!(value(), "old\n");

    etcd.freeze(None).unwrap();
    assert!(lab.status().unwrap().etcd[0].frozen);
    assert!(etcd.ctl(&["--command-timeout=300ms", "get", "key"]).is_err());
    etcd.thaw(None).unwrap();
    assert_eq!(value(), "old\n");

    let file = lab.directory().join("before.snapshot");
    etcd.snapshot(&file).unwrap();
    etcd.ctl(&["put", "key", "new"]).unwrap();
    etcd.restore(&file).unwrap();
    assert_eq!(value(), "old\n");
    etcd.wipe().unwrap();
    assert_eq!(value(), "");
}

#[test]
fn three_members_serve_with_one_dead_and_not_with_two() {
    let lab = Lab::up(LabOptions::for_test("three").machines(1).etcd(3).systemd_only()).unwrap();
    let etcd = lab.etcd();
    etcd.kill(Some(2)).unwrap();
    // The dead one may have been the leader: the others elect a new one first.
    let write = || etcd.ctl(&["--command-timeout=1s", "put", "key", "value"]).ok();
    wait_for(SOON, "a majority to serve", write).unwrap();
    etcd.kill(Some(3)).unwrap();
    // A read: a write that was not answered may still be carried out later.
    assert!(etcd.ctl(&["--command-timeout=500ms", "get", "key"]).is_err());
    etcd.start(None).unwrap();
    let read = || etcd.ctl(&["get", "--print-value-only", "key"]).ok();
    assert_eq!(wait_for(SOON, "a majority", read).unwrap(), "value\n");
    assert!(etcd.kill(Some(4)).is_err());
}

#[test]
fn frozen_machine_stands_still_and_goes_on_where_it_was() {
    let lab = Lab::up(LabOptions::for_test("freeze").machines(1).etcd(0).systemd_only()).unwrap();
    let m1 = lab.machine("m1");
    m1.run(&["systemd-run", "--unit=work@1", "sleep", "1000"]).unwrap();
    wait_until(SOON, "the unit to run", || m1.is_unit_populated("work@1.service"));
    let before = (m1.invocation_id("work@1.service").unwrap(), m1.main_pid("work@1.service").unwrap());
    assert!(before.0.is_some() && before.1.is_some());
    assert!(m1.running_units().is_superset(&["work@1.service".to_owned(), "dbus.service".to_owned()].into()));

    m1.freeze().unwrap();
    assert!(m1.is_unit_populated("work@1.service"));
    assert!(m1.exec(&["true"]).unwrap_err().to_string().contains("thaw"));
    m1.thaw().unwrap();
    assert_eq!(before, (m1.invocation_id("work@1.service").unwrap(), m1.main_pid("work@1.service").unwrap()));

    // A frozen machine can lose its power too, and boots thawed.
    m1.freeze().unwrap();
    m1.kill().unwrap();
    assert!(!m1.is_unit_populated("work@1.service"));
    m1.start().unwrap();
    assert!(!m1.is_frozen());
    m1.run(&["true"]).unwrap();
}

#[test]
fn host_reaches_bus_network_and_journal_of_a_machine() {
    let lab = Lab::up(LabOptions::for_test("reach").machines(1).systemd_only()).unwrap();
    let m1 = lab.machine("m1");
    let address = m1.bus_address().unwrap();
    UnixStream::connect(address.strip_prefix("unix:path=").unwrap()).unwrap();
    let connected = lab.in_network(|| std::net::TcpStream::connect("10.77.0.1:2379").map(drop)).unwrap();
    connected.unwrap();
    m1.run(&["systemd-run", "--wait", "--unit=says", "echo", "said on the machine"]).unwrap();
    wait_until(SOON, "the line in the journal", || {
        m1.journal("says.service").unwrap().contains("said on the machine")
    });
    let kept = lab.keep_logs().unwrap();
    assert!(std::fs::read_to_string(kept.join("m1.journal")).unwrap().contains("said on the machine"));
    std::fs::remove_dir_all(kept).unwrap();
    let output = m1.exec(&["sh", "-c", "echo out; echo err >&2; exit 3"]).unwrap();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(output.status.code(), Some(3));
}

/// Runs a container that answers nobody, from an image that is made first where it is not there; gives its id.
fn run_container(machine: &Machine<'_>) -> String {
    let import = "if ! podman image exists localhost/box; then \
        mkdir -p /tmp/image/bin; cp /bin/busybox /tmp/image/bin; \
        tar -C /tmp/image -c . | podman import - localhost/box; \
        fi";
    machine.run(&["sh", "-ec", import]).expect("an image can be made of a directory");
    let run = ["podman", "run", "--detach", "--init", "--network=host", "--cgroups=split", "localhost/box"];
    // A unit of its own: a container of the shell's session would end with it.
    let unit = ["systemd-run", "--pipe", "--wait", "--property=Delegate=yes", "--property=KillMode=process"];
    let command = [&unit[..], &run, &["/bin/busybox", "sleep", "1000"]].concat();
    machine.run(&command).expect("a container starts")
}

/// Paths of cgroups, in any tree of this host, and mount points of it whose names contain `text`.
fn traces_of(text: &str) -> Vec<String> {
    let mut traces = Vec::new();
    let mut open = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        // One of another lab may go while it is read.
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
        traces.push(directory.display().to_string());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("a process knows its mounts");
    traces.extend(mounts.lines().map(str::to_owned));
    traces.retain(|trace| trace.contains(text));
    traces
}

#[test]
fn containers_keep_their_images_over_a_power_cut_and_leave_nothing_on_the_host() {
    let options = LabOptions::for_test("containers").machines(1).etcd(0).systemd_only().containers();
    let name = options.name.clone();
    let lab = Lab::up(options.clone()).unwrap();
    let m1 = lab.machine("m1");
    let id = run_container(&m1);
    assert_eq!(m1.run(&["podman", "ps", "--quiet", "--no-trunc"]).unwrap(), id);
    assert_ne!(traces_of(&id), Vec::<String>::new(), "its cgroups are below the machine's");
    m1.kill().unwrap();
    m1.start().unwrap();
    assert_eq!(m1.run(&["podman", "ps", "--quiet"]).unwrap(), "");
    m1.run(&["podman", "image", "exists", "localhost/box"]).unwrap();
    let second = run_container(&m1);
    drop(lab);
    assert!(!lab_directory(&name).exists());
    assert_eq!([traces_of(&name), traces_of(&id), traces_of(&second)].concat(), Vec::<String>::new());

    let lab = Lab::up_detached(options, &mut |_| {}).unwrap();
    let third = run_container(&lab.machine("m1"));
    signal(lab.supervisor_pid(), "-KILL");
    wait_until(SOON, "the lab to count as dead", || !known_labs().unwrap().contains(&(name.clone(), true)));
    Lab::down(&name).unwrap();
    assert!(!lab_directory(&name).exists());
    assert_eq!([traces_of(&name), traces_of(&third)].concat(), Vec::<String>::new());
}
