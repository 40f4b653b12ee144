//! `fleetctl events`: who ordered what, when and why.

use std::time::Duration;

use clap::Args;
use fleet_api::v2::{EventList, EventNote};
use unit_files::client_unit_name;

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::duration;
use crate::output::list::{Field, Layout, ListFlags};
use crate::output::order::Key;
use crate::output::{self, json};

/// Show what changed, who asked for it, and why
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl events\n  fleetctl events --unit web.service --since 1h\n  fleetctl events --limit 500 -o json\n  fleetctl events --sort unit,time --fields time,what,unit,why\n\nFields: time what unit machine by why request."
)]
pub struct Events {
    /// Only events that name this unit.
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// Only events of the last TIME (1h, 30m, or seconds).
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub since: Option<Duration>,
    /// At most this many, the newest.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub limit: u32,
    #[command(flatten)]
    pub list: ListFlags,
}

/// One line of the list: a note and what its event says of all its notes.
#[derive(Clone, Debug)]
pub struct Line {
    /// Of the event in the answer.
    index: usize,
    at: u64,
    by: String,
    request: String,
    note: EventNote,
}

pub const FIELDS: [Field<Line>; 7] = [
    Field::new("time", |line: &Line, _| output::time_text(line.at)).by(|line| Some(Key::Number(line.at))),
    Field::new("what", |line: &Line, _| line.note.kind.clone()),
    Field::new("unit", |line: &Line, _| {
        output::or_dash(line.note.unit.as_deref().unwrap_or_default()).to_owned()
    }),
    Field::new("machine", |line: &Line, full| {
        output::machine_text(line.note.machine.as_deref().unwrap_or_default(), "", full)
    }),
    Field::new("by", |line: &Line, _| output::or_dash(&line.by).to_owned()),
    Field::new("why", |line: &Line, _| output::or_dash(&line.note.why).to_owned()),
    Field::new("request", |line: &Line, _| output::or_dash(&line.request).to_owned()),
];

pub async fn run(connection: &Connection, command: Events) -> anyhow::Result<Exit> {
    let layout = match Layout::new(&FIELDS, "time,what,unit,machine,by,why", &command.list) {
        Ok(layout) => layout,
        Err(error) => return Ok(error.tell()),
    };
    let limit = command.limit.to_string();
    let unit = command.unit.as_deref().map(client_unit_name);
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    let since = command
        .since
        .map(|length| now.saturating_sub(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)).to_string());
    let mut query = vec![("limit", limit.as_str())];
    query.extend(unit.as_deref().map(|unit| ("unit", unit)));
    query.extend(since.as_deref().map(|since| ("since", since)));
    let list = match connection.events(&query).await {
        Ok(list) => list,
        Err(error) => {
            output::note(format!("Error retrieving events: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    let mut lines = lines(&list);
    layout.sort(&mut lines);
    if command.list.is_json() {
        // As the API answered, unless somebody wants another order.
        let list = if command.list.sort.is_some() { in_order(list, &lines) } else { list };
        json::print(&list)?;
    } else {
        layout.print(&lines)?;
    }
    Ok(Exit::DONE)
}

fn lines(list: &EventList) -> Vec<Line> {
    let events = list.events.iter().enumerate();
    events
        .flat_map(|(index, event)| {
            event.notes.iter().map(move |note| Line {
                index,
                at: event.at,
                by: event.by.clone(),
                request: event.request.clone().unwrap_or_default(),
                note: note.clone(),
            })
        })
        .collect()
}

/// The events in the order of their first lines; those without a line come last.
fn in_order(list: EventList, lines: &[Line]) -> EventList {
    let mut first = vec![usize::MAX; list.events.len()];
    for (place, line) in lines.iter().enumerate().rev() {
        first[line.index] = place;
    }
    let mut events: Vec<_> = first.into_iter().zip(list.events).collect();
    events.sort_by_key(|(place, _)| *place);
    EventList { events: events.into_iter().map(|(_, event)| event).collect() }
}
