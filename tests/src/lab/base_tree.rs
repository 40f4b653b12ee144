//! The Debian tree that all machines share read-only: made once by debootstrap, cached by its kind (release, with or
//! without containers) and package list, created under a lock in a temporary directory and renamed, never booted and
//! never written to.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{LabError, Progress};

/// Beyond debootstrap's minimal variant.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,procps";
/// For machines that run containers. crun because runc is larger, catatonit for `podman run --init`, and a busybox
/// without libraries as what an image can be made of where no registry is reached.
const CONTAINER_PACKAGES: &str = "podman,crun,catatonit,busybox-static";
/// Part of the cache key: raise it when `prepare` changes.
const RECIPE: u32 = 1;
/// Units that do nothing useful on a machine of a lab, cost boot time or disturb measurements.
const MASKED: [&str; 9] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "motd-news.timer",
    "console-getty.service",
    "getty.target",
];
/// The same where containers run: units of podman's package, and what systemd does only with every capability.
const MASKED_WITH_CONTAINERS: [&str; 5] = [
    "podman-auto-update.timer",
    "podman-clean-transient.service",
    "podman-restart.service",
    "podman.socket",
    "systemd-modules-load.service",
];
/// Without a `pids` controller, as on hosts with the hybrid tree, a limit is refused instead of left out.
const CONTAINERS_CONF: &str = "[containers]\npids_limit = 0\n";

/// The Debian release of the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// Debian 12, systemd 252.
    Bookworm,
    /// Debian 13, systemd 257.
    Trixie,
}

impl Release {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// Which tree: each kind has a lock, a log and a directory of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub release: Release,
    /// With podman and what it takes to run a container.
    pub containers: bool,
}

impl Kind {
    fn name(self) -> String {
        format!("{}{}", self.release.name(), if self.containers { "-containers" } else { "" })
    }

    fn packages(self) -> String {
        if self.containers { format!("{PACKAGES},{CONTAINER_PACKAGES}") } else { PACKAGES.to_owned() }
    }
}

/// The tree of `kind`, made first when it is not there (needs a Debian mirror; about 40 s, with containers 90 s).
/// Concurrent callers wait for one another.
pub(super) fn ensure(kind: Kind, progress: Progress<'_>) -> Result<PathBuf, LabError> {
    let cache = std::env::var_os("FLEET_LAB_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/fleet-lab"), PathBuf::from);
    let name = kind.name();
    let key = hex::encode(&Sha256::digest(format!("{}/{RECIPE}", kind.packages()))[..6]);
    let tree = cache.join(format!("{name}-{key}"));
    if tree.is_dir() {
        return Ok(tree);
    }
    std::fs::create_dir_all(&cache).map_err(LabError::file("create directory", &cache))?;
    let lock_path = cache.join(format!(".{name}.lock"));
    let lock = File::create(&lock_path).map_err(LabError::file("create", &lock_path))?;
    lock.lock().map_err(LabError::file("lock", &lock_path))?;
    if tree.is_dir() {
        return Ok(tree);
    }
    let takes = if kind.containers { "90 s" } else { "40 s" };
    progress(&format!("making the Debian tree {name} (once; about {takes})"));
    let fresh = cache.join(format!(".{name}.new"));
    // Under the lock nobody else makes this one: what is there was left by a run that was killed.
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).map_err(LabError::file("remove", &fresh))?;
    }
    debootstrap(kind, &cache, &fresh)?;
    prepare(kind, &fresh)?;
    std::fs::rename(&fresh, &tree).map_err(LabError::file("rename", &fresh))?;
    Ok(tree)
}

fn debootstrap(kind: Kind, cache: &Path, into: &Path) -> Result<(), LabError> {
    let log = cache.join(format!("{}.log", kind.name()));
    let output = File::create(&log).map_err(LabError::file("create", &log))?;
    let errors = output.try_clone().map_err(LabError::file("open", &log))?;
    let mirror =
        std::env::var("FLEET_LAB_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".to_owned());
    // In namespaces of its own: killed half-way, it leaves neither processes nor mounts.
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "debootstrap"])
        .args(["--variant=minbase", &format!("--include={}", kind.packages()), kind.release.name()])
        .arg(into)
        .arg(mirror)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .map_err(LabError::spawn("unshare"))?;
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(15)..].join("\n");
    Err(LabError::Debootstrap { release: kind.release.name().to_owned(), log, tail })
}

/// Turns a fresh tree into one whose machines boot fast, ask nothing and keep their journal.
fn prepare(kind: Kind, root: &Path) -> Result<(), LabError> {
    for unit in MASKED {
        link("/dev/null", &root.join("etc/systemd/system").join(unit))?;
    }
    if kind.containers {
        for unit in MASKED_WITH_CONTAINERS {
            link("/dev/null", &root.join("etc/systemd/system").join(unit))?;
        }
        directory(&root.join("etc/containers"))?;
        write(&root.join("etc/containers/containers.conf"), CONTAINERS_CONF)?;
    }
    // Each machine gets its own; an id in the tree would be shared by all.
    write(&root.join("etc/machine-id"), "")?;
    write(&root.join("etc/resolv.conf"), "")?;
    write(&root.join("etc/hostname"), "")?;
    drop(std::fs::remove_file(root.join("var/lib/dbus/machine-id")));
    // Tests read journals after the fact: keep them on the machine's disk and drop nothing.
    directory(&root.join("var/log/journal"))?;
    directory(&root.join("etc/systemd/journald.conf.d"))?;
    write(
        &root.join("etc/systemd/journald.conf.d/lab.conf"),
        "[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nSystemMaxUse=64M\nForwardToConsole=no\n",
    )?;
    for cache in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        let path = root.join(cache);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).map_err(LabError::file("remove", &path))?;
        }
        directory(&path)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), LabError> {
    std::fs::write(path, text).map_err(LabError::file("write", path))
}

fn directory(path: &Path) -> Result<(), LabError> {
    std::fs::create_dir_all(path).map_err(LabError::file("create directory", path))
}

fn link(target: &str, path: &Path) -> Result<(), LabError> {
    drop(std::fs::remove_file(path));
    std::os::unix::fs::symlink(target, path).map_err(LabError::file("link", path))
}
