//! What is fuzzed: each target takes any bytes and panics if a promise about them is broken.
//!
//! Called by `src/bin/fleet-fuzz.rs`, which lets a fuzzer choose the bytes (`make fuzz`), and by `tests/corpora.rs`,
//! which replays the kept ones. A target is deterministic: what it makes of an input depends on nothing that came before.
//!
//! | target | what is judged |
//! |---|---|
//! | [`unit_files`] | the reader of unit files, its writer, and the judgement of what may be submitted |
//! | [`configuration`] | `fleetd.toml`, `fleet.conf` and the environment |
//! | [`v1_requests`] | requests of API v1, against a whole API over a store in memory |
//! | [`records`] | keys and records of the registry |

pub mod configuration;
pub mod records;
pub mod unit_files;
pub mod v1_requests;

/// A target: panics if the input breaks a promise.
pub type Target = fn(&[u8]);

/// Every target under the name that its corpus has.
pub const TARGETS: [(&str, Target); 4] = [
    ("unit-files", unit_files::check),
    ("configuration", configuration::check),
    ("v1-requests", v1_requests::check),
    ("records", records::check),
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
