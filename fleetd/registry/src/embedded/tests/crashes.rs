//! A power cut at every operation of the disks, with every kind of loss: the store is a prefix.

use super::disk::{Action, Failing, Images, Machine, PowerCut, Survivors};
use super::run::{Run, append, created, open, record, view};
use crate::embedded::OpenError;

/// What was tried, for the record.
#[derive(Debug, Default)]
struct Tally {
    cuts: usize,
    images: usize,
    /// At a mark before the last one that was told.
    older: usize,
    refused: usize,
}

/// Opens what every power cut leaves. The store must be at a mark, and, but for lost fsyncs, at the
/// last one that was told or the one that was on its way.
fn cut_everywhere(run: &Run, lost_syncs: usize, may_refuse: bool) -> Tally {
    let mut tally = Tally::default();
    for cut in 0..=run.ops.len() {
        tally.cuts += 1;
        let told = run.told(cut);
        let power_cut = PowerCut::new(&run.start, &run.ops, cut, lost_syncs);
        for left in power_cut.losses(cut as u64) {
            tally.images += 1;
            let found = match recover(run, power_cut.images(left)) {
                Ok(found) => found,
                Err(OpenError::Damaged { .. }) if may_refuse => {
                    tally.refused += 1;
                    continue;
                }
                Err(error) => panic!("cut {cut}, {left:?}: {error}"),
            };
            assert!(found <= told + 1, "cut {cut}, {left:?}: mark {found} was never begun");
            assert!(
                found >= told || lost_syncs > 0,
                "cut {cut}, {left:?}: at mark {found}, and {told} was told"
            );
            tally.older += usize::from(found < told);
        }
    }
    tally
}

fn recover(run: &Run, images: Images) -> Result<usize, OpenError> {
    let (_, state) = open(&Machine::of(images))?;
    Ok(run.find(&state).expect("the store is a prefix"))
}

/// A run that fills the journal's slots several times, and so writes several bases.
fn long_run() -> Run {
    let run = record(64);
    let emptied = run.ops.iter().filter(|op| matches!(op.action, Action::SetLen(0))).count();
    assert!(emptied >= 4, "{emptied} bases were written");
    run
}

#[test]
fn power_cut_at_any_operation_leaves_all_that_was_told() {
    let tally = cut_everywhere(&long_run(), 0, false);
    assert!(tally.cuts > 250 && tally.images > 1_500 && tally.older == 0, "{tally:?}");
}

#[test]
fn lost_fsync_before_a_power_cut_at_any_operation_leaves_a_prefix() {
    let tally = cut_everywhere(&long_run(), 1, false);
    assert!(tally.cuts > 250 && tally.images > 3_000 && tally.older > 0, "{tally:?}");
}

#[test]
fn several_lost_fsyncs_leave_a_prefix_or_are_told() {
    let run = record(24);
    for lost_syncs in [2, 5] {
        let tally = cut_everywhere(&run, lost_syncs, true);
        assert!(tally.images > 1_000 && tally.refused < tally.images / 2, "{tally:?}");
    }
}

#[test]
fn failed_fsync_then_restarts_then_a_power_cut_lose_nothing_that_was_told() {
    let mut failures = 0;
    for grace in 0..80 {
        for failed_starts in [0, 1, 2] {
            let start = created();
            let machine = Machine::of(start.clone());
            let (mut log, mut draft) = open(&machine).unwrap();
            machine.fail(Failing::Syncs, grace);
            let broken = (0..40).any(|number| append(&mut log, &mut draft, number).is_err());
            drop(log);
            failures += usize::from(broken);
            // Restarts keep the cache of the system.
            for _ in 0..failed_starts {
                machine.fail(Failing::Syncs, 0);
                open(&machine).unwrap_err();
            }
            machine.fail(Failing::Nothing, 0);
            let (mut log, mut draft) = open(&machine).unwrap();
            let mut told = vec![(machine.op_count(), view(&draft))];
            for number in 0..3 {
                append(&mut log, &mut draft, number).unwrap();
                told.push((machine.op_count(), view(&draft)));
            }
            let ops = machine.ops();
            for (cut, view_then) in told {
                let images = PowerCut::new(&start, &ops, cut, 0).images(Survivors::None);
                let (_, found) = open(&Machine::of(images)).unwrap_or_else(|error| {
                    panic!("grace {grace}, {failed_starts} starts, cut {cut}: {error}")
                });
                assert_eq!(view(&found), view_then, "grace {grace}, {failed_starts} starts, cut {cut}");
            }
        }
    }
    assert!(failures > 50, "{failures}");
}

#[test]
fn power_cut_after_a_damaged_base_was_made_good_loses_nothing_that_was_told() {
    let mut cuts = 0;
    let run = record(36);
    let finished = Machine::of(run.start.clone());
    run.ops.iter().for_each(|op| finished.redo(op));
    // So that every group, a large one too, is once the one with which a slot begins.
    for first in 0..8 {
        for file in 0..2 {
            let mut damaged = finished.images();
            damaged[file][5_000] ^= 1;
            let machine = Machine::of(damaged.clone());
            let (mut log, mut draft) = open(&machine).unwrap();
            let mut told = vec![(0, view(&draft))];
            for number in first..first + 16 {
                append(&mut log, &mut draft, number).unwrap();
                told.push((machine.op_count(), view(&draft)));
            }
            let ops = machine.ops();
            for cut in 0..=ops.len() {
                cuts += 1;
                let last = told.iter().rposition(|(ops, _)| *ops <= cut).unwrap();
                let power_cut = PowerCut::new(&damaged, &ops, cut, 0);
                for left in power_cut.losses(cut as u64) {
                    let what = format!("from group {first}, base {file}, cut {cut}, {left:?}");
                    let (_, found) = open(&Machine::of(power_cut.images(left)))
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                    let found = view(&found);
                    assert!(told[last..].iter().take(2).any(|(_, view)| *view == found), "{what}");
                }
            }
        }
    }
    assert!(cuts > 500, "{cuts}");
}

#[test]
fn power_cut_during_a_recovery_loses_nothing_more() {
    let run = record(24);
    let mut cuts = 0;
    for cut in (0..=run.ops.len()).step_by(29) {
        let power_cut = PowerCut::new(&run.start, &run.ops, cut, 0);
        for left in [Survivors::All, Survivors::None, Survivors::TornLast, Survivors::Random(cut as u64)] {
            let images = power_cut.images(left);
            let machine = Machine::of(images.clone());
            let (mut log, mut draft) = open(&machine).unwrap();
            let found = run.find(&draft).unwrap();
            append(&mut log, &mut draft, 2).unwrap();
            let after = view(&draft);
            let ops = machine.ops();
            for again in 0..=ops.len() {
                cuts += 1;
                let second = PowerCut::new(&images, &ops, again, 0);
                for left in second.losses(again as u64) {
                    let (_, state) = open(&Machine::of(second.images(left))).unwrap();
                    assert!(
                        run.find(&state) == Some(found) || view(&state) == after,
                        "cut {cut}, again {again}, {left:?}"
                    );
                }
            }
        }
    }
    assert!(cuts > 50, "{cuts}");
}
