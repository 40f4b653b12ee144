//! What the command line and the tests say to the supervisor: one JSON line each way over a unix socket, with
//! progress lines before the answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a partition treats packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Packets vanish: a pulled cable.
    Drop,
    /// Packets are refused at once: a dead port.
    Reject,
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    Off,
    Booting,
    Running,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub(super) enum Request {
    /// Starts etcd and all machines.
    BringUp,
    Start {
        machine: String,
    },
    Kill {
        machine: String,
    },
    PowerOff {
        machine: String,
    },
    Reboot {
        machine: String,
    },
    /// Cuts the machine from `peers` (addresses), or from everything when that is empty.
    Partition {
        machine: String,
        peers: Vec<String>,
        cut: Cut,
    },
    Heal {
        machine: String,
    },
    /// Without a member: all of them.
    EtcdStart {
        member: Option<u8>,
    },
    EtcdStop {
        member: Option<u8>,
    },
    EtcdKill {
        member: Option<u8>,
    },
    /// Stops all members, removes their data and starts them empty.
    EtcdWipe,
    /// Stops all members, replaces their data by the snapshot and starts them.
    EtcdRestore {
        file: String,
    },
    Status,
    /// From now on the lab outlives whoever started it.
    Detach,
    /// Ends everything and removes what the lab left.
    Down,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Progress(String),
    Done,
    Status(Snapshot),
    Failed(String),
}

/// What only the supervisor knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub machines: BTreeMap<String, MachineSnapshot>,
    /// By member: whether the process runs.
    pub etcd: BTreeMap<u8, bool>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MachineSnapshot {
    pub power: Power,
    /// Boots since the lab is up.
    pub boots: u32,
    /// From the start of nspawn to systemd's "startup finished".
    pub last_boot_ms: Option<u64>,
    pub partition: Option<String>,
}
