//! `docs/usage/from-fleet-1.0.md`: its recipe, which the migration plays line by line, and what it names as proof.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn page() -> String {
    std::fs::read_to_string(Path::new(TOP).join("docs/usage/from-fleet-1.0.md")).expect("the page is there")
}

/// The commands of the recipe, in their order.
pub fn recipe() -> Vec<String> {
    let page = page();
    let blocks = page.split("```sh recipe\n").skip(1);
    let commands = blocks.filter_map(|block| block.split("```").next()).flat_map(str::lines);
    commands.map(str::to_owned).collect()
}

/// Every file below these directories whose name ends so.
fn files(ending: &str, open: &[&str]) -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = open.iter().map(|part| Path::new(TOP).join(part)).collect();
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("sources can be read") {
            let path = entry.expect("sources can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

/// Functions with `#[test]`, or the like, before them.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files(".rs", &["fleetd", "fleetctl", "unit-files", "tests"]) {
        let text = std::fs::read_to_string(path).expect("sources are text");
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            let declared = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(rest) = declared
                && let Some((name, _)) = rest.split_once('(')
                && std::mem::take(&mut is_test)
            {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

fn cases() -> BTreeSet<String> {
    let texts = files(".txt", &["tests/conformance"]).into_iter();
    let texts = texts.map(|path| std::fs::read_to_string(path).expect("cases are text"));
    texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.strip_prefix("case ").map(str::to_owned))
        .collect()
}

/// Rows of the table below a heading: what the last column names in backquotes.
fn held_by(heading: &str) -> Vec<(String, Vec<String>)> {
    let page = page();
    let section = page.split(&format!("\n## {heading}\n")).nth(1).expect("the heading is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let last = cells.last().copied().unwrap_or_default();
        let named = last.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (cells[0].trim().to_owned(), named)
    })
    .collect()
}

#[test]
fn every_row_of_what_is_kept_and_of_what_differs_names_tests_that_exist() {
    let (tests, cases) = (tests(), cases());
    assert!(tests.len() > 500 && cases.len() > 400, "{} tests, {} cases", tests.len(), cases.len());
    let (kept, different) = (held_by("What is the same"), held_by("What is different"));
    assert!(kept.len() >= 16 && different.len() >= 43, "{} and {} rows", kept.len(), different.len());
    let mut wrong = Vec::new();
    for (row, named) in kept.iter().chain(&different) {
        if named.is_empty() {
            wrong.push(format!("{row}: names nothing"));
        }
        let exists = |name: &&String| tests.contains(*name) || cases.contains(*name);
        wrong.extend(named.iter().filter(|name| !exists(name)).map(|name| format!("{row}: {name}")));
    }
    assert_eq!(wrong, Vec::<String>::new());
}
