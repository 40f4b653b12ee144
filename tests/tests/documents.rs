//! The pages say what is there: links lead somewhere, every key of the configuration and every code of a refusal is
//! explained, every `make` target that a page names exists. Reads files only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fleetd::config::{Config, KEYS, Sources, load};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(Path::new(TOP).join(path)).expect("what is read here is in the repository")
}

/// Every page of the repository, with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut open: Vec<PathBuf> = ["docs", "examples"].map(|part| Path::new(TOP).join(part)).to_vec();
    let mut pages: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(|page| Path::new(TOP).join(page)).to_vec();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("pages can be read") {
            let path = entry.expect("pages can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.into_iter().map(|page| (page.clone(), read(page))).collect()
}

/// Targets of `[text](target)` that are no web addresses, without their fragments.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?.split('#').next()?;
        (!target.is_empty() && !target.contains("://")).then_some(target)
    })
}

/// First cells of table rows, without their backquotes; a cell may name several.
fn first_cells(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells.flat_map(|cell| cell.split(", ").map(|word| word.trim_matches('`').to_owned())).collect()
}

#[test]
fn every_link_of_a_page_leads_to_a_file() {
    let mut dead = Vec::new();
    for (page, text) in pages() {
        let place = page.parent().expect("a page lies in a directory");
        dead.extend(
            links(&text)
                .filter(|target| !place.join(target).exists())
                .map(|target| format!("{}: {target}", page.display())),
        );
    }
    assert_eq!(dead, Vec::<String>::new());
    assert_eq!(links("[a](b.md#c) [d](https://e) [f](#g)").collect::<Vec<_>>(), ["b.md"]);
}

#[test]
fn every_key_is_explained_and_in_the_packaged_configuration() {
    let explained = first_cells(&read("docs/usage/configuration.md"));
    let packaged = read("fleetd/dist/etc/fleet/fleetd.toml");
    // Taken from configurations of fleet 1.0; a new one does not need them.
    let is_old = |help: &str| help.starts_with("of fleet 1.0") || help.starts_with("fleet 1.0's name");
    let shown = |key: &str| {
        packaged.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{key} = ")))
    };
    let lacking: Vec<&str> = KEYS
        .iter()
        .filter(|key| !explained.contains(key.name) || !(is_old(key.help) || shown(key.name)))
        .map(|key| key.name)
        .collect();
    assert_eq!(lacking, Vec::<&str>::new());
}

#[test]
fn the_packaged_configuration_is_taken_with_every_comment_removed() {
    let packaged = read("fleetd/dist/etc/fleet/fleetd.toml");
    let is_key = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let lines = packaged.lines().map(|line| if is_key(line) { &line[1..] } else { line });
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("fleetd.toml");
    std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).expect("the file can be written");
    let config = load(&Sources { file: Some(file), ..Sources::default() }).expect("every default is a value");
    assert_eq!(config.agent_ttl, Config::default().agent_ttl);
    assert_eq!(config.listen, Config::default().listen);
    assert_eq!(config.peer_listen, Config::default().peer_listen);
}

#[test]
fn every_code_of_a_refusal_is_explained() {
    let explained = first_cells(&read("docs/usage/scheduling.md"));
    let source = read("fleetd/core/src/plan/fit.rs");
    let body = source.split("pub fn code(&self)").nth(1).and_then(|rest| rest.split("\n    }\n").next());
    let codes: Vec<&str> = body.expect("the codes are there").split('"').skip(1).step_by(2).collect();
    assert!(codes.len() >= 10, "{codes:?}");
    let lacking: Vec<&&str> = codes.iter().filter(|code| !explained.contains(**code)).collect();
    assert_eq!(lacking, Vec::<&&str>::new());
}

#[test]
fn every_make_target_that_a_page_names_exists() {
    let makefile = read("Makefile");
    let mut missing = Vec::new();
    for (page, text) in pages() {
        let named = text.split("`make ").skip(1).filter_map(|rest| rest.split(['`', ' ']).next());
        missing.extend(
            named
                .filter(|target| !makefile.lines().any(|line| line.starts_with(&format!("{target}:"))))
                .map(|target| format!("{}: make {target}", page.display())),
        );
    }
    assert_eq!(missing, Vec::<String>::new());
}
