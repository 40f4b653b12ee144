//! Whether an order may be carried out on this machine at all, besides the others that are here.
//!
//! Engine and agent follow one rule for conflicts. What is refused is said so in the unit's row and tried again;
//! nothing that runs is touched because something newer conflicts with it.

use std::collections::{BTreeMap, BTreeSet};

use unit_files::UnitName;

use super::record::DiskRecord;
use super::{Local, Orders};
use crate::records::{Order, Reason, Wanted};

/// What the orders of a pass mean for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Free,
    /// Something that it conflicts with is leaving this machine: wait for it.
    WaitsFor(UnitName),
    Refused(Reason),
}

/// Judges every order that is new here. What has its place already keeps it.
pub(super) fn admit(orders: &Orders, local: &Local) -> BTreeMap<UnitName, Admission> {
    let mut newcomers: Vec<(&UnitName, &Order)> = Vec::new();
    let mut taken: Vec<(&UnitName, &Order)> = Vec::new();
    for (name, order) in orders.by_unit.iter().map(|(name, versioned)| (name, &versioned.value)) {
        let record = local.records.get(name);
        if has_place(record, order) {
            taken.push((name, order));
        } else if order.wanted != Wanted::Gone {
            newcomers.push((name, order));
        }
    }
    // Units here without an order still are where they are.
    let ownerless = local.records.iter().filter(|(name, _)| !orders.by_unit.contains_key(*name));
    for (name, record) in ownerless {
        if record.is_placed() && local.observed.get(name).is_some_and(|seen| seen.is_up()) {
            taken.push((name, &record.order));
        }
    }
    newcomers.sort_by_key(|(name, order)| (order.number, (*name).clone()));
    let mut verdicts = BTreeMap::new();
    for (name, order) in newcomers {
        let verdict = verdict(name, order, &taken, orders, &local.known_features);
        if verdict == Admission::Free {
            taken.push((name, order));
        }
        verdicts.insert(name.clone(), verdict);
    }
    verdicts
}

/// Placed here earlier, as the same unit, and not told to go since; or told to go and not gone yet.
fn has_place(record: Option<&DiskRecord>, order: &Order) -> bool {
    let Some(record) = record.filter(|record| record.is_placed()) else { return false };
    let uid = record.intent.as_ref().map(|intent| &intent.toward).or(record.applied.as_ref());
    order.wanted == Wanted::Gone || uid.is_some_and(|applied| applied.uid == order.uid)
}

fn verdict(
    name: &UnitName,
    order: &Order,
    taken: &[(&UnitName, &Order)],
    orders: &Orders,
    known: &BTreeSet<String>,
) -> Admission {
    let unknown: Vec<&str> = order.features.difference(known).map(String::as_str).collect();
    if !unknown.is_empty() {
        let text = format!(
            "this fleetd does not know {}, which the unit requires; upgrade fleetd on this machine",
            unknown.join(", ")
        );
        return Admission::Refused(Reason::new("unknown-feature", text));
    }
    let conflicts = |(other, theirs): &&(&UnitName, &Order)| {
        *other != name
            && (order.conflicts.iter().any(|glob| glob.matches(other.as_str()))
                || theirs.conflicts.iter().any(|glob| glob.matches(name.as_str())))
    };
    let mut in_the_way = taken.iter().filter(conflicts).map(|(other, _)| *other);
    let is_leaving = |other: &UnitName| {
        orders.by_unit.get(other).is_some_and(|versioned| versioned.value.wanted == Wanted::Gone)
    };
    let Some(first) = in_the_way.next() else { return Admission::Free };
    match std::iter::once(first).chain(in_the_way).find(|other| !is_leaving(other)) {
        None => Admission::WaitsFor(first.clone()),
        Some(other) => {
            let text = format!(
                "it conflicts with {other}, which is on this machine already; stop {other} or let it go elsewhere"
            );
            Admission::Refused(Reason::new("conflict", text))
        }
    }
}
