//! JSON for programs: one document per command on stdout, indented, with the field names of API v2.

use std::io;

use serde::Serialize;

pub fn print(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    super::line(text)
}

/// What [`print`] prints.
pub fn text(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// A document on one line, for streams of them.
pub fn line(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string(value)?))
}
