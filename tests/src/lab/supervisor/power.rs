//! One machine's power: boot, kill, power-off, reboot. A thread waits for the machine's nspawn and boots it again
//! when the machine itself asked for a reboot.

use std::fs::OpenOptions;
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ready::ReadySocket;
use super::reaper::Children;
use super::{command_in_cgroup, network, plain_command};
use crate::lab::layout::Layout;
use crate::lab::options::LabOptions;
use crate::lab::protocol::{Cut, MachineSnapshot, Power};
use crate::lab::{LabError, cgroups, machine};

/// A boot takes about a second; fleetd may add its own start time-out.
const BOOT_DEADLINE: Duration = Duration::from_secs(60);
/// systemd's own default for a unit that does not stop is 90 s.
const POWER_OFF_DEADLINE: Duration = Duration::from_secs(100);
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How often a machine is looked at for a shutdown it began by itself.
const SHUTDOWN_LOOK: Duration = Duration::from_millis(100);
/// nspawn with `--keep-unit` exits so when the machine asks for a reboot.
const REBOOT_EXIT: i32 = 133;
/// SIGRTMIN+4 and SIGRTMIN+5 (glibc's numbering): systemd's "power off" and "reboot". See systemd(1), SIGNALS.
const SIGNAL_POWER_OFF: &str = "-38";
const SIGNAL_REBOOT: &str = "-39";

pub(super) struct Machine {
    lab: String,
    name: String,
    id: String,
    layout: Layout,
    containers: bool,
    children: Children,
    state: Mutex<State>,
    changed: Condvar,
    /// One power operation at a time.
    operation: Mutex<()>,
}

struct State {
    power: Power,
    boots: u32,
    last_boot: Option<Duration>,
    partition: Option<String>,
    /// A kill is under way: whatever nspawn's exit says, the machine stays off.
    stays_off: bool,
}

impl Machine {
    pub(super) fn new(options: &LabOptions, layout: &Layout, name: &str, children: Children) -> Arc<Self> {
        Arc::new(Self {
            lab: options.name.clone(),
            name: name.to_owned(),
            id: options.id_of(name),
            layout: layout.clone(),
            containers: options.containers,
            children,
            state: Mutex::new(State {
                power: Power::Off,
                boots: 0,
                last_boot: None,
                partition: None,
                stays_off: false,
            }),
            changed: Condvar::new(),
            operation: Mutex::new(()),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn snapshot(&self) -> MachineSnapshot {
        let state = self.state();
        MachineSnapshot {
            power: state.power,
            boots: state.boots,
            last_boot_ms: state.last_boot.and_then(|time| u64::try_from(time.as_millis()).ok()),
            partition: state.partition.clone(),
        }
    }

    /// Boots and waits until systemd has finished starting.
    pub(super) fn start(self: &Arc<Self>) -> Result<(), LabError> {
        let _one = self.one_operation();
        if self.state().power != Power::Off {
            return Err(LabError::MachineRunning { machine: self.name.clone() });
        }
        network::plug(&self.name, true)?;
        let boots = {
            let mut state = self.state();
            state.stays_off = false;
            state.boots
        };
        self.launch()?;
        self.await_boot(boots)
    }

    /// SIGKILL to every process of the machine at one moment. The cable is pulled first: a machine without power sends
    /// no farewell on its connections.
    pub(super) fn kill(&self) -> Result<(), LabError> {
        let _one = self.one_operation();
        self.expect_on()?;
        network::plug(&self.name, false)?;
        self.state().stays_off = true;
        let cgroup = cgroups::member(&self.lab, &self.name)?;
        cgroups::kill_all(&cgroup)?;
        self.await_state(KILL_DEADLINE, "to be dead", |state| state.power == Power::Off)
    }

    pub(super) fn power_off(&self) -> Result<(), LabError> {
        let _one = self.one_operation();
        self.expect_on()?;
        self.signal_leader(SIGNAL_POWER_OFF)?;
        self.await_state(POWER_OFF_DEADLINE, "to power off", |state| state.power == Power::Off)
    }

    /// Orderly reboot; waits until systemd has finished starting again.
    pub(super) fn reboot(&self) -> Result<(), LabError> {
        let _one = self.one_operation();
        self.expect_on()?;
        let boots = self.state().boots;
        self.signal_leader(SIGNAL_REBOOT)?;
        self.await_state(POWER_OFF_DEADLINE, "to go down for its reboot", |state| state.boots > boots)?;
        self.await_boot(boots)
    }

    pub(super) fn partition(&self, peers: &[String], cut: Cut) -> Result<(), LabError> {
        let _one = self.one_operation();
        network::cut(&self.name, peers, cut)?;
        let from = if peers.is_empty() { "everything".to_owned() } else { peers.join(" ") };
        self.state().partition = Some(from);
        Ok(())
    }

    pub(super) fn heal(&self) -> Result<(), LabError> {
        let _one = self.one_operation();
        network::heal(&self.name)?;
        self.state().partition = None;
        Ok(())
    }

    /// For the end of the lab: no boot follows whatever happens.
    pub(super) fn stay_off(&self) {
        self.state().stays_off = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_operation(&self) -> MutexGuard<'_, ()> {
        self.operation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect_on(&self) -> Result<(), LabError> {
        match self.state().power {
            Power::Off => Err(LabError::MachineOff { machine: self.name.clone() }),
            Power::Booting | Power::Running => Ok(()),
        }
    }

    fn signal_leader(&self, signal: &str) -> Result<(), LabError> {
        let cgroup = cgroups::member(&self.lab, &self.name)?;
        if cgroups::is_frozen(&cgroup) {
            return Err(LabError::MachineFrozen { machine: self.name.clone() });
        }
        let leader =
            machine::leader_in(&cgroup).ok_or_else(|| LabError::MachineOff { machine: self.name.clone() })?;
        let status = plain_command("/bin/kill")
            .args([signal, &leader.to_string()])
            .status()
            .map_err(LabError::spawn("/bin/kill"))?;
        if status.success() {
            return Ok(());
        }
        Err(LabError::Command {
            command: format!("kill {signal} {leader}"),
            status: status.to_string(),
            output: String::new(),
        })
    }

    /// Starts nspawn, a thread that waits for its end and one that waits for the boot.
    fn launch(self: &Arc<Self>) -> Result<(), LabError> {
        cgroups::clear_member(&self.lab, &self.name)?;
        // One socket a boot: that of a boot that was cut short may still be open.
        let socket = format!("{}.{}", self.name, self.state().boots + 1);
        let ready = ReadySocket::bind(&self.layout.notify_socket(&socket))?;
        let began = Instant::now();
        let child = self.spawn_nspawn(&ready)?;
        self.children.add(child.id());
        let boot = {
            let mut state = self.state();
            state.power = Power::Booting;
            state.boots += 1;
            state.boots
        };
        self.changed.notify_all();
        let machine = Arc::clone(self);
        std::thread::spawn(move || {
            let boots_still = || {
                let state = machine.state();
                state.boots == boot && state.power == Power::Booting
            };
            if ready.wait(BOOT_DEADLINE, boots_still) {
                let mut state = machine.state();
                if state.boots == boot && state.power == Power::Booting {
                    state.power = Power::Running;
                    state.last_boot = Some(began.elapsed());
                }
            }
            drop(ready);
            machine.changed.notify_all();
            machine.watch_shutdown(boot);
        });
        let machine = Arc::clone(self);
        std::thread::spawn(move || machine.follow(child));
        Ok(())
    }

    fn spawn_nspawn(&self, ready: &ReadySocket) -> Result<Child, LabError> {
        let console = self.layout.console(&self.name);
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&console)
            .map_err(LabError::file("open", &console))?;
        let errors = output.try_clone().map_err(LabError::file("open", &console))?;
        let mut command = command_in_cgroup(&cgroups::member(&self.lab, &self.name)?, "systemd-nspawn");
        command
            .arg("--quiet")
            .arg(format!("--directory={}", self.layout.root(&self.name).display()))
            .arg(format!("--machine={}", self.name))
            .arg(format!("--uuid={}", self.id))
            .arg(format!("--network-namespace-path=/run/netns/{}", self.name))
            .args(["--boot", "--register=no", "--keep-unit", "--settings=no", "--notify-ready=yes"])
            .args(["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only"]);
        if self.containers {
            // A container is made of namespaces, mounts, keys and a program that judges its devices.
            command
                .args(["--capability=all", "--system-call-filter=@keyring bpf"])
                .arg(format!("--bind={}:/var/lib/containers", self.layout.containers(&self.name).display()));
        }
        command
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .env("NOTIFY_SOCKET", ready.path())
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(errors))
            .spawn()
            .map_err(LabError::spawn("systemd-nspawn"))
    }

    /// Until boot number `boot` ends: when the machine is in the last stage of its shutdown, ends what was started in it
    /// from the host. systemd-shutdown waits for every process, but only hears of the death of its own children; one
    /// that came through `nsenter` would hold it for its whole time-out.
    fn watch_shutdown(&self, boot: u32) {
        let Ok(cgroup) = cgroups::member(&self.lab, &self.name) else { return };
        let mut state = self.state();
        while state.boots == boot && state.power != Power::Off {
            drop(state);
            if let Some(leader) =
                machine::leader_in(&cgroup).filter(|leader| machine::is_shutting_down(*leader))
            {
                // The machine may be gone before either arrives, and that is what is wanted.
                drop(cgroups::kill_all(&cgroup.join("exec")));
                let _ = kill(Pid::from_raw(leader), Signal::SIGCHLD);
            }
            state = self
                .changed
                .wait_timeout(self.state(), SHUTDOWN_LOOK)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    /// Waits for the end of one boot's nspawn; boots again when the machine asked for it.
    fn follow(self: Arc<Self>, mut child: Child) {
        let status = child.wait();
        self.children.remove(child.id());
        let wants_reboot = status.is_ok_and(|status| status.code() == Some(REBOOT_EXIT));
        let boots_again = {
            let mut state = self.state();
            state.power = Power::Off;
            wants_reboot && !state.stays_off
        };
        if boots_again {
            // A failure shows as a machine that is off, with the reason on its console.
            if let Err(error) = self.launch() {
                let text = format!("cannot boot {} again: {error}\n", self.name);
                drop(std::fs::write(self.layout.console(&self.name), text));
            }
        }
        self.changed.notify_all();
    }

    fn await_boot(&self, boots_before: u32) -> Result<(), LabError> {
        let outcome = self.await_state(BOOT_DEADLINE, "to boot", |state| {
            state.boots > boots_before && state.power != Power::Booting
        });
        if outcome.is_ok() && self.state().power == Power::Running {
            return Ok(());
        }
        let console = std::fs::read_to_string(self.layout.console(&self.name)).unwrap_or_default();
        let lines: Vec<_> = console.lines().collect();
        Err(LabError::Refused(format!(
            "machine {} did not boot within {} s; the end of its console:\n{}",
            self.name,
            BOOT_DEADLINE.as_secs(),
            lines[lines.len().saturating_sub(25)..].join("\n")
        )))
    }

    fn await_state(
        &self,
        deadline: Duration,
        what: &str,
        condition: impl Fn(&State) -> bool,
    ) -> Result<(), LabError> {
        let state = self.state();
        let (_state, outcome) = self
            .changed
            .wait_timeout_while(state, deadline, |state| !condition(state))
            .unwrap_or_else(PoisonError::into_inner);
        if outcome.timed_out() {
            return Err(LabError::Deadline {
                what: format!("machine {} {what}", self.name),
                waited: deadline,
            });
        }
        Ok(())
    }
}
