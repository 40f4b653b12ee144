//! This machine's session with the registry: whether the store is trusted, and whether the machine is present in it.
//!
//! One task: judge the store, join or create the cluster, hold the presence lease, announce, judge again whenever the
//! lease was lost. The other tasks watch [`SessionState`]. It never touches a unit, and a lost session is no reason to.

mod rejoin;
mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fleet_core::reconcile::Accepted;
use fleet_core::records::PresenceRecord;
use fleet_core::store_trust::Trust;
use fleet_core::{ClusterId, Epoch, MachineId, Revision, Timestamp};
use fleet_registry::Registry;
use fleet_registry::lease::LeaseKeeper;
use fleet_registry::store::LeaseId;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use task::chain;

use crate::clock::{Clock, utc};
use crate::member::MemberFile;

pub struct SessionOptions {
    pub registry: Registry,
    pub member: MemberFile,
    /// The latest order that this machine has accepted, from whatever cluster. A cluster that it makes has to be above
    /// it, and one that it joins as well, or to have given that order: what is older is outdated to the machine, and it
    /// would refuse it for good.
    pub accepted: Accepted,
    pub clock: Clock,
    /// What the machine announces until [`SessionHandle::describe`] changes it; `since` is set at each announcement.
    pub presence: PresenceRecord,
    /// Holds the presence lease, on a thread of its own.
    pub lease: LeaseKeeper,
    /// Told by whoever reads something in the store that does not fit what was judged.
    pub doubt: Arc<Notify>,
    /// Spreads this machine's retries.
    pub seed: u64,
    pub shutdown: CancellationToken,
}

impl std::fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionOptions").field("machine", &self.presence.machine).finish_non_exhaustive()
    }
}

/// What the other tasks need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    pub connection: Connection,
    /// None until the store has been judged for the first time.
    pub trust: Option<Trust>,
    pub cluster: Option<(ClusterId, Epoch)>,
    pub presence: Option<Presence>,
    /// Why this machine is not present although the store answers; with the remedy.
    pub refused: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    Connected { since: Timestamp },
    Disconnected { since: Timestamp, error: String },
}

/// This machine's presence, as its writes compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    pub created: Revision,
    pub lease: LeaseId,
    pub since: Timestamp,
}

impl SessionState {
    /// Whether orders may be applied and written.
    #[must_use]
    pub fn may_act(&self) -> bool {
        self.presence.is_some() && self.trust.as_ref().is_some_and(Trust::may_act)
    }

    /// One line for `STATUS=` and the API.
    #[must_use]
    pub fn summary(&self) -> String {
        if let Connection::Disconnected { since, error } = &self.connection {
            return format!("disconnected, holding since {}: {error}", utc(*since));
        }
        if let Some(refused) = &self.refused {
            return refused.clone();
        }
        match (&self.trust, &self.presence) {
            (Some(trust), _) if !trust.remedy().is_empty() => trust.remedy(),
            (_, Some(_)) => "present".to_owned(),
            _ => "joining".to_owned(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct SessionHandle {
    pub machine: MachineId,
    pub state: watch::Receiver<SessionState>,
    presence: watch::Sender<PresenceRecord>,
}

impl SessionHandle {
    /// Changes what this machine says of itself. It is announced at once, or as soon as it can be; without a change
    /// nothing is.
    pub fn describe(&self, change: impl FnOnce(&mut PresenceRecord)) {
        self.presence.send_if_modified(|presence| {
            let before = presence.clone();
            change(presence);
            *presence != before
        });
    }
}

/// Starts the session's task on the current runtime.
pub fn start(options: SessionOptions) -> (SessionHandle, impl Future<Output = ()> + use<>) {
    let initial = SessionState {
        connection: Connection::Disconnected {
            since: options.clock.now(),
            error: "the registry has not answered yet".to_owned(),
        },
        trust: None,
        cluster: None,
        presence: None,
        refused: None,
    };
    let (sender, state) = watch::channel(initial);
    let (presence, described) = watch::channel(options.presence.clone());
    let handle = SessionHandle { machine: options.presence.machine.clone(), state, presence };
    (handle, task::run(options, sender, described))
}
