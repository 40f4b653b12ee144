//! What the machine shows of a unit, as one picture. The shell gathers it; nothing here was decided by anybody.

use unit_files::{ContentHash, RunHash};

use crate::records::Reason;
use crate::time::Timestamp;

/// One unit as systemd and the disk show it. The default is a name of which the machine knows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// systemd's words for a loaded unit; None if it is not loaded.
    pub loaded: Option<LoadedUnit>,
    pub is_pinned: bool,
    /// Text of ours under this name.
    pub on_disk: Option<OnDisk>,
    pub job: Option<Job>,
    /// A job of ours that ended since the last pass.
    pub ended: Option<EndedJob>,
    /// A step of ours that failed since the last pass.
    pub failure: Option<StepFailure>,
    /// Steps of an earlier pass are still being carried out.
    pub is_busy: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedUnit {
    pub load: String,
    pub active: String,
    pub sub: String,
    pub result: String,
    /// Of the last run since it was loaded.
    pub invocation: Option<String>,
    /// Microseconds since the epoch; 0 if conditions were never checked.
    pub condition_timestamp: u64,
    pub fragment: Fragment,
    pub exit_status: Option<i32>,
    pub n_restarts: u32,
    /// Microseconds since the epoch of the last change of `active`; 0 if there was none.
    pub state_change: u64,
    /// The run hash of the text that systemd has read, when it is ours.
    pub run_hash: Option<RunHash>,
    /// Its control group still exists.
    pub has_control_group: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// No file: a stub, or the file vanished under a running unit.
    #[default]
    None,
    Ours,
    /// The host's, with its path.
    Foreign(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDisk {
    pub content: ContentHash,
    pub run_hash: Option<RunHash>,
    pub is_linked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    Start,
    Stop,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    pub kind: JobKind,
    pub since: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedJob {
    pub kind: JobKind,
    /// systemd's word: `done`, `failed`, `timeout`, `canceled`, ...
    pub result: String,
}

/// What failed of the steps that a pass asked for; what came after it was not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    pub kind: FailureKind,
    /// The start itself was asked for, so that its outcome may be unknown.
    pub at_start: bool,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The host stands in the way: nothing was done.
    Refusal,
    /// systemd judged the unit: asking again would be answered in the same way.
    Conclusive,
    /// Asking again may succeed, and nothing was done.
    NotDone,
    /// Asking again may succeed; it may also have been done.
    Unknown,
}

impl Observed {
    fn active(&self) -> &str {
        self.loaded.as_ref().map_or("inactive", |unit| unit.active.as_str())
    }
    pub(super) fn has_job(&self, kind: JobKind) -> bool {
        self.job.is_some_and(|job| job.kind == kind)
    }
    /// Nothing runs and nothing is under way.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        matches!(self.active(), "inactive" | "failed") && self.job.is_none()
    }
    /// On its way down, by whomever.
    pub(super) fn is_going_down(&self) -> bool {
        self.has_job(JobKind::Stop) || (self.active() == "deactivating" && !self.has_job(JobKind::Start))
    }
    /// Runs, or is about to, and nobody stops it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.is_at_rest() && !self.is_going_down()
    }
    pub(super) fn is_failed(&self) -> bool {
        self.active() == "failed"
    }
    /// At rest, with processes that a stop left behind.
    #[must_use]
    pub fn has_leftovers(&self) -> bool {
        self.is_at_rest() && self.loaded.as_ref().is_some_and(|unit| unit.has_control_group)
    }
    pub(super) fn invocation(&self) -> Option<&str> {
        self.loaded.as_ref().and_then(|unit| unit.invocation.as_deref())
    }
    pub(super) fn loaded_run_hash(&self) -> Option<RunHash> {
        self.loaded.as_ref().and_then(|unit| unit.run_hash)
    }
    pub(super) fn has_ended(&self, kind: JobKind) -> Option<&str> {
        self.ended.as_ref().filter(|ended| ended.kind == kind).map(|ended| ended.result.as_str())
    }
    /// Path of the host's unit that has the name.
    pub(super) fn foreign_path(&self) -> Option<&str> {
        match &self.loaded.as_ref()?.fragment {
            Fragment::Foreign(path) => Some(path),
            Fragment::None | Fragment::Ours => None,
        }
    }
    /// Nothing of ours is left under the name.
    pub(super) fn is_clean(&self) -> bool {
        self.on_disk.is_none() && !self.is_pinned
    }
}
