//! What the registry holds: one type per key of the layout, as JSON.
//!
//! Every record carries a schema version and keeps the fields it does not know, so that a rewrite by an older release
//! loses nothing a newer one wrote. Therefore new fields belong to a record itself, not to a type within it, and are
//! optional. Codecs and keys are the registry's business; here are only shapes and the small facts that can be read off
//! one record alone.

mod cluster;
mod event;
mod machine;
#[cfg(feature = "next-records")]
pub mod next;
mod order;
mod placement;
mod state;
mod unit;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use cluster::{
    BrakeCause, BrakeRecord, BrakeState, ClusterRecord, HoldRecord, ImportRecord, LeaderRecord, Settings,
};
pub use event::{EventNote, EventRecord};
pub use machine::{
    ConfirmedDead, EngineRole, LostRecord, MachineRecord, PresenceRecord, WitnessRecord, effective_metadata,
};
pub use order::{Order, Wanted};
pub use placement::{Decision, DecisionLine, Placement, RefusalHold};
pub use state::{Refused, RowPhase, STALE_ORDER, StateRow};
pub use unit::{Counters, DesiredState, GenerationRecord, RunKind, TemplateOrigin, UnitRecord};

use crate::ids::Revision;
use crate::time::Timestamp;

/// The schema version this release writes.
pub const SCHEMA: u32 = if cfg!(feature = "next-records") { 2 } else { 1 };

/// The highest schema version this release reads: the next one. A schema only adds optional fields to the one before,
/// so that releases next to each other run in one cluster, and the way back is open. What goes beyond that takes two
/// schemas: one that reads it and one that writes it. A record above is not understood, even if its shape fits: it is
/// unknown, not absent, and is reported and left alone.
pub const READS: u32 = SCHEMA + 1;

/// Fields of a record that this release does not know.
pub type Extra = BTreeMap<String, serde_json::Value>;

/// A record together with the revisions that the store keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    pub value: T,
    /// Revision that created the key.
    pub created: Revision,
    /// Revision of the last write: what a compare names.
    pub modified: Revision,
}

/// Who did something, when, and the reason they gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    #[serde(default)]
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Why an order, a stop or a refusal is as it is: a stable word for programs and a sentence for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reason {
    pub code: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

impl Reason {
    #[must_use]
    pub fn new(code: &str, text: impl Into<String>) -> Reason {
        Reason { code: code.to_owned(), text: text.into() }
    }
}

/// What a record that is about to be written carries: at least this release's schema, and at least what it carried,
/// because the fields that came with that are still there.
pub fn raise(v: &mut u32, extra: &mut Extra) {
    *v = SCHEMA.max(*v);
    #[cfg(feature = "next-records")]
    next::add_to(extra);
    #[cfg(not(feature = "next-records"))]
    let _ = extra;
}

fn schema() -> u32 {
    SCHEMA
}
