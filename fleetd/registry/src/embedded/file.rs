//! The files of the store: made whole or not at all, and open in one process at a time.
//!
//! Called when a store is opened; knows nothing of what is in the files.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::FileDisk;
use super::error::OpenError;
use super::log::{Disks, Log, Paths};

/// Opens the files and locks one of them for all; makes them first if they are not there.
pub(super) fn open(directory: &Path) -> Result<Disks<FileDisk>, OpenError> {
    let paths = Paths::of(directory);
    if is_absent(directory)? {
        create(directory)?;
    }
    let slots = [existing(&paths.slots[0])?, existing(&paths.slots[1])?];
    match slots[0].try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: directory.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(io_error("locking", &paths.slots[0])(source)),
    }
    let bases = [existing(&paths.bases[0])?, existing(&paths.bases[1])?];
    Ok(Disks { bases: bases.map(disk), slots: slots.map(disk) })
}

fn disk(file: File) -> FileDisk {
    FileDisk(Arc::new(file))
}

/// Nothing, or an empty directory.
fn is_absent(directory: &Path) -> Result<bool, OpenError> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error("opening", directory)(error)),
    }
}

fn existing(path: &Path) -> Result<File, OpenError> {
    let damaged = |detail: &str| OpenError::Damaged { path: path.to_owned(), detail: detail.to_owned() };
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged("it is missing"),
        _ => io_error("opening", path)(error),
    })
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::NoSpace { path },
        _ => OpenError::Io { operation, path, source },
    }
}

/// Under another name first: a crash on the way leaves nothing that would have to be judged.
fn create(directory: &Path) -> Result<(), OpenError> {
    let mut new = directory.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match std::fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("making", &new)(error)),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&new).map_err(io_error("making", &new))?;
    let paths = Paths::of(&new);
    let make = |path: &Path| {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        file.map(disk).map_err(io_error("making", path))
    };
    let disks = Disks {
        bases: [make(&paths.bases[0])?, make(&paths.bases[1])?],
        slots: [make(&paths.slots[0])?, make(&paths.slots[1])?],
    };
    Log::create(&disks, &paths, rand::random::<u64>().max(1), rand::random::<u64>().max(1))?;
    sync_directory(&new)?;
    std::fs::rename(&new, directory).map_err(io_error("naming", directory))?;
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

fn sync_directory(directory: &Path) -> Result<(), OpenError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(io_error("syncing", directory))
}
