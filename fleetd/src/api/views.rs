//! Records as the wire types of v2, from one snapshot.

use std::collections::{BTreeMap, BTreeSet};

use fleet_api::v2::{
    CountersView, DecisionView, MachineRef, OrderView, PlacementView, Reason, Refusal, RefusalHoldView,
    StampView, StateView, UnitView,
};
use fleet_core::records::{
    self, Counters, Decision, DecisionLine, Order, Placement, RowPhase, Stamp, StateRow, UnitRecord,
    Versioned, Wanted,
};
use fleet_core::requests::current::current_state;
use fleet_core::{MachineId, Timestamp};
use fleet_registry::registry::snapshot::Snapshot;
use unit_files::UnitName;

/// Its lease lives and nobody has marked it as lost.
pub(super) fn is_present(snapshot: &Snapshot, machine: &MachineId) -> bool {
    snapshot.presence.contains_key(machine) && !snapshot.lost.contains_key(machine)
}

/// Whether what a row says of running things holds now: its machine is there, and in the boot that the row speaks of.
pub(super) fn is_known(snapshot: &Snapshot, machine: &MachineId, row: &StateRow) -> bool {
    let presence = snapshot.presence.get(machine);
    is_present(snapshot, machine) && presence.is_some_and(|presence| row.is_of_boot(&presence.value))
}

pub(super) fn ip(snapshot: &Snapshot, machine: &MachineId) -> String {
    snapshot.presence.get(machine).map(|presence| presence.value.primary_ip.clone()).unwrap_or_default()
}

pub(super) fn machine_ref(snapshot: &Snapshot, machine: &MachineId) -> MachineRef {
    MachineRef { id: machine.to_string(), ip: ip(snapshot, machine) }
}

pub(super) fn reason(reason: &records::Reason) -> Reason {
    Reason { code: reason.code.clone(), text: reason.text.clone() }
}

pub(super) fn refusal(line: &DecisionLine) -> Refusal {
    let sample = line.sample.iter().map(|(machine, text)| (machine.to_string(), text.clone())).collect();
    Refusal { code: line.code.clone(), machines: line.machines, sample }
}

pub(super) fn decision(decision: &Decision) -> DecisionView {
    DecisionView {
        judged: decision.judged.0,
        reason: reason(&decision.reason),
        refused: decision.refused.iter().map(refusal).collect(),
        at: decision.at.0,
    }
}

pub(super) fn stamp(stamp: &Stamp) -> StampView {
    StampView { at: stamp.at.0, by: stamp.by.clone(), why: stamp.why.clone() }
}

fn counters(counters: Counters) -> CountersView {
    CountersView { start: counters.start, stop: counters.stop, restart: counters.restart }
}

/// The units of a snapshot, with the machines that were told or say something of each.
pub(super) struct Units<'s> {
    snapshot: &'s Snapshot,
    now: Timestamp,
    on: BTreeMap<&'s UnitName, BTreeSet<&'s MachineId>>,
}

impl<'s> Units<'s> {
    pub fn of(snapshot: &'s Snapshot, now: Timestamp) -> Units<'s> {
        let mut on: BTreeMap<&UnitName, BTreeSet<&MachineId>> = BTreeMap::new();
        let orders =
            snapshot.orders.iter().flat_map(|(id, orders)| orders.keys().map(move |name| (name, id)));
        let rows = snapshot.states.iter().flat_map(|(id, rows)| rows.keys().map(move |name| (name, id)));
        for (name, id) in orders.chain(rows) {
            on.entry(name).or_default().insert(id);
        }
        Units { snapshot, now, on }
    }

    /// One unit, with the orders and rows that are in the snapshot.
    pub fn view(&self, name: &UnitName, record: &Versioned<UnitRecord>, text: Option<String>) -> UnitView {
        let on = self.on.get(name).into_iter().flatten().copied();
        UnitView { text, ..unit_on(self.snapshot, self.now, name, record, on) }
    }
}

/// One unit, with its orders and rows of these machines.
pub(super) fn unit_on<'m>(
    snapshot: &Snapshot,
    now: Timestamp,
    name: &UnitName,
    record: &Versioned<UnitRecord>,
    on: impl IntoIterator<Item = &'m MachineId>,
) -> UnitView {
    let (mut orders, mut states) = (Vec::new(), Vec::new());
    for machine in on {
        let row = snapshot.states.get(machine).and_then(|rows| rows.get(name)).map(|row| &row.value);
        let order = snapshot.orders.get(machine).and_then(|orders| orders.get(name));
        orders.extend(order.map(|order| order_view(machine, &order.value, row)));
        states.extend(row.map(|row| state(snapshot, machine, name, row, now)));
    }
    unit(snapshot, name, record, UnitView { orders, states, ..UnitView::default() })
}

/// What the records of a unit say; `around` has the rest.
fn unit(snapshot: &Snapshot, name: &UnitName, record: &Versioned<UnitRecord>, around: UnitView) -> UnitView {
    let unit = &record.value;
    let placed = snapshot.placements.get(name).map(|p| &p.value).filter(|p| p.uid == unit.uid);
    let placed = placed.filter(|_| !unit.is_global());
    UnitView {
        name: name.to_string(),
        uid: unit.uid.to_string(),
        revision: record.modified.0,
        generation: unit.current.generation.0,
        last_good: unit.last_good.generation.0,
        desired: unit.desired.as_str().to_owned(),
        current_state: if unit.is_global() { String::new() } else { current(snapshot, name, unit, placed) },
        counters: counters(unit.counters),
        hash: unit.current.unit_hash.to_string(),
        content_hash: unit.current.content.to_string(),
        global: unit.current.requirements.global,
        description: unit.current.description.clone(),
        placement: placed.map(|placement| PlacementView {
            machine: placement.machine.as_ref().map(|machine| machine_ref(snapshot, machine)),
            number: placement.number.to_string(),
            refusals: placement.refusals.iter().map(hold).collect(),
        }),
        decision: placed.map(|placement| decision(&placement.decision)),
        created: stamp(&unit.created),
        changed: stamp(&unit.changed),
        ..around
    }
}

fn hold(hold: &records::RefusalHold) -> RefusalHoldView {
    RefusalHoldView {
        machine: hold.machine.to_string(),
        reason: reason(&hold.reason),
        until: hold.until.0,
        times: hold.times,
    }
}

fn current(snapshot: &Snapshot, name: &UnitName, unit: &UnitRecord, placed: Option<&Placement>) -> String {
    let machine = placed.and_then(|placement| placement.machine.as_ref());
    let row = machine.and_then(|id| snapshot.states.get(id)?.get(name)).map(|row| &row.value);
    let is_lost = machine.is_some_and(|id| !is_present(snapshot, id));
    current_state(row.filter(|row| row.uid == unit.uid), is_lost).as_str().to_owned()
}

fn order_view(machine: &MachineId, order: &Order, row: Option<&StateRow>) -> OrderView {
    OrderView {
        machine: machine.to_string(),
        number: order.number.to_string(),
        uid: order.uid.to_string(),
        wanted: order.wanted.as_str().to_owned(),
        generation: order.generation.0,
        counters: counters(order.counters),
        reason: reason(&order.reason),
        applied: row.and_then(|row| row.applied).is_some_and(|number| number >= order.number),
    }
}

/// The unit was ordered away from a machine that is lost: what that machine last said of it is over, whether or not it
/// has heard.
pub(super) fn has_left(snapshot: &Snapshot, machine: &MachineId, name: &UnitName) -> bool {
    let order = snapshot.orders.get(machine).and_then(|orders| orders.get(name));
    !is_present(snapshot, machine) && order.is_some_and(|order| order.value.wanted == Wanted::Gone)
}

/// What one machine says of one unit, and how old that is.
pub(super) fn state(
    snapshot: &Snapshot,
    machine: &MachineId,
    name: &UnitName,
    row: &StateRow,
    now: Timestamp,
) -> StateView {
    let is_known = is_known(snapshot, machine, row);
    let hash = |hash: Option<String>| hash.unwrap_or_default();
    let ordered = snapshot.orders.get(machine).and_then(|orders| orders.get(name));
    let lost = snapshot.lost.get(machine).map(|lost| lost.value.since);
    let age = lost.filter(|_| !is_known).map_or(0, |since| now.since(since).0);
    StateView {
        unit: name.to_string(),
        machine: machine.to_string(),
        ip: ip(snapshot, machine),
        load: row.load.clone(),
        active: if is_known { row.active.clone() } else { "unknown".to_owned() },
        sub: if is_known { row.sub.clone() } else { "unknown".to_owned() },
        result: row.result.clone(),
        exit_status: row.exit_status,
        hash: hash(row.unit_hash.map(|hash| hash.to_string())),
        ordered: hash(ordered.map(|order| order.value.content.to_string())),
        on_disk: hash(row.on_disk.map(|hash| hash.to_string())),
        running_hash: hash(row.running.map(|hash| hash.to_string())),
        invocation: row.invocation.clone(),
        restarts: row.restarts,
        since_ms: row.since.0,
        age_ms: age,
        phase: phase(row.phase).to_owned(),
        last_error: row.last_error.as_ref().map(reason),
        refused: row.refused.as_ref().map(|refused| reason(&refused.reason)),
        orphan: row.phase == RowPhase::Orphan,
    }
}

fn phase(phase: RowPhase) -> &'static str {
    match phase {
        RowPhase::Settled => "settled",
        RowPhase::Loading => "loading",
        RowPhase::Starting => "starting",
        RowPhase::Stopping => "stopping",
        RowPhase::Retrying => "retrying",
        RowPhase::Refused => "refused",
        RowPhase::Orphan => "orphan",
    }
}
