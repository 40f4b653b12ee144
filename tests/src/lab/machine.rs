//! [`Machine`]: one machine of a lab as tests and the command line hold it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use super::layout::machine_address;
use super::protocol::{Cut, MachineSnapshot, Power, Request};
use super::{Lab, LabError, cgroups, logs};

/// The pid of PID 1 in the payload below `cgroup`, as this process sees it.
pub(super) fn leader_in(cgroup: &Path) -> Option<i32> {
    let payload = cgroup.join("payload");
    // Early in its boot systemd is in the payload itself.
    [payload.join("init.scope"), payload]
        .iter()
        .flat_map(|path| cgroups::pids(path))
        .find(|pid| is_init_of_its_namespace(*pid))
}

fn is_init_of_its_namespace(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    pids.split_whitespace().next_back() == Some("1")
}

/// Whether PID 1 has handed over to systemd-shutdown, which ends every process.
pub(super) fn is_shutting_down(leader: i32) -> bool {
    // The kernel cuts names at 15 characters.
    std::fs::read_to_string(format!("/proc/{leader}/comm"))
        .is_ok_and(|name| name.starts_with("systemd-shutdow"))
}

/// What a command in a machine printed and how it ended.
#[derive(Debug, Clone)]
pub struct ExecOutput {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// One machine. Cheap to make; holds nothing but names.
#[derive(Debug, Clone)]
pub struct Machine<'lab> {
    pub(super) lab: &'lab Lab,
    pub(super) name: String,
    n: u8,
}

impl<'lab> Machine<'lab> {
    pub(super) fn new(lab: &'lab Lab, name: &str, n: u8) -> Self {
        Self { lab, name: name.to_owned(), n }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        machine_address(self.n)
    }

    /// The machine's id, the same at every boot.
    #[must_use]
    pub fn machine_id(&self) -> String {
        self.lab.options().id_of(&self.name)
    }

    /// Pid of the machine's PID 1 on the host. Read anew at each call: it changes with every boot.
    ///
    /// # Errors
    /// [`LabError::MachineOff`].
    pub fn leader(&self) -> Result<i32, LabError> {
        leader_in(&self.cgroup()?).ok_or_else(|| LabError::MachineOff { machine: self.name.clone() })
    }

    /// A path of the running machine as the host can open it, `/run` and sockets included.
    ///
    /// # Errors
    /// [`LabError::MachineOff`].
    pub fn live_path(&self, path: &str) -> Result<PathBuf, LabError> {
        Ok(PathBuf::from(format!("/proc/{}/root/{}", self.leader()?, path.trim_start_matches('/'))))
    }

    /// A path on the machine's disk as the host can open it, for reading and writing, whether the machine runs or not.
    #[must_use]
    pub fn disk_path(&self, path: &str) -> PathBuf {
        let root = self.lab.layout().root(&self.name);
        let root = root.display().to_string();
        PathBuf::from(format!(
            "/proc/{}/root{root}/{}",
            self.lab.supervisor_pid(),
            path.trim_start_matches('/')
        ))
    }

    /// Address of the machine's system bus for a D-Bus client on the host (as root).
    ///
    /// # Errors
    /// [`LabError::MachineOff`].
    pub fn bus_address(&self) -> Result<String, LabError> {
        Ok(format!("unix:path={}", self.live_path("/run/dbus/system_bus_socket")?.display()))
    }

    /// A command that runs `program` in the machine: in its namespaces and below its cgroup (it freezes and dies with
    /// the machine), as root, with a clean environment. Standard streams are the caller's.
    ///
    /// # Errors
    /// [`LabError::MachineOff`] or [`LabError::MachineFrozen`].
    pub fn command(&self, program: &str) -> Result<Command, LabError> {
        let cgroup = self.cgroup()?;
        if cgroups::is_frozen(&cgroup) {
            return Err(LabError::MachineFrozen { machine: self.name.clone() });
        }
        let leader = self.leader()?;
        if is_shutting_down(leader) {
            return Err(LabError::MachineOff { machine: self.name.clone() });
        }
        let place = cgroup.join("exec");
        std::fs::create_dir_all(&place).map_err(LabError::file("create cgroup", &place))?;
        let terminal = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo 0 >"$1" || exit 71; shift; exec "$@""#, "sh"])
            .arg(place.join("cgroup.procs"))
            // Not nsenter's own fork: it stops itself when its child is stopped, as systemd-shutdown does to everybody, and
            // a machine cannot end before its last process has been collected. A plain shell only waits.
            .args(["nsenter", "--all", "--no-fork", "--target", &leader.to_string(), "--"])
            .args(["/bin/sh", "-c", r#""$@"; exit $?"#, "sh"])
            // Killed, the shell takes its child along.
            .args(["/usr/bin/setpriv", "--pdeathsig", "SIGKILL", "--"])
            .args(["/usr/bin/env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(["HOME=/root", "LANG=C.UTF-8", &format!("TERM={terminal}"), program]);
        Ok(command)
    }

    /// Runs a command and collects what it prints; how it ends is for the caller to judge.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub fn exec(&self, words: &[&str]) -> Result<ExecOutput, LabError> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(LabError::BadOption {
                what: "command",
                value: String::new(),
                expected: "at least a program".to_owned(),
            });
        };
        let mut command = self.command(program)?;
        collect(command.args(arguments))
    }

    /// Runs a command that has to succeed, and gives its output without the last line feed.
    ///
    /// # Errors
    /// [`LabError::Command`] with everything it printed when it fails.
    pub fn run(&self, words: &[&str]) -> Result<String, LabError> {
        let output = self.exec(words)?;
        if output.status.success() {
            return Ok(output.stdout.trim_end().to_owned());
        }
        Err(LabError::Command {
            command: format!("{} on {}", words.join(" "), self.name),
            status: output.status.to_string(),
            output: format!("{}{}", output.stdout, output.stderr),
        })
    }

    /// `systemctl` with these arguments; has to succeed.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn systemctl(&self, arguments: &[&str]) -> Result<String, LabError> {
        self.run(&[&["systemctl"], arguments].concat())
    }

    /// A property of a unit as `systemctl show` prints it; empty when there is none.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn property(&self, unit: &str, property: &str) -> Result<String, LabError> {
        self.systemctl(&["show", "--value", "--property", property, "--", unit])
    }

    /// The id of the unit's present invocation; a restart changes it. `None` when it never ran.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn invocation_id(&self, unit: &str) -> Result<Option<String>, LabError> {
        Ok(Some(self.property(unit, "InvocationID")?).filter(|id| !id.is_empty()))
    }

    /// The unit's main process in the machine's own numbering. `None` when it has none.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn main_pid(&self, unit: &str) -> Result<Option<u32>, LabError> {
        Ok(self.property(unit, "MainPID")?.parse().ok().filter(|pid| *pid != 0))
    }

    /// Changes at every boot.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn boot_id(&self) -> Result<String, LabError> {
        self.run(&["cat", "/proc/sys/kernel/random/boot_id"])
    }

    /// Units of `system.slice` and the slices in it that have a process, seen in the host's cgroup tree: costs nothing,
    /// works on a frozen machine. A oneshot that has exited is invisible here. Empty when the machine is off.
    #[must_use]
    pub fn running_units(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut slices: Vec<_> = self.system_slice().into_iter().collect();
        while let Some(slice) = slices.pop() {
            let Ok(entries) = std::fs::read_dir(&slice) else { continue };
            for entry in entries.flatten().filter(|entry| cgroups::is_populated(&entry.path())) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.ends_with(".slice") {
                    slices.push(entry.path());
                } else {
                    found.insert(name);
                }
            }
        }
        found
    }

    /// Whether a unit has a process, seen as [`Machine::running_units`] sees it. Instances of a template live in a
    /// slice of their own; they are found too.
    #[must_use]
    pub fn is_unit_populated(&self, unit: &str) -> bool {
        let Ok(slice) = self.system_slice() else { return false };
        let mut places = vec![slice.join(unit)];
        if let Some((prefix, _)) = unit.split_once('@') {
            // systemd escapes '-' in the slice's name, where it would mean nesting.
            let name = format!("system-{}.slice", prefix.replace('-', "\\x2d"));
            places.push(slice.join(name).join(unit));
        }
        places.iter().any(|place| cgroups::is_populated(place))
    }

    /// What systemd's own clock says of the boot: `systemd-analyze time`.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn boot_report(&self) -> Result<String, LabError> {
        self.run(&["systemd-analyze", "time"])
    }

    /// Boots a machine that is off and waits until systemd has finished starting.
    ///
    /// # Errors
    /// [`LabError::Refused`] with the end of the console when it does not boot.
    pub fn start(&self) -> Result<(), LabError> {
        self.lab.ask(&Request::Start { machine: self.name.clone() })
    }

    /// Takes the power away: no process of the machine runs any more, nobody was told.
    ///
    /// # Errors
    /// When it is off already.
    pub fn kill(&self) -> Result<(), LabError> {
        self.lab.ask(&Request::Kill { machine: self.name.clone() })
    }

    /// Orderly power-off; waits for it.
    ///
    /// # Errors
    /// When it is off already or does not go off.
    pub fn power_off(&self) -> Result<(), LabError> {
        self.lab.ask(&Request::PowerOff { machine: self.name.clone() })
    }

    /// Orderly reboot; waits until systemd has finished starting.
    ///
    /// # Errors
    /// When it is off or does not come back.
    pub fn reboot(&self) -> Result<(), LabError> {
        self.lab.ask(&Request::Reboot { machine: self.name.clone() })
    }

    /// Stops every process of the machine where it is, PID 1 included. Idempotent.
    ///
    /// # Errors
    /// [`LabError::MachineOff`].
    pub fn freeze(&self) -> Result<(), LabError> {
        self.leader()?;
        cgroups::set_frozen(&self.cgroup()?, true)
    }

    /// Ends a freeze. Idempotent.
    ///
    /// # Errors
    /// [`LabError::MachineOff`].
    pub fn thaw(&self) -> Result<(), LabError> {
        self.leader()?;
        cgroups::set_frozen(&self.cgroup()?, false)
    }

    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.cgroup().is_ok_and(|cgroup| cgroups::is_frozen(&cgroup))
    }

    /// Cuts the machine from `peers` (machine names, `etcd`, addresses), or from everything when there are none. Replaces
    /// an earlier cut; survives reboots.
    ///
    /// # Errors
    /// When a peer is not known.
    pub fn partition(&self, peers: &[&str], cut: Cut) -> Result<(), LabError> {
        let mut addresses = Vec::new();
        for peer in peers {
            addresses.extend(self.lab.addresses_of(peer)?);
        }
        self.lab.ask(&Request::Partition { machine: self.name.clone(), peers: addresses, cut })
    }

    /// Ends a partition. Idempotent.
    ///
    /// # Errors
    /// When the rules cannot be removed.
    pub fn heal(&self) -> Result<(), LabError> {
        self.lab.ask(&Request::Heal { machine: self.name.clone() })
    }

    /// Whether it runs, how often and how fast it booted.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub fn power(&self) -> Result<Power, LabError> {
        self.snapshot().map(|snapshot| snapshot.power)
    }

    /// From the start of nspawn to systemd's "startup finished", of the last boot.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub fn last_boot(&self) -> Result<Option<Duration>, LabError> {
        Ok(self.snapshot()?.last_boot_ms.map(Duration::from_millis))
    }

    /// The journal of one unit, all boots, from the machine's disk; the machine may be off.
    ///
    /// # Errors
    /// When journalctl cannot be run.
    pub fn journal(&self, unit: &str) -> Result<String, LabError> {
        let output = logs::journal_from_disk(self.lab.layout(), &self.name)
            .arg(format!("--unit={unit}"))
            .output()
            .map_err(LabError::spawn("journalctl"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A command that shows the journal of one unit on the caller's streams; `follow` goes on until it is interrupted.
    #[must_use]
    pub fn journal_command(&self, unit: &str, follow: bool) -> Command {
        let mut command = logs::journal_from_disk(self.lab.layout(), &self.name);
        command.arg(format!("--unit={unit}"));
        if follow {
            command.arg("--follow");
        }
        command
    }

    /// The machine's cgroup directory on the host.
    ///
    /// # Errors
    /// When the host has no cgroup v2 tree.
    pub fn cgroup(&self) -> Result<PathBuf, LabError> {
        cgroups::member(self.lab.name(), &self.name)
    }

    pub(super) fn system_slice(&self) -> Result<PathBuf, LabError> {
        Ok(self.cgroup()?.join("payload/system.slice"))
    }

    fn snapshot(&self) -> Result<MachineSnapshot, LabError> {
        let snapshot = self.lab.snapshot()?;
        snapshot
            .machines
            .get(&self.name)
            .cloned()
            .ok_or_else(|| LabError::MachineOff { machine: self.name.clone() })
    }
}

/// Runs a command without input and collects its output.
pub(super) fn collect(command: &mut Command) -> Result<ExecOutput, LabError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(LabError::spawn(&program))?;
    Ok(ExecOutput {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
