//! The agent: makes this machine's systemd obey the machine's orders, and says what came of it.
//!
//! Started by `wire`; talks to systemd through [`fleet_systemd::Systemd`] and to the registry through
//! [`AgentRegistry`]. Every pass is observe -> decide ([`fleet_core::reconcile`]) -> write down -> carry out -> publish;
//! nothing is decided here. Its end, by whatever cause, changes nothing in any unit.
//!
//! | module | what it does |
//! |---|---|
//! | `task` | the loop: what wakes a pass (`inputs`), and in which order its parts go (`pass`) |
//! | `observe` | which units to look at, and how |
//! | `execute` | steps -> systemd |
//! | `reload` | when systemd has to read everything anew |
//! | `publish` | rows and acknowledgements -> registry, merged |
//! | `fetch`, `texts` | texts by hash |
//! | `disk` | what was applied, durable |
//! | `status` | the agent seen from outside |

mod disk;
mod due;
mod error;
mod execute;
mod fetch;
mod observe;
mod pins;
mod publish;
mod registry;
mod reload;
mod status;
mod task;
#[cfg(test)]
mod tests;
mod texts;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleet_core::Timestamp;
use fleet_core::reconcile::Accepted;

pub use error::AgentError;
pub use registry::{AgentRegistry, Committed, FeedEvent, FeedView, OrdersFeed, RegistryFault, Report};
pub use status::{AgentCounters, AgentHandle, AgentStatus, Connection, LastPass};
pub use task::Agent;

/// The machine's wall clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How the agent runs.
#[derive(Clone)]
pub struct AgentOptions {
    /// `/var/lib/fleet`: what must outlive a boot.
    pub state_directory: PathBuf,
    /// `/run/fleet/units`: where texts of ours lie.
    pub units_directory: PathBuf,
    /// Features that this release knows; orders that require others are refused.
    pub features: BTreeSet<String>,
    /// A machine that boots without the registry starts what was launched after this time.
    pub offline_start_after: Duration,
    /// Between full checks; each is moved by up to a tenth of it, so that machines do not check together.
    pub audit_interval: Duration,
    pub clock: Clock,
}

impl AgentOptions {
    #[must_use]
    pub fn new(state_directory: PathBuf) -> AgentOptions {
        AgentOptions {
            state_directory,
            units_directory: PathBuf::from("/run/fleet/units"),
            features: BTreeSet::new(),
            offline_start_after: Duration::from_secs(8),
            audit_interval: Duration::from_secs(900),
            clock: Arc::new(wall_clock),
        }
    }
}

/// The latest order that this machine has accepted from whatever cluster. What orders it from now on has to be above that,
/// or is refused as outdated. Blocks for a read of the agent's log.
///
/// # Errors
/// The log cannot be read, or is a later release's.
pub fn accepted(state_directory: &Path) -> Result<Accepted, AgentError> {
    disk::accepted(state_directory)
}

impl std::fmt::Debug for AgentOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentOptions")
            .field("state_directory", &self.state_directory)
            .field("units_directory", &self.units_directory)
            .field("features", &self.features)
            .field("offline_start_after", &self.offline_start_after)
            .field("audit_interval", &self.audit_interval)
            .finish_non_exhaustive()
    }
}

fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
