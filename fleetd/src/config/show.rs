//! From a typed value back to TOML, for `check-config`, the packaged file and the comparison at a reload. What is shown
//! here is taken by its counterpart in `value`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet_core::records::EngineRole;
use toml::Value;

use super::{Listen, Secret};

pub fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

pub fn secret(secret: &Secret) -> Value {
    text(secret.expose())
}

pub fn texts(items: &[String]) -> Value {
    Value::Array(items.iter().map(|item| text(item)).collect())
}

pub fn boolean(value: &bool) -> Value {
    Value::Boolean(*value)
}

pub fn seconds(value: &Duration) -> Value {
    Value::Float(value.as_secs_f64())
}

pub fn duration(value: &Duration) -> Value {
    text(&humantime::format_duration(*value).to_string())
}

pub fn path(path: &Path) -> Value {
    text(&path.display().to_string())
}

pub fn path_or_none(value: &Option<PathBuf>) -> Value {
    value.as_deref().map_or_else(|| text(""), path)
}

pub fn address_or_none(value: &Option<IpAddr>) -> Value {
    text(&value.map(|address| address.to_string()).unwrap_or_default())
}

pub fn socket_or_none(value: &Option<SocketAddr>) -> Value {
    text(&value.map(|address| address.to_string()).unwrap_or_default())
}

pub fn metadata(value: &BTreeMap<String, String>) -> Value {
    Value::Table(value.iter().map(|(key, value)| (key.clone(), text(value))).collect())
}

pub fn role(value: &EngineRole) -> Value {
    text(match value {
        EngineRole::Auto => "auto",
        EngineRole::Never => "never",
    })
}

pub fn listen(value: &[Listen]) -> Value {
    Value::Array(value.iter().map(|listen| text(&listen.to_string())).collect())
}

pub fn page_size(value: &u16) -> Value {
    Value::Integer(i64::from(*value))
}

pub fn verbosity(value: &u8) -> Value {
    Value::Integer(i64::from(*value))
}
