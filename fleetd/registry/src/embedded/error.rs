//! Why a store could not be opened, each with what to do about it.

use std::io;
use std::path::PathBuf;

/// The store was not opened; the file is as it was, but for repairs after a crash.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the registry in {path:?} is open in another process; there can be one only: stop the other fleetd \
         (`fuser {}/*` names it)", .path.display()
    )]
    InUse { path: PathBuf },

    #[error(
        "the registry file {path:?} is damaged ({detail}); nothing is changed or started from it. Stop fleetd, check \
         the disk, keep a copy of the directory, and put back a backup of the whole of it; without one, move it away: \
         fleetd then begins an empty one, which `fleetctl cluster import FILE` fills from an export; running units are \
         left alone"
    )]
    Damaged { path: PathBuf, detail: String },

    #[error(
        "the registry file {path:?} has format {format}, this version knows up to {known}; install the newer fleetd again"
    )]
    TooNew { path: PathBuf, format: u64, known: u64 },

    #[error(
        "record {number} of the registry's journal {path:?} holds a change that this version does not know; install the \
         newer fleetd again"
    )]
    NewerRecord { path: PathBuf, number: u64 },

    #[error("no space to open the registry file {path:?}; free some on its file system")]
    NoSpace { path: PathBuf },

    #[error("{operation} of the registry file {path:?} failed")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "the thread that writes the registry file {path:?} cannot be started; check the limits on threads"
    )]
    Thread { path: PathBuf, source: io::Error },
}
