//! From a TOML value, or the text of an environment variable, to a typed one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use fleet_core::records::EngineRole;
use fleet_registry::etcd::Endpoint;
use toml::Value;

use super::{Listen, Secret};

/// What was expected instead.
pub type Bad = String;

fn bad<T>(expected: impl Into<String>) -> Result<T, Bad> {
    Err(expected.into())
}

fn string<'v>(value: &'v Value, expected: &str) -> Result<&'v str, Bad> {
    value.as_str().ok_or_else(|| expected.to_owned())
}

/// A TOML array of text, or text with commas, with or without brackets and quotes as fleet 1.0 took it.
fn list(value: &Value, expected: &str) -> Result<Vec<String>, Bad> {
    match value {
        Value::Array(items) => items.iter().map(|item| string(item, expected).map(str::to_owned)).collect(),
        Value::String(text) => {
            let items = text.split(',').map(|item| item.trim_matches([' ', '[', ']', '"', '\'']).to_owned());
            Ok(items.filter(|item| !item.is_empty()).collect())
        }
        _ => bad(expected),
    }
}

pub fn urls(value: &Value) -> Result<Vec<String>, Bad> {
    const EXPECTED: &str = "http://HOST:PORT or https://HOST:PORT, one for each etcd member";
    let urls = list(value, EXPECTED)?;
    for url in &urls {
        // As whoever connects to it will understand it.
        if let Err(why) = Endpoint::parse(url) {
            // One with a password inside is not repeated.
            let which = if urls.len() == 1 || url.contains('@') { String::new() } else { format!("{url}: ") };
            return bad(format!("{EXPECTED} ({which}{why})"));
        }
    }
    Ok(urls)
}

pub fn prefix(value: &Value) -> Result<String, Bad> {
    const EXPECTED: &str = "a path that starts with / and has no empty part, such as /fleet/";
    let text = string(value, EXPECTED)?;
    let inner = text.trim_end_matches('/');
    if !inner.starts_with('/') || inner.contains("//") || inner.chars().any(char::is_whitespace) {
        return bad(EXPECTED);
    }
    Ok(format!("{inner}/"))
}

pub fn seconds(value: &Value) -> Result<Duration, Bad> {
    const EXPECTED: &str = "seconds between 0.05 and 60, such as 1.0";
    let seconds = match value {
        Value::Float(seconds) => *seconds,
        Value::Integer(seconds) => f64::from(i32::try_from(*seconds).map_err(|_| EXPECTED.to_owned())?),
        Value::String(text) => match text.trim().parse() {
            Ok(seconds) => seconds,
            Err(_) => return duration(value).or_else(|_| bad(EXPECTED)),
        },
        _ => return bad(EXPECTED),
    };
    if (0.05..=60.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { bad(EXPECTED) }
}

pub fn duration(value: &Value) -> Result<Duration, Bad> {
    const EXPECTED: &str = "a time with its unit, such as 15s, 500ms or 2m";
    humantime::parse_duration(string(value, EXPECTED)?.trim()).map_err(|_| EXPECTED.to_owned())
}

pub fn ttl(value: &Value) -> Result<Duration, Bad> {
    const EXPECTED: &str = "a time between 3s and 1h with its unit, such as 15s";
    let ttl = duration(value).map_err(|_| EXPECTED.to_owned())?;
    if (Duration::from_secs(3)..=Duration::from_secs(3600)).contains(&ttl) { Ok(ttl) } else { bad(EXPECTED) }
}

pub fn text(value: &Value) -> Result<String, Bad> {
    Ok(string(value, "text")?.to_owned())
}

pub fn secret(value: &Value) -> Result<Secret, Bad> {
    text(value).map(Secret::from)
}

pub fn directory(value: &Value) -> Result<PathBuf, Bad> {
    let path = PathBuf::from(string(value, "an absolute path")?);
    if path.is_absolute() { Ok(path) } else { bad("an absolute path") }
}

pub fn path_or_none(value: &Value) -> Result<Option<PathBuf>, Bad> {
    if value.as_str() == Some("") { Ok(None) } else { directory(value).map(Some) }
}

pub fn address_or_none(value: &Value) -> Result<Option<IpAddr>, Bad> {
    const EXPECTED: &str = "an IPv4 or IPv6 address, or nothing";
    match string(value, EXPECTED)?.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| EXPECTED.to_owned()),
    }
}

pub fn socket_or_none(value: &Value) -> Result<Option<SocketAddr>, Bad> {
    const EXPECTED: &str = "ADDRESS:PORT, such as 0.0.0.0:49154, or nothing";
    match string(value, EXPECTED)?.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| EXPECTED.to_owned()),
    }
}

/// A table is taken as it stands; in text, which is easily mistyped, nothing may be empty.
pub fn metadata(value: &Value) -> Result<BTreeMap<String, String>, Bad> {
    const EXPECTED: &str = "a table of text, or \"key=value,key=value\" with nothing empty";
    let of_text = |item: &str| match item.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
        None | Some(("", _) | (_, "")) => bad(EXPECTED),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
    };
    match value {
        Value::Table(table) => {
            table.iter().map(|(key, value)| Ok((key.clone(), string(value, EXPECTED)?.to_owned()))).collect()
        }
        Value::String(text) => text.split(',').filter(|item| !item.trim().is_empty()).map(of_text).collect(),
        _ => bad(EXPECTED),
    }
}

pub fn role(value: &Value) -> Result<EngineRole, Bad> {
    match string(value, "auto or never")? {
        "auto" => Ok(EngineRole::Auto),
        "never" => Ok(EngineRole::Never),
        _ => bad("auto or never"),
    }
}

pub fn boolean(value: &Value) -> Result<bool, Bad> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => Ok(true),
            "false" | "0" | "f" | "" => Ok(false),
            _ => bad("true or false"),
        },
        _ => bad("true or false"),
    }
}

/// Which addresses may be open to the network is decided where the certificates are known.
pub fn listen(value: &Value) -> Result<Vec<Listen>, Bad> {
    const EXPECTED: &str = "unix:///PATH, or tcp://ADDRESS:PORT with an IP address";
    let one = |text: &String| match text.strip_prefix("unix://").map(PathBuf::from) {
        Some(path) if path.is_absolute() => Ok(Listen::Unix(path)),
        Some(_) => bad(EXPECTED),
        None => {
            let address = text.strip_prefix("tcp://").unwrap_or(text).parse();
            address.map(Listen::Tcp).map_err(|_| EXPECTED.to_owned())
        }
    };
    list(value, EXPECTED)?.iter().map(one).collect()
}

pub fn page_size(value: &Value) -> Result<u16, Bad> {
    const EXPECTED: &str = "a number from 1 to 65535";
    match integer(value).and_then(|n| u16::try_from(n).ok()) {
        Some(n) if n > 0 => Ok(n),
        _ => bad(EXPECTED),
    }
}

pub const MOST_VERBOSE: u8 = 2;

pub fn verbosity(value: &Value) -> Result<u8, Bad> {
    let level = integer(value).and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= MOST_VERBOSE);
    level.ok_or_else(|| format!("a number from 0 to {MOST_VERBOSE}"))
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(n) => Some(*n),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}
