//! What is legal in `[X-Fleet]` but has no effect, said aloud.
//!
//! Fleet 1.0 ignored these in silence. Nothing is refused here; clients print warnings, the API passes them
//! on.

use std::collections::HashSet;
use std::fmt;

use crate::glob::Glob;
use crate::name::UnitName;
use crate::quote::go_quote;
use crate::serialize::UnitFile;
use crate::xfleet::{
    RequirementError, Requirements, SECTION, known_keys, machine_ids, metadata_pair, metadata_values,
};

/// How many single-character edits a key may be away from the one that was meant.
const MAX_TYPOS: usize = 2;

/// Something that will not do what its author expects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Warning {
    /// A key that means nothing; the text is that of fleet 1.0's client.
    UnknownKey { key: String, did_you_mean: Option<&'static str> },
    /// The section's name in another case.
    SectionSpelling { section: String },
    /// A `MachineMetadata=` value that is not `key=value`.
    MetadataIgnored { value: String },
    /// A machine id after the first one.
    MachineIdIgnored { used: String, ignored: String },
    /// A `MachineOf=` value that cannot be a unit, so that the unit can never be placed.
    NoSuchPeer { peer: String },
    /// A pattern that matches no unit.
    PatternMatchesNothing { pattern: String },
    /// A template whose instance with the empty name would be refused.
    InstancesMayBeRefused { refusal: RequirementError },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::UnknownKey { key, did_you_mean } => {
                write!(f, "unrecognized requirement in [X-Fleet] section: {}", go_quote(key))?;
                did_you_mean.map_or(Ok(()), |known| write!(f, "; did you mean {known}?"))
            }
            Warning::SectionSpelling { section } => {
                write!(f, "section [{section}] is ignored; did you mean [{SECTION}]?")
            }
            Warning::MetadataIgnored { value } => write!(
                f,
                "MachineMetadata value {} is ignored: expected key=value; for several on one line put each in quotes, or use one line each",
                go_quote(value)
            ),
            Warning::MachineIdIgnored { used, ignored } => write!(
                f,
                "MachineID {} is ignored because {} came first; to allow several machines use MachineMetadata",
                go_quote(ignored),
                go_quote(used)
            ),
            Warning::NoSuchPeer { peer } => write!(
                f,
                "MachineOf {} is no unit name, so no machine can take the unit; for several on one line put each in quotes, or use one line each",
                go_quote(peer)
            ),
            Warning::PatternMatchesNothing { pattern } => {
                write!(
                    f,
                    "pattern {} in [X-Fleet] section matches no unit; check its brackets and spaces",
                    go_quote(pattern)
                )
            }
            Warning::InstancesMayBeRefused { refusal } => {
                write!(f, "instances of this template may be refused: {refusal}")
            }
        }
    }
}

/// Everything worth a warning in `file`, which was read as `requirements`.
pub(crate) fn about(file: &UnitFile, name: &UnitName, requirements: &Requirements) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut seen = HashSet::new();
    let mut add = |warning: Warning| {
        if seen.insert(warning.clone()) {
            warnings.push(warning);
        }
    };
    for option in file.options() {
        if option.section == SECTION {
            if !known_keys().any(|known| known == option.name) {
                add(Warning::UnknownKey {
                    key: option.name.clone(),
                    did_you_mean: nearest_key(&option.name),
                });
            }
        } else if option.section.trim().eq_ignore_ascii_case(SECTION) {
            add(Warning::SectionSpelling { section: option.section.clone() });
        }
    }
    for value in metadata_values(file, name) {
        if metadata_pair(&value).is_none() {
            add(Warning::MetadataIgnored { value });
        }
    }
    if let Some((used, others)) = machine_ids(file, name).split_first() {
        for ignored in others.iter().filter(|other| *other != used) {
            add(Warning::MachineIdIgnored { used: used.clone(), ignored: ignored.clone() });
        }
    }
    for peer in requirements.machine_of.iter().filter(|peer| UnitName::parse(peer).is_err()) {
        add(Warning::NoSuchPeer { peer: peer.clone() });
    }
    for glob in
        requirements.conflicts.iter().chain(&requirements.replaces).filter(|glob| matches_no_unit(glob))
    {
        add(Warning::PatternMatchesNothing { pattern: glob.to_string() });
    }
    warnings
}

/// No unit's name is empty or contains white space.
fn matches_no_unit(glob: &Glob) -> bool {
    glob.is_malformed() || glob.as_str().is_empty() || glob.as_str().contains(char::is_whitespace)
}

fn nearest_key(key: &str) -> Option<&'static str> {
    let lower = key.to_ascii_lowercase();
    let near = known_keys().filter(|known| known.len().abs_diff(key.len()) <= MAX_TYPOS);
    let distances =
        near.map(|known| (strsim::damerau_levenshtein(&lower, &known.to_ascii_lowercase()), known));
    distances.min().filter(|&(distance, _)| distance <= MAX_TYPOS).map(|(_, known)| known)
}
