//! The records of a release to come, for the test of rolling upgrades: what today's release finds in them.
//!
//! Only in the binary `fleetd-next` (feature `next-records`), which no package has. Every record that it writes carries
//! a field more, made once and never changed; and it reads no record of its schema that has lost the field, so that
//! whoever drops it is found out.

use std::hash::{BuildHasher as _, RandomState};

use super::{Extra, SCHEMA};

/// The field that this schema adds.
pub const FIELD: &str = "next_release";

/// Adds the field where it is not. Its value is never met twice: randomness has no place in this crate, but this is no
/// release.
pub fn add_to(extra: &mut Extra) {
    extra.entry(FIELD.to_owned()).or_insert_with(
        || serde_json::json!({ "token": RandomState::new().hash_one(SCHEMA), "list": [1, null] }),
    );
}

/// Whether a record of this schema has what it was written with.
#[must_use]
pub fn is_whole(v: u32, extra: &Extra) -> bool {
    v < SCHEMA || extra.contains_key(FIELD)
}
