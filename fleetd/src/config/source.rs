//! Where values come from: the file, then the environment, which wins.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::keys::{KEYS, KeyHelp};
use super::{Config, ConfigError, DEFAULT_FILE};

/// What to read. The environment is an argument, so that tests need not change their own.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; must exist. None: the default file, which may be missing.
    pub file: Option<PathBuf>,
    /// `FLEET_*` variables; others are ignored.
    pub environment: BTreeMap<String, String>,
}

/// Reads the configuration.
///
/// # Errors
/// Unknown keys, bad values, a missing `etcd_servers`: each names its place and what is expected.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    let path = sources.file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    match std::fs::read_to_string(&path) {
        Ok(text) => from_file(&mut config, &path.display().to_string(), &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && sources.file.is_none() => {}
        Err(source) => return Err(ConfigError::Read { path, source }),
    }
    for (name, text) in &sources.environment {
        let Some(key) = name.strip_prefix("FLEET_") else { continue };
        let key = key.to_ascii_lowercase();
        let place = format!("environment variable {name}");
        let help = find(&place, &key)?;
        set(&mut config, &place, help, &toml::Value::String(text.clone()))?;
    }
    if config.etcd_certfile.is_some() != config.etcd_keyfile.is_some() {
        let (key, value, other) = match &config.etcd_certfile {
            Some(path) => ("etcd_certfile", path, "etcd_keyfile"),
            None => (
                "etcd_keyfile",
                config.etcd_keyfile.as_ref().expect("one of the two is set"),
                "etcd_certfile",
            ),
        };
        let (place, value) = (path.display().to_string(), value.display().to_string());
        return Err(ConfigError::BadValue { place, key, value, expected: format!("{other} beside it") });
    }
    if config.etcd_servers.is_empty() {
        return Err(ConfigError::NoEtcd { file: path });
    }
    Ok(config)
}

fn from_file(config: &mut Config, place: &str, text: &str) -> Result<(), ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: PathBuf::from(place),
        error: error.to_string(),
    })?;
    for (key, value) in &table {
        let help = find(place, key)?;
        set(config, place, help, value)?;
    }
    Ok(())
}

fn find(place: &str, key: &str) -> Result<&'static KeyHelp, ConfigError> {
    if let Some(help) = KEYS.iter().find(|help| help.name == key) {
        return Ok(help);
    }
    let near = KEYS.iter().map(|help| (strsim::jaro_winkler(help.name, key), help.name));
    let near = near.filter(|(likeness, _)| *likeness > 0.85).max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = near.map(|(_, name)| format!(" (did you mean {name}?)")).unwrap_or_default();
    Err(ConfigError::UnknownKey { place: place.to_owned(), key: key.to_owned(), hint })
}

fn set(
    config: &mut Config,
    place: &str,
    key: &'static KeyHelp,
    value: &toml::Value,
) -> Result<(), ConfigError> {
    (key.set)(config, value).map_err(|expected| {
        // A password is not repeated into logs.
        let shown = if key.name.contains("password") { "(hidden)".to_owned() } else { value.to_string() };
        ConfigError::BadValue { place: place.to_owned(), key: key.name, value: shown, expected }
    })
}
