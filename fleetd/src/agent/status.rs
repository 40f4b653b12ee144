//! What the agent says of itself: for `status`, `STATUS=`, `/readyz` and metrics. A snapshot, never a channel into it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_core::records::StateRow;
use fleet_core::{Revision, Timestamp};
use tokio::sync::watch;
use unit_files::UnitName;

use crate::clock::utc;

/// How the registry answers this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    Connected {
        since: Timestamp,
    },
    /// Everything keeps running as it was ordered last.
    Disconnected {
        since: Timestamp,
        why: String,
    },
}

/// The agent at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentStatus {
    pub connection: Connection,
    /// Why nothing is applied although the registry answers.
    pub holding: Option<String>,
    /// The orders of this machine come from its own disk, because it booted without the registry.
    pub is_offline: bool,
    pub state_directory_error: Option<String>,
    /// Why systemd could not be read last.
    pub systemd_error: Option<String>,
    pub orders: usize,
    pub revision: Revision,
    /// Units whose order has not been carried out yet.
    pub busy: BTreeSet<UnitName>,
    /// What this machine says of its units, also while it cannot say it to the registry.
    pub units: Arc<BTreeMap<UnitName, StateRow>>,
    pub last_pass: Option<LastPass>,
    pub counters: AgentCounters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastPass {
    pub at: Timestamp,
    pub steps: usize,
}

/// Since this process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentCounters {
    pub passes: u64,
    /// Passes that had something to do, to write down or to report.
    pub effective_passes: u64,
    pub audits: u64,
    /// What audits found that no event had said.
    pub audit_differences: u64,
    pub starts: u64,
    pub stops: u64,
    pub commits: u64,
}

impl AgentStatus {
    pub(super) fn new(now: Timestamp) -> AgentStatus {
        AgentStatus {
            connection: Connection::Disconnected { since: now, why: "not connected yet".to_owned() },
            holding: None,
            is_offline: false,
            state_directory_error: None,
            systemd_error: None,
            orders: 0,
            revision: Revision(0),
            busy: BTreeSet::new(),
            units: Arc::default(),
            last_pass: None,
            counters: AgentCounters::default(),
        }
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.connection, Connection::Connected { .. })
    }

    /// One line for `STATUS=`.
    #[must_use]
    pub fn line(&self) -> String {
        if let Some(error) = &self.state_directory_error {
            return format!(
                "doing nothing until the state directory can be written, units are left as they are: {error}"
            );
        }
        if let Some(why) = &self.holding {
            let why = if why.is_empty() { "joining the cluster" } else { why };
            return format!("holding: {why}");
        }
        let what = match self.busy.len() {
            0 => format!("{} units", self.orders),
            busy => format!("{} units, {busy} under way", self.orders),
        };
        match &self.connection {
            Connection::Connected { .. } => what,
            // Why the registry does not answer is the session's to say.
            Connection::Disconnected { since, .. } => {
                format!("without the registry since {}; {what}", utc(*since))
            }
        }
    }
}

/// Looks at the agent from outside. Clones are cheap.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    status: watch::Receiver<Arc<AgentStatus>>,
}

impl AgentHandle {
    pub(super) fn new(status: watch::Receiver<Arc<AgentStatus>>) -> AgentHandle {
        AgentHandle { status }
    }

    #[must_use]
    pub fn status(&self) -> Arc<AgentStatus> {
        Arc::clone(&self.status.borrow())
    }

    /// Waits until the status is another one; None once the agent has ended. Cancel safe.
    pub async fn changed(&mut self) -> Option<Arc<AgentStatus>> {
        self.status.changed().await.ok()?;
        Some(Arc::clone(&self.status.borrow_and_update()))
    }

    /// Waits for a status that fits; None once the agent has ended. Cancel safe.
    pub async fn wait_for(
        &mut self,
        fits: impl FnMut(&Arc<AgentStatus>) -> bool,
    ) -> Option<Arc<AgentStatus>> {
        self.status.wait_for(fits).await.ok().map(|status| Arc::clone(&status))
    }
}
