//! A lab: a cluster of real machines (systemd in nspawn) with a real etcd, on this machine.
//!
//! Tests, benches and the command line `fleet-lab` call it. A lab has a name; labs of different names run side by
//! side, each in network, mount and PID namespaces of its own. One background process, the supervisor
//! (`supervisor`), is PID 1 in there: when it ends, for whatever reason, everything in the lab ends with it. What the
//! kernel does not clean by itself (cgroup directories, the work directory) is cleaned at the next
//! [`Lab::up`] or [`Lab::down`], of any lab (`sweep`).
//!
//! [`Lab::up`] gives a lab that dies with the value and with the process that holds it; [`Lab::up_detached`] one that
//! stays until [`Lab::down`]. [`Lab::attach`] finds a running one by its name.
//!
//! The lab knows nothing of fleet's crates: it drives the binaries as a person would.

mod base_tree;
mod binaries;
mod cgroups;
mod common_layer;
mod error;
mod etcd;
mod fleetd;
mod handle;
mod layout;
mod logs;
mod machine;
mod options;
mod protocol;
mod sweep;
mod wait;

#[doc(hidden)]
pub mod supervisor;

pub use base_tree::Release;
pub use error::LabError;
pub use etcd::Etcd;
pub use handle::{EtcdStatus, Lab, LabStatus, MachineStatus};
pub use layout::{known_labs, lab_directory};
pub use machine::{ExecOutput, Machine};
pub use options::{LabOptions, MachineOptions, machine_name};
pub use protocol::{Cut, Power};
pub use wait::{wait_for, wait_until};

/// A place for the progress lines of a long operation; the command line prints them on standard error.
pub type Progress<'a> = &'a mut dyn FnMut(&str);
