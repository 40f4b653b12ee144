//! Whether the binaries that a lab puts on its machines are those of the sources: the test runner builds only the
//! programs of its own crate, and a test of yesterday's fleetd says nothing.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What builds the programs of a lab.
const BUILD: &str = "cargo build -p fleetd -p fleetctl (make test does)";

/// fleetd of these sources, or what `FLEETD_BIN` names.
///
/// # Panics
/// When it is missing, or older than its sources.
#[must_use]
#[track_caller]
pub fn fleetd() -> PathBuf {
    current("fleetd", "FLEETD_BIN", BUILD)
}

/// The fleetd of a release to come, made of these sources, or what `FLEETD_NEXT_BIN` names.
///
/// # Panics
/// When it is missing, or older than its sources.
#[must_use]
#[track_caller]
pub fn next_fleetd() -> PathBuf {
    current("fleetd-next", "FLEETD_NEXT_BIN", "make next (make test does)")
}

/// # Panics
/// As [`fleetd`], for fleetctl too.
#[track_caller]
pub(super) fn assert_current() {
    for (program, variable) in [("fleetd", "FLEETD_BIN"), ("fleetctl", "FLEETCTL_BIN")] {
        current(program, variable, BUILD);
    }
}

/// What the environment names, without a look: then it is the caller's choice. Else the binary beside this program.
#[track_caller]
fn current(program: &str, variable: &str, build: &str) -> PathBuf {
    if let Some(named) = std::env::var_os(variable) {
        return named.into();
    }
    let running = std::env::current_exe().expect("/proc/self/exe can be read");
    let places: Vec<PathBuf> = running.ancestors().skip(1).take(2).map(|place| place.join(program)).collect();
    let Some(binary) = places.iter().find(|path| path.is_file()) else {
        panic!(
            "there is no {} for the lab's machines; build first: {build}, or name one in {variable}",
            places[1].display()
        );
    };
    let built = modified(binary).expect("a file that is there has a time");
    // Cargo writes beside each program what it was made from.
    let sources = std::fs::read_to_string(binary.with_extension("d")).unwrap_or_default();
    let newer = sources_in(&sources).into_iter().find(|source| modified(source).is_some_and(|at| at > built));
    if let Some(source) = newer {
        panic!("{} is older than {}; build first: {build}", binary.display(), source.display());
    }
    binary.clone()
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

/// The prerequisites of a makefile's first rule; blanks in paths are escaped.
fn sources_in(rule: &str) -> Vec<PathBuf> {
    let rule = rule.lines().next().unwrap_or_default();
    let Some((_, sources)) = rule.split_once(": ") else { return Vec::new() };
    let escaped = sources.replace("\\ ", "\0");
    escaped.split(' ').filter(|path| !path.is_empty()).map(|path| path.replace('\0', " ").into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_from_the_rule_that_cargo_writes() {
        let rule = "/t/fleetd: /s/main.rs /s/a\\ b.rs\n\n/s/main.rs:\n";
        assert_eq!(sources_in(rule), [PathBuf::from("/s/main.rs"), PathBuf::from("/s/a b.rs")]);
        assert!(sources_in("").is_empty());
    }
}
