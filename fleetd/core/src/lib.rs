//! The model of a cluster and every decision taken about it.
//!
//! Who calls it: the tasks of `fleetd` (engine, agent, API) and the simulator. What it may not do: no clock, no
//! randomness, no environment, no files, no network. Time, new ids and sequence numbers are arguments, so that every
//! decision can be replayed from its inputs.
//!
//! | module | what it decides |
//! |---|---|
//! | [`records`] | what the registry holds: one type per key |
//! | [`world`] | the engine's view of the registry, with the indices that keep a pass cheap |
//! | [`plan`] | engine: world -> groups of writes, each with its compare set and its reason |
//! | [`reconcile`] | agent: orders + local systemd -> unit actions, reports, acknowledgements |
//! | [`requests`] | API: what a request makes of a unit's record, and how far the cluster is with it |
//! | [`store_trust`] | whether the store in front of us is ours, and not rolled back |
//! | [`leadership`] | when a candidate campaigns |

pub mod ids;
pub mod leadership;
pub mod plan;
pub mod reconcile;
pub mod records;
pub mod requests;
pub mod store_trust;
pub mod time;
pub mod world;

pub use ids::{
    BootId, ClusterId, Epoch, Generation, IdError, MachineId, Nonce, OrderNumber, RequestId, Revision, Term,
    UnitUid,
};
pub use time::{Span, Timestamp};
