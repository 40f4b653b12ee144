//! The agent's loop. Events mark what is dirty; a pass looks, decides, writes down, and then sets its steps and reports
//! on their way without waiting for them. One pass at a time; what happens meanwhile shares the next one.

mod inputs;
mod pass;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleet_core::BootId;
use fleet_core::reconcile::{Local, Orders, Pass, TextFacts};
use fleet_core::records::StateRow;
use fleet_systemd::{Events, Systemd, SystemdError};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use unit_files::{ContentHash, UnitName};

use super::disk::{Disk, SharedDisk, read_content};
use super::error::AgentError;
use super::execute::{Executor, StepReport, describe};
use super::fetch::Fetches;
use super::observe::{Look, Observer, Sight};
use super::pins::Pins;
use super::publish::Publisher;
use super::registry::{AgentRegistry, Committed, OrdersFeed, RegistryFault};
use super::reload::Reloads;
use super::status::{AgentHandle, AgentStatus};
use super::{AgentOptions, texts};

/// The first change acts at once; those of a burst share the next pass.
const PASSES_APART: Duration = Duration::from_millis(5);
/// Longest that a pass waits for texts under way, so that a burst of orders is started together: each wave of starts
/// costs systemd a scan of its unit directories.
const TEXTS_WAIT: Duration = Duration::from_millis(25);
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
    /// The own rows are to be read again.
    is_auditing: bool,
    has_new_texts: bool,
    is_collecting: bool,
    /// Links of earlier passes may be unread: at first, because the last process may have died before, and at audits.
    checks_links: bool,
    /// Texts of new orders are on their way; a pass without them would only say so.
    texts_until: Option<Instant>,
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

/// Texts that were removed.
type Upkeep = io::Result<BTreeSet<ContentHash>>;
type Commit = BoxFuture<'static, Result<Committed, RegistryFault>>;
type Rows = BoxFuture<'static, Result<BTreeMap<UnitName, StateRow>, RegistryFault>>;

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
        local.state_directory_error =
            restored.write_error.map(|error| format!("{}: {error}", options.state_directory.display()));
        local.contents = read_facts(&options.state_directory, &restored.contents);
        let mut status = AgentStatus::new((options.clock)());
        status.state_directory_error.clone_from(&local.state_directory_error);
        let (told, seen) = watch::channel(Arc::new(status.clone()));
        let now = Instant::now();
        let agent = Agent {
            executor: Executor {
                systemd: Arc::clone(&systemd),
                state_directory: options.state_directory.clone(),
                reloads: Arc::new(Reloads::new()),
                pins: Arc::new(Pins::default()),
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
            has_new_texts: false,
            is_collecting: false,
            checks_links: true,
            texts_until: None,
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
        let mut upkeep: Option<BoxFuture<'static, Upkeep>> = None;
        let mut executions: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            self.advance(feed.as_ref(), &mut stage, &mut commit, &mut rows);
            self.keep_up(feed.as_ref(), &mut upkeep);
            let wake = self.wake(feed.as_ref(), &stage);
            // Every arm is cancel safe: the futures are kept outside of the select, or wait for a channel.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                event = feed.changed() => self.on_feed(event, feed.as_ref()),
                event = self.events.recv() => {
                    let mut next = Some(event.ok_or(AgentError::EventsEnded)?);
                    while let Some(event) = next {
                        self.observer.note(event, &self.local.observed);
                        next = self.events.try_recv();
                    }
                }
                Some(report) = self.reports.1.recv() => {
                    self.on_report(report);
                    while let Ok(report) = self.reports.1.try_recv() {
                        self.on_report(report);
                    }
                }
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
                done = pending_or(&mut upkeep) => self.on_upkeep(done),
                Some(()) = executions.next(), if !executions.is_empty() => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.on_time(feed.as_mut()),
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
        self.observer.harden(now, &self.local.observed);
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
        if matches!(stage, Stage::Idle) && self.pass_at(feed, now).is_some_and(|at| at <= now) {
            *stage = self.begin_pass(feed);
        }
    }

    /// When the next pass may begin; None if there is no reason for one, or nothing to go by.
    fn pass_at(&self, feed: &dyn OrdersFeed, now: Instant) -> Option<Instant> {
        let has_rows = self.publisher.has_rows() || self.offline.is_some();
        let can_decide = has_rows && self.orders(feed).is_some();
        let is_dirty = self.observer.is_dirty();
        let is_wanted = is_dirty || (self.is_pass_due && can_decide);
        let apart = self.last_pass.map_or(now, |last| last + PASSES_APART);
        let texts = self.texts_until.filter(|_| !is_dirty);
        let times = [Some(apart), self.look_not_before, texts];
        is_wanted.then(|| times.into_iter().flatten().max().unwrap_or(apart))
    }

    /// When time alone has something to do.
    fn wake(&self, feed: &dyn OrdersFeed, stage: &Stage) -> Option<Instant> {
        let now = Instant::now();
        let pass = if matches!(stage, Stage::Idle) { self.pass_at(feed, now) } else { None };
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

/// systemd's word for this run of the machine; nothing that a file says, which could be lost while units run on.
async fn boot_id(systemd: &Arc<dyn Systemd>) -> Result<BootId, AgentError> {
    let mut is_told = false;
    let environment = loop {
        match systemd.environment().await {
            Ok(environment) => break environment,
            Err(error) => {
                if !is_told {
                    warn!(error = %describe(&error), "waiting for systemd");
                    is_told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let text = environment.boot_id;
    BootId::parse(&text).map_err(|_| AgentError::BootId { text })
}

/// Texts that cannot be read are as good as absent: they are fetched again.
fn read_facts(directory: &Path, contents: &BTreeSet<ContentHash>) -> BTreeMap<ContentHash, TextFacts> {
    let read = |hash: &ContentHash| {
        let bytes = read_content(directory, *hash).ok().flatten()?;
        Some((*hash, texts::facts(*hash, &bytes).ok()?))
    };
    contents.iter().filter_map(read).collect()
}
