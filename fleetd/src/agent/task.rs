//! The agent's loop. Events mark what is dirty; a pass looks, decides, writes down, and then sets its steps and reports
//! on their way without waiting for them. One pass at a time; what happens meanwhile shares the next one.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fleet_core::reconcile::{FetchProblem, Local, Orders, Pass, Step, TextFacts, reconcile};
use fleet_core::{BootId, Timestamp};
use fleet_systemd::{Events, Systemd, SystemdError};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rand::RngExt as _;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use unit_files::{ContentHash, UnitName};

use super::disk::{Changes, Disk, SharedDisk, read_content};
use super::error::AgentError;
use super::execute::{Executor, ReloadBucket, StepReport, describe};
use super::fetch::{Fetched, Fetches};
use super::observe::{Look, Observer, Sight, look};
use super::publish::Publisher;
use super::registry::{AgentRegistry, Committed, FeedEvent, OrdersFeed, RegistryFault};
use super::status::{AgentHandle, AgentStatus, Connection, LastPass};
use super::{AgentOptions, texts};

/// The first change acts at once; those of a burst share the next pass.
const PASSES_APART: Duration = Duration::from_millis(5);
/// After systemd, the state directory or the read of the own rows failed.
const RETRY: Duration = Duration::from_secs(1);

/// The agent, not yet running. Dropping it, or its `run`, changes nothing in any unit.
pub struct Agent {
    options: AgentOptions,
    systemd: Arc<dyn Systemd>,
    registry: Arc<dyn AgentRegistry>,
    disk: SharedDisk,
    events: Events,
    local: Local,
    observer: Observer,
    publisher: Publisher,
    fetches: Fetches,
    executor: Executor,
    reports: (mpsc::UnboundedSender<StepReport>, mpsc::UnboundedReceiver<StepReport>),
    status: AgentStatus,
    told: watch::Sender<Arc<AgentStatus>>,
    /// Orders from this machine's disk, while the registry has never answered.
    offline: Option<Orders>,
    is_pass_due: bool,
    next_look: Option<Instant>,
    last_pass: Option<Instant>,
    look_not_before: Option<Instant>,
    rows_not_before: Option<Instant>,
    audit_at: Instant,
    offline_at: Option<Instant>,
    is_auditing: bool,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("options", &self.options)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// The part of a pass that is under way.
enum Stage {
    Idle,
    Looking(BoxFuture<'static, Result<Sight, (Look, SystemdError)>>),
    Writing(Box<Pass>, BoxFuture<'static, io::Result<()>>),
}

enum StageDone {
    Looked(Result<Sight, (Look, SystemdError)>),
    Written(Box<Pass>, io::Result<()>),
}

impl Stage {
    /// Cancel safe; pending while idle.
    async fn next(&mut self) -> StageDone {
        match self {
            Stage::Idle => std::future::pending().await,
            Stage::Looking(look) => {
                let looked = look.await;
                *self = Stage::Idle;
                StageDone::Looked(looked)
            }
            Stage::Writing(_, write) => {
                let written = write.await;
                match std::mem::replace(self, Stage::Idle) {
                    Stage::Writing(pass, _) => StageDone::Written(pass, written),
                    Stage::Idle | Stage::Looking(_) => std::future::pending().await,
                }
            }
        }
    }
}

type Commit = BoxFuture<'static, Result<Committed, RegistryFault>>;
type Rows = BoxFuture<
    'static,
    Result<std::collections::BTreeMap<UnitName, fleet_core::records::StateRow>, RegistryFault>,
>;

/// A future that may not be there.
async fn pending_or<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => {
            let done = future.await;
            *slot = None;
            done
        }
        None => std::future::pending().await,
    }
}

impl Agent {
    /// Reads the disk and finds out which boot this is. Nothing is done to any unit yet.
    ///
    /// # Errors
    /// The state directory cannot be used, or systemd's boot id is none. Waits, with a log line, while systemd does not
    /// answer.
    pub async fn open(
        options: AgentOptions,
        systemd: Arc<dyn Systemd>,
        registry: Arc<dyn AgentRegistry>,
    ) -> Result<(Agent, AgentHandle), AgentError> {
        let events = systemd.events();
        let (disk, restored) = Disk::open(&options.state_directory)?;
        let boot = boot_id(&systemd).await?;
        let mut local = Local::new(boot);
        local.known_features = options.features.clone();
        local.records = restored.records;
        local.floor = restored.floor;
        local.contents = read_facts(&options.state_directory, &restored.contents);
        let status = AgentStatus::new((options.clock)());
        let (told, seen) = watch::channel(Arc::new(status.clone()));
        let now = Instant::now();
        let agent = Agent {
            executor: Executor {
                systemd: Arc::clone(&systemd),
                state_directory: options.state_directory.clone(),
                reloads: Arc::new(Mutex::new(ReloadBucket::new())),
            },
            observer: Observer::new(options.units_directory.clone()),
            disk: SharedDisk::new(disk),
            audit_at: now + jittered(options.audit_interval),
            offline_at: Some(now + options.offline_start_after),
            systemd,
            registry,
            events,
            local,
            publisher: Publisher::default(),
            fetches: Fetches::default(),
            reports: mpsc::unbounded_channel(),
            status,
            told,
            offline: None,
            is_pass_due: false,
            next_look: None,
            last_pass: None,
            look_not_before: None,
            rows_not_before: None,
            is_auditing: false,
            options,
        };
        Ok((agent, AgentHandle::new(seen)))
    }

    /// Runs until `stop` is cancelled; every unit stays as it is.
    ///
    /// # Errors
    /// Only what leaves it blind for good; see [`AgentError`].
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), AgentError> {
        let mut feed = self.registry.follow();
        let mut stage = Stage::Idle;
        let mut commit: Option<Commit> = None;
        let mut rows: Option<Rows> = None;
        let mut executions: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            self.advance(feed.as_ref(), &mut stage, &mut commit, &mut rows);
            let wake = self.wake(feed.as_ref(), &stage);
            // Every arm is cancel safe: the futures are kept outside of the select, or wait for a channel.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                event = feed.changed() => self.on_feed(event, feed.as_ref()),
                event = self.events.recv() => {
                    let event = event.ok_or(AgentError::EventsEnded)?;
                    self.observer.note(event, &self.local.observed);
                }
                Some(report) = self.reports.1.recv() => self.on_report(report),
                done = stage.next() => match done {
                    StageDone::Looked(looked) => {
                        stage = self.on_look(looked, feed.as_ref());
                    }
                    StageDone::Written(pass, written) => {
                        executions.extend(self.on_written(*pass, written));
                    }
                },
                fetched = self.fetches.next() => self.on_fetched(fetched),
                answer = pending_or(&mut commit) => {
                    self.status.counters.commits += 1;
                    self.publisher.done(answer, Instant::now());
                }
                answer = pending_or(&mut rows) => self.on_rows(answer),
                Some(()) = executions.next(), if !executions.is_empty() => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.on_time(),
            }
            self.tell();
        }
    }

    /// The orders to obey now, if there are any to be trusted.
    fn orders<'a>(&'a self, feed: &'a dyn OrdersFeed) -> Option<&'a Orders> {
        match feed.view() {
            Some(view) => view.trust.may_act().then_some(view.orders),
            None => self.offline.as_ref(),
        }
    }

    /// Starts whatever can be started now.
    fn advance(
        &mut self,
        feed: &dyn OrdersFeed,
        stage: &mut Stage,
        commit: &mut Option<Commit>,
        rows: &mut Option<Rows>,
    ) {
        let now = Instant::now();
        self.observer.harden(now);
        let is_trusted = feed.view().is_some_and(|view| view.trust.may_act());
        let may_ask = self.rows_not_before.is_none_or(|at| at <= now);
        if rows.is_none() && is_trusted && may_ask && (!self.publisher.has_rows() || self.is_auditing) {
            self.is_auditing = false;
            let registry = Arc::clone(&self.registry);
            *rows = Some(Box::pin(async move { registry.rows().await }));
        }
        if commit.is_none()
            && is_trusted
            && self.status.is_connected()
            && let Some(report) = self.publisher.take(now)
        {
            let registry = Arc::clone(&self.registry);
            *commit = Some(Box::pin(async move { registry.commit(report).await }));
        }
        self.fetches.start(&self.registry, &self.disk);
        if matches!(stage, Stage::Idle) && self.pass_at(feed).is_some_and(|at| at <= now) {
            *stage = self.begin_pass(feed);
        }
    }

    /// When the next pass may begin; None if there is no reason for one, or nothing to go by.
    fn pass_at(&self, feed: &dyn OrdersFeed) -> Option<Instant> {
        let has_rows = self.publisher.has_rows() || self.offline.is_some();
        let can_decide = has_rows && self.orders(feed).is_some();
        let is_wanted = self.observer.is_dirty() || (self.is_pass_due && can_decide);
        let apart = self.last_pass.map_or_else(Instant::now, |last| last + PASSES_APART);
        is_wanted.then(|| self.look_not_before.map_or(apart, |at| at.max(apart)))
    }

    fn names(&self, orders: Option<&Orders>) -> BTreeSet<UnitName> {
        let ordered = orders.into_iter().flat_map(|orders| orders.by_unit.keys().chain(orders.frozen.keys()));
        ordered.chain(self.local.records.keys()).cloned().collect()
    }

    fn begin_pass(&mut self, feed: &dyn OrdersFeed) -> Stage {
        self.last_pass = Some(Instant::now());
        let names = self.names(self.orders(feed));
        let has_open_starts = self.local.records.values().any(|record| record.intent.is_some());
        let asked = self.observer.begin(&names, &self.local.observed, has_open_starts);
        Stage::Looking(Box::pin(look(Arc::clone(&self.systemd), asked)))
    }

    fn on_look(&mut self, looked: Result<Sight, (Look, SystemdError)>, feed: &dyn OrdersFeed) -> Stage {
        let sight = match looked {
            Ok(sight) => sight,
            Err((asked, error)) => {
                let text = describe(&error);
                if self.status.systemd_error.as_ref() != Some(&text) {
                    warn!(error = %text, "systemd cannot be read, trying again");
                }
                self.status.systemd_error = Some(text);
                self.observer.give_back(asked);
                self.look_not_before = Some(Instant::now() + jittered(RETRY));
                return Stage::Idle;
            }
        };
        self.status.systemd_error = None;
        self.look_not_before = None;
        let now = (self.options.clock)();
        let mut observed = std::mem::take(&mut self.local.observed);
        let names = self.names(self.orders(feed));
        let is_audit = sight.is_full() && self.status.counters.passes > 0;
        let differences = self.observer.absorb(sight, &mut observed, &names, now);
        self.local.observed = observed;
        if is_audit {
            self.status.counters.audit_differences += differences as u64;
        }
        self.decide(feed, now)
    }

    fn decide(&mut self, feed: &dyn OrdersFeed, now: Timestamp) -> Stage {
        let names = self.names(self.orders(feed));
        if names.iter().any(|name| !self.local.observed.contains_key(name)) {
            // Orders came while we looked: what they name has to be seen first.
            return self.begin_pass(feed);
        }
        if !(self.publisher.has_rows() || self.offline.is_some()) {
            return Stage::Idle;
        }
        let Some(orders) = self.orders(feed) else { return Stage::Idle };
        let pass = reconcile(orders, &self.local, now);
        let (count, revision) = (orders.by_unit.len(), orders.revision);
        (self.status.orders, self.status.revision) = (count, revision);
        self.is_pass_due = false;
        let changes =
            Changes { records: pass.records.clone(), forget: pass.forget.clone(), floor: pass.floor };
        let is_probe = self.local.state_directory_error.is_some();
        let is_nothing =
            changes.records.is_empty() && changes.forget.is_empty() && changes.floor == self.local.floor;
        if is_nothing && !is_probe {
            return Stage::Writing(Box::new(pass), Box::pin(std::future::ready(Ok(()))));
        }
        let write = self.disk.clone();
        Stage::Writing(
            Box::new(pass),
            Box::pin(async move {
                write.run(move |disk| if is_probe { disk.compact() } else { disk.write(&changes) }).await
            }),
        )
    }

    /// The pass is durable: now it happens.
    fn on_written(&mut self, pass: Pass, written: io::Result<()>) -> Option<BoxFuture<'static, ()>> {
        let was_error = self.local.state_directory_error.take();
        match written {
            Err(error) => {
                let text = error.to_string();
                if was_error.as_ref() != Some(&text) {
                    warn!(error = %text, "the state directory cannot be written: doing nothing until it can");
                }
                self.status.state_directory_error = Some(text.clone());
                // The next pass is decided knowing it; without steps it may be published.
                let is_known = was_error.is_some();
                self.local.state_directory_error = Some(text);
                self.look_again(if is_known { RETRY } else { Duration::ZERO });
                if is_known {
                    self.publish(pass);
                }
                return None;
            }
            Ok(()) if was_error.is_some() => {
                info!("the state directory can be written again");
                self.status.state_directory_error = None;
                self.is_pass_due = true;
                return None;
            }
            Ok(()) => {}
        }
        Observer::settle(&mut self.local.observed);
        let now = (self.options.clock)();
        let counters = &mut self.status.counters;
        counters.passes += 1;
        counters.effective_passes += u64::from(!pass.is_quiet(&self.local));
        counters.starts += pass.steps.iter().filter(|(_, step)| *step == Step::Start).count() as u64;
        counters.stops += pass.steps.iter().filter(|(_, step)| *step == Step::Stop).count() as u64;
        self.status.last_pass = Some(LastPass { at: now, steps: pass.steps.len() });
        self.status.busy.clone_from(&pass.open);
        self.local.records.extend(pass.records.iter().map(|(unit, record)| (unit.clone(), record.clone())));
        self.local.records.retain(|unit, _| !pass.forget.contains(unit));
        self.local.floor = pass.floor;
        for hash in &pass.fetch {
            if let Some(FetchProblem::Absent(_)) = self.local.fetch_problems.get(hash) {
                self.local.fetch_problems.remove(hash);
            }
            self.fetches.want(*hash);
        }
        self.next_look = pass.next_look.map(|at| Instant::now() + at.since(now).as_duration());
        let steps = pass.steps.clone();
        self.publish(pass);
        if steps.is_empty() {
            return None;
        }
        for (unit, step) in &steps {
            debug!(%unit, ?step, "step");
            self.observer.begin_steps(unit, &mut self.local.observed);
        }
        Some(Box::pin(self.executor.clone().carry_out(steps, self.reports.0.clone())))
    }

    fn publish(&mut self, pass: Pass) {
        self.publisher.offer(&pass, Instant::now());
        if pass.rows != self.local.rows {
            self.status.units = Arc::new(pass.rows.clone());
            self.local.rows = pass.rows;
        }
    }

    fn look_again(&mut self, after: Duration) {
        let at = Instant::now() + after;
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }

    fn on_feed(&mut self, event: FeedEvent, feed: &dyn OrdersFeed) {
        let now = (self.options.clock)();
        match event {
            FeedEvent::Changed => {
                if !self.status.is_connected() {
                    info!("connected to the registry");
                    self.status.connection = Connection::Connected { since: now };
                    self.publisher.reconnected();
                    self.fetches.retry(None);
                    self.is_auditing |= self.publisher.has_rows();
                }
                // From now on the registry's word counts, even where it is that there is nothing to trust.
                (self.offline, self.offline_at, self.status.is_offline) = (None, None, false);
            }
            FeedEvent::Disconnected { why } => {
                if self.status.is_connected() {
                    warn!(%why, "the registry does not answer; everything keeps running");
                    self.status.connection = Connection::Disconnected { since: now, why };
                } else if let Connection::Disconnected { why: known, .. } = &mut self.status.connection {
                    *known = why;
                }
            }
        }
        let Some(view) = feed.view() else { return };
        let holding = (!view.trust.may_act()).then(|| view.trust.remedy());
        if self.status.holding != holding {
            match &holding {
                Some(why) => warn!(%why, "holding: no order is applied"),
                None => info!("the store can be trusted: orders are applied again"),
            }
            self.status.holding = holding;
        }
        if view.trust.may_act() {
            let texts = view.orders.by_unit.values().map(|order| &order.value);
            let wanted = texts.filter(|order| order.wanted != fleet_core::records::Wanted::Gone);
            for hash in wanted.map(|order| order.content) {
                let is_known =
                    self.local.contents.contains_key(&hash) || self.local.fetch_problems.contains_key(&hash);
                if !is_known {
                    self.fetches.want(hash);
                }
            }
        }
        self.is_pass_due = true;
    }

    fn on_report(&mut self, report: StepReport) {
        if let StepReport::Failed { unit, failure } = &report {
            info!(%unit, reason = %failure.reason.text, "step failed");
        }
        let now = (self.options.clock)();
        self.observer.report(report, &mut self.local.observed, now);
    }

    fn on_fetched(&mut self, fetched: Fetched) {
        self.fetches.note(&fetched, Instant::now());
        let (hash, answer) = fetched;
        match answer {
            Ok(facts) => {
                self.local.fetch_problems.remove(&hash);
                self.local.contents.insert(hash, facts);
            }
            Err(problem) => drop(self.local.fetch_problems.insert(hash, problem)),
        }
        self.is_pass_due = true;
    }

    fn on_rows(
        &mut self,
        answer: Result<std::collections::BTreeMap<UnitName, fleet_core::records::StateRow>, RegistryFault>,
    ) {
        match answer {
            Ok(rows) => {
                self.rows_not_before = None;
                if !self.publisher.has_rows() && self.local.rows.is_empty() {
                    self.local.rows = rows.clone();
                }
                self.status.counters.audit_differences += self.publisher.read(rows) as u64;
                self.is_pass_due = true;
            }
            Err(error) => {
                debug!(%error, "own rows not read, trying again");
                self.rows_not_before = Some(Instant::now() + jittered(RETRY));
                self.is_auditing |= self.publisher.has_rows();
            }
        }
    }

    /// When time alone has something to do.
    fn wake(&self, feed: &dyn OrdersFeed, stage: &Stage) -> Option<Instant> {
        let now = Instant::now();
        let pass = if matches!(stage, Stage::Idle) { self.pass_at(feed) } else { None };
        let is_connected = self.status.is_connected() && feed.view().is_some_and(|view| view.trust.may_act());
        let publish = if is_connected { self.publisher.due(now) } else { None };
        let soft = self.observer.soft_due();
        let times = [
            pass,
            publish,
            soft,
            self.next_look,
            self.offline_at,
            self.fetches.due(),
            self.rows_not_before.filter(|at| *at > now),
            Some(self.audit_at),
        ];
        times.into_iter().flatten().min()
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.next_look.is_some_and(|at| at <= now) {
            self.next_look = None;
            self.is_pass_due = true;
        }
        if self.fetches.due().is_some_and(|at| at <= now) {
            self.fetches.retry(Some(now));
        }
        if self.offline_at.is_some_and(|at| at <= now) {
            self.offline_at = None;
            info!("the registry has not answered: this machine obeys the last orders on its disk");
            self.offline = Some(Orders::from_disk(&self.local.records));
            (self.is_pass_due, self.status.is_offline) = (true, true);
        }
        if self.audit_at <= now {
            self.audit_at = now + jittered(self.options.audit_interval);
            self.status.counters.audits += 1;
            self.is_auditing = true;
            self.is_pass_due = true;
            self.observer.mark_all();
        }
    }

    fn tell(&mut self) {
        let status = &self.status;
        self.told.send_if_modified(|told| {
            let is_new = **told != *status;
            if is_new {
                *told = Arc::new(status.clone());
            }
            is_new
        });
    }
}

fn jittered(bound: Duration) -> Duration {
    bound.mul_f64(rand::rng().random_range(0.9..=1.1))
}

async fn boot_id(systemd: &Arc<dyn Systemd>) -> Result<BootId, AgentError> {
    let mut is_told = false;
    loop {
        match systemd.environment().await {
            Ok(environment) => {
                return BootId::parse(&environment.boot_id)
                    .map_err(|_| AgentError::BootId { text: environment.boot_id.clone() });
            }
            Err(error) => {
                if !is_told {
                    warn!(error = %describe(&error), "waiting for systemd");
                    is_told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Texts that cannot be read are as good as absent: they are fetched again.
fn read_facts(
    directory: &std::path::Path,
    contents: &BTreeSet<ContentHash>,
) -> std::collections::BTreeMap<ContentHash, TextFacts> {
    let read = |hash: &ContentHash| {
        let bytes = read_content(directory, *hash).ok().flatten()?;
        Some((*hash, texts::facts(*hash, &bytes).ok()?))
    };
    contents.iter().filter_map(read).collect()
}
