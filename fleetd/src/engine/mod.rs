//! The engine: one elected leader turns units and machines into orders.
//!
//! The task campaigns when nobody leads and leads as long as its lease lives. Leadership is an owned value: what a
//! leader does hangs on its [`lead::Leader`], and dropping it ends both. Every decision is `fleet-core`'s; every write
//! compares the leader key, so that a leader that was superseded without noticing writes nothing.

mod campaign;
mod lead;
pub mod tasks;
#[cfg(test)]
mod tests;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use fleet_core::records::{EngineRole, LeaderRecord};
use fleet_core::{MachineId, Term, Timestamp};
use fleet_registry::Registry;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use unit_files::UnitName;

use crate::clock::Clock;
use crate::member::MemberFile;
use crate::session::SessionState;
use crate::store::LeaseMaker;

/// How long a dead leader is waited for.
pub const LEADER_TTL: Duration = Duration::from_secs(5);
/// A full pass that must find nothing, jittered by a quarter.
pub const AUDIT_EVERY: Duration = Duration::from_secs(15 * 60);

pub struct EngineOptions {
    pub registry: Registry,
    pub clock: Clock,
    pub machine: MachineId,
    pub version: String,
    pub role: EngineRole,
    /// Between lost marker and first eviction.
    pub grace: Duration,
    /// Whether this machine compacts the store's history when it leads.
    pub compacts: bool,
    pub session: watch::Receiver<SessionState>,
    /// What this machine knows of its cluster's store: a candidate judges by it before it campaigns.
    pub member: MemberFile,
    /// Told when the store does not fit it.
    pub doubt: Arc<Notify>,
    /// Makes the lease that leadership hangs on.
    pub lease: LeaseMaker,
    pub seed: u64,
    pub shutdown: CancellationToken,
}

impl std::fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineOptions")
            .field("machine", &self.machine)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// What the API and the metrics show of this machine's engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStatus {
    pub leading: Option<(Term, Timestamp)>,
    /// Who leads, as last read by a candidate.
    pub leader: Option<LeaderRecord>,
    /// Why this machine must not lead.
    pub abstains: Option<String>,
    pub passes: u64,
    pub groups_applied: u64,
    /// Groups that something else had overtaken; planned anew.
    pub groups_conflicted: u64,
    pub failures: u64,
    pub tasks: tasks::TaskCounts,
    /// Why the registry did not take the last pass's writes; none if it took them.
    pub last_error: Option<String>,
    /// The brake holds something back.
    pub is_braked: bool,
    /// Longest time that a plan took to make, in microseconds.
    pub slowest_plan_us: u64,
    pub audits: u64,
    /// Differences that audits found between what was followed and what the registry held.
    pub audit_differences: u64,
    /// Orders whose unit record is missing or unreadable: nothing is done to them.
    pub frozen: Vec<(MachineId, UnitName)>,
    /// Records that this release cannot read.
    pub undecodable: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct EngineHandle {
    pub status: watch::Receiver<EngineStatus>,
}

/// Starts the engine's task.
pub fn start(options: EngineOptions) -> (EngineHandle, impl Future<Output = ()> + use<>) {
    let (sender, status) = watch::channel(EngineStatus::default());
    (EngineHandle { status }, campaign::run(options, sender))
}
