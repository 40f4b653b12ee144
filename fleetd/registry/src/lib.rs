//! The registry: the only state that the parts of the cluster share.
//!
//! [`store`] is the bytes level (revisions, transactions, watches, leases); [`etcd`], [`embedded`] and [`memory`]
//! implement it. On it stand [`follow`] (list, then watch), [`lease`] (renewal that nothing delays)
//! and [`pack`] (fenced groups of writes). Above them, [`registry`] speaks in the keys and records
//! of `fleet-core`. Called by the tasks of fleetd's shell; decides nothing, that is `fleet-core`'s.

mod backoff;
pub mod codec;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
pub mod etcd;
pub mod follow;
pub mod keys;
pub mod lease;
pub mod memory;
mod mvcc;
pub mod pack;
pub mod registry;
pub mod store;

pub use backoff::BackoffOptions;
pub use registry::{Asked, ClusterFence, Counters, Outcome, Registry, RegistryError};
