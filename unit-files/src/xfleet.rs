//! The `[X-Fleet]` section: where a unit may run.
//!
//! Read at submit, to refuse, and by the engine and the agent, to decide; all three get the same
//! [`Requirements`]. Specifiers are replaced before anything is judged, so an instance is judged by its own
//! name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::glob::Glob;
use crate::name::UnitName;
use crate::quote::go_quote;
use crate::serialize::UnitFile;
use crate::specifier::substitute;
use crate::value::joined;
use crate::warning::{self, Warning};

/// The section's name.
pub(crate) const SECTION: &str = "X-Fleet";

/// Spellings of the machine id, the first present one wins.
const MACHINE_ID: [&str; 3] = ["MachineID", "X-ConditionMachineID", "X-ConditionMachineBootID"];
const MACHINE_OF: [&str; 2] = ["X-ConditionMachineOf", "MachineOf"];
const MACHINE_METADATA: [&str; 2] = ["X-ConditionMachineMetadata", "MachineMetadata"];
const CONFLICTS: [&str; 2] = ["X-Conflicts", "Conflicts"];
const REPLACES: [&str; 1] = ["Replaces"];
const GLOBAL: &str = "Global";
const ON_PARTITION: &str = "OnPartition";

/// Length of the abbreviated machine id that `MachineID=` accepts.
const SHORT_MACHINE_ID: usize = 8;

/// What happens to a unit on a machine that lost the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnPartition {
    /// It goes on; it may run twice after a failover.
    #[default]
    Keep,
    /// It is exclusive: its machine stops it before another one may start it.
    Stop,
}

impl fmt::Display for OnPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            OnPartition::Keep => "keep",
            OnPartition::Stop => "stop",
        })
    }
}

/// Requirements that contradict each other, or a value that has no meaning. Messages but the last are those
/// of fleet 1.0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RequirementError {
    #[error("unresolvable requirements: peer {} matches conflict {}", go_quote(peer), go_quote(pattern))]
    PeerMatchesConflict { peer: String, pattern: String },
    #[error("unresolvable requirements: peer {} matches replace {}", go_quote(peer), go_quote(pattern))]
    PeerMatchesReplace { peer: String, pattern: String },
    /// Options that exclude each other, by the names that fleet 1.0 uses (`MachineOf` is `Peers`).
    #[error("{option} cannot be used with {other}")]
    Excluded { option: &'static str, other: &'static str },
    #[error("OnPartition={} has no meaning; expected stop or keep", go_quote(value))]
    UnknownOnPartition { value: String },
}

impl RequirementError {
    /// Whether another instance of the same template might not be refused for this.
    fn depends_on_values(&self) -> bool {
        !matches!(self, RequirementError::Excluded { .. })
    }
}

/// Where a unit may run, with specifiers replaced. Built by [`Requirements::of`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirements {
    /// Full id of the only machine, or its first eight characters.
    pub machine_id: Option<String>,
    /// Units next to which this one has to run. A text that is no unit name is never satisfied.
    pub machine_of: Vec<String>,
    /// For each key the values of which the machine must have one.
    pub metadata: BTreeMap<String, BTreeSet<String>>,
    pub conflicts: Vec<Glob>,
    pub replaces: Vec<Glob>,
    /// One on every machine that fits.
    pub global: bool,
    pub on_partition: OnPartition,
}

impl Requirements {
    /// Reads the `[X-Fleet]` section of `file` for the unit `name`. Warnings name what is ignored.
    ///
    /// # Errors
    /// The first of: a peer that the unit conflicts with or replaces, excluded combinations, a bad
    /// `OnPartition=`.
    pub fn of(file: &UnitFile, name: &UnitName) -> Result<(Requirements, Vec<Warning>), RequirementError> {
        let mut requirements = Requirements::read(file, name);
        requirements.refuse_peers()?;
        requirements.refuse_combinations()?;
        requirements.on_partition = on_partition(file, name)?;
        let warnings = warning::about(file, name, &requirements);
        Ok((requirements, warnings))
    }

    /// As [`of`](Requirements::of), for a template: what depends on an instance's name is a warning, because
    /// each instance is judged again when it is submitted.
    pub(crate) fn of_template(
        file: &UnitFile,
        name: &UnitName,
    ) -> Result<(Requirements, Vec<Warning>), RequirementError> {
        let refused = match Requirements::of(file, name) {
            Err(refused) if refused.depends_on_values() && depends_on_instance(file) => refused,
            judged => return judged,
        };
        let requirements = Requirements::read(file, name);
        requirements.refuse_combinations()?;
        let mut warnings = warning::about(file, name, &requirements);
        warnings.push(Warning::InstancesMayBeRefused { refusal: refused });
        Ok((requirements, warnings))
    }

    /// Everything but `OnPartition=`, which alone can be malformed.
    fn read(file: &UnitFile, name: &UnitName) -> Requirements {
        let globs = |texts: Vec<String>| texts.into_iter().map(Glob::new).collect();
        let mut metadata: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for text in metadata_values(file, name) {
            if let Some((key, value)) = metadata_pair(&text) {
                metadata.entry(key.to_owned()).or_default().insert(value.to_owned());
            }
        }
        let conflicts = values(file, name, &CONFLICTS);
        Requirements {
            machine_id: machine_ids(file, name).into_iter().next(),
            machine_of: values(file, name, &MACHINE_OF),
            metadata,
            conflicts: globs(
                conflicts.iter().flat_map(|line| line.split_whitespace()).map(str::to_owned).collect(),
            ),
            replaces: globs(values(file, name, &REPLACES)),
            global: values(file, name, &[GLOBAL]).last().is_some_and(|value| is_true(value)),
            on_partition: OnPartition::default(),
        }
    }

    fn refuse_peers(&self) -> Result<(), RequirementError> {
        let pairs = |globs: &[Glob]| {
            let mut all = self.machine_of.iter().flat_map(|peer| globs.iter().map(move |glob| (peer, glob)));
            all.find(|(peer, glob)| glob.matches(peer)).map(|(peer, glob)| (peer.clone(), glob.to_string()))
        };
        if let Some((peer, pattern)) = pairs(&self.conflicts) {
            return Err(RequirementError::PeerMatchesConflict { peer, pattern });
        }
        if let Some((peer, pattern)) = pairs(&self.replaces) {
            return Err(RequirementError::PeerMatchesReplace { peer, pattern });
        }
        Ok(())
    }

    fn refuse_combinations(&self) -> Result<(), RequirementError> {
        let machine_id = (self.machine_id.is_some(), "MachineID");
        let peers = (!self.machine_of.is_empty(), "Peers");
        let conflicts = (!self.conflicts.is_empty(), "Conflicts");
        let replaces = (!self.replaces.is_empty(), "Replaces");
        let global = (self.global, "Global");
        let excluded = [
            (machine_id, peers),
            (machine_id, conflicts),
            (machine_id, global),
            (machine_id, replaces),
            (global, peers),
            (global, replaces),
            (conflicts, replaces),
        ];
        match excluded.into_iter().find(|((first, _), (second, _))| *first && *second) {
            Some(((_, option), (_, other))) => Err(RequirementError::Excluded { option, other }),
            None => Ok(()),
        }
    }

    /// Whether the unit may run on the machine `id`: no machine is required, or this one by its full id or
    /// its first eight characters.
    pub fn fits_machine_id(&self, id: &str) -> bool {
        match self.machine_id.as_deref() {
            None => true,
            Some("") => false,
            Some(wanted) => wanted == id || id.get(..SHORT_MACHINE_ID) == Some(wanted),
        }
    }

    /// Whether a machine with this metadata has one of the wanted values for every wanted key.
    pub fn fits_metadata(&self, metadata: &BTreeMap<String, String>) -> bool {
        self.metadata
            .iter()
            .all(|(key, wanted)| metadata.get(key).is_some_and(|value| wanted.contains(value)))
    }
}

/// All options that mean something, for the warning about the others.
pub(crate) fn known_keys() -> impl Iterator<Item = &'static str> {
    let lists = [&MACHINE_ID[..], &MACHINE_OF[..], &MACHINE_METADATA[..], &CONFLICTS[..], &REPLACES[..]];
    lists.into_iter().flatten().copied().chain([GLOBAL, ON_PARTITION])
}

/// All machine ids given, the one that counts first.
pub(crate) fn machine_ids(file: &UnitFile, name: &UnitName) -> Vec<String> {
    values(file, name, &MACHINE_ID)
}

/// All metadata values given, also those that are ignored.
pub(crate) fn metadata_values(file: &UnitFile, name: &UnitName) -> Vec<String> {
    values(file, name, &MACHINE_METADATA)
}

/// Exactly one `=`, both sides non-empty.
pub(crate) fn metadata_pair(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once('=')?;
    (!key.is_empty() && !value.is_empty() && !value.contains('=')).then_some((key, value))
}

fn on_partition(file: &UnitFile, name: &UnitName) -> Result<OnPartition, RequirementError> {
    let mut chosen = OnPartition::default();
    for value in values(file, name, &[ON_PARTITION]) {
        chosen = match value.as_str() {
            "keep" => OnPartition::Keep,
            "stop" => OnPartition::Stop,
            _ => return Err(RequirementError::UnknownOnPartition { value }),
        };
    }
    Ok(chosen)
}

/// Fleet's own list of what is true; systemd's `y` is not on it.
fn is_true(value: &str) -> bool {
    matches!(value.to_lowercase().as_str(), "true" | "yes" | "1" | "on" | "t")
}

/// Whether what the section says differs between instances of one template.
fn depends_on_instance(file: &UnitFile) -> bool {
    let mut options = file.options().iter().filter(|option| option.section == SECTION);
    options.any(|option| ["%n", "%N", "%i"].into_iter().any(|specifier| option.value.contains(specifier)))
}

/// The values of all `keys`, key by key, with specifiers replaced.
fn values(file: &UnitFile, name: &UnitName, keys: &[&str]) -> Vec<String> {
    let lines = keys.iter().flat_map(|key| file.get(SECTION, key));
    lines.flat_map(|line| split_values(&joined(line))).map(|value| substitute(&value, name)).collect()
}

/// One line is several values only if it begins and ends with a quotation mark.
fn split_values(line: &str) -> Vec<String> {
    if !(line.starts_with('"') && line.ends_with('"')) {
        return vec![line.to_owned()];
    }
    let mut values = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => values.push(String::new()),
            c => values.last_mut().expect("never empty").push(c),
        }
    }
    values
}
