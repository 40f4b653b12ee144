//! What `fleetd check-config` prints: every key with its value and where that comes from, and all that is wrong.

use serde::Serialize;
use serde_json::Value as Json;

use super::keys::{Applies, KEYS, Key};
use super::problem::{ConfigError, Origin};
use super::source::Loaded;

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML with comments, for reading.
    Text,
    /// One JSON object.
    Json,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whether fleetd would start with it.
    usable: bool,
    files: Vec<File>,
    values: Vec<Entry>,
    warnings: Vec<Remark>,
    problems: Vec<Remark>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct File {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    masked_by: Option<String>,
}

#[derive(Debug, Serialize)]
struct Entry {
    key: &'static str,
    /// Null: hidden.
    value: Json,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hidden: bool,
    source: Source,
    applies: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
enum Source {
    Default,
    File { path: String, line: usize },
    Environment { variable: String },
}

#[derive(Debug, Serialize)]
struct Remark {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
}

impl From<&Origin> for Source {
    fn from(origin: &Origin) -> Source {
        match origin {
            Origin::Default => Source::Default,
            Origin::File { path, line } => Source::File { path: path.display().to_string(), line: *line },
            Origin::Environment { variable } => Source::Environment { variable: variable.clone() },
        }
    }
}

impl From<&ConfigError> for Remark {
    fn from(problem: &ConfigError) -> Remark {
        let (value, expected) = match problem {
            ConfigError::BadValue { value, expected, .. } => (Some(value.clone()), Some(expected.clone())),
            ConfigError::Syntax { expected, .. } => (None, Some(expected.clone())),
            _ => (None, None),
        };
        Remark {
            message: problem.told(),
            source: problem.origin().as_ref().map(Source::from),
            key: problem.key().map(str::to_owned),
            value,
            expected,
        }
    }
}

/// A key's value and origin; None for a name that was not given and stands for nothing.
fn value_of(loaded: &Loaded, key: &Key) -> Option<(toml::Value, Origin)> {
    let value = match key.show {
        Some(show) => show(&loaded.config),
        None => loaded.idle.get(key.name)?.clone(),
    };
    Some((value, loaded.origin(key.name)))
}

/// A secret that is set is not shown.
fn is_hidden(key: &Key, origin: &Origin) -> bool {
    key.is_secret && *origin != Origin::Default
}

/// What goes to standard output, and what to standard error; each ends its lines. JSON has everything in one object.
#[must_use]
pub fn report(loaded: &Loaded, format: Format) -> (String, String) {
    match format {
        Format::Text => (text(loaded), remarks(loaded)),
        Format::Json => {
            let json = serde_json::to_string_pretty(&json(loaded)).expect("names and values are text");
            (format!("{json}\n"), String::new())
        }
    }
}

fn text(loaded: &Loaded) -> String {
    let mut text = String::from("# Files, lowest first:\n");
    for file in &loaded.files {
        let masked = file.masked_by.as_ref().map(|by| format!(" (masked by {})", by.display()));
        text.push_str(&format!("#   {}{}\n", file.path.display(), masked.unwrap_or_default()));
    }
    if loaded.files.is_empty() {
        text.push_str("#   none\n");
    }
    let lines: Vec<(String, Origin)> = KEYS
        .iter()
        .filter_map(|key| {
            let (value, origin) = value_of(loaded, key)?;
            let shown = if is_hidden(key, &origin) { "(hidden)".to_owned() } else { value.to_string() };
            Some((format!("{} = {shown}", key.name), origin))
        })
        .collect();
    // A long list must not push all origins out of sight.
    let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|n| *n <= 60).max().unwrap_or(0);
    for (line, origin) in lines {
        text.push_str(&format!("{line:width$}  # {origin}\n"));
    }
    text
}

fn remarks(loaded: &Loaded) -> String {
    let warnings = loaded.warnings.iter().map(|warning| format!("warning: {warning}\n"));
    let problems = loaded.problems.iter().map(|problem| format!("error: {}\n", problem.told()));
    warnings.chain(problems).collect()
}

fn json(loaded: &Loaded) -> Report {
    let values = KEYS.iter().filter_map(|key| {
        let (value, origin) = value_of(loaded, key)?;
        let hidden = is_hidden(key, &origin);
        let value = if hidden { Json::Null } else { serde_json::to_value(&value).unwrap_or(Json::Null) };
        let applies = match key.applies {
            Applies::InPlace => "in place",
            Applies::AtRestart => "at restart",
            Applies::Nowhere => "nowhere",
        };
        Some(Entry { key: key.name, value, hidden, source: Source::from(&origin), applies })
    });
    Report {
        usable: loaded.problems.is_empty(),
        files: loaded
            .files
            .iter()
            .map(|file| File {
                path: file.path.display().to_string(),
                masked_by: file.masked_by.as_ref().map(|by| by.display().to_string()),
            })
            .collect(),
        values: values.collect(),
        warnings: loaded
            .warnings
            .iter()
            .map(|warning| Remark {
                message: warning.to_string(),
                source: Some(Source::from(&warning.origin)),
                key: None,
                value: None,
                expected: None,
            })
            .collect(),
        problems: loaded.problems.iter().map(Remark::from).collect(),
    }
}
