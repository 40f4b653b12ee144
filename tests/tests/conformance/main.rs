//! Whether this is a drop-in for fleet 1.0: every case of `tests/conformance/*.txt` on real machines.
//!
//! The files hold what the specification says, a section each: a command or a request, and the answer. They are written
//! by hand from the specification and never from what a program printed; `tests/conformance/README.md` is their grammar.
//! Cases share a lab and leave it as they found it. Each test prints how many cases of which section passed.
//! `FLEET_CASE='§5.4'` runs only the cases whose section or title contains the text.

#![expect(clippy::panic, reason = "a test ends where it goes wrong")]

mod case;
mod pattern;
mod reader;
mod request;
mod stage;
mod verdict;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use case::Section;
use fleet_tests::cluster::Cluster;
use fleet_tests::lab::LabOptions;
use stage::Stage;
use verdict::Summary;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

/// Two machines that differ in `site` and agree in `rack`.
fn lab(subject: &str) -> Cluster {
    let options = LabOptions::for_test(&format!("conform-{subject}")).machines(2);
    Cluster::up(options.metadata("m1", "rack=a,site=one").metadata("m2", "rack=a,site=two"))
}

fn check(files: &[&str], cluster: &Cluster) {
    let sections: Vec<Section> = files
        .iter()
        .map(|file| reader::read(&directory().join(file)).unwrap_or_else(|error| panic!("{error}")))
        .collect();
    let only = std::env::var("FLEET_CASE").unwrap_or_default();
    let stage = Stage::new(cluster);
    let mut summary = Summary::new(&only);
    for section in &sections {
        for case in section.cases.iter().filter(|case| case.name().contains(&only)) {
            let failures = stage.play(case);
            summary.add(section, case, failures);
        }
    }
    // Not by println!, which a test that passes keeps to itself.
    writeln!(std::io::stdout(), "\n{summary}").expect("whoever runs the tests reads it");
    assert!(summary.has_passed(), "cases differ from the specification; see above");
}

macro_rules! suite {
    ($($name:ident $lab:literal: $($file:literal)+;)+) => {
        $(
            #[test]
            fn $name() {
                check(&[$($file),+], &lab($lab));
            }
        )+

        #[test]
        fn every_file_of_cases_is_run_and_there_are_at_least_250() {
            let mut listed = vec![$($($file.to_owned()),+),+];
            let entries = std::fs::read_dir(directory()).unwrap();
            let mut found: Vec<String> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name != "README.md")
                .collect();
            listed.sort();
            found.sort();
            assert_eq!(listed, found);
            let read = |file: &String| reader::read(&directory().join(file)).unwrap();
            let cases: usize = listed.iter().map(|file| read(file).cases.len()).sum();
            assert!(cases >= 250, "{cases}");
        }
    };
}

suite! {
    units_and_scheduling "units":
        "s1-names.txt" "s2-unit-files.txt" "s3-x-fleet.txt" "s4-verbs.txt" "s7-http.txt";
    client_and_daemon "client": "s5-client.txt" "s6-ssh.txt" "s8-daemon.txt";
}
