//! The HTTP API of one machine: `/fleet/v1` as fleet 1.0 had it, `/fleet/v2` for everything else, health and metrics.
//!
//! Started by `wire`, once. It decides nothing: requests are judged by `fleet-core`, the registry is read linearizably
//! for every answer, and what the local agent, engine and session say comes through the traits in [`ports`]. It never
//! touches a unit, and no client can keep another one waiting for ever.
//!
//! | module | for |
//! |---|---|
//! | [`ports`] | what the API asks of the other components |
//! | [`listen`], [`passed`], [`server`] | sockets, connections and their limits |
//! | `gate` | what strangers cost where they can connect |
//! | [`tls`], `caller` | certificates of TCP listeners, and whom a client's names |
//! | `origin` | keeps web pages away from TCP listeners without client certificates |
//! | `bodies` | the memory that requests take |
//! | `v1`, `v2` | the resources |
//! | `units` | reading and writing unit records, for both versions |
//! | `views` | records as wire types |
//! | [`tools`] | `systemctl status` and `journalctl` on this machine |
//! | `health`, `metrics` | for supervisors and monitoring |

mod bodies;
mod caller;
mod failure;
pub(crate) mod gate;
mod health;
mod in_path;
pub mod listen;
mod metrics;
mod origin;
pub mod passed;
pub mod ports;
pub(crate) mod query;
mod route;
pub mod server;
mod state;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod tools;
mod units;
mod v1;
pub(crate) mod v2;
mod views;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fleet_core::MachineId;
use fleet_registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Listen, ListenTls};
pub use failure::Failure;
pub use listen::ListenError;
pub use passed::{Passed, PassedError};
use ports::{EngineView, Joiner, LocalAgent, Peers, SessionView};
pub use server::{Handle, Service};
use tools::LocalTools;

/// What the API is made from.
pub struct Options {
    pub registry: Registry,
    pub machine: MachineId,
    pub hostname: String,
    /// Release of fleetd, for the `Server` header.
    pub version: String,
    /// What this machine's agent provides.
    pub features: BTreeSet<String>,
    pub clock: Clock,
    pub listen: Vec<Listen>,
    /// Sockets that systemd has bound; an address of `listen` that is among them is not bound again.
    pub passed: Vec<Passed>,
    /// For every TCP listener. None: plain HTTP, on loopback addresses only.
    pub tls: Option<ListenTls>,
    /// Page size of API v1.
    pub token_limit: u16,
    pub session: Arc<dyn SessionView>,
    pub agent: Arc<dyn LocalAgent>,
    pub engine: Arc<dyn EngineView>,
    pub tools: LocalTools,
    /// Moves this machine to the configured store; none where there is nothing to move.
    pub joiner: Option<Arc<dyn Joiner>>,
    /// `None`: machines of this cluster do not talk to each other.
    pub peers: Option<Arc<dyn Peers>>,
    pub limits: Limits,
    pub shutdown: CancellationToken,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("machine", &self.machine)
            .field("listen", &self.listen)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// How much a client may ask for at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the head of a request, from the first byte of the connection or the end of the last request.
    pub header: Duration,
    /// The head of a request, in bytes: a list of 200 unit names in a query fits.
    pub head: usize,
    /// For the body of a request.
    pub body: Duration,
    /// From the last byte of a request to the head of its answer.
    pub request: Duration,
    /// Body of a request, in bytes, also of one for an unknown path.
    pub v1_body: usize,
    /// Body of a v2 request that names many units, in bytes.
    pub v2_body: usize,
    /// TLS handshakes at once, of each listener, and as many that wait for a connection after theirs. With all taken,
    /// whoever opens most makes room.
    pub handshakes: usize,
    /// Bodies that are not larger than `v1_body`, all that are taken in or answered at once, in bytes.
    pub v1_bodies: usize,
    /// The larger ones, as well.
    pub v2_bodies: usize,
    /// Open at once, after the handshake, of each listener: those of one take none from another.
    pub connections: usize,
    /// Answers of other machines that are passed on at once: each is a connection there, and a program or two.
    pub relays: usize,
    /// Lists that are followed at once; each holds as much memory as the lists that it follows.
    pub watches: usize,
    /// How long a client on TCP may leave what is sent to it unread.
    pub stall: Duration,
    /// The same on a unix socket, where a person may be reading a journal page by page.
    pub patience: Duration,
    /// Between two lines of a stream.
    pub heartbeat: Duration,
    /// How long nobody leads before a wait says so: longer than an orderly handover.
    pub leaderless: Duration,
    /// For the session to judge a registry that was exchanged, which it looks at about once a second.
    pub settles: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshake: Duration::from_secs(5),
            head: 128 << 10,
            header: Duration::from_secs(30),
            body: Duration::from_secs(60),
            request: Duration::from_secs(8),
            v1_body: 1 << 20,
            v2_body: 32 << 20,
            v1_bodies: 16 << 20,
            v2_bodies: 64 << 20,
            handshakes: 128,
            connections: 1024,
            relays: 128,
            watches: 16,
            stall: Duration::from_secs(30),
            patience: Duration::from_secs(600),
            heartbeat: Duration::from_secs(5),
            leaderless: Duration::from_secs(2),
            settles: Duration::from_secs(5),
        }
    }
}
