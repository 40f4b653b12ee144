//! One machine's systemd: the trait [`Systemd`], its D-Bus implementation and a faithful fake.
//!
//! Called by the agent alone. This is an I/O layer: it decides nothing, remembers nothing that systemd or
//! `/run` does not remember, and knows nothing of orders, generations or the registry. Both implementations
//! are held to the same tests.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod dbus;
mod error;
mod events;
pub mod fake;
mod files;
mod shadow;
mod types;

use async_trait::async_trait;

pub use dbus::{DbusSystemd, Options};
pub use error::SystemdError;
pub use events::Events;
pub use types::{
    ActiveState, CALL_TIMEOUT, ContentHash, Environment, Install, InstalledUnit, InvocationId, JobId,
    JobResult, JobStatus, LoadState, RunHash, Shadow, ShadowKind, SystemdEvent, UnitDetail, UnitName,
    UnitState, UnitStatus,
};

/// What the agent can see and do on its machine.
///
/// Every call ends within the time-out of one call (25 s unless configured) and may run beside others; calls
/// about different units never wait for each other, save for the bound of 64 in flight. A call that ends in
/// `TimedOut` or `Disconnected` has an unknown outcome: read the state before acting again.
#[async_trait]
pub trait Systemd: Send + Sync + 'static {
    /// State of those of `names` that systemd has loaded, in one call however many there are. Loads nothing:
    /// a name that is absent from the answer is not loaded. Order is not kept.
    async fn list(&self, names: &[UnitName]) -> Result<Vec<UnitStatus>, SystemdError>;

    /// One unit in full; `None` when it is not loaded (and it is not loaded by asking).
    async fn inspect(&self, name: &UnitName) -> Result<Option<UnitDetail>, SystemdError>;

    /// Enqueues a start in mode `fail`. The answer means *queued*; the end comes as `JobRemoved`, which a
    /// reader of events may see before this call has returned the job's number. A start
    /// equal to one already queued answers that job. Starting what is active is a job that ends `done`.
    ///
    /// # Errors
    /// `TransactionIsDestructive` over a stop job, `NoSuchUnit`, `UnitMasked`, `BadSetting`, `LoadFailed`, …
    async fn start(&self, name: &UnitName) -> Result<JobId, SystemdError>;

    /// Enqueues a stop in mode `replace` (a queued start is cancelled). `None` when the unit is not loaded:
    /// there is nothing to stop.
    async fn stop(&self, name: &UnitName) -> Result<Option<JobId>, SystemdError>;

    /// Clears `failed`, which also lets systemd unload the unit if nothing pins it. Idempotent; a unit that
    /// is not loaded is success.
    async fn reset_failed(&self, name: &UnitName) -> Result<(), SystemdError>;

    /// `daemon-reload` of the whole machine; answers when it is finished. Callers merge their wishes: it costs
    /// 0.1 to 3 s of PID 1.
    async fn reload(&self) -> Result<(), SystemdError>;

    /// Keeps `names` loaded after they end, so that their result stays readable, across a crash of the
    /// caller too. The names need not be installed yet. Idempotent. A pinned unit keeps its loaded text.
    async fn pin(&self, names: &[UnitName]) -> Result<(), SystemdError>;

    /// Lets go of `names`; systemd may unload them at once. Other pins stay. Names without a pin are success.
    async fn unpin(&self, names: &[UnitName]) -> Result<(), SystemdError>;

    /// The names that are pinned now, sorted.
    async fn pinned(&self) -> Result<Vec<UnitName>, SystemdError>;

    /// Puts a unit's file, link, drop-in and `.wants`/`.requires` links in place. Files that already are as
    /// asked are not touched (each change of a unit directory costs PID 1 a rescan); links of an earlier
    /// install that are no longer asked for are removed. Does not make systemd read anything.
    ///
    /// # Errors
    /// `NotOurs` when something that is not ours has the name in the unit directory.
    async fn install(&self, unit: &Install) -> Result<(), SystemdError>;

    /// Removes all that `install` made for the name. Idempotent; foreign files are left alone. The unit itself
    /// is not stopped.
    async fn uninstall(&self, name: &UnitName) -> Result<(), SystemdError>;

    /// Links of `[Install]` that [`install`](Self::install) made and that the unit they are for has not read, because it
    /// was loaded before: `multi-user.target.wants/a.service`, sorted. Only a reload makes it read them. Loads nothing.
    async fn unread_links(&self) -> Result<Vec<String>, SystemdError>;

    /// All units of ours on disk, sorted by name. Reads files only, not systemd.
    async fn installed(&self) -> Result<Vec<InstalledUnit>, SystemdError>;

    /// What of the host stands in the way of `name` or of one of its aliases, if anything. Reads directories
    /// and the list of loaded units; loads nothing.
    async fn shadowed(&self, name: &UnitName, aliases: &[String]) -> Result<Option<Shadow>, SystemdError>;

    /// Events from now on. Subscribe before acting, then list.
    fn events(&self) -> Events;

    /// Boot id and systemd's version.
    async fn environment(&self) -> Result<Environment, SystemdError>;
}
