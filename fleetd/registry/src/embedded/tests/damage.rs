//! Files that somebody or something has changed: found, told by name, or made good; never obeyed.

use super::disk::{Images, Machine};
use super::run::{Run, created, open, record, view};
use crate::embedded::OpenError;
use crate::embedded::journal::{Journal, Records};

/// A run, and what its files hold at the end.
fn finished() -> (Run, Images) {
    let run = record(40);
    let machine = Machine::of(run.start.clone());
    for op in &run.ops {
        machine.redo(op);
    }
    let images = machine.images();
    (run, images)
}

#[derive(Debug, Default)]
struct Tally {
    /// The damage was of no account, or made good.
    whole: usize,
    /// One or two of the last groups are gone, as if they had been torn or lost.
    cut_short: usize,
    refused: usize,
}

impl Tally {
    fn judge(&mut self, run: &Run, images: Images, what: &str) {
        match open(&Machine::of(images)) {
            Ok((_, state)) => {
                let found = run.find(&state).unwrap_or_else(|| panic!("{what}: the store is no prefix"));
                match run.marks.len() - 1 - found {
                    0 => self.whole += 1,
                    1 | 2 => self.cut_short += 1,
                    gone => panic!("{what}: {gone} groups are gone without a word"),
                }
            }
            Err(error @ OpenError::Damaged { .. }) => {
                let told = error.to_string();
                assert!(told.contains("registry-under-test/") && told.contains("backup"), "{what}: {told}");
                self.refused += 1;
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

#[test]
fn a_changed_byte_anywhere_is_refused_or_of_no_account() {
    let (run, images) = finished();
    let mut tally = Tally::default();
    for file in 0..images.len() {
        for at in (0..images[file].len()).step_by(101) {
            let mut changed = images.clone();
            changed[file][at] ^= 1 << (at % 8);
            tally.judge(&run, changed, &format!("byte {at} of file {file}"));
        }
    }
    assert!(tally.refused > 5 && tally.whole > 1_000, "{tally:?}");
}

#[test]
fn a_file_cut_short_is_refused_or_of_no_account() {
    let (run, images) = finished();
    let mut tally = Tally::default();
    for file in 0..images.len() {
        for len in (0..images[file].len()).step_by(509) {
            let mut cut = images.clone();
            cut[file].truncate(len);
            tally.judge(&run, cut, &format!("file {file} of {len} bytes"));
        }
    }
    assert!(tally.refused > 10 && tally.whole > 100, "{tally:?}");
}

#[test]
fn a_file_of_zeroes_or_noise_is_refused_or_made_good() {
    let (run, images) = finished();
    let mut tally = Tally::default();
    for file in 0..images.len() {
        let mut zeroes = images.clone();
        zeroes[file].fill(0);
        tally.judge(&run, zeroes, &format!("file {file} of zeroes"));
        let mut noise = images.clone();
        noise[file].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 % 251) as u8);
        tally.judge(&run, noise, &format!("file {file} of noise"));
    }
    // Either base can be missed, because the journal reaches back to the one before it.
    assert_eq!((tally.whole, tally.cut_short, tally.refused), (4, 0, 4), "{tally:?}");
}

#[test]
fn a_damaged_base_is_replaced_by_the_next_one() {
    let (run, images) = finished();
    for file in 0..2 {
        let mut changed = images.clone();
        changed[file][5_000] ^= 1;
        let machine = Machine::of(changed);
        let (mut log, mut draft) = open(&machine).unwrap();
        assert_eq!(run.find(&draft), Some(run.marks.len() - 1));
        for number in 0..64 {
            super::run::append(&mut log, &mut draft, number).unwrap();
        }
        let mut images = machine.images();
        images[1 - file][5_000] ^= 1;
        drop(log);
        let opened = open(&Machine::of(images));
        assert_eq!(view(&opened.unwrap().1), view(&draft), "without the other base");
    }
}

#[test]
fn a_change_of_a_later_version_asks_for_that_version_and_not_for_a_backup() {
    let machine = Machine::of(created());
    drop(open(&machine).unwrap());
    let slots = machine.disks().slots;
    let records = Records::read(&slots).unwrap();
    let first = records.newest_first().last().unwrap().link;
    let (mut journal, _) = Journal::open(slots, records, first).unwrap();
    journal.append(&[99, 1, 2, 3]).unwrap();
    let error = open(&machine).unwrap_err();
    assert!(matches!(error, OpenError::NewerRecord { .. }), "{error}");
    assert!(error.to_string().contains("install the newer fleetd again"), "{error}");
}

#[test]
fn a_mixture_of_two_times_is_refused() {
    let (run, new) = finished();
    let old = Machine::of(run.start.clone());
    for op in &run.ops[..run.ops.len() / 3] {
        old.redo(op);
    }
    let old = old.images();
    let mut refused = 0;
    for mixed in 1..15_usize {
        let images = [0, 1, 2, 3].map(|file| if mixed >> file & 1 == 1 { &old } else { &new }[file].clone());
        match open(&Machine::of(images)) {
            // The newer base or journal was of no account.
            Ok((_, state)) => assert!(run.find(&state).is_some(), "mixture {mixed}"),
            Err(OpenError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("mixture {mixed}: {error}"),
        }
    }
    assert!(refused > 0);
}
