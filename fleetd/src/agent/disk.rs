//! The agent's part of the state directory: what was applied (`records.log`) and the texts (`contents/<sha256>`).
//!
//! The log is append-only: a line of JSON per changed record, one fsync a pass; it is rewritten at start and when most
//! of it is history. A torn last line is what a crash leaves and is dropped. Fields of a newer release are kept. All
//! calls block; the task runs them off its thread. A lock keeps two daemons apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fleet_core::OrderNumber;
use fleet_core::reconcile::DiskRecord;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tracing::warn;
use unit_files::{ContentHash, UnitName};

use super::error::AgentError;

const LOG: &str = "records.log";
const NEW_LOG: &str = "records.log.new";
const LOCK: &str = "agent.lock";
const CONTENTS: &str = "contents";
/// A log below this size is not worth rewriting.
const SMALL_LOG: u64 = 1024 * 1024;
/// Times its useful part.
const GROWN: u64 = 4;

/// What is read back at start.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub records: BTreeMap<UnitName, DiskRecord>,
    pub floor: OrderNumber,
    pub contents: BTreeSet<ContentHash>,
}

/// What a pass makes durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub records: BTreeMap<UnitName, DiskRecord>,
    pub forget: BTreeSet<UnitName>,
    pub floor: OrderNumber,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Record { unit: UnitName, record: Box<DiskRecord> },
    Forgotten { forget: UnitName },
    Floor { floor: OrderNumber },
}

#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    log: File,
    /// Bytes of the log that are known to be whole lines.
    length: u64,
    /// Bytes that a rewritten log had.
    useful: u64,
    known: Restored,
    _lock: Flock<File>,
}

/// The disk, used off the task's thread.
#[derive(Clone, Debug)]
pub(super) struct SharedDisk(Arc<Mutex<Disk>>);

impl SharedDisk {
    pub(super) fn new(disk: Disk) -> SharedDisk {
        SharedDisk(Arc::new(Mutex::new(disk)))
    }

    /// What was begun is finished, also if the future is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Disk) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let disk = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            act(&mut disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
        });
        done.await.map_err(io::Error::other)?
    }
}

impl Disk {
    /// Opens or creates the agent's part of `directory`, reads it and rewrites the log.
    pub(super) fn open(directory: &Path) -> Result<(Disk, Restored), AgentError> {
        let fault = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| AgentError::Disk { operation, path, source }
        };
        let contents = directory.join(CONTENTS);
        fs::create_dir_all(&contents).map_err(fault("create", &contents))?;
        let path = directory.join(LOCK);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(&path).map_err(fault("open", &path))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| AgentError::InUse { path: directory.to_owned() })?;
        let path = directory.join(LOG);
        let mut known = read_log(&path).map_err(fault("read", &path))?;
        known.contents = read_contents(&contents).map_err(fault("read", &contents))?;
        let (log, length) = rewrite(directory, &known).map_err(fault("write", &path))?;
        let restored =
            Restored { records: known.records.clone(), floor: known.floor, contents: known.contents.clone() };
        let disk = Disk { directory: directory.to_owned(), log, length, useful: length, known, _lock: lock };
        Ok((disk, restored))
    }

    /// Makes the changes of one pass durable, all or none as far as the next start can tell. Idempotent.
    pub(super) fn write(&mut self, changes: &Changes) -> io::Result<()> {
        let mut text = Vec::new();
        for (unit, record) in &changes.records {
            line(&mut text, &Line::Record { unit: unit.clone(), record: Box::new(record.clone()) })?;
        }
        for unit in &changes.forget {
            line(&mut text, &Line::Forgotten { forget: unit.clone() })?;
        }
        if changes.floor != self.known.floor {
            line(&mut text, &Line::Floor { floor: changes.floor })?;
        }
        if text.is_empty() {
            return Ok(());
        }
        let written = self.log.write_all(&text).and_then(|()| self.log.sync_data());
        if let Err(error) = written {
            // Half a line must not join with the next one.
            self.log.set_len(self.length)?;
            return Err(error);
        }
        self.length += text.len() as u64;
        self.known
            .records
            .extend(changes.records.iter().map(|(unit, record)| (unit.clone(), record.clone())));
        self.known.records.retain(|unit, _| !changes.forget.contains(unit));
        self.known.floor = changes.floor;
        if self.length > SMALL_LOG && self.length > GROWN * self.useful {
            self.compact()?;
        }
        Ok(())
    }

    /// Rewrites the log with what is still true, and removes texts that nothing names. Also shows whether the
    /// directory can be written.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        (self.log, self.length) = rewrite(&self.directory, &self.known)?;
        self.useful = self.length;
        Ok(())
    }

    /// Removes texts that no record and none of `needed` names; which ones.
    pub(super) fn collect(&mut self, needed: &BTreeSet<ContentHash>) -> io::Result<BTreeSet<ContentHash>> {
        let mut named = needed.clone();
        for record in self.known.records.values() {
            named.insert(record.order.content);
            named.extend(record.applied.as_ref().map(|applied| applied.content));
        }
        let stale: BTreeSet<ContentHash> = self.known.contents.difference(&named).copied().collect();
        for hash in &stale {
            remove_if_there(&content_path(&self.directory, *hash))?;
            self.known.contents.remove(hash);
        }
        Ok(stale)
    }

    /// Keeps a text for good: it is there, whole, once this returns. Idempotent.
    pub(super) fn keep_content(&mut self, hash: ContentHash, bytes: &[u8]) -> io::Result<()> {
        let path = content_path(&self.directory, hash);
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&new, &path)?;
        File::open(self.directory.join(CONTENTS))?.sync_all()?;
        self.known.contents.insert(hash);
        Ok(())
    }
}

/// A text kept earlier; None if it is not there or is not what its name says.
pub(super) fn read_content(directory: &Path, hash: ContentHash) -> io::Result<Option<Vec<u8>>> {
    match fs::read(content_path(directory, hash)) {
        Ok(bytes) => Ok(Some(bytes).filter(|bytes| ContentHash::of(bytes) == hash)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn content_path(directory: &Path, hash: ContentHash) -> PathBuf {
    directory.join(CONTENTS).join(hash.to_string())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn line(text: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}

fn rewrite(directory: &Path, known: &Restored) -> io::Result<(File, u64)> {
    let mut text = Vec::new();
    line(&mut text, &Line::Floor { floor: known.floor })?;
    for (unit, record) in &known.records {
        line(&mut text, &Line::Record { unit: unit.clone(), record: Box::new(record.clone()) })?;
    }
    let new = directory.join(NEW_LOG);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(LOG))?;
    File::open(directory)?.sync_all()?;
    // Appends from now on go where the file ends, whatever a failed write left.
    let log = OpenOptions::new().append(true).open(directory.join(LOG))?;
    Ok((log, text.len() as u64))
}

fn read_log(path: &Path) -> io::Result<Restored> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Restored::default()),
        Err(error) => return Err(error),
    };
    let mut restored = Restored::default();
    let mut lines = bytes.split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((number, text)) = lines.next() {
        if text.is_empty() {
            continue;
        }
        match serde_json::from_slice(text) {
            Ok(Line::Record { unit, record }) => drop(restored.records.insert(unit, *record)),
            Ok(Line::Forgotten { forget }) => drop(restored.records.remove(&forget)),
            Ok(Line::Floor { floor }) => restored.floor = floor,
            // The write that a crash tore: nothing was done that relied on it.
            Err(_) if lines.peek().is_none() => {}
            Err(error) => {
                let path = path.display();
                warn!(%path, line = number + 1, %error, "a line of the agent's log cannot be read and is left out");
            }
        }
    }
    Ok(restored)
}

fn read_contents(directory: &Path) -> io::Result<BTreeSet<ContentHash>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<ContentHash>().ok()));
    }
    Ok(found)
}
