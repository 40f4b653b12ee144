//! One fleetd to another: status and journal of a unit, asked of the machine that runs it.
//!
//! Started by `wire` where the store is shared by machines. Both ends speak TLS 1.3 with certificates of their own
//! making; what makes a certificate a machine's is its fingerprint in that machine's `presence`, which each end reads
//! when a connection opens, and the answering one once a minute while it is open. A connection is for one question. So
//! trust equals write access to the registry, and without the registry nobody is asked and nobody is answered. Serves
//! peer requests only, and reads only.
//!
//! | module | for |
//! |---|---|
//! | [`keys`] | this machine's key pair and certificate |
//! | `pin` | TLS with pinned certificates |
//! | `looks` | whether the registry names a caller, and how often it is asked |
//! | `greeting` | the two lines before the first request |
//! | [`listener`] | answering |
//! | [`client`] | asking |

pub mod client;
mod greeting;
pub mod keys;
pub mod listener;
mod looks;
mod pin;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use fleet_core::MachineId;
use fleet_core::records::PresenceRecord;
use fleet_registry::keys::{Area, Key};
use fleet_registry::{Registry, RegistryError};
use tokio_util::sync::CancellationToken;

use crate::api::tools::LocalTools;
pub use client::PeerClient;
pub use keys::{KeysError, PeerKeys};
pub use listener::{Handle, ListenError, Service};

/// The port that peers are expected on unless configured otherwise.
pub const DEFAULT_PORT: u16 = 49154;

/// What the listener is made from.
pub struct Options {
    pub registry: Registry,
    pub machine: MachineId,
    pub keys: PeerKeys,
    pub listen: SocketAddr,
    pub tools: LocalTools,
    /// Between two lines of a journal.
    pub heartbeat: Duration,
    pub shutdown: CancellationToken,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("machine", &self.machine)
            .field("listen", &self.listen)
            .field("fingerprint", &self.keys.fingerprint())
            .finish_non_exhaustive()
    }
}

/// What the registry says of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Published {
    address: String,
    fingerprint: String,
}

/// Reads a machine's presence; `None`: it has none, or published no certificate.
async fn published(registry: &Registry, machine: &MachineId) -> Result<Option<Published>, RegistryError> {
    let snapshot = registry.read(&[Area::One(Key::Presence(machine.clone()))]).await?;
    let presence = snapshot.presence.get(machine).map(|presence| &presence.value);
    Ok(presence.and_then(|presence| {
        let fingerprint = certificate(presence)?.to_owned();
        Some(Published { address: presence.peer_address.clone(), fingerprint })
    }))
}

/// The fingerprint of the certificate that a machine published, if it did.
fn certificate(presence: &PresenceRecord) -> Option<&str> {
    Some(presence.fingerprint.as_str()).filter(|fingerprint| !fingerprint.is_empty())
}
