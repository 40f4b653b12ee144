//! What the API asks of the other components. `wire` implements these traits with their handles; the API never imports
//! them. Answers are snapshots, made without waiting, unless they say that they wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use fleet_api::client::NdjsonStream;
use fleet_api::v2::{JoinReport, JoinRequest, StatusReport};
use fleet_core::records::StateRow;
use fleet_core::store_trust::Trust;
use fleet_core::{ClusterId, Epoch, MachineId, Timestamp};
use fleet_registry::registry::Asked;
use unit_files::UnitName;

use super::Failure;
use super::tools::JournalOptions;

/// This machine's session with the registry.
#[async_trait]
pub trait SessionView: Send + Sync + 'static {
    fn session(&self) -> SessionReport;

    /// Waits until the store has been judged and this machine belongs to its cluster, or is not to; the caller bounds it.
    /// As it stands here it is for sessions that never change.
    async fn judged(&self) {}

    /// Waits until `is_met`; the caller bounds it. As it stands here it is for sessions that never change.
    async fn until(&self, is_met: &(dyn for<'r> Fn(&'r SessionReport) -> bool + Sync)) {
        if !is_met(&self.session()) {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionReport {
    /// Since when it is connected, or holds what it has.
    pub since: Timestamp,
    pub is_connected: bool,
    /// `None` until the store has been judged for the first time.
    pub trust: Option<Trust>,
    /// The store's.
    pub cluster: Option<(ClusterId, Epoch)>,
    /// The cluster that this machine belongs to, whatever the store holds.
    pub member: Option<ClusterId>,
    pub has_presence: bool,
    /// What is wrong, with the remedy; empty if nothing is.
    pub text: String,
}

impl SessionReport {
    /// Present there, and the store is trusted.
    #[must_use]
    pub fn takes_part_in(&self, cluster: &ClusterId) -> bool {
        self.trust.as_ref().is_some_and(Trust::may_act)
            && self.has_presence
            && self.cluster.as_ref().is_some_and(|(id, _)| id == cluster)
    }
}

/// This machine's agent.
pub trait LocalAgent: Send + Sync + 'static {
    fn agent(&self) -> AgentReport;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentReport {
    /// A pass was made since fleetd started.
    pub has_passed: bool,
    /// What this machine says of its units, also while it cannot say it to the registry.
    pub units: Arc<BTreeMap<UnitName, StateRow>>,
    /// What is wrong; empty if nothing is.
    pub text: String,
    /// Units whose order has not been carried out yet.
    pub busy: usize,
    pub orders: usize,
    pub last_audit: Option<Timestamp>,
    /// Name after `fleet_agent_`, value; counts that only grow.
    pub counters: Vec<(&'static str, u64)>,
}

/// This machine's engine.
pub trait EngineView: Send + Sync + 'static {
    fn engine(&self) -> EngineReport;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineReport {
    pub leading_since: Option<Timestamp>,
    /// Orders whose unit record is missing or unreadable.
    pub frozen: usize,
    /// It holds something back.
    pub is_braked: bool,
    /// Why the registry does not take what this leader orders; empty if it does.
    pub text: String,
    /// Name after `fleet_engine_`, value; counts that only grow.
    pub counters: Vec<(&'static str, u64)>,
    /// The same with a `type`; those of one name stand together.
    pub tasks: Vec<(&'static str, &'static str, u64)>,
}

/// To which cluster this machine belongs, and its move to another store or cluster.
#[async_trait]
pub trait Joiner: Send + Sync + 'static {
    /// What its disk says, whatever store is in front of it.
    fn member(&self) -> Option<(ClusterId, Epoch)>;

    /// Belongs to that cluster from here on, whatever is in the store now.
    async fn belong(&self, cluster: ClusterId, epoch: Epoch) -> Result<(), Failure>;

    async fn join(&self, request: &JoinRequest, asked: &Asked) -> Result<JoinReport, Failure>;
}

/// The other machines' fleetds.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// What `systemctl status` prints on that machine.
    async fn status(&self, machine: &MachineId, unit: &UnitName) -> Result<StatusReport, Failure>;

    /// Lines of [`JournalLine`](fleet_api::v2::JournalLine).
    async fn journal(
        &self,
        machine: &MachineId,
        unit: &UnitName,
        options: &JournalOptions,
    ) -> Result<NdjsonStream, Failure>;
}
