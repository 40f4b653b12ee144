//! Keeping what explains a failure: journals as text, consoles, etcd's logs, the supervisor's log.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::layout::Layout;
use super::options::LabOptions;
use super::{LabError, etcd};

/// A command that prints a machine's journal from its disk, whether the machine runs or not; every boot is in it.
pub(super) fn journal_from_disk(layout: &Layout, machine: &str) -> Command {
    let mut command = Command::new("journalctl");
    command.arg("--directory").arg(layout.upper(machine).join("var/log/journal"));
    command.args(["--no-pager", "--output=short-precise"]).env("SYSTEMD_COLORS", "0");
    command
}

/// Copies everything to the place of kept logs and gives it.
pub(super) fn keep(options: &LabOptions, layout: &Layout) -> Result<PathBuf, LabError> {
    let logs = std::env::var_os("FLEET_LAB_LOGS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab-logs"), PathBuf::from);
    let place = logs.join(&options.name);
    std::fs::create_dir_all(&place).map_err(LabError::file("create directory", &place))?;
    for machine in options.machine_names() {
        let journal = journal_from_disk(layout, &machine).output().map_err(LabError::spawn("journalctl"))?;
        let file = place.join(format!("{machine}.journal"));
        std::fs::write(&file, journal.stdout).map_err(LabError::file("write", &file))?;
        copy_if_there(&layout.console(&machine), &place.join(format!("{machine}.console")))?;
        let configuration = layout.upper(&machine).join("etc/fleet/fleetd.toml");
        copy_if_there(&configuration, &place.join(format!("{machine}.fleetd.toml")))?;
    }
    for member in 1..=options.etcd {
        let log = format!("{}.log", etcd::member_name(member));
        copy_if_there(&layout.etcd_log(member), &place.join(log))?;
    }
    copy_if_there(&layout.supervisor_log(), &place.join("supervisor.log"))?;
    Ok(place.canonicalize().unwrap_or(place))
}

fn copy_if_there(from: &Path, to: &Path) -> Result<(), LabError> {
    if !from.exists() {
        return Ok(());
    }
    std::fs::copy(from, to).map(drop).map_err(LabError::file("copy", from))
}
