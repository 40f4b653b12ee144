//! Where values come from: files in layers, then the environment. Of each key the highest layer counts, as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::fleet_conf;
use super::keys::{KEYS, Key};
use super::layers::{Grammar, Layer, layers};
use super::problem::{ConfigError, Origin, Problems, Warning, one_line};
use super::{Config, credentials, rules, toml_file};

/// What to read. The environment is an argument, so that tests need not change their own.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config`; must exist, and stands in the place of `fleetd.toml` and of `fleet.conf`. Not below `root`.
    pub file: Option<PathBuf>,
    /// `--root`; None: `/`.
    pub root: Option<PathBuf>,
    /// `FLEET_*` variables; others are ignored.
    pub environment: BTreeMap<String, OsString>,
}

/// Without what the variables hold: one may be a password.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("root", &self.root)
            .field("environment", &self.environment.keys())
            .finish()
    }
}

impl Sources {
    /// This process's environment. What is not UTF-8 cannot be a value, and is refused as one.
    #[must_use]
    pub fn environment() -> BTreeMap<String, OsString> {
        std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
            .filter(|(name, _)| name.starts_with("FLEET_"))
            .collect()
    }
}

/// A key and the value that one place gives it.
#[derive(Clone)]
pub(super) struct Assignment {
    pub key: &'static Key,
    pub value: toml::Value,
    pub origin: Origin,
}

impl fmt::Debug for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} = {}", self.origin, self.key.name, shown(self.key, &self.value))
    }
}

/// What was read, fit for use or not.
#[derive(Debug)]
pub struct Loaded {
    /// Effective values; of use only if there are no problems.
    pub config: Config,
    /// Where each value comes from that is not the default, by key.
    pub origins: BTreeMap<&'static str, Origin>,
    /// Keys that were set although they have no effect, with their values.
    pub(super) idle: BTreeMap<&'static str, toml::Value>,
    /// Files, lowest first; those that do not exist are left out.
    pub files: Vec<Layer>,
    pub warnings: Vec<Warning>,
    pub problems: Vec<ConfigError>,
}

impl Loaded {
    /// # Errors
    /// fleetd cannot run with it.
    pub fn usable(self) -> Result<Loaded, Problems> {
        if self.problems.is_empty() { Ok(self) } else { Err(Problems(self.problems)) }
    }

    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// Reads the configuration.
///
/// # Errors
/// Everything that keeps fleetd from running with it: files that cannot be read, unknown keys, bad values, keys that miss
/// others. Each names its place and what is expected.
pub fn load(sources: &Sources) -> Result<Config, Problems> {
    read(sources).usable().map(|loaded| loaded.config)
}

/// Reads the configuration, and finds all that is wrong with it.
#[must_use]
pub fn read(sources: &Sources) -> Loaded {
    let (layers, mut problems) = layers(sources);
    let mut files = Vec::new();
    let mut warnings = Vec::new();
    let mut assignments = Vec::new();
    for layer in layers {
        if layer.masked_by.is_none() {
            match text(&layer) {
                Ok(Some(text)) => {
                    let read = parse(&layer.path, layer.grammar, &text);
                    warnings.extend(exposed_secret(&layer.path, &read.assignments));
                    assignments.extend(read.assignments);
                    warnings.extend(read.warnings);
                    problems.extend(read.problems);
                }
                Ok(None) => continue,
                Err(problem) => problems.push(problem),
            }
        }
        files.push(layer);
    }
    for (variable, text) in &sources.environment {
        let Some(name) = variable.strip_prefix("FLEET_") else { continue };
        let origin = Origin::Environment { variable: variable.clone() };
        match find(&origin, &name.to_ascii_lowercase()) {
            Ok(key) => match text.to_str() {
                Some(text) => {
                    let value = toml::Value::String(text.to_owned());
                    assignments.push(Assignment { key, value, origin });
                }
                None => {
                    let value = shown(key, &toml::Value::String(text.to_string_lossy().into_owned()));
                    let expected = "UTF-8 text".to_owned();
                    problems.push(ConfigError::BadValue { origin, key: key.name, value, expected });
                }
            },
            Err(problem) => problems.push(problem),
        }
    }
    let merged = merge(assignments, &mut problems);
    let mut loaded = Loaded { problems, files, warnings, ..merged };
    rules::check(&mut loaded);
    credentials::check(&mut loaded, sources.root.as_deref());
    sort_by_place(&mut loaded);
    loaded
}

/// Judges one text as if it were all there is, looking at no file, no environment and no certificate.
#[must_use]
pub fn read_text(text: &str, grammar: Grammar) -> Loaded {
    let path = PathBuf::from("text");
    let mut read = parse(&path, grammar, text);
    let merged = merge(read.assignments, &mut read.problems);
    let mut loaded = Loaded { problems: read.problems, warnings: read.warnings, ..merged };
    rules::check(&mut loaded);
    sort_by_place(&mut loaded);
    loaded
}

/// As one reads: file by file, lowest first, line by line; then the environment, then what stands nowhere.
fn sort_by_place(loaded: &mut Loaded) {
    let files = &loaded.files;
    loaded.problems.sort_by_key(|problem| match problem.origin() {
        Some(Origin::File { path, line }) => (files.iter().position(|file| file.path == path), 0, line),
        Some(Origin::Environment { .. }) => (Some(files.len()), 1, 0),
        Some(Origin::Default) | None => (Some(files.len()), 2, 0),
    });
}

/// A whole file of a size that a person may have written: a path can lead to a device without an end.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    const MOST: u64 = 1 << 20;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 1 MiB"));
    }
    Ok(bytes)
}

/// None: it is not there, and need not be.
fn text(layer: &Layer) -> Result<Option<String>, ConfigError> {
    let bytes = match read_bounded(&layer.path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound && layer.may_be_missing => return Ok(None),
        Err(source) => return Err(ConfigError::Read { path: layer.path.clone(), source }),
    };
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let origin = Origin::File { path: layer.path.clone(), line };
        ConfigError::Syntax { origin, expected: "not UTF-8 text".to_owned(), found: None }
    })
}

fn parse(path: &Path, grammar: Grammar, text: &str) -> fleet_conf::Read {
    if grammar == Grammar::Fleet1 {
        return fleet_conf::read(path, text);
    }
    let (assignments, problems) = toml_file::assignments(path, text);
    let warnings = assignments.iter().filter_map(|assignment| {
        let text = fleet_conf::without_effect(assignment.key, &assignment.value)?;
        Some(Warning { origin: assignment.origin.clone(), text })
    });
    fleet_conf::Read { warnings: warnings.collect(), assignments, problems }
}

/// A password that another layer overrides is in its file all the same.
fn exposed_secret(path: &Path, assignments: &[Assignment]) -> Option<Warning> {
    let is_secret = |assignment: &&Assignment| {
        assignment.key.is_secret && assignment.value.as_str().is_none_or(|text| !text.is_empty())
    };
    let Assignment { key, origin, .. } = assignments.iter().find(is_secret)?;
    let text = format!("{}: {}", key.name, credentials::exposure(path)?);
    Some(Warning { origin: origin.clone(), text })
}

/// The last assignment of each key counts, but every one has to be usable: what is hidden today shows tomorrow.
fn merge(assignments: Vec<Assignment>, problems: &mut Vec<ConfigError>) -> Loaded {
    let mut winners: Vec<Assignment> = Vec::new();
    for assignment in assignments {
        let mut scratch = Config::default();
        if let Err(expected) = (assignment.key.set)(&mut scratch, &assignment.value) {
            let Assignment { key, value, origin } = assignment;
            problems.push(ConfigError::BadValue {
                origin,
                key: key.name,
                value: shown(key, &value),
                expected,
            });
            continue;
        }
        winners.retain(|winner| winner.key.name != assignment.key.name);
        winners.push(assignment);
    }
    let mut config = Config::default();
    let mut origins = BTreeMap::new();
    let mut idle = BTreeMap::new();
    for Assignment { key, value, origin } in winners {
        // Each was tried above.
        let _ = (key.set)(&mut config, &value);
        if key.show.is_none() {
            if key.name == "disable_engine" {
                origins.insert("engine", origin.clone());
            }
            idle.insert(key.name, value);
        }
        origins.insert(key.name, origin);
    }
    Loaded { config, origins, idle, files: Vec::new(), warnings: Vec::new(), problems: Vec::new() }
}

/// The value on one line, unless it is a secret or an address with one inside.
pub(super) fn shown(key: &Key, value: &toml::Value) -> String {
    let text = inline(value);
    if key.is_secret || (key.name == "etcd_servers" && text.contains('@')) {
        return "(hidden)".to_owned();
    }
    text
}

/// As it may stand behind a `=`; text of several lines too is written as one, which TOML's own printer spreads out.
fn inline(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) if text.contains(char::is_control) => {
            format!("\"{}\"", one_line(&text.replace('\\', "\\\\").replace('"', "\\\"")))
        }
        toml::Value::Array(items) => {
            format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        value => one_line(&value.to_string()),
    }
}

/// The key of this name, or what to say of a name that is none.
pub(super) fn find(origin: &Origin, name: &str) -> Result<&'static Key, ConfigError> {
    if let Some(key) = Key::named(name) {
        return Ok(key);
    }
    let near = KEYS.iter().map(|key| (strsim::jaro_winkler(key.name, name), key.name));
    let near = near.filter(|(likeness, _)| *likeness > 0.85).max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = near.map(|(_, name)| format!(" (did you mean {name}?)")).unwrap_or_default();
    Err(ConfigError::UnknownKey { origin: origin.clone(), key: name.to_owned(), hint })
}

impl Loaded {
    /// Keys about which nothing more can be said, because what was given for them is refused already.
    pub(super) fn refused_keys(&self) -> BTreeSet<String> {
        self.problems.iter().filter_map(|problem| problem.key().map(str::to_owned)).collect()
    }

    /// Whether keys may be missing only because their file could not be read.
    pub(super) fn is_incomplete(&self) -> bool {
        self.problems.iter().any(ConfigError::hides_keys)
    }
}
