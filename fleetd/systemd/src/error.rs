//! What can go wrong between us and one machine's systemd, in the words the agent reports to people.
//! Expected outcomes that a caller acts upon (a stop job in the way, a masked unit) are variants of their own.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use crate::types::UnitName;

/// Failure of one operation on one machine's systemd.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SystemdError {
    #[error("unit {unit} is not known to systemd: no unit file of that name is installed on this machine")]
    NoSuchUnit { unit: UnitName },
    #[error("unit {unit} is masked on this machine; run `systemctl unmask {unit}` there")]
    UnitMasked { unit: UnitName },
    #[error(
        "unit {unit} has settings that systemd refuses: {message}; correct the unit file and submit it again"
    )]
    BadSetting { unit: UnitName, message: String },
    #[error("unit {unit} cannot be loaded: {message}")]
    LoadFailed { unit: UnitName, message: String },
    /// A job that may not be replaced is queued, for a start usually the unit's own stop. Ask again when it ended.
    #[error("another job of unit {unit} is still under way: {message}")]
    TransactionIsDestructive { unit: UnitName, message: String },
    #[error("jobs that starting {unit} needs contradict each other: {message}")]
    TransactionConflict { unit: UnitName, message: String },
    #[error("unit {unit} may only be started or stopped as a dependency of another unit")]
    OnlyByDependency { unit: UnitName },
    #[error("units of the kind of {unit} cannot do this: {message}")]
    JobTypeNotApplicable { unit: UnitName, message: String },
    /// systemd counts reloads and starts; it refuses for a while when there are too many.
    #[error(
        "{operation} was refused because there were too many; it will be accepted again later: {message}"
    )]
    RateLimited { operation: &'static str, message: String },
    #[error("{operation} was denied: {message}; fleetd must run as root")]
    AccessDenied { operation: &'static str, message: String },
    /// The outcome is unknown: systemd may still carry the call out.
    #[error("systemd did not answer {operation} within {after:?}")]
    TimedOut { operation: &'static str, after: Duration },
    /// The outcome is unknown when the call was already sent.
    #[error("no connection to systemd for {operation}: {message}; trying again by itself")]
    Disconnected { operation: &'static str, message: String },
    #[error("systemd refused {operation} of {subject}: {message} ({name})")]
    Refused { operation: &'static str, subject: String, name: String, message: String },
    #[error("systemd's answer to {operation} cannot be read: {message}")]
    Malformed { operation: &'static str, message: String },
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("{} is in the way and was not made by fleet; move it away", path.display())]
    NotOurs { path: PathBuf },
}

impl SystemdError {
    /// Asking again later may succeed without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::TransactionIsDestructive { .. }
                | Self::RateLimited { .. }
                | Self::TimedOut { .. }
                | Self::Disconnected { .. }
        )
    }

    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File { operation, path: path.into(), source: Arc::new(source) }
    }
}
