//! The registry: the only state that the parts of the cluster share.
//!
//! [`store`] is the bytes level (revisions, transactions, watches, leases) with its two
//! implementations; what stands on it is generic over [`store::Store`]. Called by the tasks of
//! fleetd's shell; decides nothing, that is `fleet-core`'s.

pub mod store;
