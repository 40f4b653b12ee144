//! The members of etcd: Debian's etcd with a data directory below the lab's, each in a cgroup of its own.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ready::ReadySocket;
use super::reaper::Children;
use super::{command_in_cgroup, plain_command};
use crate::lab::layout::{Layout, etcd_address};
use crate::lab::options::LabOptions;
use crate::lab::wait::wait_for;
use crate::lab::{LabError, cgroups, etcd};

/// etcd is ready within 0.3 s alone, within 2 s in a cluster that has to elect; a member alone never is.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// After SIGTERM; an unhurried member hands leadership over first.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

pub(super) struct Members {
    lab: String,
    count: u8,
    layout: Layout,
    arguments: Vec<String>,
    children: Children,
    running: Mutex<BTreeMap<u8, Child>>,
}

impl Members {
    pub(super) fn new(options: &LabOptions, layout: &Layout, children: Children) -> Self {
        Self {
            lab: options.name.clone(),
            count: options.etcd,
            layout: layout.clone(),
            arguments: options.etcd_arguments.clone(),
            children,
            running: Mutex::new(BTreeMap::new()),
        }
    }

    /// Which members have a living process.
    pub(super) fn running(&self) -> BTreeMap<u8, bool> {
        let mut running = self.lock();
        (1..=self.count)
            .map(|member| {
                let lives =
                    running.get_mut(&member).is_some_and(|child| matches!(child.try_wait(), Ok(None)));
                (member, lives)
            })
            .collect()
    }

    /// Starts what does not run, and waits until all that were started serve. Idempotent.
    pub(super) fn start(&self, member: Option<u8>) -> Result<(), LabError> {
        let alive = self.running();
        let mut started = Vec::new();
        for member in self.chosen(member)?.into_iter().filter(|member| !alive[member]) {
            started.push((member, self.launch(member)?));
        }
        for (member, ready) in started {
            if !ready.wait(START_DEADLINE, || self.running()[&member]) {
                return Err(LabError::Refused(format!(
                    "etcd member {member} does not serve (a member without a majority of its peers cannot); \
                     the end of its log:\n{}",
                    etcd::log_tail(&self.layout, member)
                )));
            }
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end. Idempotent.
    pub(super) fn stop(&self, member: Option<u8>) -> Result<(), LabError> {
        self.end(member, Signal::SIGTERM)
    }

    /// SIGKILL, frozen or not. Idempotent.
    pub(super) fn kill(&self, member: Option<u8>) -> Result<(), LabError> {
        self.end(member, Signal::SIGKILL)
    }

    /// An etcd that has forgotten everything: same addresses, same cluster id, revision 1.
    pub(super) fn wipe(&self) -> Result<(), LabError> {
        self.kill(None)?;
        self.remove_data()?;
        self.start(None)
    }

    /// An etcd that is back where the snapshot was taken.
    pub(super) fn restore(&self, snapshot: &Path) -> Result<(), LabError> {
        self.kill(None)?;
        self.remove_data()?;
        for member in self.chosen(None)? {
            let output = plain_command("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore"])
                .arg(snapshot)
                .arg(format!("--data-dir={}", self.layout.etcd_data(member).display()))
                .arg(format!("--name={}", etcd::member_name(member)))
                .arg(format!("--initial-cluster={}", self.initial_cluster()))
                .arg(format!("--initial-advertise-peer-urls={}", peer_url(member)))
                .output()
                .map_err(LabError::spawn("etcdctl"))?;
            if !output.status.success() {
                return Err(LabError::Command {
                    command: format!("etcdctl snapshot restore {}", snapshot.display()),
                    status: output.status.to_string(),
                    output: String::from_utf8_lossy(&output.stderr).into_owned(),
                });
            }
        }
        self.start(None)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u8, Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chosen(&self, member: Option<u8>) -> Result<Vec<u8>, LabError> {
        match member {
            None => Ok((1..=self.count).collect()),
            Some(member) if (1..=self.count).contains(&member) => Ok(vec![member]),
            Some(member) => {
                Err(LabError::NoSuchMember { lab: self.lab.clone(), member, members: self.count })
            }
        }
    }

    fn remove_data(&self) -> Result<(), LabError> {
        for member in self.chosen(None)? {
            let data = self.layout.etcd_data(member);
            if data.exists() {
                std::fs::remove_dir_all(&data).map_err(LabError::file("remove", &data))?;
            }
        }
        Ok(())
    }

    fn initial_cluster(&self) -> String {
        let members: Vec<_> = (1..=self.count)
            .map(|member| format!("{}={}", etcd::member_name(member), peer_url(member)))
            .collect();
        members.join(",")
    }

    fn launch(&self, member: u8) -> Result<ReadySocket, LabError> {
        let name = etcd::member_name(member);
        let cgroup = cgroups::create_member(&self.lab, &name)?;
        let ready = ReadySocket::bind(&self.layout.notify_socket(&name))?;
        let log = self.layout.etcd_log(member);
        let errors =
            OpenOptions::new().create(true).append(true).open(&log).map_err(LabError::file("open", &log))?;
        let client = etcd::client_url(member);
        let child = command_in_cgroup(&cgroup, "etcd")
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", self.layout.etcd_data(member).display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={}", peer_url(member)))
            .arg(format!("--initial-advertise-peer-urls={}", peer_url(member)))
            .arg(format!("--initial-cluster={}", self.initial_cluster()))
            .args(["--initial-cluster-state=new", "--logger=zap", "--log-outputs=stderr"])
            .args(&self.arguments)
            .env("NOTIFY_SOCKET", ready.path())
            .stdout(Stdio::null())
            .stderr(Stdio::from(errors))
            .spawn()
            .map_err(LabError::spawn("etcd"))?;
        self.children.add(child.id());
        self.lock().insert(member, child);
        Ok(ready)
    }

    fn end(&self, member: Option<u8>, signal: Signal) -> Result<(), LabError> {
        let chosen = self.chosen(member)?;
        let mut running = self.lock();
        for member in chosen.iter().filter(|member| running.contains_key(member)) {
            // A frozen member would not see SIGTERM.
            cgroups::set_frozen(&cgroups::member(&self.lab, &etcd::member_name(*member))?, false)?;
        }
        for child in chosen.iter().filter_map(|member| running.get(member)) {
            if let Ok(pid) = i32::try_from(child.id()) {
                // Dead already is fine: it is collected below.
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
        for member in chosen {
            let Some(mut child) = running.remove(&member) else { continue };
            let what = format!("etcd member {member} to end");
            if wait_for(STOP_DEADLINE, &what, || child.try_wait().ok().flatten()).is_err() {
                cgroups::kill_all(&cgroups::member(&self.lab, &etcd::member_name(member))?)?;
                drop(child.wait());
            }
            self.children.remove(child.id());
            cgroups::clear_member(&self.lab, &etcd::member_name(member))?;
        }
        Ok(())
    }
}

fn peer_url(member: u8) -> String {
    format!("http://{}:2380", etcd_address(member))
}
