//! fleetd and fleetctl on a [`Machine`]: what tests do to the daemon, and how they talk to it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::machine::{ExecOutput, collect};
use super::wait::wait_for;
use super::{LabError, Machine, binaries, cgroups};

/// fleetd has a start time-out of its own; stopping it takes milliseconds.
const FLEETD_DEADLINE: Duration = Duration::from_secs(30);

/// How long fleetd may take to say whether it is ready: it only looks at what it knows.
const READY_DEADLINE: Duration = Duration::from_millis(500);

/// After so many attempts in a row fleetd is not going to start.
const HOPELESS_RESTARTS: u32 = 3;

impl Machine<'_> {
    /// Where the host reaches fleetd's socket of this machine.
    ///
    /// # Errors
    /// [`LabError::MachineOff`].
    pub fn fleet_socket(&self) -> Result<PathBuf, LabError> {
        self.live_path("/run/fleet.sock")
    }

    /// `fleetctl` of the host, talking to this machine's fleetd: it reads the caller's files and runs in the caller's
    /// directory.
    ///
    /// # Errors
    /// Without a fleetctl, and as [`Machine::command`].
    pub fn fleetctl_command(&self) -> Result<Command, LabError> {
        if self.is_frozen() {
            return Err(LabError::MachineFrozen { machine: self.name.clone() });
        }
        let given = self.lab.options().fleetctl_binary.as_deref();
        let mut command = Command::new(binaries::locate("fleetctl", "FLEETCTL_BIN", given)?);
        command.env("FLEETCTL_ENDPOINT", format!("unix://{}", self.fleet_socket()?.display()));
        Ok(command)
    }

    /// Runs `fleetctl` (see [`Machine::fleetctl_command`]); how it ends is for the caller to judge.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub fn fleetctl(&self, arguments: &[&str]) -> Result<ExecOutput, LabError> {
        let mut command = self.fleetctl_command()?;
        collect(command.args(arguments))
    }

    /// Whether a process named fleetd runs in fleetd's service; one it left behind does not count.
    #[must_use]
    pub fn is_fleetd_running(&self) -> bool {
        self.system_slice().is_ok_and(|slice| {
            cgroups::pids(&slice.join("fleetd.service")).iter().any(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "fleetd")
            })
        })
    }

    /// Whether fleetd says that it is ready: it runs and the registry answers it. False as well when it says nothing.
    #[must_use]
    pub fn is_fleetd_ready(&self) -> bool {
        let ask = || -> Option<bool> {
            let mut stream = UnixStream::connect(self.fleet_socket().ok()?).ok()?;
            stream.set_read_timeout(Some(READY_DEADLINE)).ok()?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n").ok()?;
            let mut status_line = [0; 12];
            stream.read_exact(&mut status_line).ok()?;
            Some(status_line.ends_with(b" 200"))
        };
        !self.is_frozen() && self.is_fleetd_running() && ask().unwrap_or(false)
    }

    /// SIGKILL to fleetd's main process; systemd starts it again after its `RestartSec`.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn fleetd_kill(&self) -> Result<(), LabError> {
        self.systemctl(&["kill", "--kill-whom=main", "--signal=SIGKILL", "fleetd.service"]).map(drop)
    }

    /// # Errors
    /// As [`Machine::run`].
    pub fn fleetd_stop(&self) -> Result<(), LabError> {
        self.systemctl(&["stop", "fleetd.service"]).map(drop)
    }

    /// Returns when fleetd has said that it is ready.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn fleetd_start(&self) -> Result<(), LabError> {
        self.systemctl(&["start", "fleetd.service"]).map(drop)
    }

    /// Returns when the new fleetd has said that it is ready.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn fleetd_restart(&self) -> Result<(), LabError> {
        self.systemctl(&["restart", "fleetd.service"]).map(drop)
    }

    /// Puts another binary in fleetd's place, as a package does (rename over it), and restarts fleetd.
    ///
    /// # Errors
    /// When the file cannot be copied, or as [`Machine::run`].
    pub fn fleetd_replace(&self, binary: &Path) -> Result<(), LabError> {
        let fresh = self.disk_path("/usr/bin/.fleetd.new");
        std::fs::copy(binary, &fresh).map_err(LabError::file("copy", binary))?;
        let target = self.disk_path("/usr/bin/fleetd");
        std::fs::rename(&fresh, &target).map_err(LabError::file("rename", fresh))?;
        self.fleetd_restart()
    }

    /// Waits until fleetd's service is active (its socket answers then).
    ///
    /// # Errors
    /// [`LabError::Refused`] with the end of its journal when it keeps failing or is not active after 30 s.
    pub fn await_fleetd(&self) -> Result<(), LabError> {
        let active = wait_for(FLEETD_DEADLINE, "fleetd to be active", || {
            let shown =
                self.systemctl(&["show", "--property=ActiveState,NRestarts", "fleetd.service"]).ok()?;
            if shown.lines().any(|line| line == "ActiveState=active") {
                return Some(true);
            }
            let restarts =
                shown.lines().find_map(|line| line.strip_prefix("NRestarts="))?.parse::<u32>().ok()?;
            (restarts >= HOPELESS_RESTARTS).then_some(false)
        });
        if matches!(active, Ok(true)) {
            return Ok(());
        }
        let journal = self.journal("fleetd.service")?;
        let lines: Vec<_> = journal.lines().collect();
        Err(LabError::Refused(format!(
            "fleetd of {} does not start; the end of its journal:\n{}",
            self.name,
            lines[lines.len().saturating_sub(25)..].join("\n")
        )))
    }
}
