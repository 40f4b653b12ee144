//! The cgroup directories of a lab: `fleet-lab/NAME/{supervisor,m1,m2,…,etcd1,…}` in the unified tree.
//!
//! Each machine has a directory of its own, else same-named units of two machines share one. On a hybrid host the
//! unified tree has no controllers and nspawn mirrors paths into the v1 tree `name=systemd`, which nobody removes
//! but [`remove_lab`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::LabError;
use super::wait::wait_for;

const LABS: &str = "fleet-lab";
/// Killed processes leave their cgroup within milliseconds; more than this means a process hangs in the kernel.
const EMPTY_DEADLINE: Duration = Duration::from_secs(10);

/// Where the unified hierarchy is mounted: `/sys/fs/cgroup` on a host with nothing else, `…/unified` on a hybrid.
pub(super) fn unified_root() -> Result<PathBuf, LabError> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.join("cgroup.procs").exists() && path.join("cgroup.subtree_control").exists())
        .ok_or_else(|| {
            LabError::Refused(
                "this host has no cgroup v2 tree: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified)"
                    .to_owned(),
            )
        })
}

/// The v1 tree `name=systemd` of a hybrid host.
fn v1_systemd_root() -> Option<PathBuf> {
    let path = PathBuf::from("/sys/fs/cgroup/systemd");
    path.join("cgroup.procs").exists().then_some(path)
}

/// The directory of one member (`m1`, `etcd1`, `supervisor`) of lab `lab`.
pub(super) fn member(lab: &str, member: &str) -> Result<PathBuf, LabError> {
    Ok(unified_root()?.join(LABS).join(lab).join(member))
}

/// Makes the directory of a member, with every controller the host offers switched on above it.
pub(super) fn create_member(lab: &str, name: &str) -> Result<PathBuf, LabError> {
    let path = member(lab, name)?;
    std::fs::create_dir_all(&path).map_err(LabError::file("create cgroup", &path))?;
    for above in path.ancestors().skip(1).take(3) {
        enable_controllers(above);
    }
    Ok(path)
}

/// Best effort: a controller that is bound elsewhere or held back costs only limits nobody asked for.
fn enable_controllers(path: &Path) {
    let offered = std::fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    for controller in offered.split_whitespace() {
        drop(std::fs::write(path.join("cgroup.subtree_control"), format!("+{controller}")));
    }
}

/// Pids in `path` itself, as this process sees them. Empty when the directory is gone.
pub(super) fn pids(path: &Path) -> Vec<i32> {
    std::fs::read_to_string(path.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

/// Whether `path` or anything below has a living process. False when the directory is gone.
pub(super) fn is_populated(path: &Path) -> bool {
    std::fs::read_to_string(path.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
}

pub(super) fn is_frozen(path: &Path) -> bool {
    std::fs::read_to_string(path.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
}

/// Freezes or thaws everything below `path` and waits until the kernel says so.
pub(super) fn set_frozen(path: &Path, frozen: bool) -> Result<(), LabError> {
    let file = path.join("cgroup.freeze");
    std::fs::write(&file, if frozen { "1" } else { "0" }).map_err(LabError::file("write", &file))?;
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    wait_for(EMPTY_DEADLINE, &format!("cgroup {} says {wanted}", path.display()), || {
        let events = std::fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        events.contains(wanted).then_some(())
    })
}

/// SIGKILL to every process below `path`, frozen or not, and waits until none is left.
pub(super) fn kill_all(path: &Path) -> Result<(), LabError> {
    if !path.exists() {
        return Ok(());
    }
    let file = path.join("cgroup.kill");
    match std::fs::write(&file, "1") {
        Ok(()) => {}
        Err(_) if !path.exists() => return Ok(()),
        Err(error) => return Err(LabError::file("write", &file)(error)),
    }
    wait_for(EMPTY_DEADLINE, &format!("processes of cgroup {} to die", path.display()), || {
        (!is_populated(path)).then_some(())
    })
}

/// Removes `path` and all below, deepest first; processes must be gone. Idempotent.
pub(super) fn remove_tree(path: &Path) -> Result<(), LabError> {
    let Ok(entries) = std::fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    // A process that has just died may hold the directory for a moment longer than cgroup.events tells.
    let what = format!("cgroup {} to be removable", path.display());
    wait_for(EMPTY_DEADLINE, &what, || match std::fs::remove_dir(path) {
        Ok(()) => Some(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(()),
        Err(_) => None,
    })
}

/// Empties a member's directory between two boots: both trees, the directory itself stays.
pub(super) fn clear_member(lab: &str, name: &str) -> Result<(), LabError> {
    let path = member(lab, name)?;
    kill_all(&path)?;
    remove_tree(&path)?;
    if let Some(v1) = v1_systemd_root() {
        remove_tree(&v1.join(LABS).join(lab).join(name))?;
    }
    create_member(lab, name)?;
    Ok(())
}

/// Kills whatever still runs in lab `lab` and removes its directories in both trees. Idempotent.
pub(super) fn remove_lab(lab: &str) -> Result<(), LabError> {
    let labs = unified_root()?.join(LABS);
    kill_all(&labs.join(lab))?;
    remove_tree(&labs.join(lab))?;
    // The directory of all labs goes with the last of them; that it is in use is no fault.
    drop(std::fs::remove_dir(&labs));
    if let Some(v1) = v1_systemd_root() {
        remove_tree(&v1.join(LABS).join(lab))?;
        drop(std::fs::remove_dir(v1.join(LABS)));
    }
    Ok(())
}
