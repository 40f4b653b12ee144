//! The words this crate shares with its callers: what a unit looks like, what is to be installed, what
//! changed. Plain data; nothing here talks to systemd, and nothing here decides.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

pub use unit_files::{ContentHash, RunHash, UnitName};

/// Number of a job in systemd's queue, taken from its object path. Unique until PID 1 is re-executed from
/// scratch (that is, within one boot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u32);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! word_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vmeta])* $variant,)*
            /// A word this release does not know; kept as it came.
            Other(String),
        }

        impl $name {
            /// systemd's own word.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

word_enum! {
    /// `LoadState` of a unit.
    LoadState {
        Loaded = "loaded",
        NotFound = "not-found",
        BadSetting = "bad-setting",
        Error = "error",
        Masked = "masked",
        Merged = "merged",
        Stub = "stub",
    }
}

word_enum! {
    /// `ActiveState` of a unit.
    ActiveState {
        Active = "active",
        Reloading = "reloading",
        Inactive = "inactive",
        Failed = "failed",
        Activating = "activating",
        Deactivating = "deactivating",
        Maintenance = "maintenance",
        Refreshing = "refreshing",
    }
}

impl ActiveState {
    /// Nothing of the unit runs and nothing is under way.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        matches!(self, Self::Inactive | Self::Failed)
    }
}

word_enum! {
    /// How a job ended (`JobRemoved`). `Done` does not mean "running": an unmet `Condition…=` is `Done` too.
    JobResult {
        Done = "done",
        Canceled = "canceled",
        Timeout = "timeout",
        Failed = "failed",
        Dependency = "dependency",
        Skipped = "skipped",
        Invalid = "invalid",
        Assert = "assert",
        Unsupported = "unsupported",
        Collected = "collected",
        Once = "once",
        Frozen = "frozen",
    }
}

/// A job that is queued or running for a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    pub id: JobId,
    /// `start`, `stop`, `restart`, `verify-active`, …
    pub kind: String,
}

/// One row of the list of loaded units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitStatus {
    pub name: UnitName,
    pub load: LoadState,
    pub active: ActiveState,
    /// `running`, `exited`, `dead`, `auto-restart`, …: depends on the unit's type.
    pub sub: String,
    pub job: Option<JobStatus>,
    /// The unit whose state this one mirrors; only ever set for device and swap units.
    pub following: Option<String>,
}

/// 128-bit id of one run of a unit; new with each start. Shown as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvocationId(pub [u8; 16]);

impl InvocationId {
    /// Reads 32 hex digits.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        u128::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 32).map(|id| Self(id.to_be_bytes()))
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InvocationId({self})")
    }
}

/// Everything the agent wants to know about one loaded unit, read as one consistent picture.
///
/// How a run is told from no run, for a pinned unit: `invocation_id` set and not the one noted before the
/// start = ran; `None` with `condition_timestamp` later than the start = skipped by a condition; `None` and
/// no condition timestamp = never ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitDetail {
    /// The primary name as systemd sees it; differs from the name asked for when that is an alias.
    pub id: String,
    pub load: LoadState,
    pub active: ActiveState,
    pub sub: String,
    /// `success`, `exit-code`, `signal`, `timeout`, … `success` also for what never ran.
    pub result: String,
    /// `None` until the first start since the unit was loaded.
    pub invocation_id: Option<InvocationId>,
    pub condition_result: bool,
    /// Microseconds since the epoch, of the last check of `Condition…=`; 0 = never checked.
    pub condition_timestamp: u64,
    /// Path as seen on the machine, a link of ours resolved; empty when there is no file.
    pub fragment_path: String,
    /// Exit status or signal number of the last main process (services only).
    pub exec_main_status: i32,
    /// `CLD_EXITED`=1, `CLD_KILLED`=2, `CLD_DUMPED`=3; 0 = none yet (services only).
    pub exec_main_code: i32,
    /// Automatic restarts since the last start by hand (services only).
    pub n_restarts: u32,
    /// 0 = none (services only).
    pub main_pid: u32,
    /// Path below the cgroup root, empty when nothing runs.
    pub control_group: String,
    /// `CLOCK_MONOTONIC` microseconds when the unit last became active; 0 = never.
    pub active_enter_monotonic: u64,
    /// Microseconds since the epoch of the last change of `active`; 0 = never.
    pub state_change: u64,
    /// systemd's hint that files changed. Only a hint: it misses changed text with an equal mtime.
    pub need_daemon_reload: bool,
    /// Run hash named by our drop-in as systemd has it *loaded*; `None` = no drop-in of ours is loaded.
    pub loaded_run_hash: Option<RunHash>,
}

/// A unit to be put in place. The bytes are written exactly as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    pub name: UnitName,
    pub text: Arc<[u8]>,
    /// Becomes the marker by which the *loaded* text is recognised.
    pub run_hash: RunHash,
    /// Further lines for the drop-in, each with its section header; empty for most units.
    pub drop_in: String,
    /// Units, usually targets of the host, that get a `.wants/` link to this one.
    pub wanted_by: Vec<String>,
    /// Units that get a `.requires/` link to this one.
    pub required_by: Vec<String>,
}

/// A unit as it lies on disk, whatever systemd has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledUnit {
    pub name: UnitName,
    /// Hash of the bytes of the unit file.
    pub content: ContentHash,
    /// The link in the unit directory exists and points at the file.
    pub is_linked: bool,
    /// Run hash in the drop-in on disk.
    pub run_hash: Option<RunHash>,
}

/// Why a name cannot be ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShadowKind {
    /// A unit file of the host has this name.
    HostUnit,
    /// The host masks the name (a link to `/dev/null`, or an empty file).
    Masked,
    /// The name, or one of its aliases, is a link to another unit of the host.
    Alias,
    /// The host provides the template of this instance.
    Template,
    /// Nothing on disk is in the way, but systemd has a unit of this name that is not ours.
    Loaded,
}

/// Something of the host that stands where our unit would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    pub kind: ShadowKind,
    /// The name that is taken: the unit's own, its template's, or an alias.
    pub name: String,
    /// Path as seen on the machine; empty for a loaded unit without a file.
    pub path: PathBuf,
}

/// State of a unit without a job: two that are equal are the same moment of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    pub active: ActiveState,
    /// State of its type's own: `running`, `exited`, ...
    pub sub: String,
    /// As in [`UnitDetail::state_change`].
    pub state_change: u64,
}

/// What happened, in the order in which systemd said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemdEvent {
    /// A job ended. The unit may already be unloaded: read its state from the pin, or trust `result`.
    JobRemoved { job: JobId, unit: String, result: JobResult },
    /// Some state of the unit changed, or it was unloaded. Not a fact, a reason to look.
    /// `state` is what it was when systemd said so, for a reader who may know it already; none while a job is queued
    /// for it, and where systemd did not say.
    UnitChanged { unit: String, state: Option<UnitState> },
    /// Events may have been missed (reload, re-execution, new connection, slow reader): list everything anew.
    Resync,
    /// The bus is gone; calls fail until `Resync`.
    Disconnected,
}

/// The machine as systemd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// One run of this machine's userspace: the kernel's boot id, a dash, and when systemd began to run units. At most
    /// 64 characters; equal over re-executions of systemd.
    pub boot_id: String,
    /// `252.39-1~deb12u1`, as systemd prints it.
    pub version: String,
}

/// Default time-out of one call to systemd. D-Bus's own default; a reload of 3,000 units takes 6 s.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(25);
