//! Sockets that systemd has bound for fleetd, `sd_listen_fds(3)`: those of `fleetd.socket`, from descriptor 3 on.
//!
//! Taken once by `main`, before there are threads, and handed to [`listen`](super::listen). They are systemd's: nothing
//! here binds, unlinks or changes the permissions of one.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt};

#[derive(Debug, thiserror::Error)]
#[error(
    "descriptor {descriptor} ({name}), which systemd passed, cannot be used: {why}; correct the .socket unit of fleetd"
)]
pub struct PassedError {
    pub descriptor: usize,
    pub name: String,
    pub why: String,
}

/// A socket that is listened on already.
#[derive(Debug)]
pub struct Passed {
    pub(super) socket: Socket,
    /// `FileDescriptorName=` of the socket unit; its own name unless configured.
    pub(super) name: String,
}

#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// What was passed to this process; nothing without `LISTEN_PID`. Each socket is handed out once. Programs that fleetd
/// starts inherit none.
///
/// # Errors
/// A descriptor that is no listening stream socket.
pub fn take() -> Result<Vec<Passed>, PassedError> {
    let is_for_us = std::env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    // Also without anything for us: it removes the variables.
    let mut passed = ListenFd::from_env();
    if !is_for_us {
        return Ok(Vec::new());
    }
    let mut names = names.split(':');
    let named = (0..passed.len()).map(|index| (index, names.next().filter(|name| !name.is_empty())));
    let named: Vec<(usize, String)> =
        named.map(|(index, name)| (index, name.unwrap_or("unknown").to_owned())).collect();
    named
        .into_iter()
        .map(|(index, name)| {
            let refused = |why: String| PassedError { descriptor: index + 3, name: name.clone(), why };
            let socket = socket(&mut passed, index).map_err(|error| refused(error.to_string()))?;
            let is_listening = match &socket {
                Socket::Unix(socket) => getsockopt(socket, sockopt::AcceptConn),
                Socket::Tcp(socket) => getsockopt(socket, sockopt::AcceptConn),
            };
            if !is_listening.map_err(|error| refused(error.to_string()))? {
                return Err(refused("it does not listen; Accept=yes is not for fleetd".to_owned()));
            }
            Ok(Passed { socket, name })
        })
        .collect()
}

fn socket(passed: &mut ListenFd, index: usize) -> io::Result<Socket> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "it is not open");
    match passed.take_unix_listener(index) {
        Ok(socket) => {
            let socket = socket.ok_or_else(gone)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Unix(socket))
        }
        Err(_) => {
            let expected =
                |_| io::Error::new(io::ErrorKind::InvalidInput, "it is no stream socket, unix or TCP");
            let socket = passed.take_tcp_listener(index).map_err(expected)?.ok_or_else(gone)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Tcp(socket))
        }
    }
}
