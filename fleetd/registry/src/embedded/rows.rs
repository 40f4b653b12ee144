//! The bytes of what is on disk: what a group of writes did, and the base's values.
//!
//! Called by the log, the journal's reader and the base. Integers are little-endian; lengths come
//! before their bytes. Decoding trusts nothing: checksums find damage, this finds what they do not
//! cover, and says where.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::mvcc::{Commit, Step};
use crate::store::{KeyValue, Lease, LeaseId, Revision, WatchEvent};

const COMMIT: u8 = 1;
const GRANTED: u8 = 2;
const REVOKED: u8 = 3;
const COMPACTED: u8 = 4;
const TERM: u8 = 5;
const BASE: u8 = 6;

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// One thing that a group of writes did.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Commit(Arc<Commit>),
    Granted(Lease),
    Revoked(LeaseId),
    Compacted(Revision),
    /// The store was opened under this raft term.
    Term(u64),
    /// Everything before is in the base with this digest. First of its group.
    Base(Digest),
}

/// SHA-256 of a base's bytes.
pub(super) type Digest = [u8; 32];

/// A change as read back, before it is done again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Commit { revision: Revision, steps: Vec<Step> },
    Granted(Lease),
    Revoked(LeaseId),
    Compacted(Revision),
    Term(u64),
    Base(Digest),
}

/// Where bytes stop making sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at} cannot be read")]
pub(super) struct RowError {
    what: &'static str,
    at: usize,
}

impl RowError {
    /// Not damage, which checksums find: a later version wrote what this one does not know.
    pub fn is_of_later_version(&self) -> bool {
        self.what == KIND
    }
}

const KIND: &str = "kind of change";

pub(super) fn encode(changes: &[Change]) -> Vec<u8> {
    let mut row = Vec::new();
    for change in changes {
        match change {
            Change::Commit(commit) => {
                row.push(COMMIT);
                put_commit(&mut row, commit);
            }
            Change::Granted(lease) => {
                row.push(GRANTED);
                put_lease(&mut row, Some(lease.id));
                put_u64(&mut row, lease.ttl.as_secs());
            }
            Change::Revoked(id) => {
                row.push(REVOKED);
                put_lease(&mut row, Some(*id));
            }
            Change::Compacted(revision) => {
                row.push(COMPACTED);
                put_u64(&mut row, revision.0);
            }
            Change::Term(term) => {
                row.push(TERM);
                put_u64(&mut row, *term);
            }
            Change::Base(digest) => {
                row.push(BASE);
                row.extend_from_slice(digest);
            }
        }
    }
    row
}

fn put_commit(row: &mut Vec<u8>, commit: &Commit) {
    put_u64(row, commit.revision.0);
    put_len(row, commit.events.len());
    for event in &commit.events {
        match event {
            WatchEvent::Put { kv, .. } => {
                row.push(PUT);
                put_bytes(row, &kv.key);
                put_bytes(row, &kv.value);
                put_lease(row, kv.lease);
            }
            WatchEvent::Delete { kv, .. } => {
                row.push(DELETE);
                put_bytes(row, &kv.key);
            }
        }
    }
}

pub(super) fn decode(row: &[u8]) -> Result<Vec<Entry>, RowError> {
    let mut reader = Reader { row, at: 0 };
    let mut entries = Vec::new();
    while !reader.is_at_end() {
        entries.push(match reader.byte(KIND)? {
            COMMIT => reader.commit()?,
            GRANTED => {
                let id = reader.some_lease()?;
                Entry::Granted(Lease { id, ttl: Duration::from_secs(reader.u64("time to live")?) })
            }
            REVOKED => Entry::Revoked(reader.some_lease()?),
            COMPACTED => Entry::Compacted(Revision(reader.u64("compacted revision")?)),
            TERM => Entry::Term(reader.u64("term")?),
            BASE => Entry::Base(reader.array("digest")?),
            _ => return Err(reader.error(KIND)),
        });
    }
    Ok(entries)
}

/// The digest with which a group begins, if it does.
pub(super) fn base_of(row: &[u8]) -> Option<Digest> {
    let (kind, rest) = row.split_first()?;
    rest.get(..size_of::<Digest>()).filter(|_| *kind == BASE)?.try_into().ok()
}

/// A key's value in the base; the key itself is the table's.
pub(super) fn encode_kv(kv: &KeyValue) -> Vec<u8> {
    let mut row = Vec::with_capacity(kv.value.len() + 36);
    put_u64(&mut row, kv.create_revision.0);
    put_u64(&mut row, kv.mod_revision.0);
    put_u64(&mut row, kv.version);
    put_lease(&mut row, kv.lease);
    put_bytes(&mut row, &kv.value);
    row
}

pub(super) fn decode_kv(key: &[u8], row: &[u8]) -> Result<KeyValue, RowError> {
    let mut reader = Reader { row, at: 0 };
    let create_revision = Revision(reader.u64("create revision")?);
    let mod_revision = Revision(reader.u64("mod revision")?);
    let version = reader.u64("version")?;
    let lease = reader.lease()?;
    let value = reader.bytes("value")?;
    if !reader.is_at_end() {
        return Err(reader.error("end"));
    }
    Ok(KeyValue { key: Bytes::copy_from_slice(key), value, create_revision, mod_revision, version, lease })
}

fn put_u64(row: &mut Vec<u8>, number: u64) {
    row.extend_from_slice(&number.to_le_bytes());
}

fn put_len(row: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("the store takes no request of 4 GiB");
    row.extend_from_slice(&len.to_le_bytes());
}

fn put_bytes(row: &mut Vec<u8>, bytes: &[u8]) {
    put_len(row, bytes.len());
    row.extend_from_slice(bytes);
}

/// Zero is no lease.
fn put_lease(row: &mut Vec<u8>, lease: Option<LeaseId>) {
    row.extend_from_slice(&lease.map_or(0, |id| id.0).to_le_bytes());
}

struct Reader<'a> {
    row: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn is_at_end(&self) -> bool {
        self.at == self.row.len()
    }

    fn error(&self, what: &'static str) -> RowError {
        RowError { what, at: self.at }
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], RowError> {
        let taken = self.row[self.at..].get(..len).ok_or(self.error(what))?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], RowError> {
        let taken = self.take(N, what)?;
        taken.try_into().map_err(|_| self.error(what))
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, RowError> {
        Ok(self.array::<1>(what)?[0])
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, RowError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn len(&mut self, what: &'static str) -> Result<usize, RowError> {
        let len = u32::from_le_bytes(self.array(what)?);
        usize::try_from(len).map_err(|_| self.error(what))
    }

    fn bytes(&mut self, what: &'static str) -> Result<Bytes, RowError> {
        let len = self.len(what)?;
        Ok(Bytes::copy_from_slice(self.take(len, what)?))
    }

    fn lease(&mut self) -> Result<Option<LeaseId>, RowError> {
        let id = i64::from_le_bytes(self.array("lease")?);
        Ok((id != 0).then_some(LeaseId(id)))
    }

    fn some_lease(&mut self) -> Result<LeaseId, RowError> {
        self.lease()?.ok_or(self.error("lease"))
    }

    fn commit(&mut self) -> Result<Entry, RowError> {
        let revision = Revision(self.u64("revision")?);
        let count = self.len("number of steps")?;
        let mut steps = Vec::new();
        for _ in 0..count {
            steps.push(match self.byte("kind of step")? {
                PUT => {
                    let (key, value) = (self.bytes("key")?, self.bytes("value")?);
                    Step::Put { key, value, lease: self.lease()? }
                }
                DELETE => Step::Delete { key: self.bytes("key")? },
                _ => return Err(self.error("kind of step")),
            });
        }
        Ok(Entry::Commit { revision, steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv() -> KeyValue {
        KeyValue {
            key: "/k".into(),
            value: "v".into(),
            create_revision: Revision(3),
            mod_revision: Revision(9),
            version: 4,
            lease: Some(LeaseId(7)),
        }
    }

    fn changes() -> Vec<Change> {
        let put = WatchEvent::Put { kv: kv(), previous: None };
        let gone = WatchEvent::Delete { kv: KeyValue { key: "/gone".into(), ..kv() }, previous: None };
        vec![
            Change::Base([9; 32]),
            Change::Term(3),
            Change::Granted(Lease { id: LeaseId(7), ttl: Duration::from_secs(10) }),
            Change::Commit(Arc::new(Commit { revision: Revision(9), events: vec![put, gone] })),
            Change::Compacted(Revision(8)),
            Change::Revoked(LeaseId(7)),
        ]
    }

    #[test]
    fn changes_are_read_as_they_were_written() {
        let put = Step::Put { key: "/k".into(), value: "v".into(), lease: Some(LeaseId(7)) };
        let steps = vec![put, Step::Delete { key: "/gone".into() }];
        let entries = [
            Entry::Base([9; 32]),
            Entry::Term(3),
            Entry::Granted(Lease { id: LeaseId(7), ttl: Duration::from_secs(10) }),
            Entry::Commit { revision: Revision(9), steps },
            Entry::Compacted(Revision(8)),
            Entry::Revoked(LeaseId(7)),
        ];
        assert_eq!(decode(&encode(&changes())).unwrap(), entries);
        assert_eq!(base_of(&encode(&changes())), Some([9; 32]));
        assert_eq!(base_of(&encode(&changes()[1..])), None);
        assert_eq!(decode_kv(b"/k", &encode_kv(&kv())), Ok(kv()));
        let unleased = KeyValue { lease: None, ..kv() };
        assert_eq!(decode_kv(b"/k", &encode_kv(&unleased)), Ok(unleased));
    }

    #[test]
    fn bytes_that_are_cut_short_are_refused() {
        let row = encode(&changes()[3..4]);
        for len in 1..row.len() {
            assert!(decode(&row[..len]).is_err(), "{len}");
        }
        let row = encode_kv(&kv());
        for len in 0..row.len() {
            assert!(decode_kv(b"/k", &row[..len]).is_err(), "{len}");
        }
        assert!(decode_kv(b"/k", &[row, vec![0]].concat()).is_err());
    }
}
