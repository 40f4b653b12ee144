//! One loaded unit of the fake, and the rows made from it.

use crate::{
    fake::text::Spec,
    types::{
        ActiveState, Install, InvocationId, JobId, JobStatus, LoadState, UnitDetail, UnitName, UnitStatus,
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobKind {
    Start,
    Stop,
}

impl JobKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub id: JobId,
    pub kind: JobKind,
}

/// Where a text was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Ours(Install),
    Host { path: String, text: String },
}

impl Source {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Ours(install) => String::from_utf8_lossy(&install.text).into_owned(),
            Self::Host { text, .. } => text.clone(),
        }
    }
}

/// What loading found.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub state: LoadState,
    pub source: Option<Source>,
    pub spec: Option<Spec>,
    pub message: String,
}

#[derive(Debug)]
pub(super) struct Unit {
    pub loaded: Loaded,
    pub active: ActiveState,
    pub sub: &'static str,
    pub result: &'static str,
    pub job: Option<Job>,
    pub invocation: Option<InvocationId>,
    pub condition_result: bool,
    pub condition_timestamp: u64,
    pub exec_main_status: i32,
    pub exec_main_code: i32,
    pub restarts: u32,
    pub main_pid: u32,
    pub active_enter: u64,
    pub state_change: u64,
    /// Times of the recent starts, for the start limit.
    pub recent_starts: Vec<u64>,
    /// Raised whenever a pending step of this unit becomes void.
    pub token: u64,
}

impl Unit {
    pub(super) fn new(loaded: Loaded) -> Self {
        Self {
            loaded,
            active: ActiveState::Inactive,
            sub: "dead",
            result: "success",
            job: None,
            invocation: None,
            condition_result: false,
            condition_timestamp: 0,
            exec_main_status: 0,
            exec_main_code: 0,
            restarts: 0,
            main_pid: 0,
            active_enter: 0,
            state_change: 0,
            recent_starts: Vec::new(),
            token: 0,
        }
    }

    pub(super) fn status(&self, name: &UnitName) -> UnitStatus {
        UnitStatus {
            name: name.clone(),
            load: self.loaded.state.clone(),
            active: self.active.clone(),
            sub: self.sub.to_owned(),
            job: self.job.map(|job| JobStatus { id: job.id, kind: job.kind.as_str().to_owned() }),
            following: None,
        }
    }

    /// `on_disk` is what a load would find now.
    pub(super) fn detail(&self, name: &UnitName, on_disk: Option<&Source>) -> UnitDetail {
        let (fragment_path, loaded_run_hash) = match &self.loaded.source {
            Some(Source::Ours(install)) => (format!("/run/fleet/units/{name}"), Some(install.run_hash)),
            Some(Source::Host { path, .. }) => (path.clone(), None),
            None => (String::new(), None),
        };
        let control_group = if self.main_pid == 0 { String::new() } else { format!("/system.slice/{name}") };
        UnitDetail {
            id: name.to_string(),
            load: self.loaded.state.clone(),
            active: self.active.clone(),
            sub: self.sub.to_owned(),
            result: self.result.to_owned(),
            invocation_id: self.invocation,
            condition_result: self.condition_result,
            condition_timestamp: self.condition_timestamp,
            fragment_path,
            exec_main_status: self.exec_main_status,
            exec_main_code: self.exec_main_code,
            n_restarts: self.restarts,
            main_pid: self.main_pid,
            control_group,
            active_enter_monotonic: self.active_enter,
            state_change: self.state_change,
            need_daemon_reload: self.loaded.source.as_ref() != on_disk,
            loaded_run_hash,
        }
    }
}
