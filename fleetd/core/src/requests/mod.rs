//! What a request makes of a unit's record, and how far the cluster is with what a record wants.
//!
//! Called by the API, once per unit of a request and again after a conflict; the API reads and writes, nothing else.
//! Pure: new uids, request ids and times are arguments, so that a retry and a test decide alike.
//!
//! | module | what it decides |
//! |---|---|
//! | [`content`] | whether a text may become a unit, and what is read off it |
//! | [`change`] | record + verb -> new record, nothing, or a refusal |
//! | [`put`] | the same for `PUT /units/<name>` of API v1 |
//! | [`circle`] | units that would wait for each other's machine for ever |
//! | [`patch`] | edits of a machine's metadata |
//! | [`progress`] | how far the cluster is with a unit |
//! | [`current`] | the state that API v1 shows |

pub mod change;
pub mod circle;
pub mod content;
pub mod current;
pub mod patch;
pub mod progress;
pub mod put;
mod refusal;
#[cfg(test)]
mod testing;

pub use refusal::Refusal;
