//! What can go wrong in a lab. Every variant names the operation and says what to do next.

use std::path::PathBuf;
use std::time::Duration;

/// An error of the lab. The text is meant for a person at a terminal or in a test report.
#[derive(thiserror::Error)]
pub enum LabError {
    #[error("a lab needs root (namespaces, cgroups, overlay mounts): run it with sudo or as root")]
    NotRoot,
    #[error(
        "lab name {name:?} is refused: use 1 to 40 characters of a-z, 0-9 and '-', beginning with a letter"
    )]
    BadName { name: String },
    #[error("{what}: {value:?} is refused: {expected}")]
    BadOption { what: &'static str, value: String, expected: String },
    #[error(
        "lab {name} is already up: take it down first (fleet-lab down --name {name}) or use another --name"
    )]
    AlreadyUp { name: String },
    #[error(
        "lab {name} is not up: boot it with `fleet-lab up --name {name}`; `fleet-lab list` shows what runs"
    )]
    NotUp { name: String },
    #[error("lab {lab} has no machine {machine:?}: it has {known}")]
    NoSuchMachine { lab: String, machine: String, known: String },
    #[error("lab {lab} has no etcd member {member}: it has 1 to {members}")]
    NoSuchMember { lab: String, member: u8, members: u8 },
    #[error("program {program} is missing: run scripts/setup.sh, which installs what a lab needs")]
    MissingProgram { program: String },
    #[error("no {program} at {}: build it (cargo build -p {program}), name it with {variable}, or boot without it (--no-fleetd)", path.display())]
    MissingBinary { program: &'static str, path: PathBuf, variable: &'static str },
    #[error("{operation} {}: {source}", path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot run {program}: {source}; scripts/setup.sh installs what a lab needs")]
    Spawn { program: String, source: std::io::Error },
    #[error("{command} failed ({status}):\n{output}")]
    Command { command: String, status: String, output: String },
    #[error("making the {release} tree failed; the log is {}; its end:\n{tail}\nThe mirror can be set with FLEET_LAB_MIRROR", log.display())]
    Debootstrap { release: String, log: PathBuf, tail: String },
    #[error("the lab's supervisor does not answer ({reason}); its log is {}; `fleet-lab down` cleans up", log.display())]
    Supervisor { reason: String, log: PathBuf },
    #[error("machine {machine} is not running: boot it with `fleet-lab start {machine}`")]
    MachineOff { machine: String },
    #[error("machine {machine} is already running")]
    MachineRunning { machine: String },
    #[error("machine {machine} is frozen: thaw it first (fleet-lab thaw {machine})")]
    MachineFrozen { machine: String },
    #[error("{0}")]
    Refused(String),
    #[error("waited {} ms in vain: {what}", waited.as_millis())]
    Deadline { what: String, waited: Duration },
}

impl LabError {
    /// For `map_err` on file operations.
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> LabError {
        let path = path.into();
        move |source| LabError::File { operation, path, source }
    }

    /// For `map_err` on spawning; a missing program gets its own advice.
    pub(crate) fn spawn(program: &str) -> impl FnOnce(std::io::Error) -> LabError {
        let program = program.to_owned();
        move |source| match source.kind() {
            std::io::ErrorKind::NotFound => LabError::MissingProgram { program },
            _ => LabError::Spawn { program, source },
        }
    }
}

/// As the display: a test's `unwrap` then shows the text with its line breaks.
impl std::fmt::Debug for LabError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
