//! The one background process of a lab: PID 1 of the lab's namespaces, parent of every machine and etcd member.
//!
//! `fleet-lab` runs it (hidden subcommand); [`super::Lab`] talks to it over the control socket. When it ends, the
//! kernel ends everything else in the lab; so it decides little, and never outlives what it cannot serve.

mod members;
mod network;
mod power;
mod ready;
mod reaper;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::layout::{self, Layout};
use super::options::LabOptions;
use super::protocol::{Reply, Request, Snapshot};
use super::{LabError, cgroups, sweep};
use members::Members;
use power::Machine;
use reaper::Children;

/// Variables that would send the lab's traffic somewhere else.
const PROXY_VARIABLES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// Everything the connections share.
struct Supervisor {
    options: LabOptions,
    layout: Layout,
    machines: Vec<Arc<Machine>>,
    members: Members,
    /// Whether the lab outlives whoever started it.
    detached: AtomicBool,
    /// Held for ever by whoever ends the lab.
    ending: Mutex<()>,
}

/// Runs the supervisor for the lab in `directory` until the lab ends; the process exits with it.
///
/// The caller (see `handle::spawn_supervisor`) has made the namespaces, gave the lab's lock as standard output and
/// keeps the other end of standard input: when that closes before the lab is detached, the lab ends.
///
/// # Errors
/// When the lab cannot be prepared; nothing has been booted then.
pub fn run(directory: &Path, tree: &Path) -> Result<(), LabError> {
    let layout = Layout { directory: directory.to_owned() };
    let text = std::fs::read(layout.options()).map_err(LabError::file("read", layout.options()))?;
    let options: LabOptions =
        serde_json::from_slice(&text).map_err(|error| LabError::Refused(format!("lab.json: {error}")))?;
    let own = cgroups::create_member(&options.name, "supervisor")?.join("cgroup.procs");
    std::fs::write(&own, "0").map_err(LabError::file("write", &own))?;
    private_run()?;
    network::create(&options)?;
    let children = Children::default();
    children.reap_orphans();
    let mut machines = Vec::new();
    for name in options.machine_names() {
        mount_root(&layout, &name, tree)?;
        machines.push(Machine::new(&options, &layout, &name, children.clone()));
    }
    let members = Members::new(&options, &layout, children);
    let listener =
        UnixListener::bind(layout.socket()).map_err(LabError::file("listen on", layout.socket()))?;
    let supervisor = Arc::new(Supervisor {
        options,
        layout,
        machines,
        members,
        detached: AtomicBool::new(false),
        ending: Mutex::new(()),
    });
    let lab = Arc::clone(&supervisor);
    std::thread::spawn(move || {
        // Nobody writes: reading ends when the process that holds the lab is gone.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        if !lab.detached.load(Ordering::SeqCst) {
            lab.end(None);
        }
    });
    for connection in listener.incoming().flatten() {
        let lab = Arc::clone(&supervisor);
        std::thread::spawn(move || lab.serve(&connection));
    }
    Ok(())
}

/// A `/run` of our own: nspawn and `ip netns` keep their state there, and it shall vanish with the lab.
fn private_run() -> Result<(), LabError> {
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .map_err(|errno| LabError::file("mount a tmpfs on", "/run")(errno.into()))?;
    for directory in ["/run/netns", "/run/lock", "/run/systemd"] {
        std::fs::create_dir_all(directory).map_err(LabError::file("create directory", directory))?;
    }
    Ok(())
}

fn mount_root(layout: &Layout, machine: &str, tree: &Path) -> Result<(), LabError> {
    let root = layout.root(machine);
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        layout.common().display(),
        tree.display(),
        layout.upper(machine).display(),
        layout.overlay_work(machine).display()
    );
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str())).map_err(|errno| {
        LabError::Refused(format!(
            "cannot mount an overlay on {}: {errno}; set FLEET_LAB_DIR to a directory on ext4, xfs or tmpfs",
            root.display()
        ))
    })
}

/// A command without proxy variables, with nothing on standard input.
fn plain_command(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    for variable in PROXY_VARIABLES {
        command.env_remove(variable);
    }
    command.stdin(std::process::Stdio::null());
    command
}

/// A command that is moved into cgroup `cgroup` before it becomes `program`.
fn command_in_cgroup(cgroup: &Path, program: &str) -> std::process::Command {
    let mut command = plain_command("sh");
    command.args(["-c", r#"echo 0 >"$1" || exit 71; shift; exec "$@""#, "sh"]);
    command.arg(cgroup.join("cgroup.procs")).arg(program);
    command
}

impl Supervisor {
    fn serve(&self, mut connection: &UnixStream) {
        let mut line = String::new();
        let mut reader = BufReader::new(connection);
        if reader.read_line(&mut line).is_err() || line.is_empty() {
            return;
        }
        let mut say = |reply: &Reply| {
            // A caller that has gone away does not stop what it asked for.
            if let Ok(mut text) = serde_json::to_string(reply) {
                text.push('\n');
                drop(connection.write_all(text.as_bytes()));
            }
        };
        let reply = match serde_json::from_str(&line) {
            Ok(Request::Down) => return self.end(Some(connection)),
            Ok(Request::Status) => Reply::Status(self.snapshot()),
            Ok(request) => match self.act(&request, &mut |text| say(&Reply::Progress(text.to_owned()))) {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Failed(error.to_string()),
            },
            Err(error) => Reply::Failed(format!("request not understood: {error}")),
        };
        say(&reply);
    }

    fn act(&self, request: &Request, progress: &mut dyn FnMut(&str)) -> Result<(), LabError> {
        match request {
            Request::BringUp => self.bring_up(progress),
            Request::Start { machine } => self.machine(machine)?.start(),
            Request::Kill { machine } => self.machine(machine)?.kill(),
            Request::PowerOff { machine } => self.machine(machine)?.power_off(),
            Request::Reboot { machine } => self.machine(machine)?.reboot(),
            Request::Partition { machine, peers, cut } => self.machine(machine)?.partition(peers, *cut),
            Request::Heal { machine } => self.machine(machine)?.heal(),
            Request::EtcdStart { member } => self.members.start(*member),
            Request::EtcdStop { member } => self.members.stop(*member),
            Request::EtcdKill { member } => self.members.kill(*member),
            Request::EtcdWipe => self.members.wipe(),
            Request::EtcdRestore { file } => self.members.restore(Path::new(file)),
            Request::Detach => {
                self.detached.store(true, Ordering::SeqCst);
                Ok(())
            }
            Request::Status | Request::Down => Ok(()),
        }
    }

    /// etcd first: a machine's fleetd finds it answering.
    fn bring_up(&self, progress: &mut dyn FnMut(&str)) -> Result<(), LabError> {
        if self.options.etcd > 0 {
            progress(&format!("starting etcd ({} member(s))", self.options.etcd));
            self.members.start(None)?;
        }
        if self.machines.is_empty() {
            return Ok(());
        }
        progress(&format!("booting {} machine(s)", self.machines.len()));
        let boots: Vec<_> = self
            .machines
            .iter()
            .map(|machine| {
                let machine = Arc::clone(machine);
                std::thread::spawn(move || machine.start())
            })
            .collect();
        let mut outcome = Ok(());
        for boot in boots {
            let result =
                boot.join().unwrap_or_else(|_| Err(LabError::Refused("booting panicked".to_owned())));
            outcome = outcome.and(result);
        }
        outcome
    }

    fn machine(&self, name: &str) -> Result<&Arc<Machine>, LabError> {
        self.machines.iter().find(|machine| machine.name() == name).ok_or_else(|| LabError::NoSuchMachine {
            lab: self.options.name.clone(),
            machine: name.to_owned(),
            known: super::options::known_machines(self.options.machines),
        })
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            machines: self.machines.iter().map(|m| (m.name().to_owned(), m.snapshot())).collect(),
            etcd: self.members.running(),
        }
    }

    /// Ends the lab and leaves nothing: kills everybody, removes cgroups, mounts and the directory, exits.
    fn end(&self, caller: Option<&UnixStream>) {
        let _for_ever = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.remove_everything();
        if let Some(mut caller) = caller {
            let reply = outcome.map_or_else(|error| Reply::Failed(error.to_string()), |()| Reply::Done);
            let text = serde_json::to_string(&reply).unwrap_or_default();
            drop(writeln!(caller, "{text}"));
        }
        std::process::exit(0);
    }

    fn remove_everything(&self) -> Result<(), LabError> {
        for machine in &self.machines {
            machine.stay_off();
            cgroups::kill_all(&cgroups::member(&self.options.name, machine.name())?)?;
        }
        self.members.kill(None)?;
        let root = cgroups::unified_root()?.join("cgroup.procs");
        std::fs::write(&root, "0").map_err(LabError::file("write", &root))?;
        for machine in &self.machines {
            let mounted: PathBuf = self.layout.root(machine.name());
            umount2(&mounted, MntFlags::MNT_DETACH)
                .map_err(|errno| LabError::file("unmount", &mounted)(errno.into()))?;
        }
        let _all_labs = layout::lock_all_labs()?;
        sweep::remove_remains(&self.options.name)
    }
}
