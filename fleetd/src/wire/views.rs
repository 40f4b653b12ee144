//! What the API sees of the other components: snapshots of their handles, put into its own words.

use async_trait::async_trait;
use axum::http::StatusCode;
use fleet_api::v2::{JoinReport, JoinRequest};
use fleet_core::store_trust::Trust;
use fleet_core::{ClusterId, Epoch, Timestamp};
use fleet_registry::registry::Asked;

use crate::agent::AgentHandle;
use crate::api::Failure;
use crate::api::ports::{
    AgentReport, EngineReport, EngineView, Joiner, LocalAgent, SessionReport, SessionView,
};
use crate::engine::EngineHandle;
use crate::join::{Join, JoinError};
use crate::member::MemberFile;
use crate::session::{Connection, SessionHandle, SessionState, chain};

#[derive(Debug)]
pub struct Session {
    pub handle: SessionHandle,
    pub member: MemberFile,
}

#[async_trait]
impl SessionView for Session {
    fn session(&self) -> SessionReport {
        self.report(&self.handle.state.borrow())
    }

    async fn judged(&self) {
        let mut state = self.handle.state.clone();
        let is_judged = |state: &SessionState| {
            state.trust.as_ref().is_some_and(|trust| !matches!(trust, Trust::Join | Trust::Create))
        };
        // It ends with fleetd.
        let _ = state.wait_for(is_judged).await;
    }

    async fn until(&self, is_met: &(dyn for<'r> Fn(&'r SessionReport) -> bool + Sync)) {
        let mut state = self.handle.state.clone();
        // It ends with fleetd.
        let _ = state.wait_for(|state| is_met(&self.report(state))).await;
    }
}

impl Session {
    fn report(&self, state: &SessionState) -> SessionReport {
        SessionReport { member: self.member.get().map(|member| member.cluster), ..report(state) }
    }
}

/// What the session itself knows.
fn report(state: &SessionState) -> SessionReport {
    let (is_connected, since) = match &state.connection {
        Connection::Connected { since } => (true, *since),
        Connection::Disconnected { since, .. } => (false, *since),
    };
    let text = if state.may_act() && is_connected { String::new() } else { state.summary() };
    SessionReport {
        since,
        is_connected,
        trust: state.trust.clone(),
        cluster: state.cluster.clone(),
        member: None,
        has_presence: state.presence.is_some(),
        text,
    }
}

#[derive(Debug)]
pub struct LocalUnits {
    pub handle: AgentHandle,
}

impl LocalAgent for LocalUnits {
    fn agent(&self) -> AgentReport {
        let status = self.handle.status();
        let counters = &status.counters;
        let is_fine = status.is_connected()
            && status.holding.is_none()
            && status.state_directory_error.is_none()
            && status.systemd_error.is_none();
        AgentReport {
            has_passed: status.last_pass.is_some(),
            units: status.units.clone(),
            text: match &status.systemd_error {
                Some(error) => format!("systemd cannot be read: {error}"),
                None if is_fine => String::new(),
                None => status.line(),
            },
            busy: status.busy.len(),
            orders: status.orders,
            last_audit: None,
            counters: vec![
                ("pass_count_total", counters.passes),
                ("effective_pass_count_total", counters.effective_passes),
                ("audit_count_total", counters.audits),
                ("audit_difference_count_total", counters.audit_differences),
                ("start_count_total", counters.starts),
                ("stop_count_total", counters.stops),
                ("commit_count_total", counters.commits),
            ],
        }
    }
}

impl EngineView for EngineHandle {
    fn engine(&self) -> EngineReport {
        let status = self.status.borrow();
        let leading_since: Option<Timestamp> = status.leading.map(|(_, since)| since);
        EngineReport {
            leading_since,
            frozen: status.frozen.len(),
            is_braked: status.is_braked,
            text: status.last_error.clone().unwrap_or_default(),
            counters: vec![
                ("reconcile_count_total", status.passes),
                ("group_count_total", status.groups_applied),
                ("group_conflict_count_total", status.groups_conflicted),
                ("failure_count_total", status.failures),
                ("audit_count_total", status.audits),
                ("audit_difference_count_total", status.audit_differences),
            ],
            tasks: vec![
                ("task_count_total", "attemptscheduleunit", status.tasks.scheduled.done),
                ("task_count_total", "unscheduleunit", status.tasks.unscheduled.done),
                ("task_failure_count_total", "attemptscheduleunit", status.tasks.scheduled.failed),
                ("task_failure_count_total", "unscheduleunit", status.tasks.unscheduled.failed),
                ("reconcile_failure_count_total", "machine_away", status.tasks.machine_away),
                ("reconcile_failure_count_total", "run", status.failures),
                ("reconcile_failure_count_total", "schedule", status.tasks.unplaceable),
            ],
        }
    }
}

#[async_trait]
impl Joiner for Join {
    fn member(&self) -> Option<(ClusterId, Epoch)> {
        self.member.get().map(|member| (member.cluster, member.epoch))
    }

    async fn belong(&self, cluster: ClusterId, epoch: Epoch) -> Result<(), Failure> {
        Join::belong(self, cluster, epoch).await.map_err(failure)
    }

    async fn join(&self, request: &JoinRequest, asked: &Asked) -> Result<JoinReport, Failure> {
        Join::join(self, request, asked).await.map_err(failure)
    }
}

fn failure(error: JoinError) -> Failure {
    let status = match error {
        JoinError::Registry(error) => return error.into(),
        JoinError::NotJoined { .. } => StatusCode::SERVICE_UNAVAILABLE,
        JoinError::Open(_)
        | JoinError::BrokeOff { .. }
        | JoinError::Member(_)
        | JoinError::PutAside { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    };
    Failure::new(status, chain(&error))
}
