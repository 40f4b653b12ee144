//! [`Lab`]: a lab as tests and the command line hold it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::Serialize;

use super::layout::{self, Layout, machine_address};
use super::options::{LabOptions, known_machines, validate_name};
use super::protocol::{Power, Reply, Request, Snapshot};
use super::wait::wait_for;
use super::{
    Etcd, LabError, Machine, Progress, base_tree, binaries, cgroups, common_layer, etcd, logs, sweep,
};

/// The supervisor makes its network and listens within 0.3 s.
const SUPERVISOR_DEADLINE: Duration = Duration::from_secs(15);
/// After "down" the supervisor has at most this long before it is killed.
const DOWN_DEADLINE: Duration = Duration::from_secs(15);

/// A running lab. Dropped, it ends the lab when it came from [`Lab::up`]; in a panic (a failed test) it keeps the
/// journals first.
#[derive(Debug)]
pub struct Lab {
    options: LabOptions,
    layout: Layout,
    /// Pid of the supervisor as this process sees it.
    supervisor: i32,
    /// The process that was spawned (`unshare`); its standard input ties the lab to this process.
    owned: Option<Child>,
}

/// One machine, as `fleet-lab status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct MachineStatus {
    pub name: String,
    pub address: String,
    pub machine_id: String,
    pub power: Power,
    pub frozen: bool,
    /// What the machine is cut from.
    pub partition: Option<String>,
    /// Whether fleetd has a process; false as well where there is no fleetd.
    pub fleetd: bool,
    pub boots: u32,
    /// From the start of nspawn to systemd's "startup finished".
    pub last_boot_ms: Option<u64>,
    /// Pid of the machine's PID 1 on the host.
    pub leader: Option<i32>,
}

/// One member of etcd.
#[derive(Debug, Clone, Serialize)]
pub struct EtcdStatus {
    pub member: u8,
    pub url: String,
    pub running: bool,
    pub frozen: bool,
}

/// A whole lab.
#[derive(Debug, Clone, Serialize)]
pub struct LabStatus {
    pub name: String,
    pub release: String,
    pub directory: PathBuf,
    pub machines: Vec<MachineStatus>,
    pub etcd: Vec<EtcdStatus>,
}

impl Lab {
    /// Boots a lab that ends with the returned value, and with this process however it ends. Removes what dead labs
    /// left. The first lab of a release makes its Debian tree (about 40 s); else it takes 1 to 3 s.
    ///
    /// # Errors
    /// Without root or a program of the host, when the name is in use, or when something does not boot; then the
    /// journals are kept and nothing stays.
    pub fn up(options: LabOptions) -> Result<Self, LabError> {
        Self::boot(options, &mut |_| {})
    }

    /// As [`Lab::up`], with a line for each thing that takes time.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up_telling(options: LabOptions, progress: Progress<'_>) -> Result<Self, LabError> {
        Self::boot(options, progress)
    }

    /// Boots a lab that stays until [`Lab::down`]. See [`Lab::up`].
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up_detached(options: LabOptions, progress: Progress<'_>) -> Result<Self, LabError> {
        let mut lab = Self::boot(options, progress)?;
        lab.ask(&Request::Detach)?;
        lab.owned = None;
        Ok(lab)
    }

    /// Finds a running lab.
    ///
    /// # Errors
    /// [`LabError::NotUp`] when there is none of that name; [`LabError::NotRoot`].
    pub fn attach(name: &str) -> Result<Self, LabError> {
        validate_name(name)?;
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        let layout = Layout::of(name);
        if !layout::is_alive(&layout.directory) {
            return Err(LabError::NotUp { name: name.to_owned() });
        }
        let text = std::fs::read(layout.options()).map_err(LabError::file("read", layout.options()))?;
        let options = serde_json::from_slice(&text)
            .map_err(|error| LabError::Refused(format!("lab.json of {name}: {error}")))?;
        let supervisor = supervisor_pid(&layout)?;
        Ok(Self { options, layout, supervisor, owned: None })
    }

    /// Ends lab `name` if it runs, and removes what it and every dead lab left. Idempotent; says whether a lab ran.
    ///
    /// # Errors
    /// When processes cannot be ended or files not removed.
    pub fn down(name: &str) -> Result<bool, LabError> {
        validate_name(name)?;
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        let layout = Layout::of(name);
        let ran = layout::is_alive(&layout.directory);
        if ran {
            // It may be stuck or die while answering: what counts is that it is gone afterwards.
            drop(call(&layout, &Request::Down, &mut |_| {}));
            if await_end(&layout).is_err() {
                cgroups::kill_all(&cgroups::member(name, "")?)?;
                await_end(&layout)?;
            }
        }
        let all_labs = layout::lock_all_labs()?;
        sweep::sweep_dead_labs(&all_labs)?;
        Ok(ran)
    }

    fn boot(options: LabOptions, progress: Progress<'_>) -> Result<Self, LabError> {
        options.validate()?;
        binaries::check_host()?;
        let program = binaries::locate("fleet-lab", "FLEET_LAB_BIN", None)?;
        let tree = base_tree::ensure(options.kind_of_tree(), progress)?;
        let layout = Layout::of(&options.name);
        let lock = prepare(&options, &layout, &tree)?;
        let child = spawn_supervisor(&program, &layout, &tree, lock)?;
        // From here on a failure ends the lab by dropping this value.
        let mut lab = Self { options, layout, supervisor: 0, owned: Some(child) };
        lab.await_supervisor()?;
        lab.supervisor = supervisor_pid(&lab.layout)?;
        let brought_up = call(&lab.layout, &Request::BringUp, progress).and_then(|_| lab.await_all_fleetds());
        if let Err(error) = brought_up {
            let kept = lab.keep_logs();
            return Err(match kept {
                Ok(path) => LabError::Refused(format!("{error}\nLogs are kept in {}", path.display())),
                Err(_) => error,
            });
        }
        Ok(lab)
    }

    fn await_supervisor(&mut self) -> Result<(), LabError> {
        let socket = self.layout.socket();
        let mut child = self.owned.take();
        let answered = wait_for(SUPERVISOR_DEADLINE, "the supervisor to listen", || {
            let ended = child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            if ended { Some(false) } else { UnixStream::connect(&socket).ok().map(|_| true) }
        });
        self.owned = child;
        if answered? {
            return Ok(());
        }
        let text = std::fs::read_to_string(self.layout.supervisor_log()).unwrap_or_default();
        Err(LabError::Refused(format!("the lab's supervisor did not start:\n{}", text.trim_end())))
    }

    fn await_all_fleetds(&self) -> Result<(), LabError> {
        if self.options.systemd_only || self.options.fleetd_may_fail {
            return Ok(());
        }
        self.machines().iter().try_for_each(Machine::await_fleetd)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    #[must_use]
    pub fn options(&self) -> &LabOptions {
        &self.options
    }

    /// The lab's directory on the host.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.layout.directory
    }

    /// Pid of the supervisor on the host: PID 1 of everything in the lab.
    #[must_use]
    pub fn supervisor_pid(&self) -> i32 {
        self.supervisor
    }

    /// One machine by its name.
    ///
    /// # Errors
    /// [`LabError::NoSuchMachine`].
    pub fn try_machine(&self, name: &str) -> Result<Machine<'_>, LabError> {
        let names = self.options.machine_names();
        match names.iter().zip(1..).find(|(known, _)| *known == name) {
            Some((_, n)) => Ok(Machine::new(self, name, n)),
            None => Err(LabError::NoSuchMachine {
                lab: self.options.name.clone(),
                machine: name.to_owned(),
                known: known_machines(self.options.machines),
            }),
        }
    }

    /// One machine by its name, for tests.
    ///
    /// # Panics
    /// When the lab has no such machine.
    #[must_use]
    #[track_caller]
    pub fn machine(&self, name: &str) -> Machine<'_> {
        self.try_machine(name).expect("the test names a machine of its lab")
    }

    /// All machines in order.
    #[must_use]
    pub fn machines(&self) -> Vec<Machine<'_>> {
        self.options.machine_names().iter().zip(1..).map(|(name, n)| Machine::new(self, name, n)).collect()
    }

    #[must_use]
    pub fn etcd(&self) -> Etcd<'_> {
        Etcd::new(self)
    }

    /// What runs, what is cut, what is frozen.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub fn status(&self) -> Result<LabStatus, LabError> {
        let snapshot = self.snapshot()?;
        let mut machines = Vec::new();
        for machine in self.machines() {
            let Some(known) = snapshot.machines.get(machine.name()) else { continue };
            machines.push(MachineStatus {
                name: machine.name().to_owned(),
                address: machine.address().to_string(),
                machine_id: machine.machine_id(),
                power: known.power,
                frozen: machine.is_frozen(),
                partition: known.partition.clone(),
                fleetd: machine.is_fleetd_running(),
                boots: known.boots,
                last_boot_ms: known.last_boot_ms,
                leader: machine.leader().ok(),
            });
        }
        let mut members = Vec::new();
        for (member, running) in snapshot.etcd {
            let cgroup = cgroups::member(self.name(), &etcd::member_name(member))?;
            let frozen = cgroups::is_frozen(&cgroup);
            members.push(EtcdStatus { member, url: etcd::client_url(member), running, frozen });
        }
        Ok(LabStatus {
            name: self.name().to_owned(),
            release: self.options.release.name().to_owned(),
            directory: self.layout.directory.clone(),
            machines,
            etcd: members,
        })
    }

    /// Addresses a partition can name: machines by name, `etcd` for all members, or an address as it is.
    ///
    /// # Errors
    /// [`LabError::BadOption`] for anything else.
    pub fn addresses_of(&self, peer: &str) -> Result<Vec<String>, LabError> {
        if peer == "etcd" {
            return Ok((1..=self.options.etcd).map(|n| layout::etcd_address(n).to_string()).collect());
        }
        if let Some((_, n)) = self.options.machine_names().iter().zip(1..).find(|(name, _)| *name == peer) {
            return Ok(vec![machine_address(n).to_string()]);
        }
        match peer.parse::<std::net::Ipv4Addr>() {
            Ok(address) => Ok(vec![address.to_string()]),
            Err(_) => Err(LabError::BadOption {
                what: "peer",
                value: peer.to_owned(),
                expected: format!("etcd, an address, or {}", known_machines(self.options.machines)),
            }),
        }
    }

    /// Moves the *calling thread* into the lab's network, where machines and etcd can be reached by address. For a
    /// thread with a single-threaded runtime of its own: there is no way back.
    ///
    /// # Errors
    /// When the supervisor has ended.
    pub fn enter_network(&self) -> Result<(), LabError> {
        let path = self.network_namespace();
        let file = File::open(&path).map_err(LabError::file("open", &path))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| LabError::file("enter the network of", path)(errno.into()))
    }

    /// Runs `work` on a thread in the lab's network and gives its result.
    ///
    /// # Errors
    /// When the supervisor has ended.
    ///
    /// # Panics
    /// With the panic of `work`.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter_network().map(|()| work()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A program of the host that runs in the lab's network.
    #[must_use]
    pub fn network_command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network_namespace().display())).arg(program);
        for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
            command.env_remove(variable);
        }
        command
    }

    /// Copies journals, consoles and etcd's logs to `target/lab-logs/NAME` (or `FLEET_LAB_LOGS/NAME`); gives the place.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn keep_logs(&self) -> Result<PathBuf, LabError> {
        logs::keep(&self.options, &self.layout)
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn ask(&self, request: &Request) -> Result<(), LabError> {
        call(&self.layout, request, &mut |_| {}).map(drop)
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, LabError> {
        Ok(call(&self.layout, &Request::Status, &mut |_| {})?.unwrap_or_default())
    }

    fn network_namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.supervisor))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Some(mut child) = self.owned.take() else { return };
        if std::thread::panicking() || std::env::var_os("FLEET_LAB_KEEP_LOGS").is_some() {
            drop(self.keep_logs());
        }
        // Nobody is left to tell a failure: the next `up` sweeps.
        drop(Self::down(self.name()));
        drop(child.stdin.take());
        drop(child.wait());
    }
}

/// Makes the directories and configuration of a new lab and takes its lock, after sweeping dead ones.
fn prepare(options: &LabOptions, layout: &Layout, tree: &Path) -> Result<File, LabError> {
    let all_labs = layout::lock_all_labs()?;
    sweep::sweep_dead_labs(&all_labs)?;
    if layout::is_alive(&layout.directory) {
        return Err(LabError::AlreadyUp { name: options.name.clone() });
    }
    create_directory(&layout.directory)?;
    let lock = File::create(layout.lock()).map_err(LabError::file("create", layout.lock()))?;
    // Free, but for the moment in which somebody else looks whether it is.
    lock.lock().map_err(LabError::file("lock", layout.lock()))?;
    drop(all_labs);
    let text = serde_json::to_string_pretty(options)
        .map_err(|error| LabError::Refused(format!("options cannot be written: {error}")))?;
    write(&layout.options(), &text)?;
    create_directory(&layout.directory.join("etcd"))?;
    common_layer::build(options, layout, tree)?;
    for (machine, n) in options.machine_names().iter().zip(1..) {
        for directory in [layout.upper(machine), layout.overlay_work(machine), layout.root(machine)] {
            create_directory(&directory)?;
        }
        let etc = layout.upper(machine).join("etc");
        create_directory(&etc)?;
        write(&etc.join("machine-id"), &format!("{}\n", options.id_of(machine)))?;
        write(&etc.join("hostname"), &format!("{machine}\n"))?;
        write(&etc.join("hosts"), &hosts(options))?;
        if options.containers {
            create_directory(&layout.containers(machine))?;
        }
        if !options.systemd_only {
            create_directory(&etc.join("fleet"))?;
            write(&etc.join("fleet/fleetd.toml"), &options.fleetd_toml(machine, n))?;
        }
    }
    Ok(lock)
}

fn hosts(options: &LabOptions) -> String {
    let mut text = String::from("127.0.0.1 localhost\n");
    for (machine, n) in options.machine_names().iter().zip(1..) {
        text.push_str(&format!("{} {machine}\n", machine_address(n)));
    }
    for member in 1..=options.etcd {
        text.push_str(&format!("{} {}\n", layout::etcd_address(member), etcd::member_name(member)));
    }
    text
}

/// Starts the supervisor in namespaces of its own. The lock goes to it as standard output: it is held exactly as long
/// as the process lives. The other end of its standard input is ours: closed, it ends the lab until it is detached.
fn spawn_supervisor(program: &Path, layout: &Layout, tree: &Path, lock: File) -> Result<Child, LabError> {
    let log =
        File::create(layout.supervisor_log()).map_err(LabError::file("create", layout.supervisor_log()))?;
    Command::new("setsid")
        .args(["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"])
        .arg(program)
        .arg("supervise")
        .arg(&layout.directory)
        .arg(tree)
        .stdin(Stdio::piped())
        .stdout(Stdio::from(lock))
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(LabError::spawn("unshare"))
}

/// The pid of the listener, which the kernel translates to what this process can see.
fn supervisor_pid(layout: &Layout) -> Result<i32, LabError> {
    let stream = connect(layout)?;
    getsockopt(&stream, PeerCredentials)
        .map(|credentials| credentials.pid())
        .map_err(|errno| LabError::file("read the peer of", layout.socket())(errno.into()))
}

fn connect(layout: &Layout) -> Result<UnixStream, LabError> {
    UnixStream::connect(layout.socket())
        .map_err(|error| LabError::Supervisor { reason: error.to_string(), log: layout.supervisor_log() })
}

/// One request; progress lines are handed on as they come.
fn call(layout: &Layout, request: &Request, progress: Progress<'_>) -> Result<Option<Snapshot>, LabError> {
    let broken = |reason: String| LabError::Supervisor { reason, log: layout.supervisor_log() };
    let mut stream = connect(layout)?;
    let mut text = serde_json::to_string(request).map_err(|error| broken(error.to_string()))?;
    text.push('\n');
    stream.write_all(text.as_bytes()).map_err(|error| broken(error.to_string()))?;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(|error| broken(error.to_string()))?;
        match serde_json::from_str(&line).map_err(|error| broken(error.to_string()))? {
            Reply::Progress(text) => progress(&text),
            Reply::Done => return Ok(None),
            Reply::Status(snapshot) => return Ok(Some(snapshot)),
            Reply::Failed(text) => return Err(LabError::Refused(text)),
        }
    }
    Err(broken("it closed the connection".to_owned()))
}

fn await_end(layout: &Layout) -> Result<(), LabError> {
    wait_for(DOWN_DEADLINE, "the supervisor to end", || (!layout::is_alive(&layout.directory)).then_some(()))
}

fn create_directory(path: &Path) -> Result<(), LabError> {
    std::fs::create_dir_all(path).map_err(LabError::file("create directory", path))
}

fn write(path: &Path, text: &str) -> Result<(), LabError> {
    std::fs::write(path, text).map_err(LabError::file("write", path))
}
