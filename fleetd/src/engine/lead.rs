//! Leading: observe, decide, execute, publish, until the lease is lost.

use std::time::Duration;

use fleet_core::plan::{Plan, Policy, plan};
use fleet_core::records::BrakeState;
use fleet_core::store_trust::{Trust, judge};
use fleet_core::world::{Event, World};
use fleet_core::{Revision, Span, Term, Timestamp};
use fleet_registry::RegistryError;
use fleet_registry::codec::Undecodable;
use fleet_registry::keys::Key;
use fleet_registry::lease::{End, LeaseKeeper, LeaseState};
use fleet_registry::registry::leader::LeaderFence;
use fleet_registry::registry::world::{WorldItem, WorldStream};
use fleet_registry::registry::{Asked, Outcome};
use fleet_registry::store::LeaseId;
use futures_util::FutureExt as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::tasks::Effects;
use super::upkeep::Upkeep;
use super::{AUDIT_EVERY, EngineOptions, EngineStatus};

/// A leader's time in office. Dropping it lets the lease run out.
#[derive(Debug)]
pub struct Leader {
    pub term: Term,
    pub keeper: LeaseKeeper,
    pub lease: LeaseId,
}

/// A world larger than this is planned on another thread, so that nothing else waits for it.
const PLAN_INLINE: usize = 2_000;
/// After groups that something had overtaken, or that were not answered: let the news arrive first. Doubles while it
/// happens again: a record that cannot be read makes the same groups fail in every pass.
const AFTER_CONFLICT: Duration = Duration::from_millis(50);
const AFTER_CONFLICT_MOST: Duration = Duration::from_secs(5);
/// What this leader wrote comes back within milliseconds; if it does not, the world is read anew. Doubles, because a
/// large world behind a slow store takes its time to be read.
const ECHO_WITHIN: Duration = Duration::from_secs(3);
const ECHO_MOST: Duration = Duration::from_secs(60);
/// More than this between the wall clock and the runtime's is a step, not drift.
const CLOCK_STEP: Span = Span::from_secs(1);
/// Between two attempts to judge a store that was read anew.
const TRUST_RETRY: Duration = Duration::from_secs(1);
/// Events are logged by name up to this many; the rest is counted.
const SHOWN: usize = 20;

/// How a time in office ends.
enum Ending {
    Shutdown,
    Lost(&'static str),
}

struct Office<'o> {
    options: &'o EngineOptions,
    status: &'o watch::Sender<EngineStatus>,
    term: Term,
    world: World,
    /// The world is as of this revision.
    seen: Revision,
    /// This leader's own writes reach up to here: no plan before they have come back.
    written: Revision,
    /// Until when what was written should have come back.
    echo_by: Option<Instant>,
    echo_within: Duration,
    sequence: u64,
    next_look: Option<Instant>,
    /// The world was read anew, perhaps from another store: no plan before that is judged.
    is_relisted: bool,
    /// The store knows less than this leader has seen of it.
    is_rolled_back: bool,
    /// When the wall clock was read last, and what it said.
    looked: (Instant, Timestamp),
    /// Passes in a row of which something was overtaken.
    overtaken: u32,
    upkeep: Upkeep,
}

/// Leads until the lease is lost, another leader shows, or fleetd ends; then gives the key back.
pub async fn lead(options: &EngineOptions, leader: Leader, status: &watch::Sender<EngineStatus>) {
    let Leader { term, keeper, lease } = leader;
    let mut office = Office {
        options,
        status,
        term,
        world: World::default(),
        seen: Revision(0),
        written: Revision(0),
        echo_by: None,
        echo_within: ECHO_WITHIN,
        sequence: 1,
        next_look: None,
        is_relisted: false,
        is_rolled_back: false,
        looked: (Instant::now(), options.clock.now()),
        overtaken: 0,
        upkeep: Upkeep::default(),
    };
    let end = office.serve(keeper.state(), lease).await;
    status.send_modify(|status| status.leading = None);
    match end {
        Ending::Shutdown => {
            // Somebody else may lead at once. Presence stays: units go on, and so does this machine.
            if let Err(error) = options.registry.resign(term).await {
                debug!(%error, "the leader key is left to run out");
            }
            keeper.close(End::Revoke).await;
        }
        Ending::Lost(why) => {
            warn!(%term, why, "no longer leading");
            keeper.close(End::Revoke).await;
        }
    }
}

impl Office<'_> {
    async fn serve(&mut self, mut lease: watch::Receiver<LeaseState>, id: LeaseId) -> Ending {
        let clock = self.options.clock.clone();
        let now = move || clock.now();
        let mut stream = self.options.registry.follow_world(now.clone());
        let mut rng = SmallRng::seed_from_u64(self.options.seed ^ self.term.0.unsigned_abs());
        let mut audit_at = Instant::now() + AUDIT_EVERY.mul_f64(rng.random_range(0.75..1.25));
        loop {
            let look_at = self.next_look.unwrap_or(audit_at).min(audit_at);
            let look_at = self.echo_by.unwrap_or(look_at).min(look_at);
            // Every arm may be dropped half way: the stream is cancel safe, the others only wait.
            tokio::select! {
                biased;
                () = self.options.shutdown.cancelled() => return Ending::Shutdown,
                changed = lease.changed() => {
                    let state = lease.borrow_and_update().clone();
                    let still = matches!(&state, LeaseState::Held { id: now, .. } | LeaseState::Silent { id: now, .. } if *now == id);
                    if changed.is_err() || !still {
                        return Ending::Lost("the leader's lease is lost");
                    }
                    continue;
                }
                item = stream.next() => {
                    self.take(item);
                    while let Some(item) = stream.next().now_or_never() {
                        self.take(item);
                    }
                }
                () = sleep_until(look_at) => {
                    if self.echo_by.is_some_and(|by| Instant::now() >= by) {
                        warn!("what was written does not come back; reading the world anew");
                        stream = self.options.registry.follow_world(now.clone());
                        self.echo_within = self.echo_within.saturating_mul(2).min(ECHO_MOST);
                        self.echo_by = Some(Instant::now() + self.echo_within);
                        continue;
                    }
                    if Instant::now() >= audit_at {
                        self.audit(&mut stream).await;
                        audit_at = Instant::now() + AUDIT_EVERY.mul_f64(rng.random_range(0.75..1.25));
                    }
                    self.next_look = None;
                }
            }
            if self.is_relisted {
                match self.judge().await {
                    Ok(true) => self.is_relisted = false,
                    Ok(false) => {
                        // The session reads the store itself, and holds or re-anchors.
                        self.options.doubt.notify_one();
                        return Ending::Lost("the store was rolled back or replaced");
                    }
                    Err(error) => {
                        debug!(%error, "the store that was read anew cannot be judged yet");
                        self.next_look = Some(Instant::now() + TRUST_RETRY);
                        continue;
                    }
                }
            }
            if self.seen < self.written {
                // What was written has not come back yet: a plan would be made from the past.
                continue;
            }
            self.echo_by = None;
            self.echo_within = ECHO_WITHIN;
            if let Some(end) = self.pass().await {
                return end;
            }
            self.upkeep.run(self.options, self.fence(), self.seen).await;
        }
    }

    fn take(&mut self, item: WorldItem) {
        match item {
            WorldItem::Snapshot { revision, events, undecodable, is_relisted } => {
                debug!(%revision, events = events.len(), is_relisted, "world read");
                self.world = self.world.rebuilt(events);
                self.is_rolled_back |= revision < self.seen;
                self.is_relisted |= is_relisted || self.seen > Revision(0);
                self.seen = revision;
                self.report(&undecodable, true);
            }
            WorldItem::Changes { revision, events, undecodable } => {
                for event in events {
                    self.world.apply(event);
                }
                self.seen = self.seen.max(revision);
                self.report(&undecodable, false);
            }
            WorldItem::Disconnected { error } => warn!(%error, "the registry does not answer the engine"),
        }
    }

    /// Whether the store is still the one that this leader was elected in. A list is linearizable: one that is older than
    /// what was followed before comes from a store that was rolled back, where what was written never comes back.
    async fn judge(&self) -> Result<bool, RegistryError> {
        let member = self.options.member.get();
        let view = self.options.registry.read_trust_view(&self.options.machine).await?;
        let trust = judge(member.as_ref(), view.view());
        let fits = matches!(trust, Trust::Own | Trust::Held { .. } | Trust::Reanchor { .. });
        Ok(fits && !self.is_rolled_back)
    }

    /// The wall clock's time. If it was stepped since the last look, what the world has counted off is carried over.
    fn look_at_the_clock(&mut self) -> Timestamp {
        let (before, said) = self.looked;
        let (at, now) = (Instant::now(), self.options.clock.now());
        let expected = said.plus(at.duration_since(before).into());
        let step = now.since(expected).max(expected.since(now));
        if step > CLOCK_STEP {
            warn!(%step, is_backwards = now < expected, "the wall clock was stepped");
            self.world.clock_stepped(expected, now);
        }
        self.looked = (at, now);
        now
    }

    fn fence(&self) -> LeaderFence {
        let cluster = self.world.cluster().map_or(Revision(0), |c| c.modified);
        LeaderFence { term: self.term, cluster }
    }

    /// One pass. `Some`: this leader must not write any more.
    async fn pass(&mut self) -> Option<Ending> {
        let now = self.look_at_the_clock();
        let began = Instant::now();
        let plan = self.decide(now).await;
        let took = began.elapsed();
        self.sequence = plan.next_sequence;
        let effects = Effects::of(&plan, &self.world);
        let outcomes = self.execute(&plan, now).await;
        if !outcomes.is_empty() {
            self.status.send_modify(|status| status.tasks.count(&effects, &outcomes));
        }
        let applied = outcomes.iter().filter(|outcome| outcome.is_applied()).count();
        let conflicts = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Conflict)).count();
        let error = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Unknown(error) | Outcome::Failed(error) => Some(error.to_string()),
            _ => None,
        });
        self.publish(&plan, applied, conflicts, took);
        self.tell(error);
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Fenced)) {
            return self.fenced().await;
        }
        if applied == outcomes.len() {
            self.overtaken = 0;
            self.world.settle(&plan);
            self.next_look = plan.next_look.map(|at| Instant::now() + at.since(now).as_duration());
        } else {
            // Something was overtaken, or its outcome is unknown: the news arrives with the stream; then look at
            // everything once more.
            self.look_again();
        }
        None
    }

    fn look_again(&mut self) {
        let wait = AFTER_CONFLICT.saturating_mul(1 << self.overtaken.min(10)).min(AFTER_CONFLICT_MOST);
        self.overtaken = self.overtaken.saturating_add(1);
        self.world.mark_everything();
        self.next_look = Some(Instant::now() + wait);
    }

    async fn decide(&mut self, now: Timestamp) -> Plan {
        let policy = Policy {
            term: self.term,
            first_sequence: self.sequence,
            default_grace: self.options.grace.into(),
        };
        if self.world.units().len() <= PLAN_INLINE || self.world.dirty().is_empty() {
            return plan(&self.world, &policy, now);
        }
        let world = std::mem::take(&mut self.world);
        let task = tokio::task::spawn_blocking(move || {
            let plan = plan(&world, &policy, now);
            (world, plan)
        });
        match task.await {
            Ok((world, plan)) => {
                self.world = world;
                plan
            }
            // The world is lost with the task: leading on without one would be to do nothing for ever.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down; there is nothing to plan for.
            Err(_) => Plan { next_sequence: self.sequence, ..Plan::default() },
        }
    }

    async fn execute(&mut self, plan: &Plan, now: Timestamp) -> Vec<Outcome> {
        if plan.groups.is_empty() {
            return Vec::new();
        }
        let asked = Asked { at: now, by: format!("engine@{}", self.options.machine), request: None };
        for note in plan.groups.iter().filter_map(|group| group.note.as_ref()).take(SHOWN) {
            info!(
                kind = note.kind,
                unit = note.unit.as_ref().map(tracing::field::display),
                machine = note.machine.as_ref().map(tracing::field::display),
                why = note.why,
                "ordering"
            );
        }
        let outcomes = self.options.registry.apply_groups(self.fence(), &plan.groups, &asked).await;
        let written = outcomes.iter().filter_map(Outcome::revision).max().unwrap_or_default();
        self.written = self.written.max(written);
        self.echo_by = (self.seen < self.written).then(|| Instant::now() + ECHO_WITHIN);
        outcomes
    }

    /// A write was fenced: the key may be another leader's, or the cluster record or a hold changed under the plan.
    async fn fenced(&mut self) -> Option<Ending> {
        match self.options.registry.read_leader().await {
            Ok(leader) if leader.as_ref().is_none_or(|leader| Term(leader.created.0) != self.term) => {
                Some(Ending::Lost("another leader was elected"))
            }
            // Held, re-anchored, or not answered: look again when the news has arrived.
            Ok(_) | Err(_) => {
                self.look_again();
                None
            }
        }
    }

    async fn audit<C: Fn() -> Timestamp + Send>(&mut self, stream: &mut WorldStream<C>) {
        match stream.audit().await {
            Ok(report) => {
                let found = u64::try_from(report.differences.len()).unwrap_or(u64::MAX);
                self.status.send_modify(|status| {
                    status.audits += 1;
                    status.audit_differences += found;
                });
                if found > 0 {
                    warn!(found, "the audit found changes that were never announced");
                }
                self.world.mark_everything();
                self.upkeep.audit_due();
            }
            Err(error) => warn!(%error, "the audit could not read the registry"),
        }
    }

    fn report(&mut self, undecodable: &[Undecodable], is_all: bool) {
        // Nothing is known then of what the operator says of the machine: it takes no new unit.
        let machines = undecodable.iter().filter_map(|record| match &record.key {
            Key::Machine(id) => Some(id.clone()),
            _ => None,
        });
        machines.for_each(|id| self.world.apply(Event::Machine(id, None)));
        if undecodable.is_empty() && !is_all {
            return;
        }
        self.status.send_modify(|status| {
            if is_all {
                status.undecodable.clear();
            }
            for record in undecodable {
                warn!(error = %record.error, "a record cannot be read; what it concerns is left alone");
                status.undecodable.push(record.error.to_string());
            }
            status.undecodable.truncate(100);
        });
    }

    fn publish(&self, plan: &Plan, applied: usize, conflicts: usize, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.status.send_modify(|status| {
            status.passes += 1;
            status.is_braked =
                self.world.brake().is_some_and(|brake| brake.value.state == BrakeState::Engaged);
            status.groups_applied += applied as u64;
            status.groups_conflicted += conflicts as u64;
            status.slowest_plan_us = status.slowest_plan_us.max(took);
            if status.frozen != plan.frozen {
                for (machine, unit) in plan.frozen.iter().filter(|frozen| !status.frozen.contains(frozen)).take(SHOWN) {
                    warn!(%machine, %unit, "an order whose unit record is missing or unreadable is left as it is; restore \
                        the record from a backup, or submit the unit again");
                }
                status.frozen.clone_from(&plan.frozen);
            }
        });
    }

    /// Says once why the registry does not take what is ordered.
    fn tell(&self, error: Option<String>) {
        self.status.send_if_modified(|status| {
            status.failures += u64::from(error.is_some());
            if status.last_error == error {
                return false;
            }
            match &error {
                Some(error) => {
                    warn!(error, "the registry did not take what was ordered; it is planned again");
                }
                None => info!("the registry takes orders again"),
            }
            status.last_error = error;
            true
        });
    }
}
