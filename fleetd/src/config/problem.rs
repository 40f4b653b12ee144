//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// `line` counts from 1.
    File {
        path: PathBuf,
        line: usize,
    },
    Environment {
        variable: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment { variable } => write!(f, "environment variable {variable}"),
        }
    }
}

/// One thing that keeps fleetd from using a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}; correct its path or permissions", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin}: {expected}{}", found.as_ref().map(|text| format!(" in {text:?}")).unwrap_or_default())]
    Syntax { origin: Origin, expected: String, found: Option<String> },
    #[error("{origin}: unknown key {key:?}{hint}; `fleetd --help` lists the keys")]
    UnknownKey { origin: Origin, key: String, hint: String },
    #[error("{origin}: {key} = {value}: expected {expected}")]
    BadValue { origin: Origin, key: &'static str, value: String, expected: String },
}

impl ConfigError {
    /// What the file or variable was, for programs.
    pub(super) fn origin(&self) -> Option<Origin> {
        match self {
            ConfigError::Syntax { origin, .. }
            | ConfigError::UnknownKey { origin, .. }
            | ConfigError::BadValue { origin, .. } => Some(origin.clone()),
            ConfigError::Read { path, .. } => Some(Origin::File { path: path.clone(), line: 0 }),
        }
    }

    pub(super) fn key(&self) -> Option<&str> {
        match self {
            ConfigError::UnknownKey { key, .. } => Some(key),
            ConfigError::BadValue { key, .. } => Some(key),
            ConfigError::Read { .. } | ConfigError::Syntax { .. } => None,
        }
    }

    /// Part of the configuration could not be read, so what seems to be missing may stand there.
    pub(super) fn hides_keys(&self) -> bool {
        matches!(self, ConfigError::Read { .. } | ConfigError::Syntax { .. })
    }

    /// The message with its causes, on one line.
    pub(super) fn told(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        one_line(&text)
    }
}

/// The text with its control characters escaped: a line each is what people and log readers count on.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Everything that keeps fleetd from using a configuration; at least one.
#[derive(Debug)]
pub struct Problems(pub Vec<ConfigError>);

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = &self.0[..] {
            return f.write_str(&only.told());
        }
        write!(f, "the configuration has {} faults:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {}", problem.told()))
    }
}

/// Something that has no effect; fleetd starts all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub origin: Origin,
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&format!("{}: {}", self.origin, self.text)))
    }
}
