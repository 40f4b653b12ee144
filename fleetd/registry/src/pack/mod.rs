//! Fenced groups of writes, packed into as few transactions as etcd's limits allow.
//!
//! Called by the engine's executor with a plan's groups in order. The result is that of running the
//! groups one by one, each atomically, each under the fence; packing only saves round trips.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::store::{
    Compare, Condition, KeyRange, KeyValue, MAX_TXN_COMPARES, MAX_TXN_OPS, Op, OpReply, Range, Revision,
    Store, StoreError, Txn, TxnReply,
};

/// etcd refuses requests above 1.5 MiB; keys, values and framing of a pack stay well below.
const MAX_PACK_BYTES: usize = 1 << 20;

/// Writes that belong together, and what must hold for them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

/// What became of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupOutcome {
    Applied {
        revision: Revision,
    },
    /// A compare of the group did not hold; nothing was written.
    Conflict,
    /// The fence did not hold: the writer has been superseded; nothing was written.
    Fenced,
    /// It may have been written: read again before deciding anew.
    Unknown(StoreError),
    /// It was not written.
    Failed(StoreError),
    /// Not tried, because an earlier group ended in `Fenced`, `Unknown` or in an error of the store.
    Skipped,
}

/// Runs `groups` in order, each under `fence`; outcomes are in the order of the groups. A group
/// that conflicts or is refused does not hold up those after it.
pub async fn execute<S: Store + ?Sized>(store: &S, fence: &[Compare], groups: &[Group]) -> Vec<GroupOutcome> {
    let mut outcomes = Vec::with_capacity(groups.len());
    let mut rest = groups;
    while !rest.is_empty() {
        let (pack, after) = rest.split_at(pack_len(fence, rest));
        run_pack(store, fence, pack, &mut outcomes).await;
        if ends_the_run(outcomes.last()) {
            break;
        }
        rest = after;
    }
    outcomes.resize(groups.len(), GroupOutcome::Skipped);
    outcomes
}

/// The pack as one transaction; if that fails for a reason that may be one group's, one by one.
async fn run_pack<S: Store + ?Sized>(
    store: &S,
    fence: &[Compare],
    pack: &[Group],
    outcomes: &mut Vec<GroupOutcome>,
) {
    let whole = run(store, fence, pack).await;
    let is_for_all = matches!(whole, GroupOutcome::Applied { .. }) || ends_the_run(Some(&whole));
    if is_for_all || pack.len() == 1 {
        outcomes.extend(std::iter::repeat_n(whole, pack.len()));
        return;
    }
    for group in pack {
        outcomes.push(run(store, fence, std::slice::from_ref(group)).await);
        if ends_the_run(outcomes.last()) {
            return;
        }
    }
}

fn ends_the_run(outcome: Option<&GroupOutcome>) -> bool {
    match outcome {
        Some(GroupOutcome::Fenced | GroupOutcome::Unknown(_)) => true,
        Some(GroupOutcome::Failed(error)) => error.is_transient() || error.is_for_every_write(),
        _ => false,
    }
}

async fn run<S: Store + ?Sized>(store: &S, fence: &[Compare], pack: &[Group]) -> GroupOutcome {
    let mut compares: BTreeSet<Compare> = fence.iter().cloned().collect();
    compares.extend(pack.iter().flat_map(|group| group.compares.iter().cloned()));
    let ops = pack.iter().flat_map(|group| group.ops.iter().cloned()).collect();
    // A failed transaction says in the same answer whether it was the fence.
    let look = fence.iter().map(|compare| Op::Range(Range::key(compare.key.clone()))).collect();
    let txn = Txn::of(ops).when(compares.into_iter().collect()).otherwise(look);
    match store.txn(txn).await {
        Ok(reply) if reply.succeeded => GroupOutcome::Applied { revision: reply.header.revision },
        Ok(reply) if is_fence_broken(fence, &reply) => GroupOutcome::Fenced,
        Ok(_) => GroupOutcome::Conflict,
        Err(error) if error.is_unknown() => GroupOutcome::Unknown(error),
        Err(error) => GroupOutcome::Failed(error),
    }
}

fn is_fence_broken(fence: &[Compare], reply: &TxnReply) -> bool {
    fence.iter().zip(&reply.replies).any(|(compare, reply)| match reply {
        OpReply::Range(found) => !holds(&compare.condition, found.kvs.first()),
        OpReply::Put | OpReply::Deleted { .. } => false,
    })
}

fn holds(condition: &Condition, kv: Option<&KeyValue>) -> bool {
    match condition {
        Condition::Value(value) => kv.is_some_and(|kv| kv.value == value),
        Condition::ModRevision(revision) => kv.map_or(Revision(0), |kv| kv.mod_revision) == *revision,
        Condition::CreateRevision(revision) => kv.map_or(Revision(0), |kv| kv.create_revision) == *revision,
        Condition::Version(version) => kv.map_or(0, |kv| kv.version) == *version,
        Condition::Absent => kv.is_none(),
        Condition::Present => kv.is_some(),
    }
}

/// How many of the first groups fit into one transaction; at least one, which the store refuses if
/// it does not fit by itself.
fn pack_len(fence: &[Compare], groups: &[Group]) -> usize {
    let mut compares: BTreeSet<&Compare> = fence.iter().collect();
    let mut written: BTreeSet<Bytes> = BTreeSet::new();
    let mut deleted: Vec<&KeyRange> = Vec::new();
    let mut ops = 0;
    let mut bytes = 0;
    for (count, group) in groups.iter().enumerate() {
        compares.extend(&group.compares);
        ops += group.ops.len();
        bytes += size_of_group(group);
        let fits = compares.len() <= MAX_TXN_COMPARES && ops <= MAX_TXN_OPS && bytes <= MAX_PACK_BYTES;
        if count > 0 && (!fits || follows(group, &written, &deleted)) {
            return count;
        }
        for op in &group.ops {
            match op {
                Op::Put { key, .. } => drop(written.insert(key.clone())),
                Op::Delete { keys } => deleted.push(keys),
                Op::Range(_) => {}
            }
        }
    }
    groups.len()
}

/// The group compares or changes what the pack changes: it must see that done, and a transaction
/// compares before it changes anything and changes no key twice.
fn follows(group: &Group, written: &BTreeSet<Bytes>, deleted: &[&KeyRange]) -> bool {
    let is_changed = |key: &Bytes| written.contains(key) || deleted.iter().any(|keys| keys.contains(key));
    let is_put_in = |keys: &KeyRange| !keys.is_empty() && written.range(keys.bounds()).next().is_some();
    group.compares.iter().any(|compare| is_changed(&compare.key))
        || group.ops.iter().any(|op| match op {
            Op::Put { key, .. } => is_changed(key),
            Op::Delete { keys } => is_put_in(keys),
            // Sees the steps before it in any case.
            Op::Range(_) => false,
        })
}

fn size_of_group(group: &Group) -> usize {
    let compares = group.compares.iter().map(|compare| {
        let value = if let Condition::Value(value) = &compare.condition { value.len() } else { 8 };
        compare.key.len() + value + 16
    });
    let ops = group.ops.iter().map(|op| match op {
        Op::Put { key, value, .. } => key.len() + value.len() + 24,
        Op::Delete { keys } | Op::Range(Range { keys, .. }) => 2 * keys.start().len() + 24,
    });
    compares.sum::<usize>() + ops.sum::<usize>()
}

#[cfg(test)]
mod tests;
