//! What the tests of the workspace share: a lab of real machines, and the figures of `make bench`.
//!
//! [`lab`] boots clusters of systemd-nspawn machines with a real etcd. The tests below `tests/`, the benches and
//! the command line `fleet-lab` use it; nothing that is shipped may. [`bench`] is what `fleet-bench` runs.
//! [`cluster`] is a lab as an operator has it, for the tests of promises on real machines.

pub mod bench;
pub mod cluster;
pub mod lab;
#[cfg(feature = "sim")]
pub mod sim;
