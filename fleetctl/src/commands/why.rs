//! `fleetctl why`: why a unit is where it is, or nowhere, machine by machine.

use clap::Args;
use fleet_api::v2::{Explanation, MachineVerdict};
use unit_files::client_unit_name;

use crate::change;
use crate::commands::machine;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::OutputFlag;
use crate::output::{self, json, table};

/// Explain where a unit is, or why no machine takes it
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl why web.service\n  fleetctl why --machine 1f0c44d2 web.service"
)]
pub struct Why {
    #[arg(value_name = "UNIT", required = true)]
    pub unit: String,
    /// Only this machine, by the beginning of its id.
    #[arg(long, value_name = "MACHINE")]
    pub machine: Option<String>,
    #[command(flatten)]
    pub output: OutputFlag,
}

pub async fn run(connection: &Connection, command: Why) -> anyhow::Result<Exit> {
    let name = client_unit_name(&command.unit);
    let machine = match &command.machine {
        None => None,
        Some(beginning) => match machine::resolve(connection, beginning).await {
            Ok(id) => Some(id),
            Err(exit) => return Ok(exit),
        },
    };
    let explanation = match connection.why(&name, machine.as_deref()).await {
        Ok(Some(explanation)) => explanation,
        Ok(None) => {
            return Ok(super::no_such_unit(connection, &name, format!("Unit {name} does not exist.")).await);
        }
        Err(error) => {
            output::note(format!("Error explaining unit {name}: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    if command.output.is_json() {
        json::print(&explanation)?;
    } else {
        output::raw(text(&explanation))?;
    }
    Ok(Exit::DONE)
}

fn text(explanation: &Explanation) -> String {
    let place = match &explanation.machine {
        _ if explanation.global => "on every machine that fits".to_owned(),
        Some(machine) => format!("on {}", output::machine_text(&machine.id, &machine.ip, false)),
        None => "on no machine".to_owned(),
    };
    // A machine without an address ends in the dots of its shortened id.
    let end = if place.ends_with('.') { "" } else { "." };
    let mut out = format!("{}: wanted {}, {place}{end}\n", explanation.unit, explanation.desired);
    match &explanation.decision {
        None => out.push_str("The engine has not judged it yet.\n"),
        Some(decision) => {
            let age = output::ago(decision.at);
            out.push_str(&format!(
                "Decided {age} ago: {} ({}).\n",
                decision.reason.text, decision.reason.code
            ));
        }
    }
    if explanation.machines.is_empty() {
        return out;
    }
    out.push('\n');
    let header = ["MACHINE", "FITS", "CODE", "WHY"].map(str::to_owned);
    let rows: Vec<Vec<String>> = explanation.machines.iter().map(row).collect();
    out.push_str(&table::render(Some(&header), &rows));
    out
}

fn row(verdict: &MachineVerdict) -> Vec<String> {
    let MachineVerdict { machine, ip, ok, code, text, would_fit_if } = verdict;
    let hint = would_fit_if.as_ref().map(|what| format!("; would fit if {what}")).unwrap_or_default();
    vec![
        output::machine_text(machine, ip, false),
        if *ok { "yes" } else { "no" }.to_owned(),
        output::or_dash(code).to_owned(),
        format!("{text}{hint}"),
    ]
}

#[cfg(test)]
mod tests {
    use fleet_api::v2::{DecisionView, Reason};

    use super::*;

    #[test]
    fn an_explanation_has_a_line_per_machine() {
        let verdict = |machine: &str, ok, hint: Option<&str>| MachineVerdict {
            machine: machine.into(),
            ip: "10.0.0.1".into(),
            ok,
            code: "metadata".into(),
            text: "has no disk=ssd".into(),
            would_fit_if: hint.map(str::to_owned),
        };
        let explanation = Explanation {
            unit: "a.service".into(),
            desired: "launched".into(),
            decision: Some(DecisionView {
                reason: Reason { code: "no-machine".into(), text: "no machine fits".into() },
                ..DecisionView::default()
            }),
            machines: vec![
                verdict("1111111111", true, None),
                verdict("2222222222", false, Some("it had it")),
            ],
            ..Explanation::default()
        };
        let text = text(&explanation);
        assert!(text.starts_with("a.service: wanted launched, on no machine.\nDecided "), "{text}");
        assert!(text.contains("ago: no machine fits (no-machine).\n\nMACHINE"), "{text}");
        assert!(text.ends_with("no\tmetadata\thas no disk=ssd; would fit if it had it\n"), "{text}");
    }
}
