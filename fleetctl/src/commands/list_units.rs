//! `fleetctl list-units`: what machines say of units, a row for each.

use clap::Args;
use fleet_api::v2::{StateList, StateView, WatchKind};

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::ListFlags;
use crate::output::table::{self, Field};
use crate::output::watch::WatchFlag;
use crate::output::{self, json};
use crate::watch;

/// List units and their states on machines
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl list-units\n  fleetctl list-units --full --no-legend --fields unit,machine,active\n  fleetctl list-units --fields unit,machine,active,sub,result,since,age\n\nFields: unit load active sub machine hash result since age phase invocation.\nA machine that is lost shows the state unknown."
)]
pub struct ListUnits {
    /// Columns, separated by commas.
    #[arg(long, value_name = "FIELDS", default_value = "unit,machine,active,sub")]
    pub fields: String,
    #[command(flatten)]
    pub list: ListFlags,
    #[command(flatten)]
    pub watch: WatchFlag,
}

const FIELDS: [Field<StateView>; 11] = [
    Field { name: "unit", cell: |row, _| row.unit.clone() },
    Field { name: "load", cell: |row, _| row.load.clone() },
    Field { name: "active", cell: |row, _| row.active.clone() },
    Field { name: "sub", cell: |row, _| row.sub.clone() },
    Field { name: "machine", cell: |row, full| output::machine_text(&row.machine, &row.ip, full) },
    Field { name: "hash", cell: |row, full| hash(&row.hash, full) },
    Field { name: "result", cell: |row, _| output::or_dash(&row.result).to_owned() },
    Field {
        name: "since",
        cell: |row, _| if row.since_ms == 0 { "-".to_owned() } else { output::ago(row.since_ms) },
    },
    Field { name: "age", cell: |row, _| output::span_text(row.age_ms) },
    Field { name: "phase", cell: |row, _| output::or_dash(&row.phase).to_owned() },
    Field { name: "invocation", cell: |row, full| hash(&row.invocation, full) },
];

/// Seven characters, or all of them.
fn hash(hash: &str, full: bool) -> String {
    let shown = if full { hash } else { hash.get(..7).unwrap_or(hash) };
    output::or_dash(shown).to_owned()
}

pub async fn run(connection: &Connection, command: ListUnits) -> anyhow::Result<Exit> {
    let ListFlags { full, no_legend, output, .. } = command.list;
    // A wrong field is an error before anything is asked.
    if let Err(error) = table::list(&FIELDS, &command.fields, &[], full, false) {
        output::note(error.to_string());
        return Ok(Exit::FAILED);
    }
    let text = |mut list: StateList| -> anyhow::Result<String> {
        list.states.sort_by(|a, b| (&a.unit, &a.machine).cmp(&(&b.unit, &b.machine)));
        if output.is_json() && command.watch.watch {
            return json::line(&list);
        }
        if output.is_json() {
            return json::text(&list);
        }
        Ok(table::list(&FIELDS, &command.fields, &list.states, full, !no_legend)?)
    };
    if command.watch.watch {
        let is_json = output.is_json();
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
