//! Any bytes as fleetd's configuration: as `fleetd.toml`, as `fleet.conf` of fleet 1.0, and in the environment.
//!
//! Holds: nothing panics; whatever is wrong is said, in the report and for programs; a configuration without faults is
//! printed, and what is printed is taken and means the same; a password is never printed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use fleetd::config::{Format, Grammar, KEYS, Loaded, Origin, Problems, Sources, read, read_text, report};
use serde_json::Value;

/// Stands in every secret that the environment gives; no input holds it by chance.
const SECRET: &str = "\u{2603}hush\u{2603}";
/// Below it nothing is found, so that an input decides alone.
const NO_ROOT: &str = "/proc/self/nowhere";

/// Judges `bytes` in every place that a configuration can stand in.
pub fn check(bytes: &[u8]) {
    judged(read(&Sources { file: Some(written(bytes)), ..nothing() }));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for grammar in [Grammar::Toml, Grammar::Fleet1] {
        judged(read_text(text, grammar));
    }
    let everywhere = KEYS.iter().map(|key| (key.name, text));
    judged(read(&Sources { environment: environment(everywhere), ..nothing() }));
    let lines = text.lines().filter_map(|line| line.split_once('='));
    judged(read(&Sources { environment: environment(lines), ..nothing() }));
}

fn nothing() -> Sources {
    Sources { root: Some(PathBuf::from(NO_ROOT)), ..Sources::default() }
}

/// A file without a name that holds these bytes.
fn written(bytes: &[u8]) -> PathBuf {
    thread_local! {
        static FILE: RefCell<File> = RefCell::new(tempfile::tempfile().expect("a temporary file"));
    }
    FILE.with_borrow_mut(|file| {
        file.set_len(0).and_then(|()| file.rewind()).expect("a file of our own");
        file.write_all(bytes).expect("a file of our own");
        PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
    })
}

fn environment<'t>(pairs: impl Iterator<Item = (&'t str, &'t str)>) -> BTreeMap<String, OsString> {
    let secret = |name: &str| KEYS.iter().any(|key| key.is_secret && key.name == name);
    pairs
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .map(|(name, value)| if secret(&name) { (name, format!("{SECRET}{value}")) } else { (name, value) })
        .map(|(name, value)| (format!("FLEET_{}", name.to_ascii_uppercase()), value.into()))
        .collect()
}

fn judged(loaded: Loaded) {
    for warning in &loaded.warnings {
        assert_ne!(warning.origin, Origin::Default, "{warning}");
        assert!(!warning.text.is_empty());
    }
    let (text, remarks) = report(&loaded, Format::Text);
    let (json, _) = report(&loaded, Format::Json);
    for shown in [&text, &remarks, &json] {
        assert!(!shown.contains(SECRET), "a secret is shown:\n{shown}");
    }
    let json: Value = serde_json::from_str(&json).expect("the report is JSON");
    assert_eq!(json["usable"], loaded.problems.is_empty());
    assert_eq!(json["problems"].as_array().map(Vec::len), Some(loaded.problems.len()));
    // A value is shown as TOML, which may take more than one line.
    assert!(remarks.lines().count() >= loaded.problems.len() + loaded.warnings.len(), "{remarks}");
    match loaded.usable() {
        Ok(loaded) => printed_means_the_same(&loaded, &text, &json),
        Err(problems) => told(&problems),
    }
}

fn told(problems: &Problems) {
    assert!(!problems.0.is_empty());
    let text = problems.to_string();
    assert!(!text.contains(SECRET), "a secret is shown: {text}");
    assert!(problems.0.iter().all(|problem| !problem.to_string().is_empty()));
}

/// But for what is hidden, and for keys of fleet 1.0 that only stand for others.
fn printed_means_the_same(loaded: &Loaded, text: &str, json: &Value) {
    if text.contains("(hidden)") {
        return;
    }
    let again = read_text(text, Grammar::Toml);
    let faults = Problems(again.problems);
    assert!(faults.0.is_empty(), "what is printed is refused: {faults}\n{text}");
    assert_eq!(format!("{:?}", again.config), format!("{:?}", loaded.config), "{text}");
    let values = json["values"].as_array().expect("the report has values");
    assert!(values.iter().all(|value| value["key"].is_string()));
}
