//! The dependency rule of `docs/development/architecture.md`, checked over the manifests (as cargo reads them) and over
//! the paths that the sources name. Reads files only; the checkers are shown to fail on sources that break the rule.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde::Deserialize;

/// Which crates of the workspace a crate may name. `fleet-tests` is above all of them.
const BELOW: [(&str, &[&str]); 8] = [
    ("unit-files", &[]),
    ("fleet-core", &["unit-files"]),
    ("fleet-api", &["fleet-core", "unit-files"]),
    ("fleet-registry", &["fleet-core", "unit-files"]),
    ("fleet-systemd", &["fleet-core", "unit-files"]),
    ("fleetd", &["fleet-api", "fleet-registry", "fleet-systemd", "fleet-core", "unit-files"]),
    ("fleetctl", &["fleet-api", "unit-files"]),
    ("fleet-fuzz", &["fleetd", "fleet-api", "fleet-registry", "fleet-core", "unit-files"]),
];
const TOP: &str = "fleet-tests";

/// Crates whose functions are pure: the same input gives the same output, on any machine, at any time.
const PURE: [&str; 2] = ["unit-files", "fleet-core"];
/// All that a pure crate may use from outside: formats, hashes, errors. Nothing here reads a clock, a file, the
/// environment or a source of randomness.
const PURE_DEPENDENCIES: [&str; 9] =
    ["bytes", "hex", "proptest", "serde", "serde_json", "sha1", "sha2", "strsim", "thiserror"];
/// What of `std` a pure crate leaves alone.
const IMPURE_STD: [&str; 10] = [
    "std::env",
    "std::fs",
    "std::io::stdin",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
];

/// The tasks of fleetd. None knows another; `wire` and the binary know all.
const TASKS: [&str; 4] = ["agent", "api", "engine", "peer"];
/// What serves other machines' fleetds stands on what serves clients: one HTTP, two kinds of sockets.
const STANDS_ON: [(&str, &str); 1] = [("peer", "api")];
const ABOVE_TASKS: [&str; 1] = ["wire"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// None, "dev" or "build".
    kind: Option<String>,
}

impl Package {
    fn sources(&self) -> PathBuf {
        self.manifest_path.with_file_name("src")
    }
}

fn workspace() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Metadata>(&output.stdout).expect("cargo prints metadata").packages
}

fn package<'p>(packages: &'p [Package], name: &str) -> &'p Package {
    packages.iter().find(|package| package.name == name).expect("the crate is in the workspace")
}

/// What is wrong with the dependencies of all crates, one line each.
fn wrong_dependencies(packages: &[Package]) -> Vec<String> {
    let below: BTreeMap<&str, &[&str]> = BELOW.into_iter().collect();
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in packages.iter().filter(|package| package.name != TOP) {
        let name = &package.name;
        let Some(allowed) = below.get(name.as_str()) else {
            wrong.push(format!("{name} has no place in the layers: give it one in BELOW"));
            continue;
        };
        for dependency in &package.dependencies {
            let on = dependency.name.as_str();
            let kind = dependency.kind.as_deref().unwrap_or("normal");
            if ours.contains(on) {
                if !allowed.contains(&on) {
                    wrong.push(format!("{name} depends on {on} ({kind}), which is not below it"));
                }
            } else if PURE.contains(&name.as_str()) && !PURE_DEPENDENCIES.contains(&on) {
                wrong.push(format!("{name} is pure and depends on {on} ({kind})"));
            }
        }
    }
    wrong
}

/// Dependencies from outside the workspace that `page` has no line for, and lines for what nothing depends on.
fn unexplained(packages: &[Package], page: &str) -> Vec<String> {
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let used: BTreeSet<&str> =
        packages.iter().flat_map(|package| &package.dependencies).map(|on| on.name.as_str()).collect();
    let used: BTreeSet<&str> = used.difference(&ours).copied().collect();
    // Programs have a table of two columns, crates one of three.
    let rows = page.lines().filter(|line| line.matches('|').count() == 4);
    let said: BTreeSet<&str> =
        rows.filter_map(|row| row.strip_prefix("| `")?.split_once('`').map(|(name, _)| name)).collect();
    let lacking = used.difference(&said).map(|name| format!("{name} is used and not explained"));
    let left = said.difference(&used).map(|name| format!("{name} is explained and not used"));
    lacking.chain(left).collect()
}

/// A path that a source names, such as `std::fs::File`, without its `crate::`, `self::` and `super::`.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    path: String,
    /// It was written relative to the crate, or names it.
    is_own: bool,
    line: usize,
}

/// Every path of two or more segments and every import in `text`, which is module `module` of crate `own`. Comments and
/// literals name nothing; what stands in the arguments of macros counts.
fn named(text: &str, module: &[String], own: &str) -> Vec<Named> {
    let tokens = TokenStream::from_str(text).expect("the compiler has read this file");
    let mut found = Vec::new();
    walk(tokens, &Place { module: module.to_vec(), own: own.to_owned(), prefix: Vec::new() }, &mut found);
    found
}

struct Place {
    module: Vec<String>,
    own: String,
    /// What stands before the braces of an import.
    prefix: Vec<String>,
}

fn walk(tokens: TokenStream, place: &Place, found: &mut Vec<Named>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is_colons = |at: usize| {
        let is_colon =
            |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
        is_colon(at) && is_colon(at + 1)
    };
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token {
            TokenTree::Ident(ident) if ident == "mod" => {
                // An inline module is one level deeper, which `super` in it counts from.
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                {
                    let mut module = place.module.clone();
                    module.push(name.to_string());
                    walk(body.stream(), &Place { module, own: place.own.clone(), prefix: Vec::new() }, found);
                    at += 2;
                }
                at += 1;
            }
            TokenTree::Ident(ident) => {
                let line = ident.span().start().line;
                let mut path = place.prefix.clone();
                path.push(ident.to_string());
                at += 1;
                while is_colons(at) {
                    match tokens.get(at + 2) {
                        Some(TokenTree::Ident(next)) => path.push(next.to_string()),
                        Some(TokenTree::Group(tree)) if tree.delimiter() == Delimiter::Brace => {
                            let inner = Place {
                                prefix: path.clone(),
                                module: place.module.clone(),
                                own: place.own.clone(),
                            };
                            walk(tree.stream(), &inner, found);
                        }
                        _ => {}
                    }
                    at += 3;
                }
                if path.len() > 1 {
                    found.push(resolve(&path, place, line));
                }
            }
            TokenTree::Group(group) => {
                let inner =
                    Place { prefix: Vec::new(), module: place.module.clone(), own: place.own.clone() };
                walk(group.stream(), &inner, found);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

fn resolve(path: &[String], place: &Place, line: usize) -> Named {
    let mut rest = path;
    let mut base: Option<Vec<String>> = None;
    while let Some((first, tail)) = rest.split_first() {
        match first.as_str() {
            "crate" => base = Some(Vec::new()),
            "self" => base = Some(base.unwrap_or_else(|| place.module.clone())),
            "super" => {
                let mut module = base.unwrap_or_else(|| place.module.clone());
                module.pop();
                base = Some(module);
            }
            name if name == place.own && base.is_none() => base = Some(Vec::new()),
            _ => break,
        }
        rest = tail;
    }
    let is_own = base.is_some();
    let mut full = base.unwrap_or_default();
    full.extend(rest.iter().cloned());
    Named { path: full.join("::"), is_own, line }
}

fn is_at_or_below(path: &str, of: &str) -> bool {
    path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What of `std` a pure source names and may not.
fn impure(text: &str) -> Vec<(usize, String)> {
    let mut wrong: Vec<_> = named(text, &[], "")
        .into_iter()
        .filter(|named| !named.is_own)
        .filter(|named| IMPURE_STD.iter().any(|banned| is_at_or_below(&named.path, banned)))
        .map(|named| (named.line, named.path))
        .collect();
    wrong.dedup();
    wrong
}

/// Which other tasks, or what stands above them, module `module` of fleetd names.
fn crossings(text: &str, module: &[String]) -> Vec<(usize, String)> {
    let Some(own) = module.first() else { return Vec::new() };
    if ABOVE_TASKS.contains(&own.as_str()) {
        return Vec::new();
    }
    let is_forbidden = |named: &Named| {
        let top = named.path.split("::").next().unwrap_or_default();
        let is_allowed = top == own || STANDS_ON.contains(&(own.as_str(), top));
        named.is_own && !is_allowed && (TASKS.contains(&top) || ABOVE_TASKS.contains(&top))
    };
    named(text, module, "fleetd")
        .into_iter()
        .filter(is_forbidden)
        .map(|named| (named.line, named.path))
        .collect()
}

/// The Rust sources below `directory`, with their texts.
fn sources(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("sources are readable") {
            let path = entry.expect("sources are readable").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("sources are readable");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {}", directory.display());
    found.sort();
    found
}

/// `agent/task/mod.rs` is module agent::task; the roots of library and binary are no module.
fn module_of(path: &Path, sources: &Path) -> Vec<String> {
    let inner = path.strip_prefix(sources).expect("the file lies below").with_extension("");
    let mut module: Vec<String> =
        inner.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        module.pop();
    }
    module
}

#[test]
fn layering_dependencies_of_crates_point_down() {
    let packages = workspace();
    assert_eq!(wrong_dependencies(&packages), Vec::<String>::new());
    for (name, _) in BELOW {
        package(&packages, name);
    }
}

#[test]
fn layering_pure_crates_name_no_clock_no_file_and_no_environment() {
    let packages = workspace();
    let mut wrong = Vec::new();
    for name in PURE {
        for (path, text) in sources(&package(&packages, name).sources()) {
            wrong.extend(
                impure(&text).into_iter().map(|(line, what)| format!("{}:{line}: {what}", path.display())),
            );
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "take it as an argument; the shell reads it");
}

#[test]
fn layering_tasks_of_fleetd_do_not_name_each_other() {
    let packages = workspace();
    let root = package(&packages, "fleetd").sources();
    let mut wrong = Vec::new();
    for (path, text) in sources(&root) {
        let module = module_of(&path, &root);
        wrong.extend(
            crossings(&text, &module)
                .into_iter()
                .map(|(line, what)| format!("{}:{line}: crate::{what}", path.display())),
        );
    }
    assert_eq!(
        wrong,
        Vec::<String>::new(),
        "tasks meet in wire.rs, through a trait or a channel that one of them owns"
    );
    for task in TASKS {
        assert!(root.join(task).is_dir(), "{task} is a module of fleetd");
    }
}

#[test]
fn layering_every_dependency_is_explained() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/development/dependencies.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let packages = workspace();
    assert_eq!(unexplained(&packages, &page), Vec::<String>::new(), "see docs/development/dependencies.md");
    assert_eq!(
        unexplained(&packages, &page.replace("| `zbus` |", "| `zbus-of-old` |")),
        ["zbus is used and not explained", "zbus-of-old is explained and not used"]
    );
}

#[test]
fn layering_the_lab_knows_no_crate_of_fleet() {
    let packages = workspace();
    let ours: BTreeSet<String> = BELOW.iter().map(|(name, _)| name.replace('-', "_")).collect();
    let mut wrong = Vec::new();
    for (path, text) in sources(&package(&packages, TOP).sources().join("lab")) {
        for named in named(&text, &[], "fleet_tests") {
            if !named.is_own && ours.contains(named.path.split("::").next().unwrap_or_default()) {
                wrong.push(format!("{}:{}: {}", path.display(), named.line, named.path));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "the lab drives the binaries as a person would");
}

#[test]
fn layering_a_dependency_that_points_up_or_is_impure_is_found() {
    let made = |name: &str, on: &[&str]| Package {
        name: name.to_owned(),
        manifest_path: PathBuf::new(),
        dependencies: on.iter().map(|on| Dependency { name: (*on).to_owned(), kind: None }).collect(),
    };
    let packages = [
        made("unit-files", &["serde"]),
        made("fleet-core", &["unit-files", "tokio"]),
        made("fleet-registry", &["fleet-core", "tokio"]),
        made("fleetctl", &["fleet-api", "fleet-registry"]),
        made("fleet-api", &[]),
        made("fleet-new", &[]),
        made("fleet-tests", &["fleet-registry"]),
    ];
    assert_eq!(
        wrong_dependencies(&packages),
        [
            "fleet-core is pure and depends on tokio (normal)",
            "fleetctl depends on fleet-registry (normal), which is not below it",
            "fleet-new has no place in the layers: give it one in BELOW",
        ]
    );
}

#[test]
fn layering_a_source_that_reads_a_clock_is_found_however_it_is_written() {
    let source = r#"
        //! std::fs in a comment names nothing.
        use std::{collections::BTreeMap, time::{Duration, Instant}};
        use std::fs;
        fn f() -> u8 { vec![std::env::var("HOME").is_ok()].len() as u8 }
        const TEXT: &str = "std::net";
        mod fs_of_ours { pub use std::time::SystemTime as Clock; }
        fn g(_: std::environment::Other, _: std::process::ExitCode) {}
    "#;
    assert_eq!(
        impure(source),
        [
            (3, "std::time::Instant".to_owned()),
            (4, "std::fs".to_owned()),
            (5, "std::env::var".to_owned()),
            (7, "std::time::SystemTime".to_owned()),
            (8, "std::process::ExitCode".to_owned()),
        ]
    );
}

#[test]
fn layering_a_task_that_names_another_is_found_however_it_is_written() {
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
    let source = r"
        use crate::{clock::Clock, engine::Engine};
        use super::super::api::Server;
        fn f() { fleetd::wire::start(); super::registry(); crate::session::state(); other::engine(); }
        mod tests { use super::super::super::engine; use super::super::engine::of_agent; }
    ";
    assert_eq!(
        crossings(source, &module("agent::task")),
        [
            (2, "engine::Engine".to_owned()),
            (3, "api::Server".to_owned()),
            (4, "wire::start".to_owned()),
            (5, "engine".to_owned()),
        ]
    );
    // A module that the tasks share may name none of them; what wires them names all.
    assert_eq!(crossings("use crate::engine::Engine;", &module("session")).len(), 1);
    assert_eq!(crossings("use crate::engine::Engine;", &module("wire::mod")).len(), 0);
    assert_eq!(crossings("use crate::{api::tools, agent::Agent};", &module("peer")).len(), 1);
    assert_eq!(crossings("use crate::peer::Listener;", &module("api::v2")).len(), 1);
}
