//! A base: everything as of one record of the journal, in a redb file.
//!
//! Called by the log when a slot of the journal is full, and at the start. A base is written once,
//! whole, and never changed; its digest, kept in the journal, tells whether it still is what was
//! written, before redb sees a byte of it. Two files take turns, so that the one in use is never
//! the one that is written. Tables: `meta` (numbers), `keys`, `leases`.

use std::io;
use std::path::Path;
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::disk::{Disk, Trouble, Watched};
use super::error::OpenError;
use super::rows::{Digest, decode_kv, encode_kv};
use crate::mvcc::{Identity, State};
use crate::store::{KeyRange, Lease, LeaseId, Revision};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");
/// Seconds to live, by lease.
const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");

const FORMAT: u64 = 1;

/// The data is in memory and a file is read once, so a cache has nothing to save.
const CACHE_BYTES: usize = 1 << 20;

/// Read at once for a digest.
const CHUNK: usize = 64 << 10;

/// Why a base was not written. The one before it is as it was.
#[derive(Debug)]
pub(super) enum WriteError {
    NoSpace,
    /// Nothing more can be written before a restart.
    Failed(String),
}

/// Writes a state as of the record `number`, over whatever is on the disk.
pub(super) fn write<D: Disk>(disk: &D, number: u64, state: &State) -> Result<Digest, WriteError> {
    let watched = Watched::new(disk.clone());
    let written = (|| -> Result<(), redb::Error> {
        watched.set_len(0)?;
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).create_with_backend(watched.clone())?;
        fill(&database, number, state)
        // Closed here, which writes as well.
    })();
    let synced = written.and_then(|()| Ok(watched.sync_data()?));
    match (synced, watched.trouble()) {
        (Ok(()), None) => digest(disk).map_err(|error| WriteError::Failed(format!("read: {error}"))),
        (_, Some(Trouble::NoSpace)) => {
            // Half a base is of no use, and what it took may be enough for the journal to go on.
            let _ = disk.set_len(0);
            Err(WriteError::NoSpace)
        }
        (_, Some(Trouble::Failed(detail))) => Err(WriteError::Failed(detail)),
        (Err(error), None) => Err(WriteError::Failed(error.to_string())),
    }
}

fn fill(database: &Database, number: u64, state: &State) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        let identity = state.identity;
        for (name, value) in [
            ("format", FORMAT),
            ("store", identity.cluster_id),
            ("member", identity.member_id),
            ("term", identity.raft_term),
            ("revision", state.revision().0),
            ("last lease", state.last_lease().0.cast_unsigned()),
            ("record", number),
        ] {
            meta.insert(name, value)?;
        }
        let mut keys = txn.open_table(KEYS)?;
        for kv in state.live(&KeyRange::prefix("")) {
            keys.insert(kv.key.as_ref(), encode_kv(kv).as_slice())?;
        }
        let mut leases = txn.open_table(LEASES)?;
        for (id, ttl) in state.leases() {
            leases.insert(id.0, ttl.as_secs())?;
        }
    }
    Ok(txn.commit()?)
}

/// Of all bytes there are.
pub(super) fn digest<D: Disk>(disk: &D) -> io::Result<Digest> {
    let len = disk.len()?;
    let mut hasher = Sha256::new();
    let mut chunk = [0; CHUNK];
    let mut at = 0;
    while at < len {
        let some = usize::try_from(len - at).map_or(CHUNK, |rest| rest.min(CHUNK));
        disk.read(at, &mut chunk[..some])?;
        hasher.update(&chunk[..some]);
        at += some as u64;
    }
    Ok(hasher.finalize().into())
}

/// Reads a base whose digest is right. Leases have their full time from `now` on.
pub(super) fn read<D: Disk>(disk: &D, path: &Path, now: Instant) -> Result<State, OpenError> {
    let mut builder = Database::builder();
    let opened = builder.set_cache_size(CACHE_BYTES).open_read_only_with_backend(disk.clone());
    let state = opened.map_err(LoadError::from).and_then(|database| read_all(&database, now));
    state.map_err(|error| match error {
        LoadError::TooNew(format) => OpenError::TooNew { path: path.to_owned(), format, known: FORMAT },
        LoadError::Damaged(detail) => OpenError::Damaged { path: path.to_owned(), detail },
        LoadError::Redb(redb::Error::Io(source)) if source.raw_os_error().is_some() => {
            OpenError::Io { operation: "reading", path: path.to_owned(), source }
        }
        LoadError::Redb(error) => OpenError::Damaged { path: path.to_owned(), detail: error.to_string() },
    })
}

enum LoadError {
    TooNew(u64),
    Damaged(String),
    Redb(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

fn read_all(database: &impl ReadableDatabase, now: Instant) -> Result<State, LoadError> {
    let txn = database.begin_read()?;
    let meta = txn.open_table(META)?;
    let number = |name: &str| -> Result<u64, LoadError> {
        let row = meta.get(name)?;
        row.map(|row| row.value())
            .ok_or_else(|| LoadError::Damaged(format!("the number {name:?} is missing")))
    };
    let format = number("format")?;
    if format > FORMAT {
        return Err(LoadError::TooNew(format));
    }
    let identity =
        Identity { cluster_id: number("store")?, member_id: number("member")?, raft_term: number("term")? };
    let mut state = State::at(identity, Revision(number("revision")?));
    for row in txn.open_table(LEASES)?.iter()? {
        let (id, ttl) = row?;
        let ttl = Duration::from_secs(ttl.value());
        state.lease_granted(Lease { id: LeaseId(id.value()), ttl }, now);
    }
    state.skip_leases(LeaseId(number("last lease")?.cast_signed()));
    for row in txn.open_table(KEYS)?.iter()? {
        let (key, value) = row?;
        let key = key.value();
        let name = || String::from_utf8_lossy(key).into_owned();
        let kv = decode_kv(key, value.value())
            .map_err(|error| LoadError::Damaged(format!("key {:?}: {error}", name())))?;
        if !state.restore(kv) {
            return Err(LoadError::Damaged(format!("the lease of key {:?} is missing", name())));
        }
    }
    Ok(state)
}
