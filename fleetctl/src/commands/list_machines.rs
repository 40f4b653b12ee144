//! `fleetctl list-machines`: the machines that are there, and with `--all` those that are lost.

use clap::Args;
use fleet_api::v2::{MachineList, MachineState, MachineView, WatchKind};

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::go_bool;
use crate::output::list::{Field, Layout, ListFlags};
use crate::output::order::Key;
use crate::output::watch::WatchFlag;
use crate::output::{self, colour, json};
use crate::watch;

/// List the machines of the cluster
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl list-machines\n  fleetctl list-machines --all --sort=-since --fields machine,hostname,state,since,units\n  fleetctl list-machines -o wide --sort load\n\nFields: machine ip metadata hostname state since units load version systemd cordon leader.\nWithout --fields: machine,ip,metadata."
)]
pub struct ListMachines {
    /// Also machines that are lost, or have not come since an import.
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub all: bool,
    #[command(flatten)]
    pub list: ListFlags,
    #[command(flatten)]
    pub watch: WatchFlag,
    /// Lists take no arguments, but ignore them as fleet 1.0 does.
    #[arg(hide = true)]
    pub surplus: Vec<String>,
}

pub const FIELDS: [Field<MachineView>; 12] = [
    Field::new("machine", |machine: &MachineView, full| output::machine_id(&machine.id, full)),
    Field::new("ip", |machine: &MachineView, _| output::or_dash(&machine.ip).to_owned()),
    Field::new("metadata", |machine: &MachineView, _| {
        let pairs: Vec<String> =
            machine.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
        output::or_dash(&pairs.join(",")).to_owned()
    }),
    Field::new("hostname", |machine: &MachineView, _| output::or_dash(&machine.hostname).to_owned()),
    Field::new("state", |machine: &MachineView, _| machine.state.as_str().to_owned())
        .by(|machine| Key::state(machine.state.as_str(), &STATES))
        .state(),
    Field::new("since", |machine: &MachineView, _| output::ago(machine.since_ms))
        .by(|machine| Key::age(machine.since_ms)),
    Field::new("units", |machine: &MachineView, _| machine.units.to_string()),
    Field::new("load", |machine: &MachineView, _| machine.load.to_string()),
    Field::new("version", |machine: &MachineView, _| output::or_dash(&machine.version).to_owned()),
    Field::new("systemd", |machine: &MachineView, _| output::or_dash(&machine.systemd).to_owned()),
    Field::new("cordon", |machine: &MachineView, _| machine.cordon.to_string()),
    Field::new("leader", |machine: &MachineView, _| machine.leader.to_string()),
];

/// From well to gone.
const STATES: [&str; 5] = ["present", "missing", "expected", "lost", "forgotten"];

pub async fn run(connection: &Connection, command: ListMachines) -> anyhow::Result<Exit> {
    let layout = match Layout::new(&FIELDS, "machine,ip,metadata", &command.list) {
        Ok(layout) => layout,
        Err(error) => return Ok(error.tell()),
    };
    let is_json = command.list.is_json();
    let text = |mut list: MachineList| -> anyhow::Result<String> {
        if !command.all {
            // Scripts take the first column as the machines that are there.
            list.machines.retain(|machine| {
                !matches!(
                    machine.state,
                    MachineState::Lost | MachineState::Expected | MachineState::Forgotten
                )
            });
        }
        list.machines.sort_by(|a, b| a.id.cmp(&b.id));
        layout.sort(&mut list.machines);
        match (is_json, command.watch.watch) {
            (true, true) => json::line(&list),
            (true, false) => json::text(&list),
            (false, _) => Ok(layout.text(&list.machines, colour::is_on())),
        }
    };
    if command.watch.watch {
        return watch::follow(connection, WatchKind::Machine, is_json, |rows| text(rows.machines())).await;
    }
    let list = match connection.machines().await {
        Ok(list) => list,
        Err(error) => {
            output::note(format!(
                "Error retrieving list of active machines from fleet API ({error})\nPossible issues:\n  fleetd is not running on the machine that is asked, or --endpoint names another one\n  the registry does not answer: see fleetctl cluster status"
            ));
            return Ok(change::exit_of(&error));
        }
    };
    output::raw(text(list)?)?;
    Ok(Exit::DONE)
}
