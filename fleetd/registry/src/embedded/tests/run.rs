//! A run of groups over recorded disks, and what the store is after each of them.

use std::path::Path;
use std::time::Duration;

use super::disk::{DiskOp, Images, Machine, MemoryDisk};
use crate::embedded::OpenError;
use crate::embedded::clock::Clock;
use crate::embedded::log::{AppendError, Log, Paths};
use crate::embedded::rows::Change;
use crate::mvcc::State;
use crate::store::{LeaseId, Op, Range, Revision, Txn};

pub fn paths() -> Paths {
    Paths::of(Path::new("registry-under-test"))
}

/// All that a store keeps for ever, as text.
pub fn view(state: &State) -> String {
    let all = state.range(&Range::prefix("")).unwrap();
    let leases: Vec<_> = (1..100)
        .map(LeaseId)
        .filter_map(|id| state.lease_ttl(id, Clock::system().now()).map(|ttl| (id, ttl.granted)))
        .collect();
    let id = (state.identity.cluster_id, state.identity.member_id);
    format!("{id:?} {:?} {leases:?} {:?}", state.revision(), all.kvs)
}

/// What happened, as far as the store knows.
pub fn history(state: &State) -> Vec<String> {
    state.history_from(Revision(0)).map(|commit| format!("{commit:?}")).collect()
}

pub fn open(machine: &Machine) -> Result<(Log<MemoryDisk>, State), OpenError> {
    Log::open(machine.disks(), &paths(), Clock::system().now())
}

/// An empty store's files.
pub fn created() -> Images {
    let machine = Machine::default();
    Log::create(&machine.disks(), &paths(), 7, 8).unwrap();
    machine.images()
}

/// The writes of one group on the draft.
pub fn group(draft: &mut State, number: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    let txn = |changes: &mut Vec<Change>, draft: &mut State, ops: Vec<Op>| {
        changes.extend(draft.txn(&Txn::of(ops)).unwrap().1.map(Change::Commit));
    };
    let key = |n: usize| format!("/fleet/states/m1/u{:02}.service", n % 23);
    match number % 8 {
        // Several transactions share a group.
        0 => {
            for n in 0..3 {
                txn(&mut changes, draft, vec![Op::put(key(number * 3 + n), format!("{number} {n}"))]);
            }
        }
        1 => {
            let ops = vec![Op::put(key(number), "x".repeat(number * 40)), Op::put(key(number + 7), "y")];
            txn(&mut changes, draft, ops);
        }
        2 => {
            let ops = vec![Op::delete(key(number - 1)), Op::put("/fleet/cluster", format!("{number}"))];
            txn(&mut changes, draft, ops);
        }
        3 => {
            let lease = draft.lease_grant(Duration::from_secs(10), Clock::system().now());
            changes.push(Change::Granted(lease));
            let key = format!("/fleet/presence/m{number}");
            txn(&mut changes, draft, vec![Op::put_leased(key, "here", lease.id)]);
        }
        4 => {
            let text = "z".repeat(9_000 + number);
            txn(&mut changes, draft, vec![Op::put("/fleet/contents/large", text)]);
        }
        5 => {
            let ops = vec![Op::delete_prefix("/fleet/contents/"), Op::put(key(number), "after")];
            txn(&mut changes, draft, ops);
        }
        6 => {
            let id = LeaseId(i64::try_from(number / 8).unwrap());
            if let Ok(commit) = draft.lease_revoke(id) {
                changes.push(Change::Revoked(id));
                changes.extend(commit.map(Change::Commit));
            }
            txn(&mut changes, draft, vec![Op::put(key(number), "revoked")]);
        }
        _ => {
            txn(&mut changes, draft, vec![Op::put(key(number), "compacted")]);
            let revision = Revision(draft.revision().0 - 4);
            draft.compact(revision).unwrap();
            changes.push(Change::Compacted(revision));
        }
    }
    changes
}

/// A store after some groups: how many operations the disks had seen when it was told to be there.
#[derive(Debug, Clone)]
pub struct Mark {
    pub ops: usize,
    pub view: String,
    /// How much of the run's history had happened.
    pub happened: usize,
}

pub struct Run {
    pub start: Images,
    pub ops: Vec<DiskOp>,
    /// The first is the empty store.
    pub marks: Vec<Mark>,
    /// Every commit, as text.
    pub history: Vec<String>,
}

/// Opens, writes half of the groups, closes, opens again, writes the rest; long enough to fill the
/// journal's slots several times.
pub fn record(groups: usize) -> Run {
    let start = created();
    let machine = Machine::of(start.clone());
    let (mut log, mut draft) = open(&machine).unwrap();
    let mut marks = vec![Mark { ops: 0, view: view(&draft), happened: 0 }];
    let mut all: Vec<String> = Vec::new();
    for number in 0..groups {
        if number == groups / 2 {
            drop(log);
            let opened = open(&machine).unwrap();
            assert_eq!(view(&opened.1), view(&draft));
            (log, draft) = opened;
        }
        append(&mut log, &mut draft, number).unwrap();
        let new: Vec<String> = history(&draft).into_iter().filter(|commit| !all.contains(commit)).collect();
        all.extend(new);
        marks.push(Mark { ops: machine.op_count(), view: view(&draft), happened: all.len() });
    }
    Run { start, ops: machine.ops(), marks, history: all }
}

pub fn append(log: &mut Log<MemoryDisk>, draft: &mut State, number: usize) -> Result<(), AppendError> {
    let revision = log.make_room(draft)?;
    let mut changes = group(draft, number);
    if let Some(revision) = revision.filter(|revision| *revision > draft.compacted()) {
        draft.compact(revision).unwrap();
        changes.push(Change::Compacted(revision));
    }
    log.append(changes)
}

impl Run {
    /// The newest mark that was told before operation `at`.
    pub fn told(&self, at: usize) -> usize {
        self.marks.iter().rposition(|mark| mark.ops <= at).unwrap()
    }

    /// Which mark a store is at; its history must be the newest part of the history there.
    pub fn find(&self, state: &State) -> Option<usize> {
        let view = view(state);
        let found = self.marks.iter().position(|mark| mark.view == view)?;
        let happened = &self.history[..self.marks[found].happened];
        assert!(happened.ends_with(&history(state)), "the history at mark {found} is another one");
        Some(found)
    }
}
