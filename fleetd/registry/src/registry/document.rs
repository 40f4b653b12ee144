//! A cluster as lines of JSON: what `fleetctl cluster export` prints and `import` takes.
//!
//! Pure: reads and judges text. A document that is damaged, cut off or of a later release is refused as a whole.

use std::collections::BTreeMap;

use bytes::Bytes;
use fleet_core::records::ClusterRecord;
use fleet_core::{ClusterId, Epoch, MachineId};
use serde::{Deserialize, Serialize};
use unit_files::{ContentHash, UnitName};

use super::entry;
use super::snapshot::Snapshot;
use crate::codec::{decode, encode};
use crate::keys::{Key, Keys};
use crate::store::{KeyValue, Revision};

/// The word by which a document is known.
const FORMAT: &str = "fleet-cluster";
const VERSION: u32 = 1;

/// First line of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    cluster: ClusterId,
    epoch: Epoch,
    /// Lines that follow: a document that was cut off is known by it.
    entries: usize,
}

/// Every other line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    key: String,
    value: String,
}

/// What of a cluster has to survive: everything but what a lease holds, holds and the brake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    pub cluster: ClusterRecord,
    pub(super) entries: BTreeMap<Key, Bytes>,
}

/// Why a document is refused; nothing of it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("line 1: {detail}; expected what `fleetctl cluster export` prints")]
    Head { detail: String },
    #[error("the document is of version {found}, this fleetd reads up to {VERSION}; update fleetd")]
    Newer { found: u32 },
    #[error("line {line}: {detail}; export again")]
    Line { line: usize, detail: String },
    #[error("{found} of {expected} lines are there: the document was cut off; export again")]
    CutOff { found: usize, expected: usize },
}

impl Export {
    /// Names of the units, those that are being destroyed included.
    pub fn units(&self) -> impl Iterator<Item = &UnitName> {
        self.entries.keys().filter_map(|key| if let Key::Unit(name) = key { Some(name) } else { None })
    }

    /// Machines that have a record.
    pub fn machines(&self) -> impl Iterator<Item = &MachineId> {
        self.entries.keys().filter_map(|key| if let Key::Machine(id) = key { Some(id) } else { None })
    }

    /// As if it had been read from a registry. What cannot be read was refused before.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let keys = Keys::new(crate::keys::DEFAULT_PREFIX).expect("the default is a prefix");
        let mut snapshot = Snapshot::default();
        for (key, value) in &self.entries {
            if let Some(Ok(entry)) = entry::read(&keys, &key_value(&keys, key, value)) {
                snapshot.insert(entry);
            }
        }
        snapshot
    }

    /// As lines of JSON.
    #[must_use]
    pub fn to_document(&self) -> String {
        let head = Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            cluster: self.cluster.id.clone(),
            epoch: self.cluster.epoch,
            entries: self.entries.len() + 1,
        };
        let cluster = Bytes::from(encode(&self.cluster));
        let mut document = json_line(&head);
        for (key, value) in std::iter::once((&Key::Cluster, &cluster)).chain(&self.entries) {
            let value = String::from_utf8_lossy(value).into_owned();
            document.push_str(&json_line(&Line { key: key.to_string(), value }));
        }
        document
    }

    /// Reads and judges a whole document.
    ///
    /// # Errors
    /// See [`DocumentError`]; each names the line.
    pub fn from_document(text: &str) -> Result<Export, DocumentError> {
        let mut lines = text.lines();
        let head: Head = serde_json::from_str(lines.next().unwrap_or_default())
            .map_err(|error| DocumentError::Head { detail: error.to_string() })?;
        if head.format != FORMAT {
            return Err(DocumentError::Head { detail: format!("the format is {:?}", head.format) });
        }
        if head.version > VERSION {
            return Err(DocumentError::Newer { found: head.version });
        }
        let keys = Keys::new(crate::keys::DEFAULT_PREFIX).expect("the default is a prefix");
        let mut cluster = None;
        let mut entries = BTreeMap::new();
        let mut found = 0;
        for (number, line) in lines.enumerate() {
            let wrong = |detail: String| DocumentError::Line { line: number + 2, detail };
            let Line { key: name, value } =
                serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            let raw = Bytes::from(format!("{}{name}", keys.prefix()));
            let key = keys.parse(&raw).ok_or_else(|| wrong(format!("{name:?} is no key of a registry")))?;
            let value = Bytes::from(value);
            judge(&keys, &key, &value).map_err(wrong)?;
            found += 1;
            match key {
                Key::Cluster => {
                    cluster = Some(decode(&key, &value).map_err(|error| wrong(error.to_string()))?);
                }
                key if is_exported(&key) => drop(entries.insert(key, value)),
                key => return Err(wrong(format!("{key} is never part of an export"))),
            }
        }
        if found != head.entries {
            return Err(DocumentError::CutOff { found, expected: head.entries });
        }
        let cluster: ClusterRecord =
            cluster.ok_or_else(|| DocumentError::Head { detail: "it has no cluster record".to_owned() })?;
        Ok(Export { cluster, entries })
    }
}

/// What survives a move: facts and orders. Leases' keys are remade by their holders, witnesses when a machine anchors.
pub(super) fn is_exported(key: &Key) -> bool {
    match key {
        Key::Cluster
        | Key::Unit(_)
        | Key::Content(_)
        | Key::Machine(_)
        | Key::Placement(_)
        | Key::Order(..)
        | Key::State(..)
        | Key::Event(_) => true,
        Key::Hold
        | Key::Import
        | Key::Brake
        | Key::Leader
        | Key::Presence(_)
        | Key::Lost(_)
        | Key::Witness(_) => false,
    }
}

fn key_value(keys: &Keys, key: &Key, value: &Bytes) -> KeyValue {
    KeyValue {
        key: keys.key(key),
        value: value.clone(),
        create_revision: Revision(0),
        mod_revision: Revision(0),
        version: 1,
        lease: None,
    }
}

fn judge(keys: &Keys, key: &Key, value: &Bytes) -> Result<(), String> {
    match entry::read(keys, &key_value(keys, key, value)) {
        Some(Ok(entry::Entry::Content(hash, _))) if ContentHash::of(value) != hash => {
            Err(format!("{key}: the text does not have this hash"))
        }
        Some(Ok(_)) => Ok(()),
        Some(Err(undecodable)) => Err(undecodable.error.to_string()),
        None => Err(format!("{key} is unknown to this release")),
    }
}

fn json_line<T: Serialize>(value: &T) -> String {
    let mut line = serde_json::to_string(value).expect("plain data is JSON");
    line.push('\n');
    line
}
