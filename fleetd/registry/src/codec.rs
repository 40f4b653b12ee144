//! Records to JSON and back.
//!
//! Fields that this release does not know stay in the record and are written again, under the schema they came with.
//! Records of the next schema are read, those of a later one are not. A record that cannot be read is never "absent":
//! the error names the key and the remedy, and the reader goes on with the others. Used by the typed
//! [`registry`](crate::registry) alone.

use fleet_core::Revision;
use fleet_core::records::{
    BrakeRecord, ClusterRecord, EventRecord, Extra, HoldRecord, ImportRecord, LeaderRecord, LostRecord,
    MachineRecord, Order, Placement, PresenceRecord, READS, SCHEMA, StateRow, UnitRecord, WitnessRecord,
    raise,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use unit_files::ContentHash;

use crate::keys::Key;

/// A value that this release cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error(
        "{key}: {kind} with schema {found}, written by a newer release (this one reads up to {READS}); it is left \
         as it is. Update fleetd on this machine"
    )]
    NewerSchema { key: Key, kind: &'static str, found: u32 },

    #[error(
        "{key}: expected {kind} as JSON, {detail}; it is left as it is. If a newer release wrote it, update fleetd \
         on this machine; if a person did, correct it with etcdctl"
    )]
    Malformed { key: Key, kind: &'static str, detail: String },

    #[error(
        "{key}: the stored text has SHA-256 {found}; it was changed in place. Submit the unit again, or restore a \
         backup of the registry"
    )]
    WrongContent { key: Key, found: ContentHash },
}

/// A key whose value cannot be read: unknown, not absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable {
    pub key: Key,
    /// Revision of the last write.
    pub modified: Revision,
    pub error: CodecError,
}

/// What is stored as JSON.
pub trait Record: Clone + Serialize + DeserializeOwned {
    /// With its article, for messages.
    const KIND: &'static str;
    /// The schema version that the record carries.
    fn schema(&self) -> u32;
    /// The schema version, and the fields that this release does not know.
    fn versioned_parts(&mut self) -> (&mut u32, &mut Extra);
}

macro_rules! records {
    ($($record:ty => $kind:literal),* $(,)?) => {
        $(impl Record for $record {
            const KIND: &'static str = $kind;
            fn schema(&self) -> u32 {
                self.v
            }
            fn versioned_parts(&mut self) -> (&mut u32, &mut Extra) {
                (&mut self.v, &mut self.extra)
            }
        })*
    };
}

records! {
    ClusterRecord => "a cluster record",
    HoldRecord => "a hold",
    ImportRecord => "the record of an import",
    BrakeRecord => "a brake record",
    LeaderRecord => "a leader record",
    UnitRecord => "a unit record",
    MachineRecord => "a machine record",
    PresenceRecord => "a presence record",
    LostRecord => "a lost marker",
    WitnessRecord => "a witness",
    Placement => "a placement",
    Order => "an order",
    StateRow => "a state row",
    EventRecord => "an event",
}

/// The record under this release's schema, or under a later one that it came with.
#[must_use]
pub fn encode<R: Record>(record: &R) -> Vec<u8> {
    const PLAIN: &str = "records are plain data with text as map keys";
    if record.schema() >= SCHEMA && cfg!(not(feature = "next-records")) {
        return serde_json::to_vec(record).expect(PLAIN);
    }
    let mut raised = record.clone();
    let (v, extra) = raised.versioned_parts();
    raise(v, extra);
    serde_json::to_vec(&raised).expect(PLAIN)
}

/// # Errors
/// `NewerSchema` for a record above [`READS`], or of a newer schema and a shape that does not fit; `Malformed` for
/// anything else that does not read.
pub fn decode<R: Record>(key: &Key, value: &[u8]) -> Result<R, CodecError> {
    let newer = |found| CodecError::NewerSchema { key: key.clone(), kind: R::KIND, found };
    let malformed = |detail| CodecError::Malformed { key: key.clone(), kind: R::KIND, detail };
    match serde_json::from_slice::<R>(value) {
        Ok(record) if record.schema() > READS => Err(newer(record.schema())),
        #[cfg(feature = "next-records")]
        Ok(record) if !is_whole(record.clone()) => {
            Err(malformed("a field of its schema was lost".to_owned()))
        }
        Ok(record) => Ok(record),
        Err(error) => match schema_of(value) {
            Some(found) if found > SCHEMA => Err(newer(found)),
            _ => Err(malformed(error.to_string())),
        },
    }
}

#[cfg(feature = "next-records")]
fn is_whole<R: Record>(mut record: R) -> bool {
    let (v, extra) = record.versioned_parts();
    fleet_core::records::next::is_whole(*v, extra)
}

/// The schema version of a record whose shape does not fit.
fn schema_of(value: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Head {
        v: u32,
    }
    serde_json::from_slice::<Head>(value).ok().map(|head| head.v)
}

/// The text of a unit, checked against the name it is stored under.
///
/// # Errors
/// `WrongContent` if it was changed in place, `Malformed` if it is not UTF-8.
pub fn decode_content(hash: &ContentHash, value: &[u8]) -> Result<String, CodecError> {
    let found = ContentHash::of(value);
    if found != *hash {
        return Err(CodecError::WrongContent { key: Key::Content(*hash), found });
    }
    String::from_utf8(value.to_vec()).map_err(|error| CodecError::Malformed {
        key: Key::Content(*hash),
        kind: "a unit's text",
        detail: error.to_string(),
    })
}
