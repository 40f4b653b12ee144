//! What a unit's `[X-Fleet]` section says, read a second time: from the options that the parser of unit files gives,
//! and from the specification. Also what a submit refuses.

use std::collections::{BTreeMap, BTreeSet};

use unit_files::UnitFile;

use super::pattern::Pattern;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    pub machine_id: Option<String>,
    pub peers: Vec<String>,
    pub metadata: BTreeMap<String, BTreeSet<String>>,
    pub conflicts: Vec<Pattern>,
    pub replaces: Vec<Pattern>,
    pub global: bool,
}

impl Wishes {
    pub fn read(file: &UnitFile, unit: &str) -> Wishes {
        let of = |key: &str| -> Vec<String> {
            let mine = file.options().iter().filter(|o| o.section == "X-Fleet" && o.name == key);
            mine.flat_map(|o| values(&o.value)).map(|value| replaced(&value, unit)).collect()
        };
        let both = |deprecated: &str, key: &str| [of(deprecated), of(key)].concat();
        let ids = [of("MachineID"), of("X-ConditionMachineID"), of("X-ConditionMachineBootID")].concat();
        let mut metadata: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for value in both("X-ConditionMachineMetadata", "MachineMetadata") {
            let sides: Vec<&str> = value.split('=').collect();
            if let [key, wanted] = sides[..]
                && !key.is_empty()
                && !wanted.is_empty()
            {
                metadata.entry(key.to_owned()).or_default().insert(wanted.to_owned());
            }
        }
        let lists = both("X-Conflicts", "Conflicts");
        Wishes {
            machine_id: ids.first().cloned(),
            peers: both("X-ConditionMachineOf", "MachineOf"),
            metadata,
            conflicts: lists.iter().flat_map(|list| list.split_whitespace()).map(Pattern::new).collect(),
            replaces: of("Replaces").iter().map(|text| Pattern::new(text)).collect(),
            global: of("Global")
                .last()
                .is_some_and(|word| ["true", "yes", "1", "on", "t"].contains(&word.to_lowercase().as_str())),
        }
    }

    /// Why a submit refuses it, in the words of fleet 1.0.
    pub fn refusal(&self) -> Option<String> {
        for (patterns, word) in [(&self.conflicts, "conflict"), (&self.replaces, "replace")] {
            for peer in &self.peers {
                if let Some(pattern) = patterns.iter().find(|pattern| pattern.matches(peer)) {
                    let text = &pattern.text;
                    return Some(format!("unresolvable requirements: peer {peer:?} matches {word} {text:?}"));
                }
            }
        }
        let (pinned, peers) = (self.machine_id.is_some(), !self.peers.is_empty());
        let (conflicts, replaces) = (!self.conflicts.is_empty(), !self.replaces.is_empty());
        let refusals = [
            (pinned && peers, "MachineID cannot be used with Peers"),
            (pinned && conflicts, "MachineID cannot be used with Conflicts"),
            (pinned && self.global, "MachineID cannot be used with Global"),
            (pinned && replaces, "MachineID cannot be used with Replaces"),
            (self.global && peers, "Global cannot be used with Peers"),
            (self.global && replaces, "Global cannot be used with Replaces"),
            (conflicts && replaces, "Conflicts cannot be used with Replaces"),
        ];
        refusals.into_iter().find(|(applies, _)| *applies).map(|(_, text)| text.to_owned())
    }

    pub fn conflicts_with(&self, other: &str) -> bool {
        self.conflicts.iter().any(|pattern| pattern.matches(other))
    }
    pub fn replaces(&self, other: &str) -> bool {
        self.replaces.iter().any(|pattern| pattern.matches(other))
    }
}

/// A line that begins and ends with a quotation mark is several values.
fn values(line: &str) -> Vec<String> {
    if !line.starts_with('"') || !line.ends_with('"') {
        return vec![line.to_owned()];
    }
    let mut all = Vec::new();
    let (mut value, mut is_quoted) = (String::new(), false);
    for c in line.chars() {
        if c == '"' {
            is_quoted = !is_quoted;
        } else if c == ' ' && !is_quoted {
            all.push(std::mem::take(&mut value));
        } else {
            value.push(c);
        }
    }
    all.push(value);
    all
}

/// `%n %N %p %i`, one after the other.
fn replaced(value: &str, unit: &str) -> String {
    let stem = &unit[..unit.rfind('.').unwrap_or(unit.len())];
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    value.replace("%n", unit).replace("%N", stem).replace("%p", prefix).replace("%i", instance)
}
