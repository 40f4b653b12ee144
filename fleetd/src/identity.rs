//! Who this machine is: its id, this boot, this run of `/run`, its addresses.
//!
//! Read once at start by `main`; simulations make their own.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use fleet_core::{BootId, MachineId, Nonce};

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read {}: {remedy}", path.display())]
    Read { path: PathBuf, remedy: &'static str, source: io::Error },
    #[error(
        "{} holds {found:?}, expected 32 lower-case hexadecimal digits, not all zero; remove it, run \
         `systemd-machine-id-setup` and reboot",
        path.display()
    )]
    MachineId { path: PathBuf, found: String },
    #[error("cannot write {}; make {} writable", path.display(), directory.display())]
    Nonce { path: PathBuf, directory: PathBuf, source: io::Error },
}

#[derive(Clone, Debug)]
pub struct Identity {
    pub machine: MachineId,
    pub boot: BootId,
    /// Differs between two machines with one id, and is kept over restarts of fleetd.
    pub nonce: Nonce,
    pub hostname: String,
}

impl Identity {
    /// Reads `machine-id(5)` and the nonce in the runtime directory, which is made if missing. `boot` is systemd's word
    /// for this run of the machine: the kernel's alone would miss a soft reboot, and a container's.
    ///
    /// # Errors
    /// A missing or malformed machine id; an unwritable runtime directory.
    pub fn of_this_machine(runtime_directory: &Path, boot: BootId) -> Result<Identity, IdentityError> {
        let machine = Path::new("/etc/machine-id");
        let id = read(machine, "`systemd-machine-id-setup` makes one")?;
        let machine = machine_id(&id).ok_or_else(|| IdentityError::MachineId {
            path: machine.into(),
            found: id.chars().take(40).collect(),
        })?;
        Ok(Identity { machine, boot, nonce: nonce(runtime_directory)?, hostname: hostname() })
    }
}

/// `machine-id(5)`. An image that was not yet booted holds `uninitialized`, which all its copies would share.
fn machine_id(text: &str) -> Option<MachineId> {
    let is_hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_null = text.bytes().all(|b| b == b'0');
    MachineId::parse(text).ok().filter(|_| is_hex && !is_null)
}

fn read(path: &Path, remedy: &'static str) -> Result<String, IdentityError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(IdentityError::Read { path: path.into(), remedy, source }),
    }
}

fn nonce(directory: &Path) -> Result<Nonce, IdentityError> {
    let path = directory.join("nonce");
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Ok(nonce) = Nonce::parse(text.trim())
    {
        return Ok(nonce);
    }
    let text = uuid::Uuid::new_v4().simple().to_string();
    std::fs::create_dir_all(directory)
        .and_then(|()| crate::durable::replace(&path, text.as_bytes()))
        .map_err(|source| IdentityError::Nonce { path, directory: directory.into(), source })?;
    Ok(Nonce::parse(&text).expect("32 hexadecimal digits are an id"))
}

fn hostname() -> String {
    nix::sys::utsname::uname().map(|u| u.nodename().to_string_lossy().into_owned()).unwrap_or_default()
}

/// The address that the default route leaves from: what fleet 1.0 published. None without such a route.
#[must_use]
pub fn default_address() -> Option<IpAddr> {
    // Connecting a datagram socket sends nothing; it only makes the kernel choose a route and with it an address.
    let towards =
        [SocketAddr::from(([192, 0, 2, 1], 9)), SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9))];
    towards.iter().find_map(|to| {
        let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(to).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_loopback() && !address.is_unspecified()).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_machine_id_of_its_own_is_refused() {
        for bad in
            ["", "uninitialized", "00000000000000000000000000000000", "0123456789ABCDEF0123456789ABCDEF"]
        {
            assert!(machine_id(bad).is_none(), "{bad:?}");
        }
        assert!(machine_id("0123456789abcdef0123456789abcdef").is_some());
    }

    #[test]
    fn the_nonce_is_kept_over_a_restart_and_made_anew_with_an_empty_runtime_directory() {
        let run = tempfile::tempdir().unwrap();
        let first = nonce(run.path()).unwrap();
        assert_eq!(nonce(run.path()).unwrap(), first);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(nonce(other.path()).unwrap(), first);
    }
}
