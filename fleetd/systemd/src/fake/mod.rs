//! A small systemd in memory, for tests of the agent and for the simulator. It keeps systemd's semantics where
//! the agent can tell: jobs take time and end by events, text is read at load and kept while the unit stays
//! loaded, finished units are unloaded unless pinned, a skipped condition is a job that is `done`.
//!
//! Time is tokio's, so a paused clock drives it; ids are the same in every run. Not modelled: dependencies
//! between units, slices, resource limits. Controls that enqueue work need a tokio runtime around them.

mod control;
mod jobs;
mod machine;
mod text;
mod unit;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

pub use control::{Behaviour, Call, Counters, Execution, What};

use crate::{
    Systemd,
    error::SystemdError,
    events::{EventSender, Events},
    fake::{
        control::Injected,
        machine::{Effect, HostUnit, Machine},
    },
    types::{
        Environment, Install, InstalledUnit, JobId, Shadow, SystemdEvent, UnitDetail, UnitName, UnitStatus,
    },
};

/// Microseconds since the epoch at which every fake's clock starts: 2025-01-01.
const EPOCH: u64 = 1_735_689_600_000_000;

/// The fake. Clones share one machine.
#[derive(Debug, Clone)]
pub struct FakeSystemd {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    events: EventSender,
    began: Instant,
}

#[derive(Debug)]
struct State {
    machine: Machine,
    injected: Vec<Injected>,
    delays: BTreeMap<Call, Duration>,
    is_connected: bool,
}

impl FakeSystemd {
    /// A machine that has just booted. The label makes its ids differ from those of other machines.
    #[must_use]
    pub fn new(label: &str) -> Self {
        let state = State {
            machine: Machine::new(label),
            injected: Vec::new(),
            delays: BTreeMap::new(),
            is_connected: true,
        };
        let shared = Shared { state: Mutex::new(state), events: EventSender::new(), began: Instant::now() };
        Self { shared: Arc::new(shared) }
    }

    /// Sets how a unit behaves from its next step on.
    pub fn behave(&self, unit: &UnitName, behaviour: Behaviour) {
        self.shared.lock().machine.behaviours.insert(unit.clone(), behaviour);
    }

    /// Makes the next `times` calls fail (`None` = all until `clear_failures`), of one unit or of any.
    pub fn fail(&self, call: Call, unit: Option<&UnitName>, times: Option<u32>, error: SystemdError) {
        self.shared.lock().injected.push(Injected { call, unit: unit.cloned(), error, times });
    }

    /// Calls succeed again.
    pub fn clear_failures(&self) {
        self.shared.lock().injected.clear();
    }

    /// Each such call takes this long before it does anything.
    pub fn delay(&self, call: Call, delay: Duration) {
        self.shared.lock().delays.insert(call, delay);
    }

    /// Cuts or restores the connection to the bus. What runs goes on; events of the gap are lost.
    pub fn set_connected(&self, is_connected: bool) {
        let mut state = self.shared.lock();
        if state.is_connected != is_connected {
            state.is_connected = is_connected;
            drop(state);
            let event = if is_connected { SystemdEvent::Resync } else { SystemdEvent::Disconnected };
            self.shared.events.send(event);
        }
    }

    /// `systemctl start` by hand.
    ///
    /// # Errors
    /// As [`Systemd::start`].
    pub fn admin_start(&self, unit: &UnitName) -> Result<JobId, SystemdError> {
        self.shared.act(|machine, _| machine.start(unit))
    }

    /// `systemctl stop` by hand.
    pub fn admin_stop(&self, unit: &UnitName) -> Option<JobId> {
        self.shared.act(|machine, _| machine.stop(unit))
    }

    /// `systemctl daemon-reload` by hand.
    pub fn admin_reload(&self) {
        self.shared.act(|machine, _| machine.reload());
    }

    /// The main process of the unit ends with this status.
    pub fn exit_main(&self, unit: &UnitName, status: i32) {
        self.shared.act(|machine, now| {
            machine.exit_main(unit, status, now);
            machine.collect(unit);
        });
    }

    /// The host gets a unit file of its own.
    pub fn add_host_unit(&self, unit: &UnitName, path: &str, text: &str) {
        self.add_host(unit, HostUnit { path: path.into(), text: text.into(), masked: false, alias_of: None });
    }

    /// The host masks a name.
    pub fn mask(&self, unit: &UnitName) {
        let path = format!("/etc/systemd/system/{unit}");
        self.add_host(unit, HostUnit { path, text: String::new(), masked: true, alias_of: None });
    }

    /// The host has a link of this name to another of its units.
    pub fn add_host_alias(&self, unit: &UnitName, target: &UnitName) {
        let path = format!("/etc/systemd/system/{unit}");
        let alias_of = Some(target.clone());
        self.add_host(unit, HostUnit { path, text: String::new(), masked: false, alias_of });
    }

    fn add_host(&self, unit: &UnitName, host: HostUnit) {
        self.shared.lock().machine.host.insert(unit.clone(), host);
    }

    /// A unit of the host refers to this one (or no longer does), which keeps it loaded.
    pub fn refer_to(&self, unit: &UnitName, is_referenced: bool) {
        self.shared.act(|machine, _| {
            if is_referenced {
                machine.referenced.insert(unit.clone());
                machine.load(unit);
            } else {
                machine.referenced.remove(unit);
                machine.collect(unit);
            }
        });
    }

    /// The host has this target loaded from now on, over boots too; it reads links toward it now and at each reload.
    pub fn load_target(&self, target: &str) {
        self.shared.act(|machine, _| {
            machine.targets.insert(target.to_owned(), BTreeSet::new());
            machine.read_links();
        });
    }

    /// What a start of the target would pull in of our units.
    #[must_use]
    pub fn pulled_by(&self, target: &str) -> Vec<UnitName> {
        let state = self.shared.lock();
        state.machine.targets.get(target).into_iter().flatten().map(|(_, unit)| unit.clone()).collect()
    }

    /// The machine restarts: new boot id, nothing runs, everything in `/run` is gone.
    pub fn boot(&self) {
        self.shared.act(|machine, _| machine.boot());
        self.shared.events.send(SystemdEvent::Resync);
    }

    /// What was put in place for the name, if it still is.
    #[must_use]
    pub fn on_disk(&self, unit: &UnitName) -> Option<Install> {
        self.shared.lock().machine.files.get(unit).cloned()
    }

    /// How often things were asked for.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.lock().machine.counters.clone()
    }

    /// Everything that ran, oldest first.
    #[must_use]
    pub fn executions(&self) -> Vec<Execution> {
        self.shared.lock().machine.executions.clone()
    }

    /// How often the unit's process was started, over all boots.
    #[must_use]
    pub fn runs(&self, unit: &UnitName) -> usize {
        let state = self.shared.lock();
        let log = &state.machine.executions;
        log.iter().filter(|run| run.unit == *unit && run.what == What::Started).count()
    }

    /// The bookkeeping of every call: count, delay, injected failure, connection; then `act`.
    async fn call<T>(
        &self,
        call: Call,
        unit: Option<&UnitName>,
        act: impl FnOnce(&mut Machine, u64) -> Result<T, SystemdError> + Send,
    ) -> Result<T, SystemdError> {
        let delay = {
            let mut state = self.shared.lock();
            *state.machine.counters.calls.entry(call).or_default() += 1;
            state.delays.get(&call).copied()
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        if let Some(error) = self.shared.lock().failure(call, unit) {
            return Err(error);
        }
        self.shared.act(act)
    }
}

impl State {
    fn failure(&mut self, call: Call, unit: Option<&UnitName>) -> Option<SystemdError> {
        let hit = self.injected.iter().position(|injected| {
            injected.call == call && (injected.unit.is_none() || injected.unit.as_ref() == unit)
        });
        if let Some(index) = hit {
            let error = self.injected[index].error.clone();
            if let Some(times) = &mut self.injected[index].times {
                *times = times.saturating_sub(1);
                if *times == 0 {
                    self.injected.remove(index);
                }
            }
            return Some(error);
        }
        (!self.is_connected && call.needs_bus()).then(|| SystemdError::Disconnected {
            operation: call.as_str(),
            message: "the bus of the fake is cut".to_owned(),
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        EPOCH + u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX - EPOCH)
    }

    /// Changes the machine, then sends the events and starts the timers that come of it.
    fn act<T>(self: &Arc<Self>, act: impl FnOnce(&mut Machine, u64) -> T) -> T {
        let now = self.now();
        let mut state = self.lock();
        let answer = act(&mut state.machine, now);
        let is_connected = state.is_connected;
        let boot = state.machine.boots;
        // Sent under the lock, so that events keep the order of what they tell.
        for effect in state.machine.effects.split_off(0) {
            match effect {
                Effect::Event(event) if is_connected => self.events.send(event),
                Effect::Event(_) => {}
                Effect::After { delay, unit, token, step } => {
                    let shared = Arc::downgrade(self);
                    tokio::spawn(later(shared, delay, boot, unit, token, step));
                }
            }
        }
        answer
    }
}

/// One timer of one unit; void when the unit has moved on or the machine was booted meanwhile.
async fn later(
    shared: Weak<Shared>,
    delay: Duration,
    boot: u64,
    unit: UnitName,
    token: u64,
    step: machine::Step,
) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let Some(shared) = shared.upgrade() else { return };
    shared.act(|machine, now| {
        if machine.boots == boot && machine.is_due(&unit, token, step) {
            machine.step(&unit, step, now);
        }
    });
}

#[async_trait]
impl Systemd for FakeSystemd {
    async fn list(&self, names: &[UnitName]) -> Result<Vec<UnitStatus>, SystemdError> {
        self.call(Call::List, None, |machine, _| Ok(machine.list(names))).await
    }

    async fn inspect(&self, name: &UnitName) -> Result<Option<UnitDetail>, SystemdError> {
        self.call(Call::Inspect, Some(name), |machine, _| Ok(machine.inspect(name))).await
    }

    async fn start(&self, name: &UnitName) -> Result<JobId, SystemdError> {
        self.call(Call::Start, Some(name), |machine, _| machine.start(name)).await
    }

    async fn stop(&self, name: &UnitName) -> Result<Option<JobId>, SystemdError> {
        self.call(Call::Stop, Some(name), |machine, _| Ok(machine.stop(name))).await
    }

    async fn reset_failed(&self, name: &UnitName) -> Result<(), SystemdError> {
        self.call(Call::ResetFailed, Some(name), |machine, _| {
            machine.reset_failed(name);
            Ok(())
        })
        .await
    }

    async fn reload(&self) -> Result<(), SystemdError> {
        self.call(Call::Reload, None, |machine, _| {
            machine.reload();
            Ok(())
        })
        .await
    }

    async fn pin(&self, names: &[UnitName]) -> Result<(), SystemdError> {
        self.call(Call::Pin, None, |machine, _| {
            machine.pin(names);
            Ok(())
        })
        .await
    }

    async fn unpin(&self, names: &[UnitName]) -> Result<(), SystemdError> {
        self.call(Call::Unpin, None, |machine, _| {
            machine.unpin(names);
            Ok(())
        })
        .await
    }

    async fn pinned(&self) -> Result<Vec<UnitName>, SystemdError> {
        self.call(Call::Pinned, None, |machine, _| Ok(machine.pins.iter().cloned().collect())).await
    }

    async fn install(&self, unit: &Install) -> Result<(), SystemdError> {
        self.call(Call::Install, Some(&unit.name), |machine, _| machine.install(unit)).await
    }

    async fn uninstall(&self, name: &UnitName) -> Result<(), SystemdError> {
        self.call(Call::Uninstall, Some(name), |machine, _| {
            machine.files.remove(name);
            Ok(())
        })
        .await
    }

    async fn unread_links(&self) -> Result<Vec<String>, SystemdError> {
        self.call(Call::UnreadLinks, None, |machine, _| Ok(machine.unread_links())).await
    }

    async fn installed(&self) -> Result<Vec<InstalledUnit>, SystemdError> {
        self.call(Call::Installed, None, |machine, _| Ok(machine.installed())).await
    }

    async fn shadowed(&self, name: &UnitName, aliases: &[String]) -> Result<Option<Shadow>, SystemdError> {
        self.call(Call::Shadowed, Some(name), |machine, _| Ok(machine.shadowed(name, aliases))).await
    }

    fn events(&self) -> Events {
        self.shared.events.subscribe()
    }

    async fn environment(&self) -> Result<Environment, SystemdError> {
        self.call(Call::Environment, None, |machine, _| {
            Ok(Environment { boot_id: machine.boot_id(), version: "fake".to_owned() })
        })
        .await
    }
}

#[cfg(test)]
mod tests;
