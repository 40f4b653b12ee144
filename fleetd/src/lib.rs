//! fleetd: the agent, the engine and the API of one machine, in one process.
//!
//! | module | what it is |
//! |---|---|
//! | [`arguments`] | its command line |
//! | [`config`] | what an operator sets |
//! | [`store`] | where the registry lies: etcd, or this machine's own disk |
//! | [`identity`], [`member`] | who this machine is, and which cluster it belongs to |
//! | [`claim`] | what is said of an import that has the store for itself |
//! | [`join`] | its move from its own store to the cluster's |
//! | [`session`] | its presence in the registry, and whether the store is trusted |
//! | [`api`] | HTTP for operators, scripts and monitoring |
//! | [`peer`] | one machine's fleetd asks another's |
//! | [`agent`] | makes this machine's systemd obey its orders |
//! | [`notify`] | what systemd is told |
//! | [`runtime`] | the threads that all of it runs on |
//! | [`dump`] | what its agent knows, printed at SIGUSR1 |
//! | [`memory`] | what a burst left behind is given back |
//! | [`engine`] | one elected leader turns units and machines into orders |
//!
//! Components do not know each other; `wire` knows them all.

pub mod agent;
pub mod api;
pub mod arguments;
pub mod claim;
pub mod clock;
pub mod config;
pub mod dump;
mod durable;
pub mod engine;
pub mod identity;
pub mod join;
pub mod member;
pub mod memory;
pub mod notify;
pub mod peer;
pub mod runtime;
pub mod session;
pub mod store;
pub mod wire;
