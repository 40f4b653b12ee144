//! A unit file as an ordered list of options, and the one text that stands for it.
//!
//! `cat`, the hash of fleet 1.0 and the v1 API use the serialized text. Options are kept grouped by section,
//! so that reading the serialized text gives the same list again.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::parse::{self, ParseError};
use crate::quote::go_quote;

/// One assignment in a unit file. Names and sections are case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnitOption {
    pub section: String,
    pub name: String,
    pub value: String,
}

impl UnitOption {
    pub fn new(section: impl Into<String>, name: impl Into<String>, value: impl Into<String>) -> UnitOption {
        UnitOption { section: section.into(), name: name.into(), value: value.into() }
    }
}

/// A list of options that cannot be written as a unit file and read back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The text made of the options is refused by the reader.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The text is read as other options than were given, as with a newline inside a value.
    #[error(
        "option {} in section {} would be read back differently: {reason}",
        go_quote(name),
        go_quote(section)
    )]
    DoesNotSurvive { section: String, name: String, reason: &'static str },
    /// Nothing follows the continuation, or the next line would be swallowed by it.
    #[error(
        "value of {} in section {} ends in a lone backslash; remove the backslash, or the spaces after it if the value goes on",
        go_quote(name),
        go_quote(section)
    )]
    LoneBackslash { section: String, name: String },
}

/// The options of a unit file, grouped by section in the order in which the sections first appear.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UnitFile {
    options: Vec<UnitOption>,
}

impl UnitFile {
    /// Reads a text. Accepts also what cannot be submitted (see [`check_submit`](crate::check_submit)), such
    /// as a lone backslash.
    ///
    /// # Errors
    /// The first place, by line, that the reader cannot make sense of.
    pub fn parse(text: &str) -> Result<UnitFile, ParseError> {
        Ok(UnitFile { options: group_by_section(parse::parse(text)?.into_iter().map(|(_, option)| option)) })
    }

    /// As [`parse`](UnitFile::parse), for bytes that may not be UTF-8.
    ///
    /// # Errors
    /// As for `parse`, and the place where the bytes stop being UTF-8.
    pub fn parse_bytes(bytes: &[u8]) -> Result<UnitFile, ParseError> {
        UnitFile::parse(parse::decode(bytes)?)
    }

    /// Takes options that did not come from a text, as the v1 API receives them.
    ///
    /// # Errors
    /// Any list that does not survive being serialized and parsed: newlines that would become other options,
    /// names with `=`, white space that would be trimmed, a value that ends in a lone backslash.
    pub fn from_options(options: Vec<UnitOption>) -> Result<UnitFile, OptionsError> {
        let file = UnitFile { options: group_by_section(options) };
        file.check_survives().map_err(|(_, error)| error)?;
        Ok(file)
    }

    pub fn options(&self) -> &[UnitOption] {
        &self.options
    }

    pub fn into_options(self) -> Vec<UnitOption> {
        self.options
    }

    pub fn is_empty(&self) -> bool {
        self.options.is_empty()
    }

    /// All values of one option, in order. An empty assignment is a value.
    pub fn get<'a>(&'a self, section: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
        let wanted = move |option: &&UnitOption| option.section == section && option.name == name;
        self.options.iter().filter(wanted).map(|option| option.value.as_str())
    }

    /// The text that stands for this file: sections separated by one empty line, no empty line at the end.
    pub fn serialize(&self) -> String {
        write_options(&self.options)
    }

    /// Whether the serialized text is read as these very options; what submitting asks beyond parsing.
    ///
    /// # Errors
    /// The fault, and the option that has it, if it is one option's.
    pub(crate) fn check_survives(&self) -> Result<(), (Option<&UnitOption>, OptionsError)> {
        if let Some(option) = self.options.iter().find(|option| option.value.ends_with('\\')) {
            return Err((Some(option), lone_backslash(option)));
        }
        let again = UnitFile::parse(&self.serialize()).map_err(|error| (None, error.into()))?;
        if again != *self {
            let mut pairs = self.options.iter().zip(again.options.iter());
            let changed = pairs.find(|(given, read)| given != read).map(|(given, _)| given);
            // Without a pair that differs the text had more options in it than the list.
            let changed = changed.or(self.options.last()).expect("an empty list survives");
            return Err((Some(changed), does_not_survive(changed)));
        }
        match self.options.last() {
            // It survives, but the line that was to continue it is missing.
            Some(last) if last.value.ends_with("\\\n") => Err((Some(last), lone_backslash(last))),
            _ => Ok(()),
        }
    }
}

fn lone_backslash(option: &UnitOption) -> OptionsError {
    OptionsError::LoneBackslash { section: option.section.clone(), name: option.name.clone() }
}

fn does_not_survive(option: &UnitOption) -> OptionsError {
    OptionsError::DoesNotSurvive {
        section: option.section.clone(),
        name: option.name.clone(),
        reason: why_changed(option),
    }
}

fn why_changed(option: &UnitOption) -> &'static str {
    if option.section.contains(']') {
        "a section name cannot contain ]"
    } else if option.name.contains('=') {
        "an option name cannot contain ="
    } else if option.name.starts_with(['[', '#', ';']) {
        "an option name cannot begin with [, # or ;"
    } else if option.name != option.name.trim() || option.value != option.value.trim() {
        "white space around a name or a value is dropped"
    } else {
        "a newline in a value needs a backslash before it and text after it; send one option per assignment"
    }
}

/// Sections in the order of their first option; options of one section in theirs.
pub(crate) fn group_by_section(options: impl IntoIterator<Item = UnitOption>) -> Vec<UnitOption> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    let mut grouped: Vec<(usize, UnitOption)> = Vec::new();
    for option in options {
        let next = ranks.len();
        let rank = *ranks.entry(option.section.clone()).or_insert(next);
        grouped.push((rank, option));
    }
    grouped.sort_by_key(|(rank, _)| *rank);
    grouped.into_iter().map(|(_, option)| option).collect()
}

/// The serialized text of options that are grouped by section.
pub(crate) fn write_options(options: &[UnitOption]) -> String {
    let mut text = String::new();
    let mut current: Option<&str> = None;
    for UnitOption { section, name, value } in options {
        if current != Some(section) {
            if current.is_some() {
                text.push('\n');
            }
            text.push('[');
            text.push_str(section);
            text.push_str("]\n");
            current = Some(section);
        }
        text.push_str(name);
        text.push('=');
        text.push_str(value);
        text.push('\n');
    }
    text
}
