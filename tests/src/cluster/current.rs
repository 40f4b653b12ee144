//! Whether the binaries that a lab puts on its machines are those of the sources: the test runner builds only the
//! programs of its own crate, and a test of yesterday's fleetd says nothing.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

const REMEDY: &str = "build first: cargo build -p fleetd -p fleetctl (make test does)";

/// Nothing when the environment names the binary: then it is the caller's choice.
///
/// # Panics
/// When the binary beside this program is missing, or older than a file that cargo made it from.
#[track_caller]
pub(super) fn assert_current(program: &str, variable: &str) {
    if std::env::var_os(variable).is_some() {
        return;
    }
    let running = std::env::current_exe().expect("/proc/self/exe can be read");
    let places: Vec<PathBuf> = running.ancestors().skip(1).take(2).map(|place| place.join(program)).collect();
    let Some(binary) = places.iter().find(|path| path.is_file()) else {
        panic!(
            "there is no {} for the lab's machines; {REMEDY}, or name one in {variable}",
            places[1].display()
        );
    };
    let built = modified(binary).expect("a file that is there has a time");
    // Cargo writes beside each program what it was made from.
    let sources = std::fs::read_to_string(binary.with_extension("d")).unwrap_or_default();
    let newer = sources_in(&sources).into_iter().find(|source| modified(source).is_some_and(|at| at > built));
    if let Some(source) = newer {
        panic!("{} is older than {}; {REMEDY}", binary.display(), source.display());
    }
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
