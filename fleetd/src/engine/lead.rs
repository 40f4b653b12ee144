//! Leading: observe, decide, execute, publish, until the lease is lost.

use std::time::Duration;

use fleet_core::plan::{Plan, Policy, plan};
use fleet_core::world::World;
use fleet_core::{Revision, Term, Timestamp};
use fleet_registry::codec::Undecodable;
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
/// What this leader wrote comes back within milliseconds; if it does not, the world is read anew.
const ECHO_WITHIN: Duration = Duration::from_secs(3);
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
    sequence: u64,
    next_look: Option<Instant>,
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
        sequence: 1,
        next_look: None,
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
                        self.echo_by = Some(Instant::now() + ECHO_WITHIN);
                        continue;
                    }
                    if Instant::now() >= audit_at {
                        self.audit(&mut stream).await;
                        audit_at = Instant::now() + AUDIT_EVERY.mul_f64(rng.random_range(0.75..1.25));
                    }
                    self.next_look = None;
                }
            }
            if self.seen < self.written {
                // What was written has not come back yet: a plan would be made from the past.
                continue;
            }
            self.echo_by = None;
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

    fn fence(&self) -> LeaderFence {
        let cluster = self.world.cluster().map_or(Revision(0), |c| c.modified);
        LeaderFence { term: self.term, cluster }
    }

    /// One pass. `Some`: this leader must not write any more.
    async fn pass(&mut self) -> Option<Ending> {
        let now = self.options.clock.now();
        let began = Instant::now();
        let plan = self.decide(now).await;
        let took = began.elapsed();
        self.sequence = plan.next_sequence;
        let outcomes = self.execute(&plan, now).await;
        let applied = outcomes.iter().filter(|outcome| outcome.is_applied()).count();
        let conflicts = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Conflict)).count();
        self.publish(&plan, applied, conflicts, took);
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
            // The runtime is shutting down; there is nothing to plan for.
            Err(_) => Plan::default(),
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

    fn report(&self, undecodable: &[Undecodable], is_all: bool) {
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
            status.groups_applied += applied as u64;
            status.groups_conflicted += conflicts as u64;
            status.slowest_plan_us = status.slowest_plan_us.max(took);
            if !plan.frozen.is_empty() || !status.frozen.is_empty() {
                status.frozen.clone_from(&plan.frozen);
            }
        });
    }
}
