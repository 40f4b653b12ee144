//! A cluster in a lab as an operator has it: unit files go in by `fleetctl`, what comes out is read from its JSON and
//! from the machines' systemd.
//!
//! The tests `machines_*.rs` use it. It asserts what has to hold before a test can begin (`fleetctl start` succeeded,
//! every machine is present) and leaves what a test is about to the test.

#![expect(clippy::panic, reason = "an assertion that does not hold ends the test")]

mod current;
mod runs;

use std::path::PathBuf;
use std::time::Duration;

use fleet_api::v2::{ClusterView, EventList, MachineList, MachineState, MachineView, StateList, StateView};
use fleet_api::v2::{UnitList, UnitView};
use serde::de::DeserializeOwned;

use crate::lab::{ExecOutput, Lab, LabError, LabOptions, Machine, wait_for};

pub use current::{fleetd, next_fleetd};
pub use runs::{Run, reloads, run_of, runs_of};

/// For what takes milliseconds on an idle host: generous, because two labs and a compiler may share two cores.
pub const SOON: Duration = Duration::from_secs(20);

/// A lab with fleetd on every machine, all of them present.
#[derive(Debug)]
pub struct Cluster {
    pub lab: Lab,
}

impl Cluster {
    /// Boots the lab and waits until every machine is present and one of them leads.
    ///
    /// # Panics
    /// When fleetd or fleetctl is missing or older than its sources, or the cluster does not come up.
    #[must_use]
    #[track_caller]
    pub fn up(options: LabOptions) -> Self {
        let machines = usize::from(options.machines);
        let cluster = Self::boot(options);
        cluster.await_present(machines);
        cluster
    }

    /// Boots the lab and waits for nothing but fleetd's readiness.
    ///
    /// # Panics
    /// When fleetd or fleetctl is missing or older than its sources, or the lab does not come up.
    #[must_use]
    #[track_caller]
    pub fn boot(options: LabOptions) -> Self {
        current::assert_current();
        let lab = Lab::up(options).expect("the lab boots");
        std::fs::create_dir_all(lab.directory().join("files")).expect("the lab's directory takes files");
        Self { lab }
    }

    #[must_use]
    #[track_caller]
    pub fn machine(&self, name: &str) -> Machine<'_> {
        self.lab.machine(name)
    }

    /// The machine of the lab that has this id.
    ///
    /// # Panics
    /// When no machine has it.
    #[must_use]
    #[track_caller]
    pub fn machine_of(&self, id: &str) -> Machine<'_> {
        self.lab
            .machines()
            .into_iter()
            .find(|machine| machine.machine_id() == id)
            .expect("a machine of the lab")
    }

    /// Writes a unit file and gives its path, for `fleetctl` to read.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.lab.directory().join("files").join(name);
        std::fs::write(&path, text).expect("the lab's directory takes files");
        path.display().to_string()
    }

    /// `fleetctl` against the first machine that runs; how it ends is for the caller to judge.
    ///
    /// # Panics
    /// When it cannot be run at all.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> ExecOutput {
        let machine = self
            .lab
            .machines()
            .into_iter()
            .find(|machine| !machine.is_frozen() && machine.is_fleetd_running())
            .expect("a machine with fleetd runs");
        machine.fleetctl(arguments).expect("fleetctl runs")
    }

    /// `fleetctl`, which has to succeed; gives its output.
    ///
    /// # Panics
    /// When it exits with a failure.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        succeeded(arguments, self.ctl(arguments))
    }

    /// Writes a unit file and starts it; returns when it is active.
    ///
    /// # Panics
    /// When `fleetctl start` fails.
    #[track_caller]
    pub fn start(&self, name: &str, text: &str) {
        let file = self.file(name, text);
        self.ok(&["start", &file]);
    }

    /// Writes many unit files and starts them with one call; returns when all are active.
    ///
    /// # Panics
    /// When `fleetctl start` fails.
    #[track_caller]
    pub fn start_all<'a>(&self, units: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let files: Vec<_> = units.into_iter().map(|(name, text)| self.file(name, text)).collect();
        let arguments: Vec<_> = ["start"].into_iter().chain(files.iter().map(String::as_str)).collect();
        self.ok(&arguments);
    }

    /// All rows of `fleetctl list-units`.
    ///
    /// # Errors
    /// When the command fails, as without the registry.
    pub fn rows(&self) -> Result<Vec<StateView>, String> {
        self.json::<StateList>(&["list-units", "-o", "json"]).map(|list| list.states)
    }

    /// The rows of one unit; empty when it has none or nobody answers.
    #[must_use]
    pub fn rows_of(&self, unit: &str) -> Vec<StateView> {
        self.rows().unwrap_or_default().into_iter().filter(|row| row.unit == unit).collect()
    }

    /// The record of one unit; `None` when it is not stored or nobody answers.
    #[must_use]
    pub fn unit(&self, unit: &str) -> Option<UnitView> {
        let list = self.json::<UnitList>(&["list-unit-files", "-o", "json"]).ok()?;
        list.units.into_iter().find(|view| view.name == unit)
    }

    /// Waits for a row of `unit` that fits.
    ///
    /// # Panics
    /// At the deadline, with the rows there are.
    #[track_caller]
    pub fn await_row(&self, unit: &str, what: &str, fits: impl Fn(&StateView) -> bool) -> StateView {
        let found = wait_for(SOON, what, || self.rows_of(unit).into_iter().find(|row| fits(row)));
        found.unwrap_or_else(|error| panic!("{error}; rows of {unit}: {:#?}", self.rows_of(unit)))
    }

    /// Waits until the only row of `unit` says active, and gives it.
    ///
    /// # Panics
    /// At the deadline, with the rows there are.
    #[track_caller]
    pub fn await_active(&self, unit: &str) -> StateView {
        self.await_row(unit, &format!("{unit} to be active"), |row| row.active == "active")
    }

    /// The machine on which the unit is placed.
    ///
    /// # Panics
    /// When it is not placed.
    #[must_use]
    #[track_caller]
    pub fn place_of(&self, unit: &str) -> Machine<'_> {
        let view = self.unit(unit).unwrap_or_else(|| panic!("{unit} is stored"));
        let id = view.placement.and_then(|placement| placement.machine).map(|machine| machine.id);
        self.machine_of(&id.unwrap_or_else(|| panic!("{unit} is placed")))
    }

    /// `fleetctl cluster status`, as the first machine that runs sees it.
    ///
    /// # Errors
    /// When the command fails.
    pub fn status(&self) -> Result<ClusterView, String> {
        self.json(&["cluster", "status", "-o", "json"])
    }

    /// `fleetctl cluster status`, as this machine sees it.
    ///
    /// # Errors
    /// When the command fails.
    pub fn status_on(&self, machine: &str) -> Result<ClusterView, String> {
        let output = self.machine(machine).fleetctl(&["cluster", "status", "-o", "json"]);
        parse(output.map_err(|error: LabError| error.to_string())?)
    }

    /// All machines, those that are lost among them.
    ///
    /// # Errors
    /// When the command fails.
    pub fn machines(&self) -> Result<Vec<MachineView>, String> {
        self.json::<MachineList>(&["list-machines", "--all", "-o", "json"]).map(|list| list.machines)
    }

    /// # Errors
    /// When the command fails.
    pub fn events(&self) -> Result<EventList, String> {
        self.json(&["events", "-o", "json"])
    }

    /// Waits until `count` machines are present, as many say themselves that they are connected, and one leads.
    ///
    /// # Panics
    /// At the deadline.
    #[track_caller]
    pub fn await_present(&self, count: usize) {
        let is_connected = |machine: &Machine<'_>| {
            self.status_on(machine.name()).is_ok_and(|view| view.local.connection == "connected")
        };
        let seen = wait_for(SOON, "every machine to be present and one to lead", || {
            let machines = self.machines().ok()?;
            let present = machines.iter().filter(|machine| machine.state == MachineState::Present).count();
            let is_led = present == count && self.status().ok()?.leader.is_some();
            (is_led && self.lab.machines().iter().filter(|machine| is_connected(machine)).count() == count)
                .then_some(())
        });
        seen.unwrap_or_else(|error| panic!("{error}; machines: {:#?}", self.machines()));
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, String> {
        parse(self.ctl(arguments))
    }
}

fn parse<T: DeserializeOwned>(output: ExecOutput) -> Result<T, String> {
    if !output.status.success() {
        return Err(output.stderr);
    }
    serde_json::from_str(&output.stdout).map_err(|error| format!("{error} in {}", output.stdout))
}

/// The output of a command that has to succeed.
///
/// # Panics
/// When it did not.
#[track_caller]
pub fn succeeded(arguments: &[&str], output: ExecOutput) -> String {
    assert!(
        output.status.success(),
        "fleetctl {} ended with {}:\n{}{}",
        arguments.join(" "),
        output.status,
        output.stdout,
        output.stderr
    );
    output.stdout
}
