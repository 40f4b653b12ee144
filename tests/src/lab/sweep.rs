//! Removing what a dead lab left: processes (none, unless something went very wrong), cgroup directories of both
//! trees, the work directory. Runs at every `up` and `down`, for all labs whose supervisor is dead.

use std::fs::File;

use super::layout::{self, Layout};
use super::{LabError, cgroups};

/// Removes the remains of every dead lab. The caller holds the lock of all labs. Idempotent.
///
/// # Errors
/// The first failure; the other labs are swept all the same.
pub(super) fn sweep_dead_labs(_all_labs: &File) -> Result<(), LabError> {
    let mut outcome = Ok(());
    for (name, lives) in layout::known_labs()? {
        if !lives {
            outcome = outcome.and(remove_remains(&name));
        }
    }
    outcome
}

/// Removes the remains of one lab whose supervisor is dead.
pub(super) fn remove_remains(name: &str) -> Result<(), LabError> {
    // Cgroups first: while the directory is there, a sweep that fails half-way is repeated.
    cgroups::remove_lab(name)?;
    let directory = Layout::of(name).directory;
    match std::fs::remove_dir_all(&directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(LabError::file("remove", directory)(error)),
    }
}
