//! A machine for tests: the fake systemd, a registry in memory, a state directory, and an agent that can be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fleet_core::reconcile::Orders;
use fleet_core::records::{Counters, Extra, Order, Reason, RunKind, SCHEMA, StateRow, Versioned, Wanted};
use fleet_core::store_trust::Trust;
use fleet_core::{Epoch, Generation, OrderNumber, Revision, Term, Timestamp, UnitUid};
use fleet_systemd::Systemd;
use fleet_systemd::fake::FakeSystemd;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use unit_files::{ContentHash, UnitFile, UnitName, is_oneshot};

use crate::agent::*;

pub(super) fn name(text: &str) -> UnitName {
    text.parse().unwrap()
}

pub(super) fn counters(start: u64, stop: u64, restart: u64) -> Counters {
    Counters { start, stop, restart }
}

/// An order of some text.
pub(in crate::agent) fn an_order(sequence: u64) -> Order {
    order_of(sequence, "[Service]\nExecStart=/usr/bin/work\n")
}

fn order_of(sequence: u64, text: &str) -> Order {
    let file = UnitFile::parse(text).unwrap();
    Order {
        v: SCHEMA,
        number: OrderNumber { epoch: Epoch(0), term: Term(1), sequence },
        uid: UnitUid::parse("u1").unwrap(),
        generation: Generation(1),
        content: ContentHash::of(text.as_bytes()),
        unit_hash: file.unit_hash(),
        run_hash: file.run_hash(&[]),
        wanted: Wanted::Launched,
        counters: Counters::default(),
        run: if is_oneshot(&file) { RunKind::Oneshot } else { RunKind::Continuous },
        conflicts: Vec::new(),
        global: false,
        features: BTreeSet::new(),
        reason: Reason::new("test", ""),
        at: Timestamp(0),
        extra: Extra::new(),
    }
}

/// The registry of one machine, in memory.
#[derive(Clone)]
pub(super) struct MemoryRegistry {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

struct State {
    orders: Orders,
    trust: Trust,
    rows: BTreeMap<UnitName, StateRow>,
    contents: BTreeMap<ContentHash, Bytes>,
    is_connected: bool,
    /// The orders are not followed; everything else is answered.
    is_cut: bool,
    /// How often the trust was told anew.
    judged: u64,
    revision: i64,
    /// When which rows were written.
    commits: Vec<(Instant, Report)>,
    sequence: u64,
}

impl MemoryRegistry {
    pub(super) fn new() -> MemoryRegistry {
        let state = State {
            orders: Orders::none(Revision(1)),
            trust: Trust::Own,
            rows: BTreeMap::new(),
            contents: BTreeMap::new(),
            is_connected: true,
            is_cut: false,
            judged: 0,
            revision: 1,
            commits: Vec::new(),
            sequence: 0,
        };
        MemoryRegistry {
            shared: Arc::new(Shared { state: Mutex::new(state), version: watch::Sender::new(1) }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let answer = act(&mut state);
        state.revision += 1;
        state.orders.revision = Revision(state.revision);
        drop(state);
        self.shared.version.send_modify(|version| *version += 1);
        answer
    }

    /// Puts an order with the next number; its text is put beside it.
    pub(super) fn order(&self, unit: &str, text: &str, wanted: Wanted, counters: Counters) -> OrderNumber {
        let hash = ContentHash::of(text.as_bytes());
        self.lock().contents.insert(hash, Bytes::copy_from_slice(text.as_bytes()));
        self.order_without_text(unit, text, wanted, counters)
    }

    pub(super) fn order_without_text(
        &self,
        unit: &str,
        text: &str,
        wanted: Wanted,
        counters: Counters,
    ) -> OrderNumber {
        self.change(|state| {
            state.sequence += 1;
            let order = Order { wanted, counters, ..order_of(state.sequence, text) };
            let number = order.number;
            let modified = Revision(state.revision + 1);
            state.orders.by_unit.insert(name(unit), Versioned { value: order, created: modified, modified });
            number
        })
    }

    pub(super) fn launch(&self, unit: &str, text: &str) -> OrderNumber {
        self.order(unit, text, Wanted::Launched, Counters::default())
    }

    pub(super) fn lose_orders(&self) {
        self.change(|state| state.orders.by_unit.clear());
    }

    pub(super) fn forget_order(&self, unit: &str) {
        self.change(|state| state.orders.by_unit.remove(unit));
    }

    pub(super) fn trust(&self, trust: Trust) {
        self.change(|state| state.trust = trust);
    }

    pub(super) fn connect(&self, is_connected: bool) {
        self.change(|state| state.is_connected = is_connected);
    }

    /// Orders do not come any more, whatever else is answered.
    pub(super) fn cut(&self, is_cut: bool) {
        self.change(|state| state.is_cut = is_cut);
    }

    /// Tells of the trust, and of nothing else.
    pub(super) fn judge(&self) {
        self.change(|state| state.judged += 1);
    }

    /// All that the registry knows of the machine is gone, as after an operator has forgotten it.
    pub(super) fn forget_everything(&self) {
        self.change(|state| {
            state.orders.by_unit.clear();
            state.rows.clear();
        });
    }

    pub(super) fn row(&self, unit: &str) -> Option<StateRow> {
        self.lock().rows.get(unit).cloned()
    }

    pub(super) fn has_order(&self, unit: &str) -> bool {
        self.lock().orders.by_unit.contains_key(unit)
    }

    pub(super) fn has_done(&self, unit: &str, number: OrderNumber) -> bool {
        self.row(unit).is_some_and(|row| row.applied >= Some(number))
    }

    pub(super) fn commits(&self) -> Vec<(Instant, Report)> {
        self.lock().commits.clone()
    }

    /// How often the row of a unit was written.
    pub(super) fn writes(&self, unit: &str) -> Vec<Instant> {
        let commits = self.commits();
        let of_unit =
            commits.iter().filter(|(_, report)| report.rows.iter().any(|(name, _)| name.as_str() == unit));
        of_unit.map(|(at, _)| *at).collect()
    }
}

fn away(doing: &'static str) -> RegistryFault {
    RegistryFault { doing, why: "connection refused".to_owned() }
}

#[async_trait]
impl AgentRegistry for MemoryRegistry {
    fn follow(&self) -> Box<dyn OrdersFeed> {
        let mut version = self.shared.version.subscribe();
        version.mark_changed();
        Box::new(MemoryFeed { registry: self.clone(), version, view: None, is_connected: true, judged: 0 })
    }

    async fn rows(&self) -> Result<BTreeMap<UnitName, StateRow>, RegistryFault> {
        let state = self.lock();
        if state.is_connected { Ok(state.rows.clone()) } else { Err(away("read rows")) }
    }

    async fn content(&self, hash: ContentHash) -> Result<Option<Bytes>, RegistryFault> {
        let state = self.lock();
        if state.is_connected { Ok(state.contents.get(&hash).cloned()) } else { Err(away("read text")) }
    }

    async fn commit(&self, report: Report) -> Result<Committed, RegistryFault> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if !self.lock().is_connected {
            return Err(away("write state"));
        }
        self.change(|state| {
            let mut committed = Committed::default();
            for ack in &report.acknowledgements {
                if state.orders.by_unit.get(&ack.unit).is_some_and(|order| order.modified == ack.modified) {
                    state.orders.by_unit.remove(&ack.unit);
                    state.rows.remove(&ack.unit);
                }
                committed.acknowledged.insert(ack.unit.clone());
            }
            for (unit, row) in &report.rows {
                match row {
                    Some(row) => drop(state.rows.insert(unit.clone(), row.clone())),
                    None => drop(state.rows.remove(unit)),
                }
                committed.rows.insert(unit.clone());
            }
            state.commits.push((Instant::now(), report));
            Ok(committed)
        })
    }
}

struct MemoryFeed {
    registry: MemoryRegistry,
    version: watch::Receiver<u64>,
    view: Option<(Orders, Trust)>,
    is_connected: bool,
    judged: u64,
}

#[async_trait]
impl OrdersFeed for MemoryFeed {
    async fn changed(&mut self) -> FeedEvent {
        loop {
            if self.version.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let state = self.registry.lock();
            if std::mem::replace(&mut self.judged, state.judged) != state.judged {
                return FeedEvent::Judged;
            }
            if !state.is_connected || state.is_cut {
                if std::mem::take(&mut self.is_connected) {
                    return FeedEvent::Disconnected { why: "connection refused".to_owned() };
                }
                continue;
            }
            self.is_connected = true;
            let view = (state.orders.clone(), state.trust.clone());
            // A commit of rows is no change of what is followed.
            if self.view.as_ref().is_none_or(|known| known.0.by_unit != view.0.by_unit || known.1 != view.1)
                || self
                    .view
                    .as_ref()
                    .is_some_and(|known| known.0.revision != view.0.revision && known.0.by_unit.is_empty())
            {
                self.view = Some(view);
                return FeedEvent::Changed;
            }
        }
    }

    fn view(&self) -> Option<FeedView<'_>> {
        self.view.as_ref().map(|(orders, trust)| FeedView { orders, trust })
    }
}

/// A future that is dropped after so many polls, as a process that is killed.
struct Mortal<F> {
    inner: Pin<Box<F>>,
    polls_left: usize,
}

impl<F: Future> Future for Mortal<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.polls_left == 0 {
            return Poll::Ready(());
        }
        self.polls_left -= 1;
        self.inner.as_mut().poll(context).map(|_| ())
    }
}

pub(super) struct Machine {
    pub systemd: FakeSystemd,
    pub registry: MemoryRegistry,
    pub directory: tempfile::TempDir,
    pub handle: Option<AgentHandle>,
    agent: Option<(tokio::task::JoinHandle<()>, CancellationToken)>,
}

/// Longer than anything that is waited for; the clock is paused.
const DEADLINE: Duration = Duration::from_secs(3600);

impl Machine {
    /// Without an agent.
    pub(super) fn new() -> Machine {
        Machine {
            systemd: FakeSystemd::new("m1"),
            registry: MemoryRegistry::new(),
            directory: tempfile::tempdir().unwrap(),
            handle: None,
            agent: None,
        }
    }

    pub(super) async fn started() -> Machine {
        let mut machine = Machine::new();
        machine.start().await;
        machine
    }

    fn options(&self) -> AgentOptions {
        let began = Instant::now();
        let clock: Clock = Arc::new(move || {
            let ran = u64::try_from(began.elapsed().as_millis()).unwrap();
            Timestamp(1_735_689_600_000 + ran)
        });
        AgentOptions { clock, ..AgentOptions::new(self.directory.path().to_owned()) }
    }

    async fn open(&self) -> (Agent, AgentHandle) {
        loop {
            let systemd: Arc<dyn Systemd> = Arc::new(self.systemd.clone());
            let registry: Arc<dyn AgentRegistry> = Arc::new(self.registry.clone());
            match Agent::open(self.options(), systemd, registry).await {
                Ok(opened) => return opened,
                // A write of the last agent is still being finished on its thread.
                Err(AgentError::InUse { .. }) => {
                    tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(super) async fn start(&mut self) {
        self.start_for(usize::MAX).await;
    }

    /// An agent that is killed after so many polls.
    pub(super) async fn start_for(&mut self, polls: usize) {
        assert!(self.agent.is_none());
        let (agent, handle) = self.open().await;
        let stop = CancellationToken::new();
        let run = agent.run(stop.clone());
        let task = tokio::spawn(Mortal { inner: Box::pin(run), polls_left: polls });
        self.handle = Some(handle);
        self.agent = Some((task, stop));
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self) {
        if let Some((task, _)) = self.agent.take() {
            task.abort();
            drop(task.await);
        }
    }

    /// SIGTERM.
    pub(super) async fn terminate(&mut self) {
        if let Some((task, stop)) = self.agent.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    /// Whether the agent has died of its polls.
    pub(super) fn has_ended(&self) -> bool {
        self.agent.as_ref().is_none_or(|(task, _)| task.is_finished())
    }

    pub(super) fn status(&self) -> Arc<AgentStatus> {
        self.handle.as_ref().unwrap().status()
    }

    /// Waits until something holds.
    pub(super) async fn until(&self, what: &str, mut holds: impl FnMut(&Machine) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(
                began.elapsed() < DEADLINE,
                "{what}: not within {DEADLINE:?}; {:#?} {:#?}",
                self.status(),
                self.registry.lock().rows
            );
            // Lets time pass for everybody else; also for the blocking threads, which hold the clock.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) async fn until_done(&self, unit: &str, number: OrderNumber) {
        self.until(&format!("{unit} has done {number}"), |m| m.registry.has_done(unit, number)).await;
    }

    pub(super) fn runs(&self, unit: &str) -> usize {
        self.systemd.runs(&name(unit))
    }

    pub(super) async fn active(&self, unit: &str) -> String {
        let found = self.systemd.list(&[name(unit)]).await.unwrap();
        found.first().map_or("unloaded".to_owned(), |status| status.active.to_string())
    }

    /// Whether the state directory refuses writes.
    pub(super) fn fill_disk(&self, is_full: bool) {
        let marker = self.directory.path().join(crate::agent::disk::FULL);
        if is_full { std::fs::write(marker, "").unwrap() } else { std::fs::remove_file(marker).unwrap() }
    }

    /// Lets time pass.
    pub(super) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
