//! `fleetctl list-unit-files`: what is stored and wanted, a row for each unit.

use clap::Args;
use fleet_api::v2::{UnitList, UnitView, WatchKind};

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::ListFlags;
use crate::output::table::{self, Field};
use crate::output::watch::WatchFlag;
use crate::output::{self, json};
use crate::watch;

/// List stored units and what is wanted of them
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl list-unit-files\n  fleetctl list-unit-files --fields unit,dstate,target,why\n\nFields: unit hash desc global dstate state target generation changed by why."
)]
pub struct ListUnitFiles {
    /// Columns, separated by commas.
    #[arg(long, value_name = "FIELDS", default_value = "unit,hash,dstate,state,target")]
    pub fields: String,
    #[command(flatten)]
    pub list: ListFlags,
    #[command(flatten)]
    pub watch: WatchFlag,
}

const FIELDS: [Field<UnitView>; 12] = [
    Field { name: "unit", cell: |unit, _| unit.name.clone() },
    Field {
        name: "hash",
        cell: |unit, full| {
            let shown = if full { &unit.hash } else { unit.hash.get(..7).unwrap_or(&unit.hash) };
            output::or_dash(shown).to_owned()
        },
    },
    Field { name: "desc", cell: |unit, _| output::or_dash(&unit.description).to_owned() },
    Field { name: "global", cell: |unit, _| unit.global.to_string() },
    Field { name: "dstate", cell: |unit, _| output::or_dash(&unit.desired).to_owned() },
    Field {
        name: "state",
        cell: |unit, _| {
            if unit.global { "-".to_owned() } else { output::or_dash(&unit.current_state).to_owned() }
        },
    },
    Field { name: "target", cell: target },
    Field { name: "tmachine", cell: target },
    Field { name: "generation", cell: |unit, _| unit.generation.to_string() },
    Field { name: "changed", cell: |unit, _| output::ago(unit.changed.at) },
    Field { name: "by", cell: |unit, _| output::or_dash(&unit.changed.by).to_owned() },
    Field {
        name: "why",
        cell: |unit, _| {
            let reason = unit.decision.as_ref().map(|decision| decision.reason.text.as_str());
            output::or_dash(reason.unwrap_or_default()).to_owned()
        },
    },
];

fn target(unit: &UnitView, full: bool) -> String {
    if unit.global {
        return "global".to_owned();
    }
    let machine = unit.placement.as_ref().and_then(|placement| placement.machine.as_ref());
    machine.map_or_else(|| "-".to_owned(), |machine| output::machine_text(&machine.id, &machine.ip, full))
}

pub async fn run(connection: &Connection, command: ListUnitFiles) -> anyhow::Result<Exit> {
    let ListFlags { full, no_legend, output, .. } = command.list;
    if let Err(error) = table::list(&FIELDS, &command.fields, &[], full, false) {
        output::note(error.to_string());
        return Ok(Exit::FAILED);
    }
    if command.fields.split(',').any(|field| field == "tmachine") {
        output::note("WARNING: The \"tmachine\" field is deprecated. Use \"target\" instead");
    }
    let text = |list: UnitList| -> anyhow::Result<String> {
        let UnitList { mut units, unreadable, .. } = list;
        units.sort_by(|a, b| a.name.cmp(&b.name));
        if !output.is_json() {
            return Ok(table::list(&FIELDS, &command.fields, &units, full, !no_legend)?);
        }
        let mut document = serde_json::json!({ "units": units });
        if !unreadable.is_empty() {
            document["unreadable"] = serde_json::json!(unreadable);
        }
        if command.watch.watch { json::line(&document) } else { json::text(&document) }
    };
    if command.watch.watch {
        let is_json = output.is_json();
        return watch::follow(connection, WatchKind::Unit, is_json, |rows| text(rows.units())).await;
    }
    let list = match connection.all_units().await {
        Ok(list) => list,
        Err(error) => {
            output::note(format!("Error retrieving list of units from repository: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    let unreadable = list.unreadable.clone();
    output::raw(text(list)?)?;
    for unit in &unreadable {
        output::log!("WARN", "Unit {}: {}", unit.name, unit.text);
    }
    Ok(Exit::DONE)
}
