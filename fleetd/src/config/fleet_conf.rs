//! `fleet.conf` of fleet 1.0, in its own grammar and with its own leniency: what fleet 1.0 ignored or mistook is taken as
//! fleet 1.0 took it, but no longer in silence.
//!
//! Lines are trimmed; a backslash at the end joins the next line; `#` or `;` at the start is a comment; the keys of a
//! `[section]` do not count; keys are not case-sensitive. A value is `"text"` or `'text'` if the quote ends the line and
//! no other stands inside, else bare text up to the first `#` or `;`.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Value;

use super::keys::{Applies, Key};
use super::problem::{ConfigError, Origin, Warning};
use super::source::Assignment;
use super::value::MOST_VERBOSE;

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub assignments: Vec<Assignment>,
    pub problems: Vec<ConfigError>,
    pub warnings: Vec<Warning>,
}

/// Reads a file as far as it can be read, and says what cannot.
pub(super) fn read(path: &Path, text: &str) -> Read {
    let mut read = Read::default();
    let mut is_in_section = false;
    for (line, text) in joined_lines(text) {
        let origin = Origin::File { path: path.to_owned(), line };
        let entry = match entry(&text) {
            Entry::Nothing => continue,
            Entry::Section => {
                is_in_section = true;
                continue;
            }
            Entry::Unreadable => {
                let expected = "not KEY=VALUE, [SECTION] or a comment".to_owned();
                read.problems.push(ConfigError::Syntax { origin, expected, found: None });
                continue;
            }
            Entry::Assignment(entry) => entry,
        };
        let warn = |text| Warning { origin: origin.clone(), text };
        let name = entry.key.to_ascii_lowercase();
        let key = Key::named(&name).filter(|key| key.is_of_fleet_1);
        match key {
            None => read.warnings.push(warn(format!(
                "{name}: not a key of fleet 1.0, ignored as it ignored it; new keys belong in fleetd.toml"
            ))),
            Some(key) if is_in_section => {
                read.warnings.push(warn(format!("{}: ignored, as the keys of any section", key.name)));
            }
            Some(key) => {
                if let Some(cut) = entry.cut {
                    read.warnings.push(warn(format!(
                        "{}: what begins with {cut} is no part of the value, as fleet 1.0 read it; if it should be one, put the \
                         value in quotes",
                        key.name
                    )));
                }
                let (value, doubts) = meaning(key, &entry.value);
                read.warnings.extend(doubts.into_iter().map(warn));
                read.assignments.push(Assignment { key, value, origin });
            }
        }
    }
    read
}

/// Trimmed lines with the number of the first of each.
fn joined_lines(text: &str) -> Vec<(usize, String)> {
    let mut joined = Vec::new();
    let mut lines = text.lines().map(str::trim).zip(1..);
    while let Some((line, number)) = lines.next() {
        let mut whole = line.to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            let Some((next, _)) = lines.next() else { break };
            whole.push_str(next);
        }
        joined.push((number, whole));
    }
    joined
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Nothing,
    Section,
    Assignment(Written),
    Unreadable,
}

#[derive(Debug, PartialEq, Eq)]
struct Written {
    key: String,
    value: String,
    /// What begins a comment without a space before it: easily part of a password.
    cut: Option<char>,
}

fn entry(line: &str) -> Entry {
    if line.is_empty() || line.starts_with(['#', ';']) {
        return Entry::Nothing;
    }
    if line.starts_with('[') && line.ends_with(']') {
        return Entry::Section;
    }
    let Some((key, value)) = line.split_once('=') else { return Entry::Unreadable };
    let key = key.trim_end_matches([' ', '\t']);
    if key.is_empty() || key.contains([' ', '\t']) {
        return Entry::Unreadable;
    }
    let bare = value;
    let value = value.trim_start_matches([' ', '\t']);
    let quoted = ['"', '\''].iter().find_map(|quote| {
        let inner = value.strip_prefix(*quote)?.strip_suffix(*quote)?;
        (!inner.contains(*quote)).then_some(inner)
    });
    let (value, cut) = match quoted {
        Some(inner) => (inner, None),
        None => {
            let (value, comment) = bare.split_at(bare.find(['#', ';']).unwrap_or(bare.len()));
            let cut = comment.chars().next().filter(|_| !value.ends_with([' ', '\t']));
            (value.trim(), cut)
        }
    };
    Entry::Assignment(Written { key: key.to_owned(), value: value.to_owned(), cut })
}

/// The value as fleet 1.0 understood it, and what it should have said about that.
fn meaning(key: &Key, text: &str) -> (Value, Vec<String>) {
    let name = key.name;
    let same = Value::String(text.to_owned());
    match name {
        "metadata" => metadata(text),
        "disable_engine" | "systemd_user" | "disable_watches" | "enable_grpc" => {
            let is_boolean =
                ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False", ""];
            let doubt = (!is_boolean.contains(&text)).then(|| {
                format!("{name} = {text}: neither true nor false; taken as false, as fleet 1.0 did")
            });
            let value = if doubt.is_some() { Value::Boolean(false) } else { same };
            (value.clone(), doubt.into_iter().chain(without_effect(key, &value)).collect())
        }
        "verbosity" => {
            // To fleet 1.0, whatever is above 0 was the same. What is no number is refused with its key.
            let most = i64::from(MOST_VERBOSE);
            match text.parse::<i64>() {
                Ok(n) if !(0..=most).contains(&n) => {
                    let taken = n.clamp(0, most);
                    let doubt = format!("{name} = {text}: not from 0 to {most}; taken as {taken}");
                    (Value::Integer(taken), vec![doubt])
                }
                _ => (same, Vec::new()),
            }
        }
        _ => (same.clone(), without_effect(key, &same).into_iter().collect()),
    }
}

/// What to say of a key that means nothing here; nothing if it asks for nothing either.
pub(super) fn without_effect(key: &Key, value: &Value) -> Option<String> {
    let asks_for_nothing = super::value::boolean(value) == Ok(false);
    (key.applies == Applies::Nowhere && !asks_for_nothing)
        .then(|| format!("Config option {} is no longer supported - ignoring: {}", key.name, key.help))
}

/// `k=v[,k=v...]`: both sides trimmed, items without `=` dropped, the last of the same key counts, empty ones are kept.
fn metadata(text: &str) -> (Value, Vec<String>) {
    let mut pairs = BTreeMap::new();
    let mut doubts = Vec::new();
    for item in text.split(',') {
        match item.split_once('=') {
            Some((key, value)) => {
                let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
                if key.is_empty() || value.is_empty() {
                    doubts.push(format!(
                        "metadata has {item:?}: an empty key or value, kept as fleet 1.0 kept it"
                    ));
                }
                if pairs.insert(key, value).is_some() {
                    doubts
                        .push(format!("metadata has {item:?}: a key that came before; the last one counts"));
                }
            }
            None if item.trim().is_empty() => {}
            None => doubts.push(format!("metadata has {item:?} without =, ignored as fleet 1.0 ignored it")),
        }
    }
    (Value::Table(pairs.into_iter().map(|(key, value)| (key, Value::String(value))).collect()), doubts)
}
