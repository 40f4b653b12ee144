//! The format of the agent's log: a line of JSON for each change, and what a log adds up to.
//!
//! Called by the disk only. Reads and writes bytes, no files.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use fleet_core::OrderNumber;
use fleet_core::reconcile::DiskRecord;
use fleet_core::records::{READS, raise};
use serde::{Deserialize, Serialize};
use tracing::warn;
use unit_files::{ContentHash, UnitName};

use super::Restored;
use crate::agent::error::AgentError;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Record { unit: UnitName, record: Box<DiskRecord> },
    Forgotten { forget: UnitName },
    Floor { floor: OrderNumber },
    Text { content: ContentHash, text: String },
}

pub(super) fn record_line(unit: &UnitName, record: &DiskRecord) -> Line {
    let mut record = Box::new(record.clone());
    raise(&mut record.v, &mut record.extra);
    Line::Record { unit: unit.clone(), record }
}

pub(super) fn line(text: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}

/// The schema of a record's line, also if the record has another shape by now.
fn schema_of(line: &[u8]) -> u32 {
    #[derive(Default, Deserialize)]
    struct Record {
        #[serde(default)]
        v: u32,
    }
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        record: Record,
    }
    serde_json::from_slice(line).map_or(0, |head: Head| head.record.v)
}

/// Records, and texts that were logged.
pub(super) fn read_log(
    path: &Path,
    bytes: &[u8],
) -> Result<(Restored, BTreeMap<ContentHash, String>), AgentError> {
    let (mut restored, mut texts) = (Restored::default(), BTreeMap::new());
    let mut lines = bytes.split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((number, text)) = lines.next() {
        if text.is_empty() {
            continue;
        }
        let schema = schema_of(text);
        if schema > READS {
            return Err(AgentError::Newer { path: path.to_owned(), line: number + 1, schema });
        }
        match serde_json::from_slice(text) {
            Ok(Line::Record { unit, record }) => drop(restored.records.insert(unit, *record)),
            Ok(Line::Forgotten { forget }) => drop(restored.records.remove(&forget)),
            Ok(Line::Floor { floor }) => restored.floor = floor,
            Ok(Line::Text { content, text }) => drop(texts.insert(content, text)),
            // The write that a crash tore: nothing was done that relied on it.
            Err(_) if lines.peek().is_none() => {}
            Err(error) => {
                let path = path.display();
                warn!(%path, line = number + 1, %error, "a line of the agent's log cannot be read and is left out");
            }
        }
    }
    Ok((restored, texts))
}
