//! What is durable: a base and the journal of what happened since.
//!
//! Owned by the writer's thread. A group of writes is one record of the journal and one fsync. When
//! the journal's slot is full, a new base is written, and the other slot is used from its begin; its
//! first record names the base, and until it is there the base before and the full slot count.
//! Decides nothing; whether a group is on disk is all it has to say.

use std::path::{Path, PathBuf};

use tokio::time::Instant;
use tracing::warn;

use super::base::{self, WriteError};
use super::disk::{Disk, Trouble, Watched};
use super::error::OpenError;
use super::journal::{Journal, JournalError, Link, Record, Records};
use super::rows::{Change, Digest, Entry, base_of, decode, encode};
use crate::mvcc::{Identity, State};
use crate::store::Revision;

/// The storage of a store.
#[derive(Debug, Clone)]
pub(super) struct Disks<D> {
    pub bases: [D; 2],
    pub slots: [D; 2],
}

/// Names of the files, for messages.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub bases: [PathBuf; 2],
    pub slots: [PathBuf; 2],
}

impl Paths {
    pub fn of(directory: &Path) -> Self {
        Self {
            bases: ["base.0.redb", "base.1.redb"].map(|name| directory.join(name)),
            slots: ["journal.0", "journal.1"].map(|name| directory.join(name)),
        }
    }
}

/// Why a group is not known to be on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AppendError {
    /// It is not; it may be tried again.
    NoSpace,
    /// It may be or not, and nothing more can be written before a restart.
    Broken(String),
}

#[derive(Debug)]
pub(super) struct Log<D> {
    bases: [D; 2],
    /// The base in use; the next one goes to the other file.
    base: usize,
    journal: Journal<Watched<D>>,
    slots: [Watched<D>; 2],
    /// A base that no record names yet.
    unnamed: Option<Digest>,
    /// Of the base in use, and of the one before it.
    folded: [Revision; 2],
    /// The base in use is not the newest one, which is damaged. Only a record in the slot before the one in use may
    /// name it, so that slot must not be used again before another base is there.
    is_fallback: bool,
}

impl<D: Disk> Log<D> {
    /// Makes an empty store in empty storage.
    pub fn create(disks: &Disks<D>, paths: &Paths, store_id: u64, member_id: u64) -> Result<(), OpenError> {
        let state = State::new(Identity { cluster_id: store_id, member_id, raft_term: 1 });
        let digest = base::write(&disks.bases[0], 0, &state).map_err(|error| match error {
            WriteError::NoSpace => OpenError::NoSpace { path: paths.bases[0].clone() },
            WriteError::Failed(detail) => failed("making", &paths.bases[0], detail),
        })?;
        let slots = disks.slots.clone().map(Watched::new);
        let made = Journal::create(slots.clone())
            .and_then(|mut journal| journal.append(&encode(&[Change::Base(digest)])));
        made.map_err(|error| match slots.iter().find_map(Watched::trouble) {
            Some(Trouble::NoSpace) => OpenError::NoSpace { path: paths.slots[0].clone() },
            _ => failed("making", &paths.slots[0], error),
        })
    }

    /// Reads everything. The state's leases have their full time from `now` on, and its term is one
    /// more than last time.
    pub fn open(disks: Disks<D>, paths: &Paths, now: Instant) -> Result<(Self, State), OpenError> {
        let path = || paths.slots[0].clone();
        let damaged = |detail: String| OpenError::Damaged { path: path(), detail };
        let slots = disks.slots.map(Watched::new);
        let of_journal = |error: JournalError| match error {
            JournalError::Io(source) => OpenError::Io { operation: "reading", path: path(), source },
            JournalError::Gap { .. } => damaged(error.to_string()),
            JournalError::Label { slot } => {
                OpenError::Damaged { path: paths.slots[slot].clone(), detail: error.to_string() }
            }
        };
        let records = Records::read(&slots).map_err(of_journal)?;
        let Chosen { base, first, is_fallback } = choose_base(&disks.bases, paths, &records)?;
        let mut state = base::read(&disks.bases[base], &paths.bases[base], now)?;
        let folded = [state.revision(); 2];
        let (mut journal, chain) = Journal::open(slots.clone(), records, first).map_err(of_journal)?;
        // From the last one on that was not written by a start. Each start that failed has left one behind it.
        let mut unsure = 0;
        for (index, record) in chain.iter().enumerate() {
            let number = record.link.number;
            let of_record = |detail: &str| damaged(format!("record {number} of the journal: {detail}"));
            let payload = journal.payload(record).map_err(|error| failed("reading", &path(), error))?;
            let entries = decode(&payload).map_err(|error| match error {
                error if error.is_of_later_version() => OpenError::NewerRecord { path: path(), number },
                error => of_record(&error.to_string()),
            })?;
            if !matches!(entries[..], [Entry::Term(_)]) {
                unsure = index;
            }
            for entry in entries {
                redo(&mut state, entry, now)
                    .ok_or_else(|| of_record("it does not follow from those before it"))?;
            }
        }
        for record in &chain[unsure..] {
            journal.write_back(record).map_err(|error| failed("reading", &path(), error))?;
        }
        journal.fit(state.size());
        state.identity.raft_term += 1;
        let mut log = Self { bases: disks.bases, base, journal, slots, unnamed: None, folded, is_fallback };
        match log.make_good(&state) {
            // Without space it is done before the next turn.
            Ok(()) | Err(AppendError::NoSpace) => {}
            Err(AppendError::Broken(detail)) => return Err(failed("writing", &path(), detail)),
        }
        let term = Change::Term(state.identity.raft_term);
        match log.append(vec![term]) {
            // Without space the term comes again next time, which is no harm: nothing was written under it.
            Ok(()) | Err(AppendError::NoSpace) => Ok((log, state)),
            Err(AppendError::Broken(detail)) => Err(failed("writing", &path(), detail)),
        }
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        let bases = self.bases.iter().map(|base| base.len().unwrap_or(0));
        bases.sum::<u64>() + self.journal.size()
    }

    /// Makes room for the next group, if need be by writing a base of `state`, in which all groups
    /// so far are. Then history below the returned revision, that of the base before, is of no more use.
    pub fn make_room(&mut self, state: &State) -> Result<Option<Revision>, AppendError> {
        // A base that no record names yet must be named before there is another one.
        if !self.journal.is_full() || self.unnamed.is_some() {
            return Ok(None);
        }
        let is_turn = !self.is_fallback;
        let written = if is_turn { self.write_base(state) } else { self.make_good(state) };
        match written {
            Ok(()) if is_turn => {
                self.journal.switch();
                self.journal.fit(state.size());
                Ok(Some(self.folded[1]))
            }
            Ok(()) => Ok(None),
            Err(AppendError::NoSpace) if self.journal.put_off() => {
                warn!("the disk is full; the registry can take some more changes, then no more");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// In place of a damaged base, a new one, which the next record names in the slot in use: the other slot may be the
    /// only one that names the base that is whole.
    fn make_good(&mut self, state: &State) -> Result<(), AppendError> {
        if self.is_fallback {
            self.write_base(state)?;
            self.is_fallback = false;
        }
        Ok(())
    }

    /// To the file that is not in use.
    fn write_base(&mut self, state: &State) -> Result<(), AppendError> {
        let other = 1 - self.base;
        let digest = base::write(&self.bases[other], self.journal.last().number, state);
        let digest = digest.map_err(|error| match error {
            WriteError::NoSpace => AppendError::NoSpace,
            WriteError::Failed(detail) => AppendError::Broken(format!("base: {detail}")),
        })?;
        self.base = other;
        self.unnamed = Some(digest);
        self.folded = [state.revision(), self.folded[0]];
        Ok(())
    }

    /// Puts a group on disk: after `Ok` it survives whatever happens.
    pub fn append(&mut self, mut changes: Vec<Change>) -> Result<(), AppendError> {
        if let Some(digest) = self.unnamed {
            changes.insert(0, Change::Base(digest));
        }
        match self.journal.append(&encode(&changes)) {
            Ok(()) => {
                self.unnamed = None;
                Ok(())
            }
            Err(error) => Err(self.append_error(&error)),
        }
    }

    fn append_error(&self, error: &std::io::Error) -> AppendError {
        match self.slots.iter().find_map(Watched::trouble) {
            Some(Trouble::NoSpace) => {
                // Nothing was appended, so that the next attempt begins where this one did.
                self.slots.iter().for_each(Watched::forgive);
                AppendError::NoSpace
            }
            Some(Trouble::Failed(detail)) => AppendError::Broken(format!("journal: {detail}")),
            None => AppendError::Broken(format!("journal: {error}")),
        }
    }
}

/// The newest base that is whole.
struct Chosen {
    /// The number of its file.
    base: usize,
    /// The record that names it.
    first: Link,
    /// There was a newer one.
    is_fallback: bool,
}

fn choose_base<D: Disk>(bases: &[D; 2], paths: &Paths, records: &Records) -> Result<Chosen, OpenError> {
    let digest = |file: usize| -> Result<Digest, OpenError> {
        base::digest(&bases[file]).map_err(|error| failed("reading", &paths.bases[file], error))
    };
    let digests = [digest(0)?, digest(1)?];
    let mut damaged = None;
    for record in records.newest_first() {
        let Some(named) = base_of(&record.begin) else { continue };
        if let Some(file) = digests.iter().position(|digest| *digest == named) {
            if damaged.is_some() {
                let path = paths.bases[1 - file].display();
                warn!(file = %path, "damaged, recovered from the base before it and the journal");
            }
            return Ok(Chosen { base: file, first: record.link, is_fallback: damaged.is_some() });
        }
        damaged.get_or_insert(record);
    }
    let of_record =
        |record: &Record| format!("it is not what record {} of the journal says", record.link.number);
    Err(match damaged {
        Some(record) => OpenError::Damaged { path: paths.bases[0].clone(), detail: of_record(record) },
        None => {
            let detail = "no record in it can be read that names a base".to_owned();
            OpenError::Damaged { path: paths.slots[0].clone(), detail }
        }
    })
}

/// Does a change again; `None`: it does not fit the state.
fn redo(state: &mut State, entry: Entry, now: Instant) -> Option<()> {
    match entry {
        Entry::Commit { revision, steps } => drop(state.replay(revision, steps)?),
        Entry::Granted(lease) => state.lease_granted(lease, now),
        Entry::Revoked(id) => state.lease_revoked(id),
        Entry::Compacted(revision) => state.compact(revision).ok()?,
        Entry::Term(term) => state.identity.raft_term = term,
        Entry::Base(_) => {}
    }
    Some(())
}

fn failed(
    operation: &'static str,
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> OpenError {
    OpenError::Io { operation, path: path.to_owned(), source: std::io::Error::other(source) }
}
