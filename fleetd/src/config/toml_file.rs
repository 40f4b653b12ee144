//! A TOML file as assignments with their lines. Knows which keys exist, not what their values mean.

use std::path::Path;

use serde::Deserialize as _;
use toml::de::{DeTable, ValueDeserializer};

use super::keys::Key;
use super::problem::{ConfigError, Origin};
use super::source::{Assignment, find};

/// So many lines that are no TOML are named of one file; who mistakes the grammar as a whole is told soon enough.
const MOST_SLIPS: usize = 8;

/// Reads a file as far as it can be read, and says what cannot.
pub(super) fn assignments(path: &Path, text: &str) -> (Vec<Assignment>, Vec<ConfigError>) {
    let at = |line| Origin::File { path: path.to_owned(), line };
    let (text, slips) = without_slips(text);
    let mut problems: Vec<ConfigError> = slips
        .into_iter()
        .map(|Slip { line, expected, found }| ConfigError::Syntax { origin: at(line), expected, found })
        .collect();
    let mut assignments = Vec::new();
    for (name, value) in DeTable::parse(&text).map(toml::Spanned::into_inner).unwrap_or_default() {
        let origin = at(line_of(&text, name.span().start));
        let key = match find(&origin, name.get_ref()) {
            Ok(key) => key,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        match toml::Value::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => assignments.push(Assignment { key, value, origin }),
            Err(error) => {
                let expected = format!("{}: {}", key.name, error.message());
                problems.push(ConfigError::Syntax { origin, expected, found: None });
            }
        }
    }
    // In one file, a name of fleet 1.0 gives way to ours.
    assignments.sort_by_key(|assignment| (assignment.key.show.is_some(), line_in_file(&assignment.origin)));
    problems.sort_by_key(|problem| problem.origin().as_ref().map_or(0, line_in_file));
    (assignments, problems)
}

/// A line that is no TOML.
struct Slip {
    line: usize,
    expected: String,
    found: Option<String>,
}

/// The text with its slips blanked out, line by line, so that the rest can be judged too; and the slips. What is left may
/// still be no TOML.
fn without_slips(text: &str) -> (String, Vec<Slip>) {
    let mut rest = text.to_owned();
    let mut slips = Vec::new();
    while slips.len() < MOST_SLIPS {
        let (_, errors) = DeTable::parse_recoverable(&rest);
        let Some(error) = errors.iter().min_by_key(|error| error.span().map(|span| span.start)) else {
            break;
        };
        let line = line_of(&rest, error.span().map_or(0, |span| span.start));
        slips.push(Slip {
            line,
            expected: format!("not TOML: {}", error.message()),
            found: quotable(&rest, line),
        });
        // What was opened over several lines does not end by losing one of them.
        if error.message().starts_with("unclosed") {
            break;
        }
        let is_slip = |number: usize| number + 1 == line;
        let lines =
            rest.split('\n').enumerate().map(|(number, text)| if is_slip(number) { "" } else { text });
        let blanked = lines.collect::<Vec<_>>().join("\n");
        if blanked == rest {
            break;
        }
        rest = blanked;
    }
    (rest, slips)
}

fn line_in_file(origin: &Origin) -> usize {
    match origin {
        Origin::File { line, .. } => *line,
        Origin::Default | Origin::Environment { .. } => 0,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The line, unless a secret may stand in it: it is shown only if it begins with a key that holds none.
fn quotable(text: &str, line: usize) -> Option<String> {
    let line = text.lines().nth(line - 1)?.trim();
    let name = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()?;
    Key::named(name).filter(|key| !key.is_secret && !line.contains('@')).map(|_| line.to_owned())
}
