//! Starting and stopping in the fake: the state machine behind `start`, `stop` and what happens by itself
//! afterwards. Called by the trait implementation, by the controls of a test and by timers.

use std::time::Duration;

use crate::{
    error::SystemdError,
    fake::{
        control::{Behaviour, Execution, What},
        machine::{Effect, Machine, Step},
        text::{EXIT_EXEC, Kind, Program, Spec},
        unit::JobKind,
    },
    types::{ActiveState, JobId, JobResult, LoadState, UnitName},
};

/// systemd's default `StartLimitBurst=` and `StartLimitIntervalSec=`.
const START_LIMIT: (usize, u64) = (5, 10_000_000);
/// `CLD_EXITED` and `CLD_KILLED`.
const EXITED: i32 = 1;
const KILLED: i32 = 2;

impl Machine {
    pub(super) fn start(&mut self, name: &UnitName) -> Result<JobId, SystemdError> {
        self.load(name);
        let unit = name.clone();
        let answer = match self.units.get(name) {
            None => Err(SystemdError::NoSuchUnit { unit }),
            Some(known) => match (&known.loaded.state, known.job) {
                (_, Some(job)) if job.kind == JobKind::Start => return Ok(job.id),
                (_, Some(job)) => Err(SystemdError::TransactionIsDestructive {
                    unit,
                    message: format!("job {} ({}) is queued", job.id, job.kind.as_str()),
                }),
                (LoadState::NotFound, None) => Err(SystemdError::NoSuchUnit { unit }),
                (LoadState::Masked, None) => Err(SystemdError::UnitMasked { unit }),
                (LoadState::BadSetting, None) => {
                    Err(SystemdError::BadSetting { unit, message: known.loaded.message.clone() })
                }
                (_, None) => Ok(()),
            },
        };
        if let Err(error) = answer {
            self.collect(name);
            return Err(error);
        }
        self.counters.starts += 1;
        Ok(self.enqueue(name, JobKind::Start))
    }

    pub(super) fn stop(&mut self, name: &UnitName) -> Option<JobId> {
        let job = self.units.get(name)?.job;
        match job {
            Some(job) if job.kind == JobKind::Stop => return Some(job.id),
            Some(_) => self.finish_job(name, JobResult::Canceled),
            None => {}
        }
        self.counters.stops += 1;
        Some(self.enqueue(name, JobKind::Stop))
    }

    /// The main process ends by itself; nothing happens when none runs.
    pub(super) fn exit_main(&mut self, name: &UnitName, status: i32, now: u64) {
        if self.units.get(name).is_some_and(|unit| unit.main_pid != 0) {
            self.step(name, Step::MainExited(status), now);
        }
    }

    pub(super) fn step(&mut self, name: &UnitName, step: Step, now: u64) {
        match step {
            Step::RunJob(id) => match self.units.get(name).and_then(|unit| unit.job) {
                Some(job) if job.id == id && job.kind == JobKind::Start => self.run_start(name, now),
                Some(job) if job.id == id => self.run_stop(name, now),
                _ => {}
            },
            Step::StartDone => self.started(name, now),
            Step::StartTimedOut => {
                self.ended(name, (KILLED, 15), "timeout", now);
                self.finish_job(name, JobResult::Failed);
            }
            Step::MainExited(status) => self.main_exited(name, status, now),
            Step::StopDone { killed } => {
                let result = if killed { "timeout" } else { "success" };
                self.ended(name, (KILLED, if killed { 9 } else { 15 }), result, now);
                self.finish_job(name, JobResult::Done);
            }
            Step::AutoRestart => {
                if let Some(unit) = self.units.get_mut(name) {
                    unit.restarts += 1;
                }
                self.begin(name, now);
            }
        }
        self.collect(name);
    }

    /// Whether a pending step is still meant for the unit as it is.
    pub(super) fn is_due(&self, name: &UnitName, token: u64, step: Step) -> bool {
        matches!(step, Step::RunJob(_)) || self.units.get(name).is_some_and(|unit| unit.token == token)
    }

    fn run_start(&mut self, name: &UnitName, now: u64) {
        let Some(unit) = self.units.get_mut(name) else { return };
        match unit.active {
            ActiveState::Active | ActiveState::Reloading => {
                self.finish_job(name, JobResult::Done);
                return;
            }
            // Already on its way (an automatic restart that is due anyway): the job waits for its end.
            ActiveState::Activating if unit.sub != "auto-restart" => return,
            _ => {}
        }
        unit.restarts = 0;
        self.begin(name, now);
    }

    /// Conditions, start limit, then the process.
    fn begin(&mut self, name: &UnitName, now: u64) {
        // An automatic restart that was due is overtaken by this start.
        self.void_pending(name);
        let behaviour = self.behaviours.get(name).cloned().unwrap_or_default();
        let Some(unit) = self.units.get_mut(name) else { return };
        let Some(spec) = unit.loaded.spec.clone() else {
            self.set_state(name, ActiveState::Inactive, "dead", now);
            self.finish_job(name, JobResult::Invalid);
            return;
        };
        unit.condition_timestamp = now;
        unit.condition_result = behaviour.condition.unwrap_or(spec.conditions_met);
        if !unit.condition_result {
            self.set_state(name, ActiveState::Inactive, "dead", now);
            self.finish_job(name, JobResult::Done);
            return;
        }
        if !spec.assertions_met {
            self.set_state(name, ActiveState::Inactive, "dead", now);
            self.finish_job(name, JobResult::Assert);
            return;
        }
        unit.recent_starts.retain(|at| at + START_LIMIT.1 > now);
        if unit.recent_starts.len() >= START_LIMIT.0 {
            unit.result = "start-limit-hit";
            self.set_state(name, ActiveState::Failed, "failed", now);
            self.finish_job(name, JobResult::Failed);
            return;
        }
        unit.recent_starts.push(now);
        unit.result = "success";
        self.launch(name, &spec, &behaviour, now);
    }

    fn launch(&mut self, name: &UnitName, spec: &Spec, behaviour: &Behaviour, now: u64) {
        let invocation = self.new_invocation();
        self.next_pid += 1;
        let pid = if spec.kind == Kind::Passive { 0 } else { self.next_pid };
        let Some(unit) = self.units.get_mut(name) else { return };
        unit.invocation = Some(invocation);
        unit.main_pid = pid;
        unit.exec_main_status = 0;
        unit.exec_main_code = 0;
        self.log(name, What::Started, now);
        let program = behaviour.program().unwrap_or(spec.program);
        match (spec.kind, program) {
            (Kind::Passive, _) => self.started(name, now),
            (Kind::Simple, _) if behaviour.start_takes.is_zero() && !behaviour.start_hangs => {
                self.started(name, now);
            }
            (Kind::Exec | Kind::Notify | Kind::Oneshot, Program::Missing) => {
                self.set_state(name, ActiveState::Activating, "start", now);
                self.after(name, Duration::ZERO, Step::MainExited(EXIT_EXEC));
            }
            (Kind::Oneshot | Kind::Notify, Program::Exits { after, status }) => {
                self.set_state(name, ActiveState::Activating, "start", now);
                self.start_by(name, spec, behaviour, after, Step::MainExited(status));
            }
            (Kind::Oneshot, Program::RunsOn) => {
                self.set_state(name, ActiveState::Activating, "start", now);
                let never = Behaviour { start_hangs: true, ..behaviour.clone() };
                self.start_by(name, spec, &never, Duration::ZERO, Step::StartDone);
            }
            _ => {
                self.set_state(name, ActiveState::Activating, "start", now);
                self.start_by(name, spec, behaviour, Duration::ZERO, Step::StartDone);
            }
        }
    }

    /// Schedules the end of a start, or its time-out, whichever comes first.
    fn start_by(&mut self, name: &UnitName, spec: &Spec, behaviour: &Behaviour, after: Duration, step: Step) {
        let takes = (!behaviour.start_hangs).then(|| behaviour.start_takes + after);
        match (takes, spec.start_timeout) {
            (Some(takes), Some(limit)) if takes > limit => self.after(name, limit, Step::StartTimedOut),
            (Some(takes), _) => self.after(name, takes, step),
            (None, Some(limit)) => self.after(name, limit, Step::StartTimedOut),
            (None, None) => self.void_pending(name),
        }
    }

    fn started(&mut self, name: &UnitName, now: u64) {
        let behaviour = self.behaviours.get(name).cloned().unwrap_or_default();
        let Some(unit) = self.units.get(name) else { return };
        let Some(spec) = unit.loaded.spec.clone() else { return };
        self.set_state(
            name,
            ActiveState::Active,
            if spec.kind == Kind::Passive { "active" } else { "running" },
            now,
        );
        self.finish_job(name, JobResult::Done);
        match behaviour.program().unwrap_or(spec.program) {
            _ if spec.kind == Kind::Passive => self.void_pending(name),
            Program::RunsOn => self.void_pending(name),
            Program::Missing => self.after(name, Duration::ZERO, Step::MainExited(EXIT_EXEC)),
            Program::Exits { after, status } => self.after(name, after, Step::MainExited(status)),
        }
    }

    fn main_exited(&mut self, name: &UnitName, status: i32, now: u64) {
        let Some(unit) = self.units.get(name) else { return };
        let Some(spec) = unit.loaded.spec.clone() else { return };
        let was_starting = unit.active == ActiveState::Activating;
        let is_stopping = unit.active == ActiveState::Deactivating;
        self.log(name, What::Exited { status }, now);
        if is_stopping {
            self.ended(name, (EXITED, status), "success", now);
            self.finish_job(name, JobResult::Done);
            return;
        }
        if status == 0 && spec.remain_after_exit {
            if let Some(unit) = self.units.get_mut(name) {
                unit.main_pid = 0;
                unit.exec_main_code = EXITED;
            }
            self.set_state(name, ActiveState::Active, "exited", now);
            self.void_pending(name);
            self.finish_job(name, JobResult::Done);
            return;
        }
        let result = if status == 0 { "success" } else { "exit-code" };
        let ok = status == 0 && (spec.kind == Kind::Oneshot || !was_starting);
        let result = if ok || status != 0 { result } else { "protocol" };
        self.ended(name, (EXITED, status), result, now);
        if spec.restart.applies_to(status) {
            self.set_state(name, ActiveState::Activating, "auto-restart", now);
            self.after(name, spec.restart_delay, Step::AutoRestart);
        }
        self.finish_job(name, if ok { JobResult::Done } else { JobResult::Failed });
    }

    fn run_stop(&mut self, name: &UnitName, now: u64) {
        let behaviour = self.behaviours.get(name).cloned().unwrap_or_default();
        let Some(unit) = self.units.get(name) else { return };
        if unit.active.is_at_rest() {
            self.finish_job(name, JobResult::Done);
            return;
        }
        let spec = unit.loaded.spec.as_ref();
        let (limit, own) =
            spec.map_or((Duration::ZERO, Duration::ZERO), |spec| (spec.stop_timeout, spec.stop_takes));
        // `ExecStop=` only runs for what has started.
        let own = if unit.active == ActiveState::Active { own } else { Duration::ZERO };
        let takes = own.saturating_add(behaviour.stop_takes);
        let has_process = unit.main_pid != 0;
        self.log(name, What::Stopped, now);
        if !has_process {
            self.ended(name, (0, 0), "success", now);
            self.finish_job(name, JobResult::Done);
            return;
        }
        self.set_state(name, ActiveState::Deactivating, "stop-sigterm", now);
        if behaviour.stop_hangs {
            self.void_pending(name);
        } else if takes > limit {
            self.after(name, limit, Step::StopDone { killed: true });
        } else {
            self.after(name, takes, Step::StopDone { killed: false });
        }
    }

    /// The process is gone: `failed` unless the result is success.
    fn ended(&mut self, name: &UnitName, exit: (i32, i32), result: &'static str, now: u64) {
        let Some(unit) = self.units.get_mut(name) else { return };
        unit.main_pid = 0;
        (unit.exec_main_code, unit.exec_main_status) = exit;
        unit.result = result;
        if result == "success" {
            self.set_state(name, ActiveState::Inactive, "dead", now);
        } else {
            self.set_state(name, ActiveState::Failed, "failed", now);
        }
        self.void_pending(name);
    }

    fn set_state(&mut self, name: &UnitName, active: ActiveState, sub: &'static str, now: u64) {
        let Some(unit) = self.units.get_mut(name) else { return };
        if unit.active != active {
            unit.state_change = now;
            if active == ActiveState::Active {
                unit.active_enter = now;
            }
        }
        unit.active = active;
        unit.sub = sub;
        self.changed(name);
    }

    fn void_pending(&mut self, name: &UnitName) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.token += 1;
        }
    }

    fn after(&mut self, name: &UnitName, delay: Duration, step: Step) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.token += 1;
            let token = unit.token;
            self.effects.push(Effect::After { delay, unit: name.clone(), token, step });
        }
    }

    fn log(&mut self, name: &UnitName, what: What, now: u64) {
        let Some(unit) = self.units.get(name) else { return };
        let text = unit.loaded.source.as_ref().map(super::unit::Source::text).unwrap_or_default();
        self.executions.push(Execution::new(name, what, text.as_bytes(), unit.invocation, self.boots, now));
    }
}
