//! The simulated cluster as text: names for ids, seconds since the beginning for times, nothing that differs between
//! two runs.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use fleet_api::paths;
use fleet_api::v2::{Explanation, MachineVerdict, StateList, StateView};
use fleet_core::records::StateRow;
use fleet_core::{MachineId, Timestamp};
use fleet_registry::registry::snapshot::Snapshot;
use fleet_systemd::fake::{Execution, What};
use unit_files::UnitName;

use super::cluster::Cluster;
use super::machine::Machine;
use super::operator;

/// Without the words that differ between runs: numbers, times, ids of boots.
pub(super) fn masked(text: &str) -> String {
    let word = |word: &str| {
        let end = word.trim_end_matches(|c: char| c.is_ascii_punctuation()).len();
        let (inner, rest) = word.split_at(end);
        let is_number = inner.starts_with(|c: char| c.is_ascii_digit());
        let is_hash = inner.len() >= 32 && inner.bytes().all(|b| b.is_ascii_hexdigit());
        if is_number || is_hash { format!("#{rest}") } else { word.to_owned() }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

async fn read(cluster: &Cluster) -> anyhow::Result<Snapshot> {
    Ok(cluster.registry.read_all().await?)
}

pub async fn machines(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let snapshot = read(cluster).await?;
    let line = |(id, record): (&MachineId, &fleet_core::records::Versioned<_>)| {
        let record: &fleet_core::records::MachineRecord = &record.value;
        let presence = snapshot.presence.get(id);
        let mut line = format!("{id}: ");
        line.push_str(match (presence, snapshot.lost.get(id), &record.forgotten) {
            (_, _, Some(_)) => "forgotten",
            (Some(_), None, _) => "present",
            (Some(_), Some(_), _) => "present, marked lost",
            (None, Some(_), _) => "lost",
            (None, None, _) => "absent",
        });
        let metadata = fleet_core::records::effective_metadata(presence.map(|p| &p.value), Some(record));
        for (key, value) in metadata {
            let _ = write!(line, " {key}={value}");
        }
        let leads = snapshot.leader.as_ref().is_some_and(|leader| leader.value.machine == *id);
        line + if leads { " leads" } else { "" }
    };
    Ok(snapshot.machines.iter().map(line).collect())
}

fn row(snapshot: &Snapshot, machine: &MachineId, row: &StateRow) -> String {
    if snapshot.lost.contains_key(machine) {
        return format!("{machine} unknown");
    }
    let mut text = format!("{machine} {}/{}", row.active, row.sub);
    if row.active == "failed" {
        let _ = write!(text, " ({})", row.result);
    }
    let phase = format!("{:?}", row.phase).to_lowercase();
    if phase != "settled" {
        let _ = write!(text, " {phase}");
    }
    let reasons = [row.refused.as_ref().map(|refused| &refused.reason), row.last_error.as_ref()];
    for reason in reasons.into_iter().flatten() {
        let _ = write!(text, " [{}: {}]", reason.code, reason.text);
    }
    text
}

pub async fn units(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let snapshot = read(cluster).await?;
    let mut lines = Vec::new();
    for (unit, record) in &snapshot.units {
        let mut line = format!("{unit}: {}", record.value.desired.as_str());
        let placement = snapshot.placements.get(unit).map(|p| &p.value);
        match placement.and_then(|placement| placement.machine.as_ref()) {
            Some(machine) => drop(write!(line, " on {machine}")),
            None if record.value.is_global() => line.push_str(" everywhere"),
            None => {
                let reason = placement.map(|placement| placement.decision.reason.code.as_str());
                let _ = write!(line, " nowhere ({})", reason.unwrap_or("not judged"));
            }
        }
        let rows = snapshot.states.iter().filter_map(|(id, rows)| Some((id, rows.get(unit)?)));
        let rows: Vec<String> = rows.map(|(id, found)| row(&snapshot, id, &found.value)).collect();
        lines.push(if rows.is_empty() { line } else { format!("{line}; {}", rows.join(", ")) });
    }
    Ok(lines)
}

/// Rows of units that have no record.
pub async fn strays(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let snapshot = read(cluster).await?;
    let mut lines = Vec::new();
    for (id, rows) in &snapshot.states {
        for (unit, found) in rows.iter().filter(|(unit, _)| !snapshot.units.contains_key(*unit)) {
            lines.push(format!("{unit}: {}", row(&snapshot, id, &found.value)));
        }
    }
    Ok(lines)
}

pub async fn orders(cluster: &Cluster, machine: &MachineId) -> anyhow::Result<Vec<String>> {
    let snapshot = read(cluster).await?;
    let orders = snapshot.orders.get(machine).into_iter().flatten();
    let line = |(unit, order): (&UnitName, &fleet_core::records::Versioned<fleet_core::records::Order>)| {
        let order = &order.value;
        let counters = order.counters;
        format!(
            "{unit}: {} generation {} start {} stop {} restart {} ({})",
            order.wanted.as_str(),
            order.generation,
            counters.start,
            counters.stop,
            counters.restart,
            order.reason.code
        )
    };
    Ok(orders.map(line).collect())
}

pub async fn why(cluster: &Cluster, unit: &str) -> anyhow::Result<Vec<String>> {
    let explanation: Explanation = match cluster.door()?.get(&paths::fill(paths::UNIT_WHY, unit)).await {
        Ok(explanation) => explanation,
        Err(error) => return Ok(vec![operator::told(&error)]),
    };
    let decision = explanation.decision.map(|decision| decision.reason);
    let decision = decision.map(|reason| format!("{}: {}", reason.code, reason.text));
    let verdict = |verdict: MachineVerdict| {
        let against = if verdict.ok { "could run it".to_owned() } else { verdict.text };
        let remedy = verdict.would_fit_if.map(|remedy| format!("; {remedy}")).unwrap_or_default();
        format!("{}: {against}{remedy}", verdict.machine)
    };
    Ok(decision.into_iter().chain(explanation.machines.into_iter().map(verdict)).collect())
}

/// States as the API of the cluster tells them.
pub async fn states(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let list: StateList = match cluster.door()?.get(paths::STATES).await {
        Ok(list) => list,
        Err(error) => return Ok(vec![operator::told(&error)]),
    };
    let line = |state: StateView| {
        let age = state.age_ms.div_ceil(1000);
        format!("{} {} {}/{} age {age}s", state.unit, state.machine, state.active, state.sub)
    };
    Ok(list.states.into_iter().map(line).collect())
}

pub async fn brake(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let brake = read(cluster).await?.brake;
    Ok(brake.map(|b| format!("{:?}: {}", b.value.state, b.value.text).to_lowercase()).into_iter().collect())
}

pub async fn hold(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let hold = read(cluster).await?.hold;
    Ok(hold.map(|hold| masked(&hold.value.why)).into_iter().collect())
}

/// Events that have not been shown yet.
pub async fn events(cluster: &Cluster, shown: &mut BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    let log = cluster.registry.events(1_000, None).await?;
    let began = Timestamp(cluster.now().0 - millis(cluster.began.elapsed()));
    let mut lines = Vec::new();
    for (_, event) in log.events.iter().filter(|(id, _)| shown.insert(id.to_string())) {
        for note in &event.notes {
            let seconds = (event.at.since(began).0 + 500) / 1000;
            let unit = note.unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default();
            let machine = note.machine.as_ref().map(|machine| format!(" {machine}")).unwrap_or_default();
            let text = format!("{}{unit}{machine}: {} ({})", note.kind, note.why, event.by);
            lines.push((event.at, format!("t+{seconds}s {text}")));
        }
    }
    // Of one millisecond in the order of their texts: their ids are random.
    lines.sort();
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Microseconds since the beginning.
pub fn when(cluster: &Cluster, machine: &Machine, execution: &Execution) -> u64 {
    // Every fake's clock starts at the same time when it is made.
    const EPOCH: u64 = 1_735_689_600_000_000;
    let offset = machine.born.duration_since(cluster.began).as_micros();
    execution.at - EPOCH + u64::try_from(offset).unwrap_or(u64::MAX)
}

pub fn execution(cluster: &Cluster, machine: &Machine, execution: &Execution) -> String {
    let seconds = (when(cluster, machine, execution) + 500_000) / 1_000_000;
    let what = match execution.what {
        What::Started => "started".to_owned(),
        What::Stopped => "stopped".to_owned(),
        What::Exited { status } => format!("exited with {status}"),
    };
    format!("t+{seconds}s {} {} {what}", machine.name, execution.unit)
}

pub fn status(machine: &Machine) -> String {
    machine
        .daemon
        .as_ref()
        .map_or_else(|| "fleetd does not run".to_owned(), |daemon| masked(daemon.status.borrow().as_str()))
}

/// What fleetd called since the last reset: what it does at rest, keep-alives counted as some or none.
pub fn calls(machine: &Machine) -> Vec<String> {
    let calls = machine.tap.calls();
    calls.into_iter().map(|((kind, what), count)| format!("{kind} {what}: {count}")).collect()
}
