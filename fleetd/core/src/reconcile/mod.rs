//! The agent's decision: orders for this machine and what the machine shows -> what to do, what to write down, what to
//! report.
//!
//! Called by the agent once a pass; the shell carries the pass out and decides nothing. Not called while the store is
//! not trusted or a hold exists. Each unit is stepped by itself, so that one bad unit never delays another; only
//! conflicts and the sequence of starts look at several.
//!
//! | module | what it decides |
//! |---|---|
//! | `accepted` | whether a store is later than what the machine has accepted |
//! | `goal` | what an order asks for beyond what was carried out: launched is an edge |
//! | `intent` | what became of a start, after a crash too |
//! | `left` | what fleet 1.0 has left here |
//! | `admission` | what this machine refuses |
//! | `unit` | the next steps of one unit |
//! | `row` | what the machine says of a unit |
//! | `sequence` | in which order the steps are carried out |

mod accepted;
mod admission;
mod goal;
mod intent;
mod left;
mod observed;
mod record;
mod row;
mod sequence;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod toward;
mod unit;

use std::collections::{BTreeMap, BTreeSet};

use unit_files::{ContentHash, RunHash, UnitName};

pub use accepted::{Accepted, Knowledge};
pub use left::FLEET_1_RUNS;
pub use observed::{
    EndedJob, FailureKind, Fragment, Job, JobKind, LoadedUnit, Observed, OnDisk, StepFailure,
};
pub use record::{Applied, DiskRecord, Intent, Outcome, Run, Trouble};

use crate::ids::{BootId, OrderNumber, Revision};
use crate::records::{Order, StateRow, Versioned};
use crate::time::Timestamp;

/// Where the orders of a pass come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderSource {
    /// The registry, read as a whole at one revision.
    Registry,
    /// This machine's disk, because the registry does not answer: nothing can be acknowledged, and what is absent
    /// means nothing.
    Disk,
}

/// All orders for this machine, from a store that was judged trustworthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    pub by_unit: BTreeMap<UnitName, Versioned<Order>>,
    /// Units with an order that this release cannot read, and what is wrong with it: they are left as they are.
    pub frozen: BTreeMap<UnitName, String>,
    pub revision: Revision,
    pub source: OrderSource,
}

impl Orders {
    /// A machine that has no orders.
    #[must_use]
    pub fn none(revision: Revision) -> Orders {
        let (by_unit, frozen) = (BTreeMap::new(), BTreeMap::new());
        Orders { by_unit, frozen, revision, source: OrderSource::Registry }
    }

    /// The last orders accepted, for a machine that boots without the registry.
    #[must_use]
    pub fn from_disk(records: &BTreeMap<UnitName, DiskRecord>) -> Orders {
        let obeyed = records.iter().filter(|(_, record)| !record.withdrawn && record.gone_at.is_none());
        let versioned = |record: &DiskRecord| Versioned {
            value: record.order.clone(),
            created: Revision(0),
            modified: Revision(0),
        };
        Orders {
            by_unit: obeyed.map(|(name, record)| (name.clone(), versioned(record))).collect(),
            frozen: BTreeMap::new(),
            revision: Revision(0),
            source: OrderSource::Disk,
        }
    }
}

/// What the sequence of starts needs to know of a text: lists as written, specifiers not yet replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextFacts {
    /// Of `After=`, `Requires=` and `Wants=`.
    pub after: Vec<String>,
    /// Of `Before=`.
    pub before: Vec<String>,
}

/// Why a text could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchProblem {
    /// The registry answered, and does not have it, or not these bytes.
    Absent(String),
    /// The registry did not answer; the shell tries again by itself.
    Unreachable(String),
}

/// What this machine has, shows and can.
#[derive(Clone, Debug)]
pub struct Local {
    pub boot: BootId,
    pub records: BTreeMap<UnitName, DiskRecord>,
    /// Every name in the orders, the records, on disk or pinned; absent means a name of which nothing is known.
    pub observed: BTreeMap<UnitName, Observed>,
    /// Rows as the last pass left them, or as they were read from the registry.
    pub rows: BTreeMap<UnitName, StateRow>,
    pub known_features: BTreeSet<String>,
    /// Texts that this machine holds.
    pub contents: BTreeMap<ContentHash, TextFacts>,
    pub fetch_problems: BTreeMap<ContentHash, FetchProblem>,
    /// Why the state directory cannot be written; then nothing is done.
    pub state_directory_error: Option<String>,
    /// No order at or below it is obeyed for a unit without a record.
    pub floor: OrderNumber,
}

impl Local {
    #[must_use]
    pub fn new(boot: BootId) -> Local {
        Local {
            boot,
            records: BTreeMap::new(),
            observed: BTreeMap::new(),
            rows: BTreeMap::new(),
            known_features: BTreeSet::new(),
            contents: BTreeMap::new(),
            fetch_problems: BTreeMap::new(),
            state_directory_error: None,
            floor: OrderNumber::default(),
        }
    }
}

/// Something to do about one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Enqueue a stop, in place of whatever job is queued.
    Stop,
    /// Forget that it failed, which lets systemd unload it.
    ResetFailed,
    /// Let go of the unit, which lets systemd unload it.
    Unpin,
    /// Remove its text, drop-in and links.
    Uninstall,
    /// Check that the host does not have the name, then put text, drop-in and links in place.
    Install { content: ContentHash, run_hash: RunHash },
    /// Make systemd read texts again: the unit stays loaded with another one.
    Reload,
    /// Pin it, then enqueue a start.
    Start,
}

impl Step {
    /// Steps of an earlier phase go before those of a later one; after `Install` the records must be durable.
    #[must_use]
    pub fn phase(&self) -> u8 {
        match self {
            Step::Stop => 0,
            Step::ResetFailed => 1,
            Step::Unpin => 2,
            Step::Uninstall => 3,
            Step::Install { .. } => 4,
            Step::Reload => 5,
            Step::Start => 6,
        }
    }
}

/// A `gone` that has been carried out: delete the order if it still is that revision, and the row with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    pub unit: UnitName,
    pub number: OrderNumber,
    pub modified: Revision,
}

/// What one pass wants done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// In the order in which they are to be carried out. A failed step ends the steps of its unit, no other's.
    pub steps: Vec<(UnitName, Step)>,
    /// Texts to get.
    pub fetch: BTreeSet<ContentHash>,
    /// To be made durable before any step is carried out.
    pub records: BTreeMap<UnitName, DiskRecord>,
    /// Records that are not needed any more; `floor` takes their place.
    pub forget: BTreeSet<UnitName>,
    pub floor: OrderNumber,
    /// All rows that should stand, changed or not.
    pub rows: BTreeMap<UnitName, StateRow>,
    pub rows_to_delete: BTreeSet<UnitName>,
    pub acknowledgements: Vec<Ack>,
    /// Units whose order has not been carried out yet.
    pub open: BTreeSet<UnitName>,
    /// When time alone makes another pass worthwhile.
    pub next_look: Option<Timestamp>,
}

impl Pass {
    fn look_at(&mut self, at: Timestamp) {
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }

    /// Nothing to do, to write or to report.
    #[must_use]
    pub fn is_quiet(&self, local: &Local) -> bool {
        self.steps.is_empty()
            && self.fetch.is_empty()
            && self.records.is_empty()
            && self.forget.is_empty()
            && self.acknowledgements.is_empty()
            && self.rows_to_delete.is_empty()
            && self.rows == local.rows
    }
}

/// Decides one pass. Total and deterministic; equal inputs give equal passes.
#[must_use]
pub fn reconcile(orders: &Orders, local: &Local, now: Timestamp) -> Pass {
    let admissions = admission::admit(orders, local);
    let mut pass = Pass { floor: local.floor, ..Pass::default() };
    let nothing = Observed::default();
    for (name, versioned) in &orders.by_unit {
        let seen = local.observed.get(name).unwrap_or(&nothing);
        let admission = admissions.get(name).unwrap_or(&admission::Admission::Free);
        unit::with_order(
            &unit::Subject { name, local, seen, now },
            orders.source,
            versioned,
            admission,
            &mut pass,
        );
    }
    let others: BTreeSet<&UnitName> =
        local.records.keys().chain(local.observed.keys()).chain(orders.frozen.keys()).collect();
    for name in others.into_iter().filter(|name| !orders.by_unit.contains_key(*name)) {
        let seen = local.observed.get(name).unwrap_or(&nothing);
        if let Some(why) = orders.frozen.get(name) {
            unit::frozen(&unit::Subject { name, local, seen, now }, why, &mut pass);
            continue;
        }
        unit::without_order(&unit::Subject { name, local, seen, now }, orders.source, &mut pass);
    }
    if orders.source == OrderSource::Registry {
        let acknowledged: BTreeSet<&UnitName> = pass.acknowledgements.iter().map(|ack| &ack.unit).collect();
        let stale = local.rows.keys().filter(|name| !pass.rows.contains_key(*name));
        pass.rows_to_delete = stale.filter(|name| !acknowledged.contains(name)).cloned().collect();
    }
    let facts = orders.by_unit.iter().filter_map(|(name, versioned)| {
        local.contents.get(&versioned.value.content).map(|facts| (name.clone(), facts))
    });
    let facts: BTreeMap<UnitName, &TextFacts> = facts.collect();
    sequence::sort(&mut pass.steps, &facts);
    pass
}
