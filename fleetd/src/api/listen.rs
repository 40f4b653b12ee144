//! The sockets that the API listens on.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener, UnixStream};

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
        "the API cannot listen on {address}: without client certificates only loopback addresses are allowed. Use \
         127.0.0.1, or a unix socket and ssh"
    )]
    NotLoopback { address: SocketAddr },
}

/// A socket that is listened on.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Binds one address; a stale socket file is replaced.
pub(super) async fn bind(listen: &Listen) -> Result<Listener, ListenError> {
    match listen {
        Listen::Unix(path) => bind_unix(path).await.map(Listener::Unix),
        Listen::Tcp(address) if !address.ip().is_loopback() => {
            Err(ListenError::NotLoopback { address: *address })
        }
        Listen::Tcp(address) => TcpListener::bind(address)
            .await
            .map(Listener::Tcp)
            .map_err(|source| ListenError::Tcp { address: *address, source }),
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
