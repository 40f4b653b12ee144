//! What a test can arrange and observe around the fake: how units behave, which calls fail, what ran.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    error::SystemdError,
    fake::text::Program,
    types::{ContentHash, InvocationId, UnitName},
};

/// How a unit behaves where its text does not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Time until it counts as started, on top of what the text says. Beyond `TimeoutStartSec=` it fails.
    pub start_takes: Duration,
    /// It never gets ready (`TimeoutStartSec=` still applies; a oneshot has none by default).
    pub start_hangs: bool,
    /// Time from the stop signal to its end. Beyond `TimeoutStopSec=` it is killed and `failed`.
    pub stop_takes: Duration,
    /// Not even a kill ends it, as with a process stuck in the kernel.
    pub stop_hangs: bool,
    /// The main process ends this long after its start with this status, whatever the text says.
    pub exits: Option<(Duration, i32)>,
    /// Outcome of the conditions, whatever the text says.
    pub condition: Option<bool>,
}

impl Behaviour {
    pub(super) fn program(&self) -> Option<Program> {
        self.exits.map(|(after, status)| Program::Exits { after, status })
    }
}

/// The calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    List,
    Inspect,
    Start,
    Stop,
    ResetFailed,
    Reload,
    Pin,
    Unpin,
    Pinned,
    Install,
    Uninstall,
    UnreadLinks,
    Installed,
    Shadowed,
    Environment,
}

impl Call {
    /// Files and boot id can be read without a bus.
    pub(super) fn needs_bus(self) -> bool {
        !matches!(self, Self::Install | Self::Uninstall | Self::Installed)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::List => "list units",
            Self::Inspect => "read unit",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::ResetFailed => "reset failed",
            Self::Reload => "daemon-reload",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::Pinned => "list pins",
            Self::Install => "install",
            Self::Uninstall => "uninstall",
            Self::UnreadLinks => "look for unread links",
            Self::Installed => "list files",
            Self::Shadowed => "check the name",
            Self::Environment => "read environment",
        }
    }
}

/// A failure that waits for its call.
#[derive(Debug)]
pub(super) struct Injected {
    pub call: Call,
    /// `None` = whatever the unit.
    pub unit: Option<UnitName>,
    pub error: SystemdError,
    /// Calls it still hits; `None` = all until cleared.
    pub times: Option<u32>,
}

/// How often things were asked for since the fake was made, over all boots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Start jobs that were enqueued, by fleet or by hand.
    pub starts: u64,
    /// Stop jobs that were enqueued, by fleet or by hand.
    pub stops: u64,
    /// `daemon-reload`s.
    pub reloads: u64,
    /// Calls through the trait, failed ones too.
    pub calls: BTreeMap<Call, u64>,
}

/// What happened to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Started,
    /// It was told to stop; `text` is the one whose `ExecStop=` ran.
    Stopped,
    /// It ended by itself.
    Exited {
        status: i32,
    },
}

/// One line of the execution log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    pub unit: UnitName,
    pub what: What,
    /// Hash of the text in force.
    pub text: ContentHash,
    pub invocation: Option<InvocationId>,
    /// 1 for the first boot.
    pub boot: u64,
    /// Microseconds since the epoch on the fake's clock.
    pub at: u64,
}

impl Execution {
    pub(super) fn new(
        unit: &UnitName,
        what: What,
        text: &[u8],
        invocation: Option<InvocationId>,
        boot: u64,
        at: u64,
    ) -> Self {
        Self { unit: unit.clone(), what, text: ContentHash::of(text), invocation, boot, at }
    }
}
