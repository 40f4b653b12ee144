//! `placements/<unit>`: where a non-global unit is, and the engine's last word on it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Extra, Reason, schema};
use crate::ids::{MachineId, OrderNumber, Revision, UnitUid};
use crate::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    #[serde(default = "schema")]
    pub v: u32,
    pub uid: UnitUid,
    /// None: on no machine now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// Number of the order that says so.
    #[serde(default)]
    pub number: OrderNumber,
    pub decision: Decision,
    /// Machines that refused it, for as long as that keeps them out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<RefusalHold>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// The decision in short. The full one, per machine, is computed on demand by the same function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Modification revision of the unit record that was judged: a request is answered by a decision that judged the
    /// record it wrote, or a later one.
    pub judged: Revision,
    pub reason: Reason,
    /// Why machines are out, counted, with samples; at most 4 KiB in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<DecisionLine>,
    /// When the decision came about; kept while nothing else in it changes.
    #[serde(default)]
    pub at: Timestamp,
}

impl Decision {
    /// The same revision judged, the same reason, the same set of reasons against machines. Counts and samples may
    /// differ: then the old decision stands and nothing is written, so that a neighbour's move costs no write.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Decision) -> bool {
        let codes = |decision: &'_ Decision| -> BTreeSet<String> {
            decision.refused.iter().map(|line| line.code.clone()).collect()
        };
        self.judged == other.judged && self.reason == other.reason && codes(self) == codes(other)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionLine {
    pub code: String,
    pub machines: usize,
    /// Up to three machines with the full text.
    pub sample: Vec<(MachineId, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalHold {
    pub machine: MachineId,
    pub reason: Reason,
    pub until: Timestamp,
    /// How often it refused in a row: the wait doubles from 30 s to 15 min.
    pub times: u32,
}
