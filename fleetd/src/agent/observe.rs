//! What the machine shows: how units are read, and what the reading says. When that is due again is `due`'s.
//!
//! Events say where to look, never what is true. The picture of a unit is read as a whole, and what ended before the
//! look began is handed over with it, so that a pass never sees the end of a job beside the state from before it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet_core::Timestamp;
use fleet_core::reconcile::{EndedJob, Fragment, Job, JobKind, LoadedUnit, Observed, OnDisk, StepFailure};
use fleet_systemd::{
    InstalledUnit, JobId, Systemd, SystemdError, SystemdEvent, UnitDetail, UnitState, UnitStatus,
};
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::Instant;
use unit_files::UnitName;

use super::due::Due;
use super::execute::StepReport;

/// Units read at once.
const IN_FLIGHT: usize = 64;
/// Ends of jobs kept until we learn that the job was ours; the answer to a call may come after the event.
const KEPT_ENDS: usize = 1024;

/// What has to be looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub names: BTreeSet<UnitName>,
    /// Also what lies on disk and is pinned, whatever the names.
    pub is_full: bool,
    /// Read a second time, with a round trip to systemd in between: a start asked for by the last process may still
    /// have been on its way.
    pub is_twice: bool,
}

/// What a look saw.
#[derive(Debug)]
pub(super) struct Sight {
    look: Look,
    units: BTreeMap<UnitName, (UnitStatus, Option<UnitDetail>)>,
    full: Option<(BTreeSet<UnitName>, Vec<InstalledUnit>)>,
}

impl Sight {
    pub(super) fn is_full(&self) -> bool {
        self.look.is_full
    }
}

#[derive(Debug)]
pub(super) struct Observer {
    units_directory: PathBuf,
    jobs: BTreeMap<JobId, (UnitName, Job)>,
    unclaimed: VecDeque<(JobId, String)>,
    ended: BTreeMap<UnitName, EndedJob>,
    failed: BTreeMap<UnitName, StepFailure>,
    /// Handed over by the next sight.
    taken: (BTreeMap<UnitName, EndedJob>, BTreeMap<UnitName, StepFailure>),
    busy: BTreeSet<UnitName>,
    /// Jobs that were known when the last full look began.
    looked_for: BTreeSet<JobId>,
    due: Due,
    is_first: bool,
}

impl Observer {
    pub(super) fn new(units_directory: PathBuf) -> Observer {
        Observer {
            units_directory,
            jobs: BTreeMap::new(),
            unclaimed: VecDeque::new(),
            ended: BTreeMap::new(),
            failed: BTreeMap::new(),
            taken: (BTreeMap::new(), BTreeMap::new()),
            busy: BTreeSet::new(),
            looked_for: BTreeSet::new(),
            due: Due::everything(),
            is_first: true,
        }
    }

    /// Something is to be looked at without delay.
    pub(super) fn is_dirty(&self) -> bool {
        self.due.is_now()
    }

    pub(super) fn soft_due(&self) -> Option<Instant> {
        self.due.at()
    }

    pub(super) fn mark_all(&mut self) {
        self.due.mark_all();
    }

    pub(super) fn note(&mut self, event: SystemdEvent, observed: &BTreeMap<UnitName, Observed>) {
        match event {
            SystemdEvent::JobRemoved { job, unit, result } => {
                let result = result.as_str().to_owned();
                if let Some((unit, job)) = self.jobs.remove(&job) {
                    self.ended.insert(unit.clone(), EndedJob { kind: job.kind, result });
                    self.due.mark(unit);
                    return;
                }
                if !self.busy.is_empty() {
                    self.unclaimed.push_back((job, result));
                    while self.unclaimed.len() > KEPT_ENDS {
                        self.unclaimed.pop_front();
                    }
                }
                self.changed(&unit, None, observed);
            }
            SystemdEvent::UnitChanged { unit, state } => self.changed(&unit, state, observed),
            SystemdEvent::Resync => {
                // The end of any job may have been missed; the list says which still are. Ends that came before the
                // answer to the call that asked for the job are kept for it.
                self.jobs.clear();
                self.due.mark_all();
            }
            SystemdEvent::Disconnected => self.jobs.clear(),
        }
    }

    fn changed(&mut self, unit: &str, state: Option<UnitState>, observed: &BTreeMap<UnitName, Observed>) {
        let Some((name, cell)) = observed.get_key_value(unit) else { return };
        let has_job = self.busy.contains(name) || self.jobs.values().any(|(of, _)| of == name);
        self.due.changed(name, state, cell, has_job);
    }

    /// The delay is over.
    pub(super) fn harden(&mut self, now: Instant, observed: &BTreeMap<UnitName, Observed>) {
        self.due.harden(now, observed);
    }

    pub(super) fn begin_steps(&mut self, unit: &UnitName, observed: &mut BTreeMap<UnitName, Observed>) {
        self.busy.insert(unit.clone());
        observed.entry(unit.clone()).or_default().is_busy = true;
    }

    pub(super) fn report(
        &mut self,
        report: StepReport,
        observed: &mut BTreeMap<UnitName, Observed>,
        now: Timestamp,
    ) {
        match report {
            StepReport::Queued { unit, job, kind } => {
                let early = self.unclaimed.iter().position(|(id, _)| *id == job);
                if let Some((_, result)) = early.and_then(|index| self.unclaimed.remove(index)) {
                    self.ended.insert(unit.clone(), EndedJob { kind, result });
                    self.due.mark(unit);
                } else {
                    let noted = Job { kind, since: now };
                    observed.entry(unit.clone()).or_default().job = Some(noted);
                    self.jobs.insert(job, (unit, noted));
                }
            }
            StepReport::Installed { unit, on_disk } => {
                observed.entry(unit).or_default().on_disk = Some(on_disk);
            }
            StepReport::Uninstalled { unit } => observed.entry(unit).or_default().on_disk = None,
            StepReport::Pinned { unit } => observed.entry(unit).or_default().is_pinned = true,
            // What is fetched again is the task's to know.
            StepReport::TextLost { .. } => {}
            StepReport::Unpinned { unit } => observed.entry(unit).or_default().is_pinned = false,
            StepReport::Failed { unit, failure } => {
                self.due.mark(unit.clone());
                self.failed.insert(unit, failure);
            }
            StepReport::Finished { unit } => {
                self.busy.remove(&unit);
                if self.busy.is_empty() {
                    self.unclaimed.clear();
                }
                observed.entry(unit.clone()).or_default().is_busy = false;
                // The end of the job will say when to look.
                if !self.jobs.values().any(|(of, _)| *of == unit) {
                    self.due.mark(unit);
                }
            }
        }
    }

    /// What to look at now; `names` are all that matter.
    pub(super) fn begin(
        &mut self,
        names: &BTreeSet<UnitName>,
        observed: &BTreeMap<UnitName, Observed>,
        has_open_starts: bool,
    ) -> Look {
        let (units, is_full) = self.due.take(names, observed);
        if is_full {
            self.looked_for = self.jobs.keys().copied().collect();
        }
        let is_twice = std::mem::take(&mut self.is_first) && has_open_starts;
        self.taken.0.append(&mut self.ended);
        self.taken.1.append(&mut self.failed);
        Look { names: units, is_full, is_twice }
    }

    /// The look failed: look again at the same, and more.
    pub(super) fn give_back(&mut self, look: Look) {
        self.due.give_back(look.names, look.is_full);
        self.is_first |= look.is_twice;
    }

    /// Takes a sight in; how many units looked different from what was known, although no event had said so.
    pub(super) fn absorb(
        &mut self,
        mut sight: Sight,
        observed: &mut BTreeMap<UnitName, Observed>,
        names: &BTreeSet<UnitName>,
        now: Timestamp,
    ) -> usize {
        if let Some((pinned, installed)) = &sight.full {
            sight.look.names.extend(pinned.iter().cloned());
            sight.look.names.extend(installed.iter().map(|unit| unit.name.clone()));
        }
        let on_disk: Option<BTreeMap<&UnitName, OnDisk>> = sight.full.as_ref().map(|(_, installed)| {
            let text = |unit: &InstalledUnit| OnDisk {
                content: unit.content,
                run_hash: unit.run_hash,
                is_linked: unit.is_linked,
            };
            installed.iter().map(|unit| (&unit.name, text(unit))).collect()
        });
        if sight.full.is_some() {
            // A job that was there before the look and is not in it has ended, whatever became of the signal.
            let queued: BTreeSet<JobId> =
                sight.units.values().filter_map(|(unit, _)| unit.job.as_ref()).map(|job| job.id).collect();
            let over = std::mem::take(&mut self.looked_for);
            self.jobs.retain(|id, _| queued.contains(id) || !over.contains(id));
        }
        let mut differences = 0;
        for name in &sight.look.names {
            let read = sight.units.remove(name);
            let cell = observed.entry(name.clone()).or_default();
            let before = cell.clone();
            let queued = read.as_ref().and_then(|(status, _)| status.job.as_ref()).map(|job| Job {
                kind: match job.kind.as_str() {
                    "start" => JobKind::Start,
                    "stop" => JobKind::Stop,
                    _ => JobKind::Other,
                },
                since: before.job.map_or(now, |job| job.since),
            });
            let ours = self.jobs.values().find(|(of, _)| of == name).map(|(_, job)| *job);
            cell.job = queued.or(ours);
            // Unloaded between the list and the look: then it is not loaded.
            cell.loaded = read.and_then(|(_, detail)| Some(self.loaded(name, detail?)));
            if names.contains(name) && cell.has_leftovers() {
                self.due.has_leftovers(name);
            }
            if let (Some((pinned, _)), Some(on_disk)) = (&sight.full, &on_disk) {
                cell.is_pinned = pinned.contains(name);
                cell.on_disk = on_disk.get(name).copied();
            }
            cell.ended = self.taken.0.remove(name).or(cell.ended.take());
            cell.failure = self.taken.1.remove(name).or(cell.failure.take());
            let is_explained = cell.ended.is_some() || cell.failure.is_some() || cell.is_busy;
            let is_same = (&before.loaded, before.is_pinned, before.on_disk)
                == (&cell.loaded, cell.is_pinned, cell.on_disk);
            differences += usize::from(!is_same && !is_explained);
        }
        observed.retain(|name, cell| names.contains(name) || *cell != Observed::default());
        differences
    }

    /// What was handed over has been decided upon and written down.
    pub(super) fn settle(observed: &mut BTreeMap<UnitName, Observed>) {
        for cell in observed.values_mut() {
            cell.ended = None;
            cell.failure = None;
        }
    }

    fn loaded(&self, name: &UnitName, detail: UnitDetail) -> LoadedUnit {
        LoadedUnit {
            load: detail.load.to_string(),
            active: detail.active.to_string(),
            sub: detail.sub,
            result: detail.result,
            invocation: detail.invocation_id.map(|id| id.to_string()),
            condition_timestamp: detail.condition_timestamp,
            fragment: self.fragment(name, &detail.id, &detail.fragment_path),
            exit_status: (detail.exec_main_code != 0).then_some(detail.exec_main_status),
            n_restarts: detail.n_restarts,
            state_change: detail.state_change,
            run_hash: detail.loaded_run_hash,
            has_control_group: !detail.control_group.is_empty(),
        }
    }

    fn fragment(&self, name: &UnitName, id: &str, path: &str) -> Fragment {
        let is_ours = Path::new(path).parent() == Some(&self.units_directory);
        match path {
            _ if id != name.as_str() => Fragment::Foreign(format!("{id} {path}").trim_end().to_owned()),
            "" => Fragment::None,
            _ if is_ours => Fragment::Ours,
            path => Fragment::Foreign(path.to_owned()),
        }
    }
}

/// Reads what a look asks for: one list, then each loaded unit.
///
/// # Errors
/// The first that keeps the picture from being whole; the look comes back with it.
pub(super) async fn look(systemd: Arc<dyn Systemd>, mut look: Look) -> Result<Sight, (Look, SystemdError)> {
    let mut seen = read(&systemd, &mut look).await;
    if look.is_twice && seen.is_ok() {
        // The answer proves that systemd has taken in all that was sent to it before.
        seen = match systemd.environment().await {
            Ok(_) => read(&systemd, &mut look).await,
            Err(error) => Err(error),
        };
    }
    match seen {
        Ok((units, full)) => Ok(Sight { look, units, full }),
        Err(error) => Err((look, error)),
    }
}

type Read =
    (BTreeMap<UnitName, (UnitStatus, Option<UnitDetail>)>, Option<(BTreeSet<UnitName>, Vec<InstalledUnit>)>);

async fn read(systemd: &Arc<dyn Systemd>, look: &mut Look) -> Result<Read, SystemdError> {
    let full = if look.is_full {
        let pinned: BTreeSet<UnitName> = systemd.pinned().await?.into_iter().collect();
        let installed = systemd.installed().await?;
        look.names.extend(pinned.iter().cloned());
        look.names.extend(installed.iter().map(|unit| unit.name.clone()));
        Some((pinned, installed))
    } else {
        None
    };
    let names: Vec<UnitName> = look.names.iter().cloned().collect();
    let listed = if names.is_empty() { Vec::new() } else { systemd.list(&names).await? };
    let details = listed.into_iter().map(|status| async move {
        let detail = systemd.inspect(&status.name).await?;
        Ok::<_, SystemdError>((status.name.clone(), (status, detail)))
    });
    let mut details = stream::iter(details).buffer_unordered(IN_FLIGHT);
    let mut units = BTreeMap::new();
    while let Some(found) = details.next().await {
        let (name, found) = found?;
        units.insert(name, found);
    }
    Ok((units, full))
}

#[cfg(test)]
mod tests;
