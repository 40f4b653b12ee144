//! Where the bytes of the store are: a file, and what went wrong with it.
//!
//! Called by redb on the writer's thread, and while the store is opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

/// Storage that can be opened again after redb has given it up. Clones are the same storage.
pub(super) trait Disk: StorageBackend + Clone {}

impl<D: StorageBackend + Clone> Disk for D {}

/// Written at once when the file grows.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A file, locked by who opened it for as long as a clone lives.
#[derive(Debug, Clone)]
pub(super) struct FileDisk(pub Arc<File>);

impl StorageBackend for FileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    /// Growth fills with zeroes: a full disk shows here and nowhere else, and later writes change no
    /// metadata that the next fsync would have to wait for. The length itself changes at once, since
    /// redb opens no file of a length between two of its own.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        self.0.set_len(len)?;
        let mut at = old;
        while at < len {
            let some = usize::try_from(len - at).map_or(ZEROES.len(), |rest| rest.min(ZEROES.len()));
            if let Err(error) = self.0.write_all_at(&ZEROES[..some], at) {
                // The error that counts is the first one.
                let _ = self.0.set_len(old);
                return Err(error);
            }
            at += some as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// What a disk refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A write or growth found no space. What was written before can be read back.
    NoSpace,
    /// Anything else. After a failed fsync the system's cache no longer tells what is on disk.
    Failed(String),
}

/// A disk that remembers the first thing that went wrong, which redb's own errors do not tell apart.
#[derive(Debug, Clone)]
pub(super) struct Watched<D> {
    disk: D,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

impl<D: Disk> Watched<D> {
    pub fn new(disk: D) -> Self {
        Self { disk, trouble: Arc::default() }
    }

    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().expect("nothing panics while it holds the trouble").clone()
    }

    /// What was refused is made good or of no account.
    pub fn forgive(&self) {
        *self.trouble.lock().expect("nothing panics while it holds the trouble") = None;
    }

    fn note<T>(&self, what: &str, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let is_full = matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
            );
            let trouble = if is_full && what != "fsync" {
                Trouble::NoSpace
            } else {
                Trouble::Failed(format!("{what}: {error}"))
            };
            let mut first = self.trouble.lock().expect("nothing panics while it holds the trouble");
            first.get_or_insert(trouble);
        }
        result
    }
}

impl<D: Disk> StorageBackend for Watched<D> {
    fn len(&self) -> io::Result<u64> {
        self.note("length", self.disk.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.note("read", self.disk.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note("growth", self.disk.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.note("fsync", self.disk.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note("write", self.disk.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.disk.close()
    }
}
