//! `fleetctl list-units`: what machines say of units, a row for each.

use clap::Args;
use fleet_api::v2::{StateList, StateView, WatchKind};

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::output::list::{Field, Layout, ListFlags};
use crate::output::order::Key;
use crate::output::watch::WatchFlag;
use crate::output::{self, colour, json};
use crate::watch;

/// List units and their states on machines
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl list-units\n  fleetctl list-units --full --no-legend --fields unit,machine,active\n  fleetctl list-units --sort=-active,since -o wide\n\nFields: unit machine active sub load hash result since age phase invocation.\nWithout --fields: unit,machine,active,sub.\nA machine that is lost shows the state unknown."
)]
pub struct ListUnits {
    #[command(flatten)]
    pub list: ListFlags,
    #[command(flatten)]
    pub watch: WatchFlag,
    /// Lists take no arguments, but ignore them as fleet 1.0 does.
    #[arg(hide = true)]
    pub surplus: Vec<String>,
}

pub const FIELDS: [Field<StateView>; 11] = [
    Field::new("unit", |row: &StateView, _| row.unit.clone()),
    Field::new("machine", |row: &StateView, full| output::machine_text(&row.machine, &row.ip, full)),
    Field::new("active", |row: &StateView, _| row.active.clone())
        .by(|row| Key::state(&row.active, &ACTIVE))
        .state(),
    Field::new("sub", |row: &StateView, _| row.sub.clone()).state(),
    Field::new("load", |row: &StateView, _| row.load.clone()).state(),
    Field::new("hash", |row: &StateView, full| hash(&row.hash, full)),
    Field::new("result", |row: &StateView, _| output::or_dash(&row.result).to_owned()),
    Field::new(
        "since",
        |row: &StateView, _| if row.since_ms == 0 { "-".to_owned() } else { output::ago(row.since_ms) },
    )
    .by(|row| Key::age(row.since_ms)),
    Field::new("age", |row: &StateView, _| output::span_text(row.age_ms))
        .by(|row| Some(Key::Number(row.age_ms))),
    Field::new("phase", |row: &StateView, _| output::or_dash(&row.phase).to_owned()).state(),
    Field::new("invocation", |row: &StateView, full| hash(&row.invocation, full)),
];

/// From well to what needs somebody.
const ACTIVE: [&str; 8] =
    ["active", "reloading", "refreshing", "activating", "deactivating", "inactive", "unknown", "failed"];

/// Seven characters, or all of them.
fn hash(hash: &str, full: bool) -> String {
    let shown = if full { hash } else { hash.get(..7).unwrap_or(hash) };
    output::or_dash(shown).to_owned()
}

pub async fn run(connection: &Connection, command: ListUnits) -> anyhow::Result<Exit> {
    let layout = match Layout::new(&FIELDS, "unit,machine,active,sub", &command.list) {
        Ok(layout) => layout,
        Err(error) => return Ok(error.tell()),
    };
    let is_json = command.list.is_json();
    let text = |mut list: StateList| -> anyhow::Result<String> {
        list.states.sort_by(|a, b| (&a.unit, &a.machine).cmp(&(&b.unit, &b.machine)));
        layout.sort(&mut list.states);
        match (is_json, command.watch.watch) {
            (true, true) => json::line(&list),
            (true, false) => json::text(&list),
            (false, _) => Ok(layout.text(&list.states, colour::is_on())),
        }
    };
    if command.watch.watch {
        return watch::follow(connection, WatchKind::State, is_json, |rows| text(rows.states())).await;
    }
    let list = match connection.states().await {
        Ok(list) => list,
        Err(error) => {
            output::note(format!("Error retrieving list of units from repository: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    output::raw(text(list)?)?;
    Ok(Exit::DONE)
}
