//! The registry in the words of the model: what the tasks of the shell call.
//!
//! Everything is said in keys and records of `fleet-core`; below is the bytes level (module `store`). A call
//! is one or a few store calls, each bounded by the store's request time-out. Nothing here decides: conflicts, lost
//! fences and unknown outcomes are results that the caller acts on, after reading again.
//!
//! | module | for |
//! |---|---|
//! | [`entry`], [`snapshot`] | typed keys and reads at one revision |
//! | [`follow`], [`world`], [`orders`] | followed views: any area, the engine's world, an agent's orders |
//! | [`leader`], [`groups`] | engine: leadership, and writing a plan |
//! | [`presence`], [`commit`] | agent: presence, acknowledgements and state rows |
//! | [`cluster`], [`units`], [`machines`] | what operators ask for |
//! | [`export`], [`document`], [`import`] | the whole cluster as one document, and back |
//! | [`arrival`] | a machine comes into another cluster with its units |
//! | [`events`], [`contents`], [`upkeep`] | the event log, and what the leader tidies up |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fleet_core::Revision;

pub mod arrival;
mod batch;
pub mod cluster;
pub mod commit;
pub mod contents;
mod counters;
pub mod document;
pub mod endpoints;
pub mod entry;
pub mod events;
pub mod export;
pub mod follow;
pub mod groups;
pub mod import;
pub mod leader;
pub mod machines;
mod observe;
pub mod orders;
pub mod presence;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod units;
pub mod upkeep;
pub mod world;

pub use batch::{Asked, Outcome};
pub use counters::Counters;

use crate::codec::CodecError;
use crate::keys::{Key, Keys};
use crate::store::{self, Compare, KeyValue, Store, StoreError, Txn, TxnReply};

/// Why a call has no result. Whether a write may be repeated says [`RegistryError::is_unknown`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The store gave no result.
    #[error("{doing}: {error}")]
    Store { doing: &'static str, error: StoreError },
    /// A record that the call cannot do without is not readable.
    #[error("{doing}: {error}")]
    Codec { doing: &'static str, error: CodecError },
    /// Nothing was written, again and again, because others write the same keys.
    #[error("{doing}: {key} changed {}; try again", meanwhile(*attempts))]
    Contended { doing: &'static str, key: Key, attempts: usize },
    /// Nothing was written, because the store was found rolled back.
    #[error(
        "{doing}: the registry is on hold, it was rolled back ({why}); `fleetctl cluster adopt` confirms what is in it"
    )]
    OnHold { doing: &'static str, why: String },
    /// A unit's text is not in the registry.
    #[error("{0} is missing in the registry; submit the unit again, or restore a backup of the registry")]
    ContentMissing(Key),
}

impl RegistryError {
    /// The write may or may not have been applied: read again before repeating it.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, RegistryError::Store { error, .. } if error.is_unknown())
    }

    /// Nothing was applied and nothing is wrong with the request: the registry did not answer.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, RegistryError::Store { error, .. } if error.is_transient())
    }
}

/// The registry of one cluster. Clones are cheap and share their counters.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
    keys: Keys,
    shared: Arc<Shared>,
    /// Differs between machines, so that their retries do not meet.
    seed: u64,
}

#[derive(Debug, Default)]
struct Shared {
    counters: Counters,
    /// Highest seen in any answer.
    raft_term: AtomicU64,
    revision: AtomicU64,
}

/// That the cluster's record is the one that was read and trusted, and that no hold was put since. Compared by every
/// write that must not reach a foreign, rolled back or held store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterFence {
    /// Modification revision of `cluster`.
    pub cluster: Revision,
}

/// How often a read-change-write call starts over when somebody else wrote meanwhile.
const ATTEMPTS: usize = 5;

impl Registry {
    /// `seed` should differ between machines; it spreads their retries.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, keys: Keys, seed: u64) -> Registry {
        let shared = Arc::<Shared>::default();
        let store = Arc::new(observe::Observed { inner: store, shared: Arc::clone(&shared) });
        Registry { store, keys, shared, seed }
    }

    /// The bytes level, for leases.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Highest raft term seen in any answer; its growth means an election, which gives every lease its full time
    /// again. 0 before the first answer.
    #[must_use]
    pub fn raft_term(&self) -> u64 {
        self.shared.raft_term.load(Ordering::Relaxed)
    }

    /// Highest store revision seen in a linearizable answer since the start or the last re-anchoring, for the member
    /// file. A store that was rolled back does not lower it.
    #[must_use]
    pub fn seen(&self) -> Revision {
        typed(store::Revision(self.shared.revision.load(Ordering::Relaxed)))
    }

    /// The history so far was another store's.
    fn reset_seen(&self, header: store::Header) {
        self.shared.raft_term.store(header.raft_term, Ordering::Relaxed);
        self.shared.revision.store(header.revision.0, Ordering::Relaxed);
    }

    fn key(&self, key: &Key) -> Bytes {
        self.keys.key(key)
    }

    async fn txn(&self, doing: &'static str, txn: Txn) -> Result<TxnReply, RegistryError> {
        self.store.txn(txn).await.map_err(|error| RegistryError::Store { doing, error })
    }

    fn compare_modified(&self, key: &Key, revision: Revision) -> Compare {
        Compare::mod_revision(self.key(key), raw(revision))
    }

    fn compare_cluster(&self, fence: ClusterFence) -> Vec<Compare> {
        let cluster = self.key(&Key::Cluster);
        let same = Compare::mod_revision(cluster.clone(), raw(fence.cluster));
        vec![Compare::absent(self.key(&Key::Hold)), same, Compare::present(cluster)]
    }

    /// A key that its writer created at `created` and still holds. Asked for presence too: revision 0, of a writer that
    /// holds nothing, would otherwise be true of a store that was emptied.
    fn compare_held(&self, key: &Key, created: Revision) -> Vec<Compare> {
        let key = self.key(key);
        vec![Compare::create_revision(key.clone(), raw(created)), Compare::present(key)]
    }
}

fn meanwhile(attempts: usize) -> String {
    if attempts > 1 { format!("under each of {attempts} attempts") } else { "meanwhile".to_owned() }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("kind", &self.store.kind())
            .field("prefix", &self.keys.prefix())
            .finish()
    }
}

/// A store's revision in the model's words.
fn typed(revision: store::Revision) -> Revision {
    Revision(i64::try_from(revision.0).unwrap_or(i64::MAX))
}

/// A model's revision in the store's words; what no store has given means "absent".
fn raw(revision: Revision) -> store::Revision {
    store::Revision(u64::try_from(revision.0).unwrap_or(0))
}

fn versioned<T>(kv: &KeyValue, value: T) -> fleet_core::records::Versioned<T> {
    fleet_core::records::Versioned {
        value,
        created: typed(kv.create_revision),
        modified: typed(kv.mod_revision),
    }
}
