//! Who ordered what, when and why.

use axum::extract::State;
use axum::http::Uri;
use fleet_api::v2::{Event, EventList, EventNote};
use fleet_core::Timestamp;
use fleet_core::records::EventRecord;

use super::super::query::Query;
use super::super::state::Api;
use super::{Answer, json};

const DEFAULT: u64 = 100;
const MOST: u64 = 10_000;

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let query = Query::of(&uri);
    let limit = query.number("limit")?.unwrap_or(DEFAULT).clamp(1, MOST);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let since = query.number("since")?.map(Timestamp);
    let unit = query.first("unit");
    // Of one unit: the newest of all that are kept.
    let reach = if unit.is_some() { usize::try_from(MOST).unwrap_or(usize::MAX) } else { limit };
    let log = api.registry.events(reach, since).await?;
    let concerns = |record: &EventRecord| {
        unit.is_none_or(|unit| {
            record.notes.iter().any(|note| note.unit.as_ref().is_some_and(|name| name.as_str() == unit))
        })
    };
    let mut events: Vec<Event> =
        log.events.iter().filter(|(_, record)| concerns(record)).map(|(_, record)| event(record)).collect();
    events.drain(..events.len().saturating_sub(limit));
    json(&EventList { events })
}

fn event(record: &EventRecord) -> Event {
    let notes = record.notes.iter().map(|note| EventNote {
        kind: note.kind.clone(),
        unit: note.unit.as_ref().map(ToString::to_string),
        machine: note.machine.as_ref().map(ToString::to_string),
        why: note.why.clone(),
    });
    Event {
        at: record.at.0,
        by: record.by.clone(),
        request: record.request.as_ref().map(ToString::to_string),
        notes: notes.collect(),
    }
}
