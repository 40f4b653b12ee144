//! The README's tour and every example's commands, executed as they stand: what a person copies works.
//!
//! Each command must end with 0. `make build` is left out, and the binaries of this test run take the place of
//! `target/release/`.

use std::path::{Path, PathBuf};
use std::process::Command;

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Commands of the fenced blocks that open with `fence`, in order.
fn commands(text: &str, fence: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        if is_inside && line.starts_with("```") {
            is_inside = false;
        } else if is_inside && !line.trim().is_empty() {
            commands.push(line.to_owned());
        } else if line == fence {
            is_inside = true;
        }
    }
    commands
}

/// A lab that is taken down whatever happens.
struct LabName(String);

impl LabName {
    fn new(subject: &str) -> LabName {
        LabName(format!("{subject}-{:08x}", rand::random::<u32>()))
    }
}

impl Drop for LabName {
    fn drop(&mut self) {
        // A lab that was never up is no lab; there is nothing to take down then.
        let _ = lab_command(&self.0, "target/release/fleet-lab down").output();
    }
}

fn lab_command(lab: &str, line: &str) -> Command {
    let binaries = Path::new(env!("CARGO_BIN_EXE_fleet-lab")).parent().expect("a binary lies in a directory");
    let line = line.replace("target/release/", &format!("{}/", binaries.display()));
    let mut command = Command::new("sh");
    command.args(["-ec", &line]).current_dir(TOP).env("FLEET_LAB_NAME", lab);
    command
}

fn follow(lab: &LabName, place: &Path, commands: &[String]) {
    for line in commands.iter().filter(|line| *line != "make build") {
        let output = lab_command(&lab.0, line).output().expect("sh runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "{}: `{line}` ended with {}\n--- stdout\n{out}\n--- stderr\n{err}",
            place.display(),
            output.status
        );
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("every page of the checkout can be read")
}

#[test]
fn the_tour_of_the_readme_can_be_followed() {
    let readme = Path::new(TOP).join("README.md");
    let commands = commands(&read(&readme), "```sh tour");
    assert!(commands.len() > 20, "the tour is gone from the README");
    follow(&LabName::new("tour"), &readme, &commands);
}

/// The example whose machines need podman.
const CONTAINER: &str = "container";

fn examples() -> Vec<PathBuf> {
    let mut examples: Vec<PathBuf> = std::fs::read_dir(Path::new(TOP).join("examples"))
        .expect("examples/ is there")
        .map(|entry| entry.expect("examples/ can be read").path())
        .filter(|path| path.is_dir())
        .collect();
    examples.sort();
    examples
}

#[test]
fn the_commands_of_every_example_work() {
    let lab = LabName::new("examples");
    let up = "target/release/fleet-lab up --machines 3 --metadata m1=disk=ssd".to_owned();
    follow(&lab, Path::new("tests/tests/tour.rs"), &[up]);
    for example in examples().into_iter().filter(|example| !example.ends_with(CONTAINER)) {
        let page = example.join("README.md");
        // The lab is up; the stories name it for those who read one of them alone.
        let mut commands = commands(&read(&page), "```sh");
        commands.retain(|line| !line.starts_with("target/release/fleet-lab up"));
        assert!(!commands.is_empty(), "{} shows no command", page.display());
        follow(&lab, &page, &commands);
    }
}

#[test]
fn the_commands_of_the_example_with_containers_work_on_machines_with_podman() {
    let page = Path::new(TOP).join("examples").join(CONTAINER).join("README.md");
    follow(&LabName::new(CONTAINER), &page, &commands(&read(&page), "```sh"));
}

#[test]
fn the_index_of_the_examples_names_every_one() {
    let index = read(&Path::new(TOP).join("examples/README.md"));
    for example in examples() {
        let name = example.file_name().expect("a directory has a name").to_string_lossy().into_owned();
        assert!(index.contains(&format!("]({name}/README.md)")), "{name} is not in the index");
    }
}

#[test]
fn a_machine_by_itself_grows_into_a_cluster_as_the_page_says_and_no_unit_restarts() {
    let page = Path::new(TOP).join("docs/usage/grow.md");
    let commands = commands(&read(&page), "```sh tour");
    assert!(commands.len() > 20, "the walk is gone from the page");
    follow(&LabName::new("grow"), &page, &commands);
}
