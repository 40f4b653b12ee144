//! What ran where: read off the execution logs of the fake systemds, which no fleetd can forge.

use std::collections::BTreeSet;

use fleet_systemd::UnitName;
use fleet_systemd::fake::{Execution, What};

use super::machine::Machine;

/// Units that have a process now.
#[must_use]
pub fn running(machine: &Machine) -> BTreeSet<UnitName> {
    let mut running = BTreeSet::new();
    for execution in machine.systemd.executions().into_iter().filter(|e| e.boot == machine.boots) {
        match execution.what {
            What::Started => running.insert(execution.unit),
            What::Stopped | What::Exited { .. } => running.remove(&execution.unit),
        };
    }
    if machine.is_on { running } else { BTreeSet::new() }
}

/// Where one log was read up to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark(usize);

impl Mark {
    /// What has been added since, and the mark after it.
    #[must_use]
    pub fn read(self, machine: &Machine) -> (Vec<Execution>, Mark) {
        let mut log = machine.systemd.executions();
        let mark = Mark(log.len());
        (log.split_off(self.0.min(log.len())), mark)
    }
}
