//! Waiting: one registry watch per client, one line for every change of a unit's progress.
//!
//! A few units on one machine each are followed by their own keys; many, global ones, and those that are leaving need
//! the orders and rows of all machines. Nobody leads, or the registry does not answer: the client is told and decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use fleet_api::v2::{self, MachineProgress, WaitLine, WaitRequest};
use fleet_core::records::DesiredState;
use fleet_core::requests::progress::{self, Phase, Progress, Waited, progress};
use fleet_core::world::World;
use fleet_core::{MachineId, Revision, UnitUid};
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::entry::{Change, Entry};
use fleet_registry::registry::follow::{Feed, FeedItem};
use futures_util::stream;
use tokio::time::{Instant, sleep_until};

use super::super::Failure;
use super::super::state::Api;
use super::super::views;
use super::{Answer, NDJSON, document, typed, unit_name};

/// Units that are followed by their own keys: with four keys each they fit into one transaction.
const NARROW_UNITS: usize = 12;

pub(super) async fn post(State(api): State<Api>, body: Body) -> Answer {
    let request: WaitRequest = document(&api, body).await?;
    let mut waited = Vec::new();
    for unit in request.units {
        let uid = unit.uid.as_deref().map(UnitUid::parse).transpose();
        waited.push(Waited {
            unit: unit_name(&unit.unit)?,
            uid: uid.map_err(|error| Failure::bad_request(error.to_string()))?,
            revision: unit.revision.map(Revision),
            is_leaving: false,
        });
    }
    let session = Session::new(api, waited);
    Ok(typed(
        NDJSON,
        Body::from_stream(stream::unfold(session, |mut session| async move {
            let line = session.next().await?;
            let mut line = serde_json::to_vec(&line).unwrap_or_default();
            line.push(b'\n');
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), session))
        })),
    ))
}

/// One waiting client. Dropping it ends the watch.
struct Session {
    api: Api,
    waited: Vec<Waited>,
    world: World,
    feed: Feed,
    scope: Scope,
    /// What the client was told of each unit that is not over yet.
    told: BTreeMap<usize, Progress>,
    is_over: BTreeSet<usize>,
    lines: VecDeque<WaitLine>,
    heartbeat: Instant,
    /// When what has changed is judged: changes that come close together are judged together.
    judge_at: Option<Instant>,
    leader: Leader,
    has_lost_registry: bool,
}

/// Which keys are followed.
#[derive(PartialEq, Eq)]
enum Scope {
    /// The units' own keys, and theirs on these machines.
    Narrow(BTreeSet<MachineId>),
    Wide,
}

enum Leader {
    Unknown,
    Present,
    /// Told to the client at this moment, if it still is so.
    Missing {
        tell_at: Instant,
        since: u64,
    },
    Told,
}

impl Session {
    fn new(api: Api, waited: Vec<Waited>) -> Session {
        let scope = if waited.len() <= NARROW_UNITS { Scope::Narrow(BTreeSet::new()) } else { Scope::Wide };
        let feed = api.registry.follow(&areas(&scope, &waited));
        let heartbeat = Instant::now() + api.limits.heartbeat;
        Session {
            api,
            waited,
            world: World::default(),
            feed,
            scope,
            told: BTreeMap::new(),
            is_over: BTreeSet::new(),
            lines: VecDeque::new(),
            heartbeat,
            judge_at: None,
            leader: Leader::Unknown,
            has_lost_registry: false,
        }
    }

    /// The next line; none at the end: every unit is over, or fleetd stops.
    async fn next(&mut self) -> Option<WaitLine> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                self.heartbeat = Instant::now() + self.api.limits.heartbeat;
                return Some(line);
            }
            if self.is_over.len() == self.waited.len() {
                return None;
            }
            let tell_leader = match self.leader {
                Leader::Missing { tell_at, .. } => Some(tell_at),
                _ => None,
            };
            let judge_at = self.judge_at;
            // All arms are cancel safe.
            tokio::select! {
                () = self.api.shutdown.cancelled() => return None,
                item = self.feed.next() => self.take(item),
                () = sleep_until(judge_at.unwrap_or(self.heartbeat)), if judge_at.is_some() => self.judge(),
                () = sleep_until(self.heartbeat) => self.lines.push_back(WaitLine::Heartbeat { heartbeat: true }),
                () = sleep_until(tell_leader.unwrap_or(self.heartbeat)), if tell_leader.is_some() => {
                    if let Leader::Missing { since, .. } = std::mem::replace(&mut self.leader, Leader::Told) {
                        self.lines.push_back(WaitLine::NoLeader { no_leader: true, since });
                    }
                }
            }
        }
    }

    fn take(&mut self, item: FeedItem) {
        let now = self.api.now();
        match item {
            FeedItem::Disconnected { .. } => {
                if !std::mem::replace(&mut self.has_lost_registry, true) {
                    self.lines.push_back(WaitLine::NoRegistry { no_registry: true, since: now.0 });
                }
                return;
            }
            FeedItem::Snapshot(snapshot) => {
                let has_leader = snapshot.entries.iter().any(|entry| matches!(entry, Entry::Leader(_)));
                let unreadable = snapshot.undecodable.into_iter().map(Change::Undecodable);
                let events = snapshot.entries.into_iter().filter_map(|entry| entry.into_world_event(now));
                let events = events.chain(unreadable.filter_map(|change| change.into_world_event(now)));
                self.world = World::from_events(events.collect::<Vec<_>>());
                self.has_leader(has_leader);
            }
            FeedItem::Changes { changes, .. } => {
                for change in changes {
                    match (&change, change.key()) {
                        (Change::Put(_), Key::Leader) => self.has_leader(true),
                        (Change::Deleted { .. }, Key::Leader) => self.has_leader(false),
                        _ => {}
                    }
                    if let Some(event) = change.into_world_event(now) {
                        self.world.apply(event);
                    }
                }
            }
        }
        if std::mem::replace(&mut self.has_lost_registry, false) {
            self.lines.push_back(WaitLine::NoRegistry { no_registry: false, since: 0 });
        }
        let scope = self.needed();
        if scope == self.scope {
            self.judge_at.get_or_insert(Instant::now() + self.patience());
        } else {
            // Its first snapshot is judged; what this one says is not the whole truth.
            self.feed = self.api.registry.follow(&areas(&scope, &self.waited));
            (self.scope, self.judge_at) = (scope, None);
        }
    }

    fn has_leader(&mut self, is_there: bool) {
        self.leader = match (&self.leader, is_there) {
            (Leader::Told, true) => {
                self.lines.push_back(WaitLine::NoLeader { no_leader: false, since: 0 });
                Leader::Present
            }
            (_, true) => Leader::Present,
            (Leader::Unknown | Leader::Present, false) => {
                let tell_at = Instant::now() + self.api.limits.leaderless;
                Leader::Missing { tell_at, since: self.api.now().0 }
            }
            (Leader::Missing { .. } | Leader::Told, false) => return,
        };
    }

    fn needed(&self) -> Scope {
        let Scope::Narrow(machines) = &self.scope else { return Scope::Wide };
        let mut machines = machines.clone();
        for waited in &self.waited {
            let Some(unit) = self.world.units().get(&waited.unit) else { continue };
            if unit.value.is_global() || !unit.value.desired.wants_a_machine() {
                return Scope::Wide;
            }
            let placement = self.world.placements().get(&waited.unit).map(|placement| &placement.value);
            // Without a place it may still be on machines that were told to let go of it, whichever these are.
            if unit.value.desired == DesiredState::Loaded && placement.is_some_and(|p| p.machine.is_none()) {
                return Scope::Wide;
            }
            machines.extend(placement.and_then(|placement| placement.machine.clone()));
        }
        let scope = Scope::Narrow(machines);
        if areas(&scope, &self.waited).len() > 120 { Scope::Wide } else { scope }
    }

    /// A global unit is judged on every machine, which takes its time where there are many.
    fn patience(&self) -> Duration {
        match self.world.machines().len() {
            0..100 => Duration::from_millis(5),
            100..1000 => Duration::from_millis(100),
            _ => Duration::from_millis(500),
        }
    }

    fn judge(&mut self) {
        self.judge_at = None;
        let now = self.api.now();
        for (index, waited) in self.waited.iter_mut().enumerate() {
            if self.is_over.contains(&index) {
                continue;
            }
            let seen = progress(&self.world, waited, now);
            waited.is_leaving |= seen.desired == Some(DesiredState::Destroyed);
            if seen.is_over() {
                self.is_over.insert(index);
            }
            if self.told.get(&index) != Some(&seen) {
                let line = wire(&self.world, waited, &seen);
                self.lines.push_back(WaitLine::Progress(Box::new(line)));
                self.told.insert(index, seen);
            }
        }
    }
}

/// What has to be followed.
fn areas(scope: &Scope, waited: &[Waited]) -> Vec<Area> {
    let Scope::Narrow(machines) = scope else { return Area::all() };
    let mut keys = BTreeSet::from([Key::Cluster, Key::Hold, Key::Leader]);
    for Waited { unit, .. } in waited {
        keys.extend([Key::Unit(unit.clone()), Key::Placement(unit.clone())]);
        for id in machines {
            keys.extend([Key::Order(id.clone(), unit.clone()), Key::State(id.clone(), unit.clone())]);
        }
    }
    for id in machines {
        keys.extend([Key::Presence(id.clone()), Key::Lost(id.clone()), Key::Machine(id.clone())]);
    }
    keys.into_iter().map(Area::One).collect()
}

fn wire(world: &World, waited: &Waited, seen: &Progress) -> v2::Progress {
    let ip = |id: &MachineId| {
        let presence = world.machines().get(id).and_then(|view| view.presence());
        presence.map(|presence| presence.value.primary_ip.clone()).unwrap_or_default()
    };
    let machine_ref = |id: &MachineId| v2::MachineRef { id: id.to_string(), ip: ip(id) };
    let machines = seen.machines.iter().map(|(id, at)| MachineProgress {
        id: id.to_string(),
        ip: ip(id),
        phase: phase(at.phase),
        done: at.phase == Phase::Done,
        failed: at.phase == Phase::Failed,
        active: at.active.clone(),
        sub: at.sub.clone(),
        result: at.result.clone(),
        reason: views::reason(&at.reason),
    });
    v2::Progress {
        unit: waited.unit.to_string(),
        phase: phase(seen.phase),
        done: seen.is_done,
        failed: seen.is_failed,
        global: seen.is_global,
        desired: seen.desired.map(|desired| desired.as_str().to_owned()).unwrap_or_default(),
        current_state: if seen.is_global { String::new() } else { seen.current.as_str().to_owned() },
        machine: seen.machine.as_ref().map(machine_ref),
        machines: machines.collect(),
        active: seen.active.clone(),
        sub: seen.sub.clone(),
        result: seen.result.clone(),
        reason: views::reason(&seen.reason),
        refused: seen.refused.iter().map(views::refusal).collect(),
        since: seen.since.0,
        absent: seen.absent.iter().map(ToString::to_string).collect(),
    }
}

fn phase(phase: progress::Phase) -> v2::Phase {
    match phase {
        Phase::WaitingForEngine => v2::Phase::WaitingForEngine,
        Phase::Unplaceable => v2::Phase::Unplaceable,
        Phase::Placed => v2::Phase::Placed,
        Phase::Loading => v2::Phase::Loading,
        Phase::Starting => v2::Phase::Starting,
        Phase::Stopping => v2::Phase::Stopping,
        Phase::Done => v2::Phase::Done,
        Phase::Failed => v2::Phase::Failed,
        Phase::Gone => v2::Phase::Gone,
    }
}
