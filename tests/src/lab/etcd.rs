//! [`Etcd`]: the lab's etcd as tests and the command line hold it.

use std::path::Path;
use std::process::Command;

use super::layout::{Layout, etcd_address};
use super::protocol::Request;
use super::{Lab, LabError, cgroups};

pub(super) fn member_name(member: u8) -> String {
    format!("etcd{member}")
}

pub(super) fn client_url(member: u8) -> String {
    format!("http://{}:2379", etcd_address(member))
}

/// The last lines of a member's log.
pub(super) fn log_tail(layout: &Layout, member: u8) -> String {
    let text = std::fs::read_to_string(layout.etcd_log(member)).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// The members of a lab's etcd. Where a member can be named, `None` means all of them.
#[derive(Debug, Clone, Copy)]
pub struct Etcd<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Etcd<'lab> {
    pub(super) fn new(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    /// Client URLs of all members, valid in the lab's network.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        (1..=self.lab.options().etcd).map(client_url).collect()
    }

    /// Starts what does not run and waits until it serves. Idempotent.
    ///
    /// # Errors
    /// When a member does not serve, as one without a majority.
    pub fn start(&self, member: Option<u8>) -> Result<(), LabError> {
        self.lab.ask(&Request::EtcdStart { member })
    }

    /// Orderly stop. Idempotent.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn stop(&self, member: Option<u8>) -> Result<(), LabError> {
        self.lab.ask(&Request::EtcdStop { member })
    }

    /// SIGKILL. Idempotent.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn kill(&self, member: Option<u8>) -> Result<(), LabError> {
        self.lab.ask(&Request::EtcdKill { member })
    }

    /// Stops the processes where they are: connections stay open and nothing answers. Idempotent.
    ///
    /// # Errors
    /// When a member does not run.
    pub fn freeze(&self, member: Option<u8>) -> Result<(), LabError> {
        self.set_frozen(member, true)
    }

    /// Ends a freeze. Idempotent.
    ///
    /// # Errors
    /// When a member does not run.
    pub fn thaw(&self, member: Option<u8>) -> Result<(), LabError> {
        self.set_frozen(member, false)
    }

    /// Replaces etcd by an empty one with the same addresses and cluster id.
    ///
    /// # Errors
    /// When it does not start again.
    pub fn wipe(&self) -> Result<(), LabError> {
        self.lab.ask(&Request::EtcdWipe)
    }

    /// Saves a snapshot of member 1 to `file`.
    ///
    /// # Errors
    /// When etcd does not answer or the file cannot be written.
    pub fn snapshot(&self, file: &Path) -> Result<(), LabError> {
        let mut command = self.client(&client_url(1));
        command.args(["snapshot", "save"]).arg(file);
        run(command, "etcdctl snapshot save").map(drop)
    }

    /// Replaces etcd's contents by those of a snapshot.
    ///
    /// # Errors
    /// When the file is no snapshot or etcd does not start with it; etcd is down then.
    pub fn restore(&self, file: &Path) -> Result<(), LabError> {
        // The supervisor has a /run of its own: hand it a copy at a place both see.
        let copy = self.lab.directory().join("etcd/restore.snapshot");
        std::fs::copy(file, &copy).map_err(LabError::file("copy", file))?;
        let outcome = self.lab.ask(&Request::EtcdRestore { file: copy.display().to_string() });
        drop(std::fs::remove_file(&copy));
        outcome
    }

    /// `etcdctl` (API version 3) against all members, in the lab's network.
    #[must_use]
    pub fn etcdctl(&self) -> Command {
        self.client(&self.urls().join(","))
    }

    /// Runs `etcdctl` with `arguments` and gives what it printed.
    ///
    /// # Errors
    /// When it exits with a failure.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, LabError> {
        let mut command = self.etcdctl();
        command.args(arguments);
        run(command, &format!("etcdctl {}", arguments.join(" ")))
    }

    fn client(&self, endpoints: &str) -> Command {
        let mut command = self.lab.network_command("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoints}"));
        command
    }

    fn set_frozen(&self, member: Option<u8>, frozen: bool) -> Result<(), LabError> {
        let members = self.lab.options().etcd;
        let chosen = member.map_or_else(|| (1..=members).collect(), |member| vec![member]);
        for member in chosen {
            if !(1..=members).contains(&member) {
                return Err(LabError::NoSuchMember { lab: self.lab.name().to_owned(), member, members });
            }
            cgroups::set_frozen(&cgroups::member(self.lab.name(), &member_name(member))?, frozen)?;
        }
        Ok(())
    }
}

fn run(mut command: Command, what: &str) -> Result<String, LabError> {
    let output = command.output().map_err(LabError::spawn("nsenter"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LabError::Command {
        command: what.to_owned(),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
