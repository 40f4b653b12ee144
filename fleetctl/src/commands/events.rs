//! `fleetctl events`: who ordered what, when and why.

use std::time::Duration;

use clap::Args;
use fleet_api::v2::Event;
use unit_files::client_unit_name;

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{OutputFlag, duration};
use crate::output::{self, json, table};

/// Show what changed, who asked for it, and why
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl events\n  fleetctl events --unit web.service --since 1h\n  fleetctl events --limit 500 -o json"
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
    pub output: OutputFlag,
}

pub async fn run(connection: &Connection, command: Events) -> anyhow::Result<Exit> {
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
    if command.output.is_json() {
        json::print(&list)?;
    } else {
        output::raw(text(&list.events))?;
    }
    Ok(Exit::DONE)
}

fn text(events: &[Event]) -> String {
    let header = ["TIME", "WHAT", "UNIT", "MACHINE", "BY", "WHY"].map(str::to_owned);
    let rows: Vec<Vec<String>> = events
        .iter()
        .flat_map(|event| event.notes.iter().map(move |note| (event, note)))
        .map(|(event, note)| {
            vec![
                output::time_text(event.at),
                note.kind.clone(),
                output::or_dash(note.unit.as_deref().unwrap_or_default()).to_owned(),
                output::machine_text(note.machine.as_deref().unwrap_or_default(), "", false),
                output::or_dash(&event.by).to_owned(),
                output::or_dash(&note.why).to_owned(),
            ]
        })
        .collect();
    table::render(Some(&header), &rows)
}
