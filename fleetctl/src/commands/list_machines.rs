//! `fleetctl list-machines`: the machines that are there, and with `--all` those that are lost.

use clap::Args;
use fleet_api::v2::{MachineList, MachineState, MachineView, WatchKind};

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::{ListFlags, go_bool};
use crate::output::table::{self, Field};
use crate::output::watch::WatchFlag;
use crate::output::{self, json};
use crate::watch;

/// List the machines of the cluster
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl list-machines\n  fleetctl list-machines --all --fields machine,hostname,state,since,units\n\nFields: machine ip metadata hostname state since units load version systemd cordon leader."
)]
pub struct ListMachines {
    /// Columns, separated by commas.
    #[arg(long, value_name = "FIELDS", default_value = "machine,ip,metadata")]
    pub fields: String,
    /// Also machines that are lost, or have not come since an import.
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub all: bool,
    #[command(flatten)]
    pub list: ListFlags,
    #[command(flatten)]
    pub watch: WatchFlag,
}

const FIELDS: [Field<MachineView>; 12] = [
    Field { name: "machine", cell: |machine, full| output::machine_id(&machine.id, full) },
    Field { name: "ip", cell: |machine, _| output::or_dash(&machine.ip).to_owned() },
    Field {
        name: "metadata",
        cell: |machine, _| {
            let pairs: Vec<String> =
                machine.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
            output::or_dash(&pairs.join(",")).to_owned()
        },
    },
    Field { name: "hostname", cell: |machine, _| output::or_dash(&machine.hostname).to_owned() },
    Field { name: "state", cell: |machine, _| machine.state.as_str().to_owned() },
    Field { name: "since", cell: |machine, _| output::ago(machine.since_ms) },
    Field { name: "units", cell: |machine, _| machine.units.to_string() },
    Field { name: "load", cell: |machine, _| machine.load.to_string() },
    Field { name: "version", cell: |machine, _| output::or_dash(&machine.version).to_owned() },
    Field { name: "systemd", cell: |machine, _| output::or_dash(&machine.systemd).to_owned() },
    Field { name: "cordon", cell: |machine, _| machine.cordon.to_string() },
    Field { name: "leader", cell: |machine, _| machine.leader.to_string() },
];

pub async fn run(connection: &Connection, command: ListMachines) -> anyhow::Result<Exit> {
    let ListFlags { full, no_legend, output, .. } = command.list;
    if let Err(error) = table::list(&FIELDS, &command.fields, &[], full, false) {
        output::note(error.to_string());
        return Ok(Exit::FAILED);
    }
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
        if output.is_json() && command.watch.watch {
            return json::line(&list);
        }
        if output.is_json() {
            return json::text(&list);
        }
        Ok(table::list(&FIELDS, &command.fields, &list.machines, full, !no_legend)?)
    };
    if command.watch.watch {
        let is_json = output.is_json();
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
