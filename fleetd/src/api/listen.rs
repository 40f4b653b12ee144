//! The sockets that the API listens on: those that systemd passed, and what `listen` names besides.
//!
//! Called by [`server`](super::server) when it starts. Whoever reaches the API is root on every machine, so that an
//! address others can reach is refused here as well as in the configuration, unless clients show certificates.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::passed::{Passed, Socket};
use super::tls::CertificateError;
use crate::config::Listen;

/// Whoever may open the socket may do everything: root and this group.
const GROUP: &str = "fleet";
const MODE: u32 = 0o660;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {}; correct `listen`, or make its directory writable", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("another process listens on {}; is fleetd running already?", path.display())]
    InUse { path: PathBuf },
    #[error("cannot listen on {address}; correct `listen`, or stop what uses the port")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error(
        "the API cannot listen on {address}: without client certificates only loopback addresses are allowed. Set \
         listen_certfile, listen_keyfile and listen_cafile, or use 127.0.0.1, or a unix socket and ssh"
    )]
    NotLoopback { address: SocketAddr },
    #[error("the socket {name}, which systemd passed, cannot be used; correct the .socket unit of fleetd")]
    Passed { name: String, source: io::Error },
    #[error(
        "every user of this machine may open the socket {name} ({address}), which systemd passed, and with it be root: \
         in the .socket unit of fleetd, set ListenStream= to a path, SocketMode=0660 and SocketGroup={GROUP}"
    )]
    OpenToAll { name: String, address: String },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// A socket that is listened on.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Takes what was passed and binds the other addresses.
///
/// # Errors
/// The first socket that cannot be used.
pub(super) async fn open(
    passed: Vec<Passed>,
    addresses: &[Listen],
    asks_for_certificates: bool,
) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    for one in passed {
        listeners.push(adopt(one, asks_for_certificates)?);
    }
    let count = listeners.len();
    for address in addresses {
        if !listeners[..count].iter().any(|listener| is_at(listener, address)) {
            listeners.push(bind(address, asks_for_certificates).await?);
        }
    }
    Ok(listeners)
}

fn adopt(passed: Passed, asks_for_certificates: bool) -> Result<Listener, ListenError> {
    let Passed { socket, name } = passed;
    let failed = |source| ListenError::Passed { name: name.clone(), source };
    let listener = match socket {
        Socket::Unix(socket) => {
            guarded(&socket, &name)?;
            UnixListener::from_std(socket).map(Listener::Unix).map_err(failed)?
        }
        Socket::Tcp(socket) => {
            let address = socket.local_addr().map_err(failed)?;
            allow(address, asks_for_certificates)?;
            TcpListener::from_std(socket).map(Listener::Tcp).map_err(failed)?
        }
    };
    tracing::info!(socket = name, "the API listens on a socket that systemd passed");
    Ok(listener)
}

/// systemd lets everybody open a socket unless its unit says otherwise, and nothing can guard one without a file.
fn guarded(socket: &std::os::unix::net::UnixListener, name: &str) -> Result<(), ListenError> {
    let failed = |source| ListenError::Passed { name: name.to_owned(), source };
    let address = socket.local_addr().map_err(failed)?;
    let shown = match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => {
            // One whose file is gone can be opened by nobody new.
            let mode = path.metadata().map_or(0, |meta| meta.permissions().mode());
            if mode & 0o002 == 0 {
                return Ok(());
            }
            format!("{}, mode {:04o}", path.display(), mode & 0o7777)
        }
        (None, Some(name)) => format!("@{}, in the abstract namespace", String::from_utf8_lossy(name)),
        (None, None) => "without a name".to_owned(),
    };
    Err(ListenError::OpenToAll { name: name.to_owned(), address: shown })
}

/// Whether this listener is that address, which then needs no binding. `/var/run` leads to `/run`.
fn is_at(listener: &Listener, address: &Listen) -> bool {
    match (listener, address) {
        (Listener::Unix(listener), Listen::Unix(path)) => {
            let own = listener.local_addr().ok();
            let own = own.as_ref().and_then(|own| own.as_pathname());
            own.is_some_and(|own| own == path || resolved(own).is_some_and(|own| Some(own) == resolved(path)))
        }
        (Listener::Tcp(listener), Listen::Tcp(address)) => {
            listener.local_addr().is_ok_and(|own| takes(own, is_ipv6_only(listener), *address))
        }
        _ => false,
    }
}

/// Whether connections to `address` come in at `own`. systemd binds a bare port for both families at once.
fn takes(own: SocketAddr, is_ipv6_only: bool, address: SocketAddr) -> bool {
    let (ip, asked) = (own.ip().to_canonical(), address.ip().to_canonical());
    let is_everywhere = match ip {
        IpAddr::V4(ip) => ip.is_unspecified() && asked.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified() && (asked.is_ipv6() || !is_ipv6_only),
    };
    own.port() == address.port() && (ip == asked || is_everywhere)
}

fn is_ipv6_only(listener: &TcpListener) -> bool {
    // Of a socket that is not of IPv6 it is an error to ask.
    getsockopt(listener, sockopt::Ipv6V6Only).unwrap_or(false)
}

fn resolved(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

/// A name for `[::ffff:127.0.0.1]` is no other machine's.
fn allow(address: SocketAddr, asks_for_certificates: bool) -> Result<(), ListenError> {
    if asks_for_certificates || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(ListenError::NotLoopback { address })
}

/// Binds one address; a stale socket file is replaced.
pub(super) async fn bind(listen: &Listen, asks_for_certificates: bool) -> Result<Listener, ListenError> {
    match listen {
        Listen::Unix(path) => bind_unix(path).await.map(Listener::Unix),
        Listen::Tcp(address) => {
            allow(*address, asks_for_certificates)?;
            TcpListener::bind(address)
                .await
                .map(Listener::Tcp)
                .map_err(|source| ListenError::Tcp { address: *address, source })
        }
    }
}

async fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(ListenError::InUse { path: path.to_owned() });
    }
    // Bound under another name, so that nobody can connect before the permissions are set.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let failed = |source| ListenError::Unix { path: path.to_owned(), source };
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(MODE)).map_err(failed)?;
    hand_to_group(&fresh);
    std::fs::rename(&fresh, path).map_err(failed)?;
    Ok(listener)
}

/// Without the group, or the right to give files to it, the socket stays with who runs fleetd.
fn hand_to_group(path: &Path) {
    let group = nix::unistd::Group::from_name(GROUP).ok().flatten();
    let Some(group) = group else {
        tracing::debug!(group = GROUP, "no such group, the socket is its owner's alone");
        return;
    };
    if let Err(error) = nix::unistd::chown(path, None, Some(group.gid)) {
        tracing::warn!(%error, path = %path.display(), group = GROUP, "cannot hand the socket to its group");
    }
}

#[cfg(test)]
mod tests {
    use super::takes;

    #[test]
    fn a_socket_for_all_addresses_takes_what_is_asked_of_each_of_them() {
        for (own, is_ipv6_only, address, expected) in [
            ("127.0.0.1:1", false, "127.0.0.1:1", true),
            ("127.0.0.1:1", false, "127.0.0.1:2", false),
            ("127.0.0.1:1", false, "127.0.0.2:1", false),
            ("127.0.0.1:1", false, "0.0.0.0:1", false),
            ("0.0.0.0:1", false, "10.0.0.1:1", true),
            ("0.0.0.0:1", false, "[::1]:1", false),
            ("[::]:1", false, "0.0.0.0:1", true),
            ("[::]:1", false, "127.0.0.1:1", true),
            ("[::]:1", false, "[::1]:1", true),
            ("[::]:1", true, "0.0.0.0:1", false),
            ("[::]:1", true, "[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", false, "127.0.0.1:1", true),
        ] {
            let takes = takes(own.parse().unwrap(), is_ipv6_only, address.parse().unwrap());
            assert_eq!(takes, expected, "{own} {is_ipv6_only} {address}");
        }
    }
}
