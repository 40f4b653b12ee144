//! `fleetctl list-unit-files`: what is stored and wanted, a row for each unit.

use clap::Args;
use fleet_api::v2::{UnitList, UnitView, WatchKind};

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::output::list::{Field, Layout, ListFlags};
use crate::output::order::Key;
use crate::output::watch::WatchFlag;
use crate::output::{self, colour, json};
use crate::watch;

/// List stored units and what is wanted of them
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl list-unit-files\n  fleetctl list-unit-files --fields unit,dstate,target,why\n  fleetctl list-unit-files --sort changed -o wide\n\nFields: unit hash dstate state target desc global generation changed by why.\nWithout --fields: unit,hash,dstate,state,target."
)]
pub struct ListUnitFiles {
    #[command(flatten)]
    pub list: ListFlags,
    #[command(flatten)]
    pub watch: WatchFlag,
    /// Lists take no arguments, but ignore them as fleet 1.0 does.
    #[arg(hide = true)]
    pub surplus: Vec<String>,
}

pub const FIELDS: [Field<UnitView>; 12] = [
    Field::new("unit", |unit: &UnitView, _| unit.name.clone()),
    Field::new("hash", |unit: &UnitView, full| {
        let shown = if full { &unit.hash } else { unit.hash.get(..7).unwrap_or(&unit.hash) };
        output::or_dash(shown).to_owned()
    }),
    Field::new("dstate", |unit: &UnitView, _| output::or_dash(&unit.desired).to_owned())
        .by(|unit| Key::state(&unit.desired, &STATES))
        .state(),
    Field::new("state", |unit: &UnitView, _| {
        if unit.global { "-".to_owned() } else { output::or_dash(&unit.current_state).to_owned() }
    })
    .by(|unit| if unit.global { None } else { Key::state(&unit.current_state, &STATES) })
    .state(),
    Field::new("target", target),
    Field::new("tmachine", target).deprecated(),
    Field::new("desc", |unit: &UnitView, _| output::or_dash(&unit.description).to_owned()),
    Field::new("global", |unit: &UnitView, _| unit.global.to_string()),
    Field::new("generation", |unit: &UnitView, _| unit.generation.to_string()),
    Field::new("changed", |unit: &UnitView, _| output::ago(unit.changed.at))
        .by(|unit| Key::age(unit.changed.at)),
    Field::new("by", |unit: &UnitView, _| output::or_dash(&unit.changed.by).to_owned()),
    Field::new("why", |unit: &UnitView, _| {
        let reason = unit.decision.as_ref().map(|decision| decision.reason.text.as_str());
        output::or_dash(reason.unwrap_or_default()).to_owned()
    }),
];

/// What a unit goes through on its way up.
const STATES: [&str; 3] = ["inactive", "loaded", "launched"];

fn target(unit: &UnitView, full: bool) -> String {
    if unit.global {
        return "global".to_owned();
    }
    let machine = unit.placement.as_ref().and_then(|placement| placement.machine.as_ref());
    machine.map_or_else(|| "-".to_owned(), |machine| output::machine_text(&machine.id, &machine.ip, full))
}

pub async fn run(connection: &Connection, command: ListUnitFiles) -> anyhow::Result<Exit> {
    let layout = match Layout::new(&FIELDS, "unit,hash,dstate,state,target", &command.list) {
        Ok(layout) => layout,
        Err(error) => return Ok(error.tell()),
    };
    let names = command.list.fields.as_deref().unwrap_or_default();
    if names.split(',').any(|field| field == "tmachine") {
        output::note("WARNING: The \"tmachine\" field is deprecated. Use \"target\" instead");
    }
    let is_json = command.list.is_json();
    let text = |list: UnitList| -> anyhow::Result<String> {
        let UnitList { mut units, unreadable, .. } = list;
        units.sort_by(|a, b| a.name.cmp(&b.name));
        layout.sort(&mut units);
        if !is_json {
            return Ok(layout.text(&units, colour::is_on()));
        }
        let mut document = serde_json::json!({ "units": units });
        if !unreadable.is_empty() {
            document["unreadable"] = serde_json::json!(unreadable);
        }
        if command.watch.watch { json::line(&document) } else { json::text(&document) }
    };
    if command.watch.watch {
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
