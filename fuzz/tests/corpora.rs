//! Replays every kept input, so that what was found once stays found. No fuzzer takes part.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use fleet_fuzz::TARGETS;

/// A corpus is read and replayed on every run of the tests; more than this does not belong into it.
const MAX_FILE: usize = 16 * 1024;
const MAX_CORPUS: usize = 256 * 1024;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// Every file of one corpus, in the order of their names.
fn inputs(corpus: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut inputs: Vec<_> = std::fs::read_dir(corpus)
        .expect("every target has a corpus")
        .map(|entry| entry.expect("a corpus can be listed").path())
        .map(|path| (path.clone(), std::fs::read(&path).expect("a corpus holds files")))
        .collect();
    inputs.sort();
    inputs
}

fn replay(name: &str) {
    let target = fleet_fuzz::target(name).expect("a target of this name");
    let inputs = inputs(&corpora().join(name));
    assert!(inputs.len() >= 10, "the corpus of {name} has {} inputs", inputs.len());
    let broken: Vec<_> = [&b""[..], &[0xff, 0xfe, 0x00], &[b'['; 4000]]
        .into_iter()
        .map(|bytes| (PathBuf::from("made by the test"), bytes.to_vec()))
        .chain(inputs)
        .filter(|(_, bytes)| catch_unwind(|| target(bytes)).is_err())
        .map(|(path, _)| path)
        .collect();
    assert_eq!(broken, Vec::<PathBuf>::new(), "what each broke is printed above");
}

#[test]
fn unit_files_of_the_corpus_break_nothing() {
    replay("unit-files");
}

#[test]
fn configurations_of_the_corpus_break_nothing() {
    replay("configuration");
}

#[test]
fn v1_requests_of_the_corpus_break_nothing() {
    replay("v1-requests");
}

#[test]
fn records_of_the_corpus_break_nothing() {
    replay("records");
}

#[test]
fn every_target_has_a_small_corpus_and_no_corpus_is_without_a_target() {
    let mut found: Vec<String> = std::fs::read_dir(corpora())
        .expect("the corpora are beside the tests")
        .map(|entry| entry.expect("they can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut known = TARGETS.map(|(name, _)| name.to_owned());
    known.sort();
    assert_eq!(found, known);
    for name in known {
        let inputs = inputs(&corpora().join(&name));
        let sizes: Vec<usize> = inputs.iter().map(|(_, bytes)| bytes.len()).collect();
        assert!(sizes.iter().all(|size| *size <= MAX_FILE), "a file of {name} is too large");
        let whole: usize = sizes.iter().sum();
        assert!(whole <= MAX_CORPUS, "the corpus of {name} has {whole} bytes: minimise it");
    }
}
