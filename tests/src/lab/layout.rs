//! Where a lab keeps its things, which addresses it uses, and the locks that say who is alive.
//!
//! `<labs>/NAME/` holds one lab; `<labs>/NAME/lock` is held by the supervisor while it lives; `<labs>/.lock` is held
//! while a lab is created or removed. Nothing is keyed by pid: pids repeat in PID namespaces.

use std::fs::{File, TryLockError};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::LabError;

/// The lab's own network; each lab has a network namespace, so labs may use the same addresses.
pub(super) const NETWORK_PREFIX: u8 = 24;
/// Highest machine number: addresses .11 to .210.
pub(super) const MACHINES_MAX: u8 = 200;

/// Address of machine number `n` (from 1).
pub(super) fn machine_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10 + n)
}

/// Address of etcd member `n` (from 1). Member 1 has the bridge's own address.
pub(super) fn etcd_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, n)
}

/// Below which directory labs live: `FLEET_LAB_DIR`, else `/var/lib/fleet-lab`. It has to be on a file system that
/// can hold an overlay's upper directory (not itself an overlay).
pub(super) fn labs_directory() -> PathBuf {
    std::env::var_os("FLEET_LAB_DIR").map_or_else(|| PathBuf::from("/var/lib/fleet-lab"), PathBuf::from)
}

/// The directory of lab `name`.
#[must_use]
pub fn lab_directory(name: &str) -> PathBuf {
    labs_directory().join(name)
}

/// Names of all labs that have a directory, and whether their supervisor lives.
///
/// # Errors
/// When the directory of labs cannot be read.
pub fn known_labs() -> Result<Vec<(String, bool)>, LabError> {
    let labs = labs_directory();
    let entries = match std::fs::read_dir(&labs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LabError::file("read directory", labs)(error)),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_dir() {
            let lives = is_alive(&entry.path());
            found.push((name, lives));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a supervisor holds the lock of the lab in `directory`.
pub(super) fn is_alive(directory: &Path) -> bool {
    match File::open(directory.join("lock")) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// The lock under which labs are created and removed; waits for it. Released when dropped.
pub(super) fn lock_all_labs() -> Result<File, LabError> {
    let labs = labs_directory();
    std::fs::create_dir_all(&labs).map_err(LabError::file("create directory", &labs))?;
    let path = labs.join(".lock");
    let file = File::create(&path).map_err(LabError::file("create", &path))?;
    file.lock().map_err(LabError::file("lock", &path))?;
    Ok(file)
}

/// The files of one lab.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub directory: PathBuf,
}

impl Layout {
    pub fn of(name: &str) -> Self {
        Self { directory: lab_directory(name) }
    }
    pub fn lock(&self) -> PathBuf {
        self.directory.join("lock")
    }
    pub fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }
    pub fn options(&self) -> PathBuf {
        self.directory.join("lab.json")
    }
    pub fn supervisor_log(&self) -> PathBuf {
        self.directory.join("supervisor.log")
    }
    /// The overlay's layer above the Debian tree that all machines of the lab share: binaries, units, group file.
    pub fn common(&self) -> PathBuf {
        self.directory.join("common")
    }
    pub fn machine(&self, machine: &str) -> PathBuf {
        self.directory.join("machines").join(machine)
    }
    /// What the machine itself has written: its disk.
    pub fn upper(&self, machine: &str) -> PathBuf {
        self.machine(machine).join("upper")
    }
    pub fn overlay_work(&self, machine: &str) -> PathBuf {
        self.machine(machine).join("work")
    }
    /// The mounted root, visible in the supervisor's mount namespace only.
    pub fn root(&self, machine: &str) -> PathBuf {
        self.machine(machine).join("root")
    }
    /// The machine's `/var/lib/containers`, beside its disk: images are overlays, which the kernel does not put on one.
    pub fn containers(&self, machine: &str) -> PathBuf {
        self.machine(machine).join("containers")
    }
    pub fn console(&self, machine: &str) -> PathBuf {
        self.machine(machine).join("console.log")
    }
    pub fn notify_socket(&self, what: &str) -> PathBuf {
        self.directory.join(format!("{what}.notify"))
    }
    pub fn etcd_data(&self, member: u8) -> PathBuf {
        self.directory.join("etcd").join(member.to_string())
    }
    pub fn etcd_log(&self, member: u8) -> PathBuf {
        self.directory.join("etcd").join(format!("{member}.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_machines_and_members_never_meet() {
        let machines: Vec<_> = (1..=MACHINES_MAX).map(machine_address).collect();
        for member in 1..=3 {
            assert!(!machines.contains(&etcd_address(member)));
        }
        assert_eq!(machine_address(1), Ipv4Addr::new(10, 77, 0, 11));
        assert_eq!(machine_address(MACHINES_MAX), Ipv4Addr::new(10, 77, 0, 210));
    }
}
