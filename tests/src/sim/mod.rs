//! A whole cluster in one process, on a paused clock: real fleetd components over a store in memory and fake systemds.
//!
//! Scenario files, the promise tests and generated histories drive it; nothing that is shipped may use it. It decides
//! nothing: what happens in it is what fleetd's own code does. Ids are names and times are simulated, so that what a
//! scenario prints is the same in every run.
//!
//! | module | for |
//! |---|---|
//! | [`cluster`], [`machine`] | the machines, the store, time |
//! | [`tap`] | what a fleetd calls: counted, and where it dies |
//! | [`operator`] | what an operator asks for |
//! | [`ledger`] | what ran where, and whether a stop was asked for |
//! | `show` | the cluster as text |
//! | [`script`], `commands` | scenario files |

pub mod cluster;
mod commands;
pub mod ledger;
pub mod machine;
pub mod operator;
pub mod script;
mod show;
mod simulation;
pub mod tap;

pub use cluster::Cluster;
pub use simulation::simulate;
