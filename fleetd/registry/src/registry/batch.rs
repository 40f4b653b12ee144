//! Many small writes, each atomic and guarded for itself, in as few transactions as the store's limits allow.
//!
//! Stands on [`pack`](crate::pack), which runs a transaction under a fence and tells a lost fence from a conflict.
//! Added here: one event for each transaction, steps that several items share (the text of many instances), and
//! steps that only the first transaction needs (a witness).

use std::collections::BTreeSet;

use bytes::Bytes;
use fleet_core::records::{EventNote, EventRecord, Extra, SCHEMA};
use fleet_core::{RequestId, Revision, Timestamp};

use super::{Registry, typed};
use crate::codec::encode;
use crate::keys::{EventId, Key};
use crate::pack::{self, GroupOutcome};
use crate::store::{Compare, KeyRange, MAX_TXN_COMPARES, MAX_TXN_OPS, Op, Range, StoreError};

/// Well below the 1.5 MiB that etcd accepts in one request; a unit's text alone may have 256 KiB.
const MAX_BYTES: usize = 1 << 20;

/// Who asks for a write, for the event log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub at: Timestamp,
    /// `engine@<machine>`, or what the API knows of the client.
    pub by: String,
    pub request: Option<RequestId>,
}

/// What became of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written at this revision.
    Applied(Revision),
    /// Something it was decided from has changed; nothing was written. Read again and decide anew.
    Conflict,
    /// The writer may no longer write: superseded as leader, store held or re-anchored, presence lost. Nothing was
    /// written.
    Fenced,
    /// No answer told whether it was written. Read again before deciding anew.
    Unknown(StoreError),
    /// The store refused it; nothing was written.
    Failed(StoreError),
    /// Not tried, because an earlier write was fenced, unknown, not answered, or refused as every other would be.
    Skipped,
}

impl Outcome {
    #[must_use]
    pub fn is_applied(&self) -> bool {
        matches!(self, Outcome::Applied(_))
    }

    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Outcome::Applied(revision) => Some(*revision),
            _ => None,
        }
    }

    /// Of several writes in one transaction, some might be applied without the others.
    fn may_be_one_items(&self) -> bool {
        match self {
            Outcome::Conflict => true,
            Outcome::Failed(error) => !error.is_transient() && !error.is_for_every_write(),
            _ => false,
        }
    }

    /// Worth continuing with the writes after it.
    fn lets_go_on(&self) -> bool {
        match self {
            Outcome::Applied(_) | Outcome::Conflict => true,
            Outcome::Failed(error) => !error.is_transient() && !error.is_for_every_write(),
            Outcome::Fenced | Outcome::Unknown(_) | Outcome::Skipped => false,
        }
    }
}

impl From<GroupOutcome> for Outcome {
    fn from(outcome: GroupOutcome) -> Outcome {
        match outcome {
            GroupOutcome::Applied { revision } => Outcome::Applied(typed(revision)),
            GroupOutcome::Conflict => Outcome::Conflict,
            GroupOutcome::Fenced => Outcome::Fenced,
            GroupOutcome::Unknown(error) => Outcome::Unknown(error),
            GroupOutcome::Failed(error) => Outcome::Failed(error),
            GroupOutcome::Skipped => Outcome::Skipped,
        }
    }
}

/// One atomic write.
#[derive(Clone, Debug, Default)]
pub(super) struct Item {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
    pub note: Option<EventNote>,
}

/// Writes in order. An item that conflicts does not hold up those after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub fence: Vec<Compare>,
    /// Done with the first transaction that is applied.
    pub lead: Vec<Op>,
    /// Without it nothing is logged.
    pub asked: Option<Asked>,
    pub items: Vec<Item>,
}

impl Registry {
    /// Outcomes in the order of the items. A pack that fails for a reason that may be one item's is run item by item.
    pub(super) async fn run(&self, mut batch: Batch) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(batch.items.len());
        // Items that are run one by one, because they failed together.
        let mut single = 0_usize;
        while outcomes.len() < batch.items.len() && outcomes.last().is_none_or(Outcome::lets_go_on) {
            let rest = &batch.items[outcomes.len()..];
            let len = if single > 0 { 1 } else { pack_len(&batch, rest) };
            let outcome = self.run_pack(&batch, &rest[..len]).await;
            single = single.saturating_sub(1);
            if len > 1 && outcome.may_be_one_items() {
                single = len;
                continue;
            }
            if outcome.is_applied() {
                batch.lead.clear();
            }
            outcomes.extend(std::iter::repeat_n(outcome, len));
        }
        outcomes.resize(batch.items.len(), Outcome::Skipped);
        outcomes
    }

    async fn run_pack(&self, batch: &Batch, pack: &[Item]) -> Outcome {
        let mut merged = pack::Group { compares: Vec::new(), ops: batch.lead.clone() };
        for item in pack {
            merged.compares.extend(item.compares.iter().cloned());
            for op in &item.ops {
                if !merged.ops.contains(op) {
                    merged.ops.push(op.clone());
                }
            }
        }
        if let Some(asked) = &batch.asked {
            let notes = pack.iter().filter_map(|item| item.note.clone()).collect();
            merged.ops.extend(self.log(asked, notes));
        }
        let outcome = pack::execute(&*self.store, &batch.fence, &[merged]).await.pop();
        outcome.map_or(Outcome::Skipped, Outcome::from)
    }

    /// The step that writes an event; none for no notes.
    pub(super) fn log(&self, asked: &Asked, notes: Vec<EventNote>) -> Option<Op> {
        if notes.is_empty() {
            return None;
        }
        let id = EventId::new(asked.at, rand::random());
        let record = EventRecord {
            v: SCHEMA,
            at: asked.at,
            by: asked.by.clone(),
            request: asked.request.clone(),
            notes,
            extra: Extra::new(),
        };
        Some(Op::put(self.key(&Key::Event(id)), encode(&record)))
    }
}

/// How many of the first items fit into one transaction; at least one.
fn pack_len(batch: &Batch, items: &[Item]) -> usize {
    let mut compares: BTreeSet<&Compare> = batch.fence.iter().collect();
    let mut changed = Changed::default();
    let mut ops = batch.lead.len() + usize::from(batch.asked.is_some());
    let mut bytes: usize = batch.lead.iter().map(size_of_op).sum();
    for (count, item) in items.iter().enumerate() {
        compares.extend(&item.compares);
        let new = item.ops.iter().filter(|op| !changed.ops.contains(op));
        for op in new.clone() {
            ops += 1;
            bytes += size_of_op(op);
        }
        // A note is at most a name, an id and a sentence.
        bytes += item.compares.iter().map(|compare| compare.key.len() + 24).sum::<usize>() + 512;
        let fits = compares.len() <= MAX_TXN_COMPARES && ops <= MAX_TXN_OPS && bytes <= MAX_BYTES;
        let follows = item.compares.iter().any(|compare| changed.has(&compare.key))
            || new.clone().any(|op| changed.meets(op));
        if count > 0 && (!fits || follows) {
            return count;
        }
        changed.ops.extend(item.ops.iter());
    }
    items.len()
}

/// What the steps of a pack change. An item that compares or changes such a key has to see it changed, and a
/// transaction compares before it changes anything; the same step twice is one.
#[derive(Default)]
struct Changed<'a> {
    ops: Vec<&'a Op>,
}

impl Changed<'_> {
    fn has(&self, key: &Bytes) -> bool {
        self.ops.iter().any(|op| match op {
            Op::Put { key: own, .. } => own == key,
            Op::Delete { keys } => keys.contains(key),
            Op::Range(_) => false,
        })
    }

    fn meets(&self, op: &Op) -> bool {
        match op {
            Op::Put { key, .. } => self.has(key),
            Op::Delete { keys } | Op::Range(Range { keys, .. }) => self.ops.iter().any(|op| match op {
                Op::Put { key, .. } => keys.contains(key),
                Op::Delete { keys: other } => overlap(keys, other),
                Op::Range(_) => false,
            }),
        }
    }
}

fn overlap(a: &KeyRange, b: &KeyRange) -> bool {
    a.contains(b.start()) || b.contains(a.start())
}

fn size_of_op(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.len() + value.len() + 24,
        Op::Delete { keys } | Op::Range(Range { keys, .. }) => 2 * keys.start().len() + 24,
    }
}
