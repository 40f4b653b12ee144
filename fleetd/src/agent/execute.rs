//! Carries out the steps of a pass. No choices are left here: a step that fails ends the steps of its unit and is
//! reported, and nothing waits for a job to end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_core::reconcile::{FLEET_1_RUNS, FailureKind, JobKind, OnDisk, Step, StepFailure};
use fleet_core::records::Reason;
use fleet_systemd::{JobId, LoadState, Shadow, Systemd, SystemdError};
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;
use unit_files::{ContentHash, RunHash, UnitName};

use super::pins::Pins;
use super::reload::Reloads;
use super::{disk, texts};

/// Calls about units that are under way at once; the bus allows 128 for a connection.
const IN_FLIGHT: usize = 64;
/// systemd unloads a unit shortly after the last thing that kept it; how often and how long to look for that.
const UNLOAD_LOOKS: usize = 5;
const UNLOAD_WAIT: Duration = Duration::from_millis(10);

/// The service of fleet 1.0. It and we use the same directory, and it removes there what it does not know.
const FLEET_1: &str = "fleet.service";
const CONTENT_LOST: &str = "content-lost";

/// What became of a step, as it happens.
#[derive(Clone, Debug)]
pub(super) enum StepReport {
    Queued {
        unit: UnitName,
        job: JobId,
        kind: JobKind,
    },
    Installed {
        unit: UnitName,
        on_disk: OnDisk,
    },
    Uninstalled {
        unit: UnitName,
    },
    Pinned {
        unit: UnitName,
    },
    Unpinned {
        unit: UnitName,
    },
    /// The text that the state directory had is damaged or gone.
    TextLost {
        content: ContentHash,
    },
    Failed {
        unit: UnitName,
        failure: StepFailure,
    },
    /// All steps of the pass for the unit are over.
    Finished {
        unit: UnitName,
    },
}

type Reports = mpsc::UnboundedSender<StepReport>;

pub(super) struct Executor {
    pub systemd: Arc<dyn Systemd>,
    pub state_directory: PathBuf,
    pub reloads: Arc<Reloads>,
    pub pins: Arc<Pins>,
}

impl Clone for Executor {
    fn clone(&self) -> Executor {
        Executor {
            systemd: Arc::clone(&self.systemd),
            state_directory: self.state_directory.clone(),
            reloads: Arc::clone(&self.reloads),
            pins: Arc::clone(&self.pins),
        }
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("state_directory", &self.state_directory).finish_non_exhaustive()
    }
}

impl Executor {
    /// Carries out the steps of one pass, which come in their order, and reports each; last, when nobody waits any
    /// more, has systemd read links of `[Install]` that it has to. With `checks_links` also those of earlier passes.
    pub(super) async fn carry_out(
        self,
        mut steps: Vec<(UnitName, Step)>,
        checks_links: bool,
        reports: Reports,
    ) {
        // Whatever a step does to a unit, fleet 1.0 would undo or do once more.
        if !steps.is_empty()
            && let Err(why) = self.without_fleet_1().await
        {
            let units: BTreeSet<UnitName> = steps.drain(..).map(|(unit, _)| unit).collect();
            for unit in units {
                tell(&reports, StepReport::Failed { unit: unit.clone(), failure: why.clone() });
                tell(&reports, StepReport::Finished { unit });
            }
        }
        let mut down: BTreeMap<UnitName, Vec<Step>> = BTreeMap::new();
        let reloading: BTreeSet<UnitName> =
            steps.iter().filter(|(_, step)| *step == Step::Reload).map(|(unit, _)| unit.clone()).collect();
        let (mut at_once, mut after_reload) = (Ups::default(), Ups { reloads: true, ..Ups::default() });
        for (unit, step) in steps {
            let up = if reloading.contains(&unit) { &mut after_reload } else { &mut at_once };
            match step {
                Step::Stop | Step::ResetFailed | Step::Unpin | Step::Uninstall => {
                    down.entry(unit).or_default().push(step);
                }
                Step::Install { content, run_hash } => up.installs.push((unit, content, run_hash)),
                Step::Reload => {}
                Step::Start => up.starts.push(unit),
            }
        }
        // Stops are sent first; what takes its time there, or in a reload, does not hold up the starts.
        let removed: Vec<UnitName> = down
            .iter()
            .filter(|(_, steps)| steps.contains(&Step::Uninstall))
            .map(|(unit, _)| unit.clone())
            .collect();
        let ends = self.take_down(down, &reports);
        let begins = self.bring_up(at_once, &reports);
        let reloads = async {
            // What is read anew reads its links too.
            if !reloading.is_empty() { self.bring_up(after_reload, &reports).await } else { false }
        };
        let ((), has_links, _) = futures_util::future::join3(ends, begins, reloads).await;
        if checks_links || has_links || !removed.is_empty() {
            self.reloads.settle(self.systemd.as_ref(), &removed).await;
        }
    }

    /// Stops and resets each for itself, then lets go of all that are to be let go of in one call, then removes.
    async fn take_down(&self, down: BTreeMap<UnitName, Vec<Step>>, reports: &Reports) {
        let (letting_go, others): (Vec<_>, Vec<_>) =
            down.into_iter().partition(|(_, steps)| steps.contains(&Step::Unpin));
        let alone = others.into_iter().map(|(unit, steps)| async {
            let lets_go = steps.contains(&Step::ResetFailed) || steps.contains(&Step::Uninstall);
            if self.each(&unit, steps, reports).await.is_ok() {
                if lets_go {
                    self.see_unloaded(&unit).await;
                }
                tell(reports, StepReport::Finished { unit });
            }
        });
        let alone = stream::iter(alone).buffer_unordered(IN_FLIGHT).collect::<Vec<()>>();
        futures_util::future::join(alone, self.let_go(letting_go, reports)).await;
    }

    /// Pins are shared between units, so that letting go of many is one call, and one at a time.
    async fn let_go(&self, units: Vec<(UnitName, Vec<Step>)>, reports: &Reports) {
        if units.is_empty() {
            return;
        }
        let reset = units.into_iter().map(|(unit, steps)| async move {
            let before = steps.iter().copied().take_while(|step| *step != Step::Unpin).collect();
            let after: Vec<Step> =
                steps.iter().copied().skip_while(|step| *step != Step::Unpin).skip(1).collect();
            self.each(&unit, before, reports).await.is_ok().then_some((unit, after))
        });
        let reset: Vec<Option<_>> = stream::iter(reset).buffer_unordered(IN_FLIGHT).collect().await;
        let reset: Vec<(UnitName, Vec<Step>)> = reset.into_iter().flatten().collect();
        let names: Vec<UnitName> = reset.iter().map(|(unit, _)| unit.clone()).collect();
        if let Err(error) = self.pins.unpin(self.systemd.as_ref(), &names).await {
            for unit in names {
                tell(reports, failed(&unit, &error, false));
                tell(reports, StepReport::Finished { unit });
            }
            return;
        }
        for unit in &names {
            tell(reports, StepReport::Unpinned { unit: unit.clone() });
        }
        let rest = reset.into_iter().map(|(unit, after)| async {
            if self.each(&unit, after, reports).await.is_ok() {
                self.see_unloaded(&unit).await;
                tell(reports, StepReport::Finished { unit });
            }
        });
        stream::iter(rest).buffer_unordered(IN_FLIGHT).collect::<Vec<()>>().await;
    }

    /// The steps of one unit that concern no other. The first that fails ends them, and is reported.
    async fn each(&self, unit: &UnitName, steps: Vec<Step>, reports: &Reports) -> Result<(), ()> {
        for step in steps {
            let done = match step {
                Step::Stop => self.systemd.stop(unit).await.map(|job| {
                    job.map(|job| StepReport::Queued { unit: unit.clone(), job, kind: JobKind::Stop })
                }),
                Step::ResetFailed => self.systemd.reset_failed(unit).await.map(|()| None),
                Step::Uninstall => {
                    let removed = self.systemd.uninstall(unit).await;
                    removed.map(|()| Some(StepReport::Uninstalled { unit: unit.clone() }))
                }
                Step::Unpin | Step::Install { .. } | Step::Reload | Step::Start => Ok(None),
            };
            match done {
                Ok(report) => report.into_iter().for_each(|report| tell(reports, report)),
                Err(error) => {
                    tell(reports, failed(unit, &error, false));
                    tell(reports, StepReport::Finished { unit: unit.clone() });
                    return Err(());
                }
            }
        }
        Ok(())
    }

    /// So that the next pass does not take for kept what is only not yet unloaded.
    async fn see_unloaded(&self, unit: &UnitName) {
        for _ in 0..UNLOAD_LOOKS {
            match self.systemd.list(std::slice::from_ref(unit)).await {
                Ok(found) if found.iter().any(|unit| unit.load != LoadState::NotFound) => {
                    tokio::time::sleep(UNLOAD_WAIT).await;
                }
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// All texts first, then the reload if these need one, then all pins, then all starts in their order. Whether texts
    /// were put in place whose `[Install]` asks for links.
    async fn bring_up(&self, up: Ups, reports: &Reports) -> bool {
        let Ups { installs, reloads, mut starts } = up;
        if installs.is_empty() && starts.is_empty() {
            return false;
        }
        let mut has_links = false;
        let installed = installs.into_iter().map(|(unit, content, run_hash)| async move {
            let done = self.install(&unit, content, run_hash).await;
            (unit, OnDisk { content, run_hash: Some(run_hash), is_linked: true }, done)
        });
        let began = Instant::now();
        let installed: Vec<_> = stream::iter(installed).buffered(IN_FLIGHT).collect().await;
        let installed_after = began.elapsed();
        let mut ready: BTreeSet<UnitName> = starts.iter().cloned().collect();
        let mut written = Vec::new();
        let texts = installed.len();
        for (unit, on_disk, done) in installed {
            match done {
                Ok(is_linked) => {
                    has_links |= is_linked;
                    tell(reports, StepReport::Installed { unit: unit.clone(), on_disk });
                    written.push(unit);
                }
                Err(failure) => {
                    if failure.reason.code == CONTENT_LOST {
                        tell(reports, StepReport::TextLost { content: on_disk.content });
                    }
                    ready.remove(&unit);
                    tell(reports, StepReport::Failed { unit: unit.clone(), failure });
                    tell(reports, StepReport::Finished { unit });
                }
            }
        }
        if reloads
            && !(written.is_empty() && ready.is_empty())
            && let Err(error) = self.reloads.reload(self.systemd.as_ref()).await
        {
            let all: BTreeSet<UnitName> = written.iter().chain(&ready).cloned().collect();
            for unit in all {
                tell(reports, failed(&unit, &error, false));
                tell(reports, StepReport::Finished { unit });
            }
            return has_links;
        }
        for unit in written.into_iter().filter(|unit| !ready.contains(unit)) {
            tell(reports, StepReport::Finished { unit });
        }
        starts.retain(|unit| ready.contains(unit));
        let pinned = self.pin(&starts, reports).await;
        starts.retain(|unit| pinned.contains(unit));
        debug!(texts, ?installed_after, starts = starts.len(), pinned_after = ?began.elapsed(), "starting");
        let queued = starts.into_iter().map(|unit| async move {
            match self.systemd.start(&unit).await {
                Ok(job) => {
                    tell(reports, StepReport::Queued { unit: unit.clone(), job, kind: JobKind::Start });
                }
                Err(error) => tell(reports, failed(&unit, &error, true)),
            }
            tell(reports, StepReport::Finished { unit });
        });
        stream::iter(queued).buffered(IN_FLIGHT).collect::<Vec<()>>().await;
        has_links
    }

    /// An error while the daemon of fleet 1.0 is alive here, and while nobody can say whether it is.
    async fn without_fleet_1(&self) -> Result<(), StepFailure> {
        let name: UnitName = FLEET_1.parse().expect("it is the name of a unit");
        match self.systemd.inspect(&name).await {
            // A unit of this cluster may have that name.
            Ok(Some(unit)) if !unit.active.is_at_rest() && unit.loaded_run_hash.is_none() => {
                Err(fleet_1_in_the_way())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(StepFailure { kind: FailureKind::NotDone, ..failure(&error, false) }),
        }
    }

    /// Whether the text asks for links.
    async fn install(
        &self,
        unit: &UnitName,
        content: ContentHash,
        run_hash: RunHash,
    ) -> Result<bool, StepFailure> {
        let not_done = |code: &str, text: String| StepFailure {
            kind: FailureKind::NotDone,
            at_start: false,
            reason: Reason::new(code, text),
        };
        let directory = self.state_directory.clone();
        let read = tokio::task::spawn_blocking(move || disk::read_content(&directory, content)).await;
        let bytes = match read {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => {
                return Err(not_done(CONTENT_LOST, format!("contents/{content} was damaged or removed")));
            }
            Ok(Err(error)) => {
                return Err(not_done("state-directory", format!("cannot read contents/{content}: {error}")));
            }
            Err(error) => return Err(not_done("state-directory", error.to_string())),
        };
        let (install, aliases) =
            texts::install(unit, bytes, run_hash).map_err(|error| not_done("content-unreadable", error))?;
        let of = |error: SystemdError| failure(&error, false);
        if let Some(shadow) = self.systemd.shadowed(unit, &aliases).await.map_err(of)? {
            let reason = Reason::new("shadowed", shadow_text(&shadow));
            return Err(StepFailure { kind: FailureKind::Refusal, at_start: false, reason });
        }
        self.systemd.install(&install).await.map_err(of)?;
        Ok(!(install.wanted_by.is_empty() && install.required_by.is_empty()))
    }

    /// Which ones are pinned.
    async fn pin(&self, units: &[UnitName], reports: &Reports) -> BTreeSet<UnitName> {
        let mut pinned = BTreeSet::new();
        for (unit, answer) in self.pins.pin(self.systemd.as_ref(), units).await {
            match answer {
                Ok(()) => {
                    tell(reports, StepReport::Pinned { unit: unit.clone() });
                    pinned.insert(unit);
                }
                Err(error) => {
                    tell(reports, failed(&unit, &error, false));
                    tell(reports, StepReport::Finished { unit });
                }
            }
        }
        pinned
    }
}

/// What begins in a pass: with one reload between texts and starts, or none.
#[derive(Debug, Default)]
struct Ups {
    installs: Vec<(UnitName, ContentHash, RunHash)>,
    reloads: bool,
    starts: Vec<UnitName>,
}

fn fleet_1_in_the_way() -> StepFailure {
    let text = format!(
        "fleet 1.0 runs on this machine, and both would fight over the same units; end its daemon without a stop of its \
         units: `systemctl kill --signal=SIGKILL {FLEET_1}`, after what docs/usage/from-fleet-1.0.md says"
    );
    StepFailure { kind: FailureKind::NotDone, at_start: false, reason: Reason::new(FLEET_1_RUNS, text) }
}

fn tell(reports: &Reports, report: StepReport) {
    // Nobody listens any more: the agent is ending, and the next one reads the state anew.
    drop(reports.send(report));
}

fn failed(unit: &UnitName, error: &SystemdError, at_start: bool) -> StepReport {
    StepReport::Failed { unit: unit.clone(), failure: failure(error, at_start) }
}

fn failure(error: &SystemdError, at_start: bool) -> StepFailure {
    use FailureKind::{Conclusive, NotDone, Refusal, Unknown};
    let (kind, code) = match error {
        SystemdError::NoSuchUnit { .. } => (Conclusive, "no-such-unit"),
        SystemdError::BadSetting { .. } => (Conclusive, "bad-setting"),
        SystemdError::LoadFailed { .. } => (Conclusive, "load-failed"),
        SystemdError::TransactionConflict { .. } => (Conclusive, "transaction-conflict"),
        SystemdError::OnlyByDependency { .. } => (Conclusive, "only-by-dependency"),
        SystemdError::JobTypeNotApplicable { .. } => (Conclusive, "job-not-applicable"),
        SystemdError::Refused { .. } => (Conclusive, "refused-by-systemd"),
        SystemdError::UnitMasked { .. } => (Refusal, "masked"),
        SystemdError::NotOurs { .. } => (Refusal, "shadowed"),
        SystemdError::TransactionIsDestructive { .. } => (NotDone, "job-in-the-way"),
        SystemdError::RateLimited { .. } => (NotDone, "rate-limited"),
        SystemdError::AccessDenied { .. } => (NotDone, "access-denied"),
        SystemdError::File { .. } => (NotDone, "unit-directory"),
        SystemdError::TimedOut { .. } => (Unknown, "systemd-timed-out"),
        SystemdError::Disconnected { .. } => (Unknown, "systemd-disconnected"),
        // `Malformed`, and what a later release adds.
        _ => (Unknown, "systemd"),
    };
    StepFailure { kind, at_start, reason: Reason::new(code, describe(error)) }
}

/// With its sources, which the texts themselves leave out.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn shadow_text(shadow: &Shadow) -> String {
    use fleet_systemd::ShadowKind;
    let what = match shadow.kind {
        ShadowKind::HostUnit => "this machine has a unit of its own named",
        ShadowKind::Masked => "this machine masks",
        ShadowKind::Alias => "this machine has an alias of another unit named",
        ShadowKind::Template => "this machine has a template of its own named",
        ShadowKind::Loaded => "systemd on this machine has a unit that is not fleet's named",
    };
    let path = if shadow.path.as_os_str().is_empty() {
        String::new()
    } else {
        format!(" ({})", shadow.path.display())
    };
    format!("{what} {}{path}; rename the unit, or remove the host's", shadow.name)
}
