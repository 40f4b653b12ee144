//! What every `Systemd` must do, as one suite. Run against the fake in this crate's tests and against real
//! machines by the cluster tests (feature `contract`); a difference between the two is a fault of the fake.
//!
//! The suite needs a machine that provides `dbus.service`, has `multi-user.target` loaded, and leaves to it the names `fleet-contract-*`. It
//! leaves nothing behind. It panics, naming the case, at the first thing that is not as it must be.

mod bench;
mod disturbance;
mod files;
mod jobs;
mod results;

use std::{collections::BTreeMap, future::Future, time::Duration};

use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};

pub use bench::{StartFigures, measure_starts};
pub use disturbance::survives;

use crate::{
    Systemd,
    error::SystemdError,
    events::Events,
    types::{Install, JobId, JobResult, RunHash, SystemdEvent, UnitDetail, UnitName, UnitState},
};

const CASE_LIMIT: Duration = Duration::from_secs(60);
const WAIT_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Runs the whole suite.
///
/// # Panics
/// When the implementation breaks the contract.
pub async fn contract(systemd: &dyn Systemd) {
    macro_rules! run {
        ($($case:path,)*) => {$(
            let mut subject = Subject::new(systemd);
            let ended = timeout(CASE_LIMIT, $case(&mut subject)).await;
            assert!(ended.is_ok(), "{} did not end within {CASE_LIMIT:?}", stringify!($case));
            subject.clean().await;
        )*};
    }
    run!(
        jobs::name_without_unit_is_nowhere_and_asking_does_not_load_it,
        jobs::service_runs_until_it_is_stopped,
        jobs::equal_start_is_the_same_job,
        jobs::start_over_a_stop_is_refused_until_the_stop_ends,
        jobs::stop_cancels_a_start_that_is_under_way,
        jobs::instances_of_a_template_are_units_of_their_own,
        jobs::many_starts_at_once_are_seen_in_one_list,
        results::finished_oneshot_is_unloaded_unless_pinned,
        results::ran_skipped_and_never_ran_are_told_apart,
        results::failure_stays_readable_until_reset,
        results::missing_binary_is_a_job_that_is_done_and_a_unit_that_failed,
        results::remaining_oneshot_is_active_and_does_not_run_again,
        results::service_that_fails_is_restarted_by_its_own_rules,
        results::service_that_ends_by_itself_is_unloaded,
        files::text_is_read_at_load_not_at_start,
        files::pinned_text_changes_only_by_reload,
        files::bad_setting_is_refused_and_its_correction_needs_no_reload,
        files::link_that_is_gone_shows_after_a_reload_and_what_runs_goes_on,
        files::installed_lists_what_lies_there_and_uninstall_is_idempotent,
        files::links_toward_a_loaded_target_are_unread_until_a_reload,
        files::pins_of_many_names_are_let_go_one_by_one,
        files::unit_of_the_host_is_in_the_way_and_ours_is_not,
        files::machine_says_who_it_is,
    );
}

/// One case's view: the implementation, the ends of jobs, the names to clean up.
pub(crate) struct Subject<'a> {
    pub systemd: &'a dyn Systemd,
    events: Events,
    ended: BTreeMap<JobId, JobResult>,
    /// The last state that events told of each unit.
    told: BTreeMap<String, Option<UnitState>>,
    resyncs: usize,
    names: Vec<UnitName>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(systemd: &'a dyn Systemd) -> Self {
        let events = systemd.events();
        Self { systemd, events, ended: BTreeMap::new(), told: BTreeMap::new(), resyncs: 0, names: Vec::new() }
    }

    /// A name of this suite; it is cleaned up after the case.
    pub(crate) fn name(&mut self, stem: &str) -> UnitName {
        let name: UnitName = format!("fleet-contract-{stem}").parse().expect("the suite's names are valid");
        self.names.push(name.clone());
        name
    }

    /// Installs a text; the hash of the text serves as run hash.
    pub(crate) async fn install(&self, name: &UnitName, text: &str) {
        let unit = install(name, text);
        // An earlier run of the suite may have been cut short.
        self.systemd.reset_failed(name).await.expect("reset failed");
        self.systemd.install(&unit).await.expect("install");
    }

    pub(crate) async fn start(&self, name: &UnitName) -> JobId {
        self.systemd.start(name).await.expect("start")
    }

    /// Starts and waits for the end of the job.
    pub(crate) async fn run(&mut self, name: &UnitName) -> JobResult {
        let job = self.start(name).await;
        self.end_of(job).await
    }

    /// Stops, waits for the end of the job.
    pub(crate) async fn stop(&mut self, name: &UnitName) {
        if let Some(job) = self.systemd.stop(name).await.expect("stop") {
            self.end_of(job).await;
        }
    }

    pub(crate) async fn end_of(&mut self, job: JobId) -> JobResult {
        let limit = Instant::now() + WAIT_LIMIT;
        loop {
            if let Some(result) = self.ended.remove(&job) {
                return result;
            }
            let event = tokio::time::timeout_at(limit, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| never_ended(job)).expect("events end with the subject");
            self.note(event);
        }
    }

    fn note(&mut self, event: SystemdEvent) {
        match event {
            SystemdEvent::JobRemoved { job, result, .. } => {
                self.ended.insert(job, result);
            }
            SystemdEvent::Resync => self.resyncs += 1,
            SystemdEvent::UnitChanged { unit, state } => {
                self.told.insert(unit, state);
            }
            SystemdEvent::Disconnected => {}
        }
    }

    /// Waits until events have told what a look shows.
    pub(crate) async fn until_told(&mut self, name: &UnitName, shown: &UnitDetail) {
        let UnitDetail { active, sub, state_change, .. } = shown.clone();
        let shown = Some(UnitState { active, sub, state_change });
        let limit = Instant::now() + WAIT_LIMIT;
        while self.told.get(name.as_str()) != Some(&shown) {
            let event = tokio::time::timeout_at(limit, self.events.recv()).await;
            self.note(event.expect("the last change is told").expect("events go on"));
        }
    }

    /// Waits until a `Resync` has come since the last call.
    pub(crate) async fn resync(&mut self) {
        let limit = Instant::now() + WAIT_LIMIT;
        while self.resyncs == 0 {
            let event = tokio::time::timeout_at(limit, self.events.recv()).await;
            self.note(event.expect("a reload is followed by Resync").expect("events go on"));
        }
        self.resyncs = 0;
    }

    pub(crate) fn forget_events(&mut self) {
        while let Some(event) = self.events.try_recv() {
            self.note(event);
        }
        self.resyncs = 0;
    }

    pub(crate) async fn inspect(&self, name: &UnitName) -> Option<UnitDetail> {
        self.systemd.inspect(name).await.expect("inspect")
    }

    pub(crate) async fn loaded(&self, name: &UnitName) -> UnitDetail {
        self.inspect(name).await.expect("the unit is loaded")
    }

    /// Waits until the unit is as wanted.
    pub(crate) async fn until(
        &self,
        name: &UnitName,
        what: &str,
        wanted: impl Fn(&UnitDetail) -> bool,
    ) -> UnitDetail {
        let mut last = None;
        let limit = Instant::now() + WAIT_LIMIT;
        while Instant::now() < limit {
            last = self.inspect(name).await;
            match last {
                Some(detail) if wanted(&detail) => return detail,
                _ => sleep(POLL).await,
            }
        }
        fail(&format!("{name} is not {what}: {last:?}"))
    }

    pub(crate) async fn until_unloaded(&self, name: &UnitName) {
        let is_unloaded = async || {
            let names = std::slice::from_ref(name);
            self.systemd.list(names).await.expect("list").is_empty()
        };
        wait_for(&format!("{name} to be unloaded"), is_unloaded).await;
    }

    async fn clean(mut self) {
        let names = std::mem::take(&mut self.names);
        for name in &names {
            self.stop(name).await;
        }
        self.systemd.unpin(&names).await.expect("unpin");
        for name in &names {
            self.systemd.reset_failed(name).await.expect("reset failed");
            self.systemd.uninstall(name).await.expect("uninstall");
        }
        for name in &names {
            self.until_unloaded(name).await;
        }
    }
}

pub(crate) fn install(name: &UnitName, text: &str) -> Install {
    Install {
        name: name.clone(),
        text: text.as_bytes().into(),
        run_hash: hash_of(text),
        drop_in: String::new(),
        wanted_by: Vec::new(),
        required_by: Vec::new(),
    }
}

pub(crate) fn hash_of(text: &str) -> RunHash {
    hex::encode(Sha256::digest(text)).parse().expect("64 hex digits")
}

/// Waits for a condition, with a deadline.
pub(crate) async fn wait_for<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let limit = Instant::now() + WAIT_LIMIT;
    while !condition().await {
        if Instant::now() >= limit {
            fail(&format!("waited in vain for {what}"));
        }
        sleep(POLL).await;
    }
}

pub(crate) fn is<T: std::fmt::Debug>(
    answer: Result<T, SystemdError>,
    wanted: impl Fn(&SystemdError) -> bool,
) {
    match answer {
        Err(error) if wanted(&error) => {}
        other => fail(&format!("unexpected answer: {other:?}")),
    }
}

fn never_ended<T>(job: JobId) -> T {
    fail(&format!("job {job} never ended"))
}

#[expect(clippy::panic, reason = "a broken contract fails the test that runs the suite")]
#[track_caller]
fn fail(message: &str) -> ! {
    panic!("{message}")
}
