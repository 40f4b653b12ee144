//! JSON for programs: one document per command on stdout, indented, with the field names of API v2.

use std::io;

use serde::Serialize;

pub fn print(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    super::line(text)
}
