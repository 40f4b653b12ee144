//! The agent's part of the state directory: what was applied (`records.log`) and the texts (`contents/<sha256>`).
//!
//! The log is append-only: a line of JSON per changed record, one fsync a pass; it is rewritten at start and when most
//! of it is history. A text that a loss of power could still take is in the log too, beside the first record that names
//! it, so that what was accepted can be started without the registry. A torn last line is what a crash leaves and is
//! dropped. Fields of the next release are kept; records of a release after that are no base to act on, and end the
//! start. All calls block; the task runs them off its thread. A lock keeps two daemons apart.

mod log;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fleet_core::OrderNumber;
use fleet_core::reconcile::{Accepted, DiskRecord};
use nix::fcntl::{Flock, FlockArg};
use unit_files::{ContentHash, UnitName};

use super::error::AgentError;
use log::{Line, line, read_log, record_line};

const LOG: &str = "records.log";
const NEW_LOG: &str = "records.log.new";
const CONTENTS: &str = "contents";
/// A file of this name makes a test's disk full.
#[cfg(test)]
pub(super) const FULL: &str = "full";
/// A log below this size is not worth rewriting.
const SMALL_LOG: u64 = 1024 * 1024;
/// Times its useful part.
const GROWN: u64 = 4;

/// What is read back at start.
#[derive(Clone, Debug, Default)]
pub(super) struct Restored {
    pub records: BTreeMap<UnitName, DiskRecord>,
    pub floor: OrderNumber,
    pub contents: BTreeSet<ContentHash>,
    /// Why nothing can be written.
    pub write_error: Option<String>,
}

/// What a pass makes durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub records: BTreeMap<UnitName, DiskRecord>,
    pub forget: BTreeSet<UnitName>,
    pub floor: OrderNumber,
}

#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    /// None after a failure that left its end unknown: then it is rewritten.
    log: Option<File>,
    length: u64,
    /// Bytes that a rewritten log had.
    useful: u64,
    known: Restored,
    /// Texts whose files a loss of power could still take.
    unsynced: BTreeSet<ContentHash>,
    /// Of these, the ones that are in the log.
    logged: BTreeSet<ContentHash>,
    /// On the directory itself, so that it can be had where nothing can be written.
    _lock: Flock<File>,
}

/// The disk, used off the task's thread.
#[derive(Clone, Debug)]
pub(super) struct SharedDisk(Arc<Mutex<Disk>>);

impl SharedDisk {
    pub(super) fn new(disk: Disk) -> SharedDisk {
        SharedDisk(Arc::new(Mutex::new(disk)))
    }

    /// What was begun is finished, also if the future is dropped. fleetd's runtime keeps a thread for it, so that it waits
    /// rather than panics where no other one can be had.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Disk) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let disk = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            let mut disk = disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            #[cfg(test)]
            if disk.directory.join(FULL).exists() {
                // What a failed write leaves behind, for real.
                disk.log = None;
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            act(&mut disk)
        });
        done.await.map_err(io::Error::other)?
    }
}

impl Disk {
    /// Opens the agent's part of `directory`, which must exist, reads it and rewrites the log. That the directory
    /// cannot be written is no error here: what is known is known.
    ///
    /// # Errors
    /// It cannot be read, or another fleetd uses it.
    pub(super) fn open(directory: &Path) -> Result<(Disk, Restored), AgentError> {
        let fault = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| AgentError::Disk { operation, path, source }
        };
        let itself = File::open(directory).map_err(fault("open", directory))?;
        let lock = Flock::lock(itself, FlockArg::LockExclusiveNonblock)
            .map_err(|_| AgentError::InUse { path: directory.to_owned() })?;
        let contents = directory.join(CONTENTS);
        let created = fs::create_dir_all(&contents);
        let path = directory.join(LOG);
        let bytes = read_bytes(&path).map_err(fault("read", &path))?;
        let (mut known, logged) = read_log(&path, &bytes)?;
        known.contents = read_contents(&contents).map_err(fault("read", &contents))?;
        let mut disk = Disk {
            directory: directory.to_owned(),
            log: None,
            length: 0,
            useful: 0,
            known,
            unsynced: BTreeSet::new(),
            logged: BTreeSet::new(),
            _lock: lock,
        };
        let restored = created.and_then(|()| disk.restore(&logged));
        let write_error = restored.and_then(|()| disk.compact()).err().map(|error| error.to_string());
        let restored = Restored { write_error, ..disk.known.clone() };
        Ok((disk, restored))
    }

    /// Makes the changes of one pass durable, all or none as far as the next start can tell. Idempotent.
    pub(super) fn write(&mut self, changes: &Changes) -> io::Result<()> {
        let mut text = Vec::new();
        let named: BTreeSet<ContentHash> =
            changes.records.values().map(|record| record.order.content).collect();
        let texts =
            self.texts_at_risk(|hash| named.contains(hash) && !self.logged.contains(hash), &mut text)?;
        for (unit, record) in &changes.records {
            line(&mut text, &record_line(unit, record))?;
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
        if self.log.is_none() {
            self.compact()?;
        }
        let Some(log) = &mut self.log else { return Err(io::Error::other("the log is not open")) };
        let written = log.write_all(&text).and_then(|()| log.sync_data());
        if let Err(error) = written {
            // What reached the disk is unknown: the log is rewritten before the next line.
            self.log = None;
            return Err(error);
        }
        self.length += text.len() as u64;
        self.logged.extend(texts);
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

    /// Rewrites the log with what is still true. Also shows whether the directory can be written.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        line(&mut text, &Line::Floor { floor: self.known.floor })?;
        let texts = self.texts_at_risk(|_| true, &mut text)?;
        for (unit, record) in &self.known.records {
            line(&mut text, &record_line(unit, record))?;
        }
        let new = self.directory.join(NEW_LOG);
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        let path = self.directory.join(LOG);
        fs::rename(&new, &path)?;
        File::open(&self.directory)?.sync_all()?;
        self.log = Some(OpenOptions::new().append(true).open(&path)?);
        (self.length, self.useful) = (text.len() as u64, text.len() as u64);
        self.logged = texts;
        Ok(())
    }

    /// Appends texts whose files are not safe yet; which ones.
    fn texts_at_risk(
        &self,
        is_asked: impl Fn(&ContentHash) -> bool,
        log: &mut Vec<u8>,
    ) -> io::Result<BTreeSet<ContentHash>> {
        let mut logged = BTreeSet::new();
        for hash in self.unsynced.iter().filter(|hash| is_asked(hash)) {
            let bytes = read_content(&self.directory, *hash)?;
            // Every text that is kept was parsed, so it is UTF-8.
            let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok()) else { continue };
            line(log, &Line::Text { content: *hash, text })?;
            logged.insert(*hash);
        }
        Ok(logged)
    }

    /// Puts back from the log what a loss of power has taken of the texts.
    fn restore(&mut self, logged: &BTreeMap<ContentHash, String>) -> io::Result<()> {
        for (hash, text) in logged {
            if read_content(&self.directory, *hash)?.is_none() && ContentHash::of(text.as_bytes()) == *hash {
                self.keep_content(*hash, text.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Removes texts that no record and none of `needed` names; which ones.
    pub(super) fn collect(&mut self, needed: &BTreeSet<ContentHash>) -> io::Result<BTreeSet<ContentHash>> {
        let mut named = needed.clone();
        for record in self.known.records.values().filter(|record| record.gone_at.is_none()) {
            named.insert(record.order.content);
            named.extend(record.applied.as_ref().map(|applied| applied.content));
        }
        let stale: BTreeSet<ContentHash> = self.known.contents.difference(&named).copied().collect();
        for hash in &stale {
            match fs::remove_file(content_path(&self.directory, *hash)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => drop(self.known.contents.remove(hash)),
            }
            self.unsynced.remove(hash);
        }
        Ok(stale)
    }

    /// Keeps a text: whole or not at all. A loss of power may still take the file until [`sync_contents`] has run; the
    /// log has the text until then, if a record names it. Idempotent.
    pub(super) fn keep_content(&mut self, hash: ContentHash, bytes: &[u8]) -> io::Result<()> {
        let path = content_path(&self.directory, hash);
        let new = path.with_extension("new");
        fs::create_dir_all(self.directory.join(CONTENTS))?;
        fs::write(&new, bytes).and_then(|()| fs::rename(&new, &path)).inspect_err(|_| {
            drop(fs::remove_file(&new));
        })?;
        self.known.contents.insert(hash);
        self.unsynced.insert(hash);
        Ok(())
    }

    pub(super) fn unsynced(&self) -> BTreeSet<ContentHash> {
        self.unsynced.clone()
    }

    /// [`sync_contents`] has succeeded for these.
    pub(super) fn synced(&mut self, hashes: &BTreeSet<ContentHash>) {
        self.unsynced.retain(|hash| !hashes.contains(hash));
    }
}

/// Makes kept texts safe from a loss of power. Blocks for an fsync each, so it is called beside the passes, not in them.
pub(super) fn sync_contents(directory: &Path, hashes: &BTreeSet<ContentHash>) -> io::Result<()> {
    for hash in hashes {
        match File::open(content_path(directory, *hash)) {
            Ok(file) => file.sync_data()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    File::open(directory.join(CONTENTS))?.sync_all()
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

/// Nothing, where there is no file.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// The latest order that the machine has accepted, whatever cluster gave it. Reads only.
///
/// # Errors
/// The log cannot be read, or is a later release's.
pub(super) fn accepted(directory: &Path) -> Result<Accepted, AgentError> {
    let path = directory.join(LOG);
    let bytes = read_bytes(&path).map_err(|source| AgentError::Disk {
        operation: "read",
        path: path.clone(),
        source,
    })?;
    let (known, _) = read_log(&path, &bytes)?;
    Ok(Accepted::of(&known.records, known.floor))
}

fn read_contents(directory: &Path) -> io::Result<BTreeSet<ContentHash>> {
    let mut found = BTreeSet::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<ContentHash>().ok()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use fleet_core::records::READS;

    use super::*;
    use crate::agent::tests::an_order;

    fn changes(unit: &str, sequence: u64) -> Changes {
        let record = DiskRecord::new(an_order(sequence));
        Changes { records: [(unit.parse().unwrap(), record)].into(), ..Changes::default() }
    }

    fn numbers(restored: &Restored) -> Vec<(String, u64)> {
        let number =
            |(unit, record): (&UnitName, &DiskRecord)| (unit.to_string(), record.order.number.sequence);
        restored.records.iter().map(number).collect()
    }

    #[test]
    fn what_was_written_is_there_after_a_start_and_what_was_forgotten_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, restored) = Disk::open(directory.path()).unwrap();
        assert!(restored.records.is_empty() && restored.write_error.is_none());
        disk.write(&changes("a.service", 1)).unwrap();
        disk.write(&changes("b.service", 2)).unwrap();
        disk.write(&changes("a.service", 3)).unwrap();
        let floor = an_order(2).number;
        disk.write(&Changes { forget: ["b.service".parse().unwrap()].into(), floor, ..Changes::default() })
            .unwrap();
        drop(disk);
        let (_disk, restored) = Disk::open(directory.path()).unwrap();
        assert_eq!(numbers(&restored), [("a.service".to_owned(), 3)]);
        assert_eq!(restored.floor, floor);
        assert_eq!(accepted(directory.path()).unwrap(), Accepted::of(&restored.records, floor));
        assert_eq!(accepted(&directory.path().join("none")).unwrap(), Accepted::default());
    }

    #[test]
    fn a_torn_last_line_loses_only_itself() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, _) = Disk::open(directory.path()).unwrap();
        disk.write(&changes("a.service", 1)).unwrap();
        drop(disk);
        let path = directory.path().join(LOG);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(br#"{"unit":"a.service","record":{"v":1,"ord"#);
        fs::write(&path, bytes).unwrap();
        let (mut disk, restored) = Disk::open(directory.path()).unwrap();
        assert_eq!(numbers(&restored), [("a.service".to_owned(), 1)]);
        disk.write(&changes("a.service", 2)).unwrap();
        drop(disk);
        assert_eq!(numbers(&Disk::open(directory.path()).unwrap().1), [("a.service".to_owned(), 2)]);
    }

    #[test]
    fn fields_of_a_newer_release_survive_a_rewrite() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = serde_json::to_value(DiskRecord::new(an_order(1))).unwrap();
        record["from_the_future"] = serde_json::json!({ "deep": [1, 2] });
        let line = serde_json::json!({ "unit": "a.service", "record": record });
        fs::write(directory.path().join(LOG), format!("{line}\n")).unwrap();
        drop(Disk::open(directory.path()).unwrap());
        assert!(fs::read_to_string(directory.path().join(LOG)).unwrap().contains("from_the_future"));
    }

    #[test]
    fn records_of_the_next_release_are_read_and_those_of_the_release_after_end_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOG);
        let write = |v: u32, wanted: &str| {
            let mut record = serde_json::to_value(DiskRecord::new(an_order(1))).unwrap();
            record["v"] = v.into();
            record["order"]["wanted"] = wanted.into();
            fs::write(&path, format!("{}\n", serde_json::json!({ "unit": "a.service", "record": record })))
                .unwrap();
        };
        write(READS, "launched");
        let (disk, restored) = Disk::open(directory.path()).unwrap();
        assert_eq!(restored.records.values().map(|record| record.v).collect::<Vec<_>>(), [READS]);
        drop(disk);
        // Whether or not their shape fits.
        for wanted in ["launched", "paused"] {
            write(READS + 1, wanted);
            let before = fs::read(&path).unwrap();
            let refused = Disk::open(directory.path()).unwrap_err();
            assert!(matches!(refused, AgentError::Newer { line: 1, .. }), "{refused:?}");
            assert!(refused.to_string().contains("install the newer fleetd again"), "{refused}");
            assert_eq!(fs::read(&path).unwrap(), before);
        }
    }

    #[test]
    fn a_damaged_text_is_as_good_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, _) = Disk::open(directory.path()).unwrap();
        let hash = ContentHash::of(b"text");
        disk.keep_content(hash, b"text").unwrap();
        assert_eq!(read_content(directory.path(), hash).unwrap().as_deref(), Some(&b"text"[..]));
        sync_contents(directory.path(), &disk.unsynced()).unwrap();
        fs::write(content_path(directory.path(), hash), "tex").unwrap();
        assert_eq!(read_content(directory.path(), hash).unwrap(), None);
        assert_eq!(disk.collect(&[hash].into()).unwrap(), BTreeSet::new());
        assert_eq!(disk.collect(&BTreeSet::new()).unwrap(), [hash].into());
        assert!(disk.known.contents.is_empty());
    }

    #[test]
    fn a_text_that_a_loss_of_power_took_comes_back_with_its_record() {
        let directory = tempfile::tempdir().unwrap();
        let lost = |hash| fs::write(content_path(directory.path(), hash), "").unwrap();
        let text = "[Service]\nExecStart=/usr/bin/work\n";
        let hash = an_order(1).content;
        let (mut disk, _) = Disk::open(directory.path()).unwrap();
        disk.keep_content(hash, text.as_bytes()).unwrap();
        disk.write(&changes("a.service", 1)).unwrap();
        drop(disk);
        for _ in 0..2 {
            lost(hash);
            let (disk, restored) = Disk::open(directory.path()).unwrap();
            assert_eq!(restored.write_error, None);
            assert_eq!(restored.contents, [hash].into());
            drop(disk);
            assert_eq!(read_content(directory.path(), hash).unwrap().as_deref(), Some(text.as_bytes()));
        }
        // Once its file is safe the log need not have it.
        let (mut disk, _) = Disk::open(directory.path()).unwrap();
        sync_contents(directory.path(), &disk.unsynced()).unwrap();
        disk.synced(&[hash].into());
        disk.compact().unwrap();
        assert!(!fs::read_to_string(directory.path().join(LOG)).unwrap().contains("ExecStart"));
    }

    #[test]
    fn two_daemons_do_not_share_a_state_directory() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Disk::open(directory.path()).unwrap();
        let second = Disk::open(directory.path()).map(drop);
        assert!(matches!(second, Err(AgentError::InUse { .. })), "{second:?}");
    }

    #[test]
    fn a_log_that_is_mostly_history_is_rewritten() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, _) = Disk::open(directory.path()).unwrap();
        for n in 1..3000 {
            disk.write(&changes("a.service", n)).unwrap();
        }
        let length = fs::metadata(directory.path().join(LOG)).unwrap().len();
        assert!(length < 2 * SMALL_LOG, "{length} bytes");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_still_read() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, _) = Disk::open(directory.path()).unwrap();
        disk.write(&changes("a.service", 1)).unwrap();
        drop(disk);
        // In the way of the rewritten log, for root too.
        fs::create_dir(directory.path().join(NEW_LOG)).unwrap();
        let (mut disk, restored) = Disk::open(directory.path()).unwrap();
        assert_eq!(numbers(&restored), [("a.service".to_owned(), 1)]);
        assert!(restored.write_error.is_some() && disk.write(&changes("a.service", 2)).is_err());
        fs::remove_dir(directory.path().join(NEW_LOG)).unwrap();
        disk.write(&changes("a.service", 2)).unwrap();
    }
}
