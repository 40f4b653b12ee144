//! Waiting for `READY=1` of a process that speaks systemd's notification protocol (nspawn, etcd): exact, no polling.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::lab::LabError;

/// How often the waiting looks whether the process still lives.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The socket to name in `NOTIFY_SOCKET`; removed when dropped.
#[derive(Debug)]
pub(super) struct ReadySocket {
    path: PathBuf,
    socket: UnixDatagram,
}

impl ReadySocket {
    pub(super) fn bind(path: &Path) -> Result<Self, LabError> {
        drop(std::fs::remove_file(path));
        let socket = UnixDatagram::bind(path).map_err(LabError::file("bind", path))?;
        socket.set_read_timeout(Some(LOOK_EVERY)).map_err(LabError::file("set a time-out on", path))?;
        Ok(Self { path: path.to_owned(), socket })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// True when `READY=1` came; false when `lives` said no or the deadline passed first.
    pub(super) fn wait(&self, deadline: Duration, mut lives: impl FnMut() -> bool) -> bool {
        let began = Instant::now();
        let mut buffer = [0; 4096];
        while began.elapsed() < deadline {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    if buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                        return true;
                    }
                }
                Err(_) if !lives() => return false,
                Err(_) => {}
            }
        }
        false
    }
}

impl Drop for ReadySocket {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}
