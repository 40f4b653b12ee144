//! The state machine under both stores of our own: revisions, transactions, history, leases, watchers.
//!
//! Called by [`memory`](crate::memory) and [`embedded`](crate::embedded), each under a lock or on a
//! thread of its own. Does no I/O, reads no clock and never waits. What an etcd would answer is
//! decided here and nowhere else.

mod leases;
mod state;
mod watchers;

pub(crate) use state::{Commit, Identity, State, Step};
pub(crate) use watchers::Watchers;
