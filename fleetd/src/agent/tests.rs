//! The agent on a fake systemd and a registry in memory, with the clock paused.

mod harness;
mod promises;
mod trouble;

pub(super) use harness::an_order;
