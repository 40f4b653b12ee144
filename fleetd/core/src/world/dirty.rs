//! What has been touched since the last plan.

use std::collections::BTreeSet;

use unit_files::UnitName;

use crate::ids::MachineId;

/// Marks left by events; a plan looks at these and at nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Everything: after a snapshot, a change of policy, or for the audit.
    pub all: bool,
    pub units: BTreeSet<UnitName>,
    /// Their units, and every global unit on them.
    pub machines: BTreeSet<MachineId>,
    /// Machines where something left or shrank: global units that were kept out may fit now.
    pub freed: BTreeSet<MachineId>,
    /// Units that wait for a machine may fit now.
    pub open: bool,
}

impl Dirty {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Dirty::default()
    }
}
