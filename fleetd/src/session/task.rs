//! The session's loop.

use std::time::Duration;

use fleet_core::reconcile::Knowledge;
use fleet_core::records::{
    ClusterRecord, Extra, HoldRecord, PresenceRecord, SCHEMA, Settings, Stamp, WitnessRecord,
};
use fleet_core::store_trust::{Member, Trust, judge};
use fleet_core::{ClusterId, Epoch, Revision};
use fleet_registry::RegistryError;
use fleet_registry::lease::{End, LeaseState};
use fleet_registry::registry::cluster::{Created, TrustView};
use fleet_registry::registry::presence::{Announced, Announcement};
use fleet_registry::store::LeaseId;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use super::{Connection, Presence, SessionOptions, SessionState};
use crate::claim;

/// Between two looks at a store that is not trusted, or does not answer; jittered.
const RETRY: Duration = Duration::from_secs(2);

/// Between two looks at a store on hold; the agent, which follows the hold, tells sooner that it is gone.
const HELD_RETRY: Duration = Duration::from_secs(10);

/// Whole seconds are reported of a lease, and what expires is removed within about half a second.
const LEASE_ROUNDING: Duration = Duration::from_secs(2);

/// Why the loop starts over.
pub(super) enum Again {
    Soon,
    Later,
}

pub(super) struct Task {
    pub(super) options: SessionOptions,
    state: watch::Sender<SessionState>,
    /// What the machine announces.
    described: watch::Receiver<PresenceRecord>,
    rng: SmallRng,
    /// The registry has answered, or has been reported as silent.
    is_told: bool,
    /// The epoch of the cluster when it was seen on hold before this machine belonged to it: a later one was adopted.
    pub(super) held: Option<Epoch>,
}

pub async fn run(
    options: SessionOptions,
    state: watch::Sender<SessionState>,
    described: watch::Receiver<PresenceRecord>,
) {
    let shutdown = options.shutdown.clone();
    let rng = SmallRng::seed_from_u64(options.seed);
    let mut task = Task { options, state, described, rng, is_told: false, held: None };
    // Every step may be dropped: what it wrote is found again by the next start.
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = task.serve() => {}
    }
    // The lease is left to run out: a restarted fleetd takes the presence over, and nobody moves anything meanwhile.
    task.options.lease.close(End::Leave).await;
}

impl Task {
    async fn serve(&mut self) {
        let mut lease = self.options.lease.state();
        loop {
            let again = match self.attempt(&mut lease).await {
                Ok(again) => again,
                Err(error) => {
                    self.disconnected(&error);
                    Again::Later
                }
            };
            if matches!(again, Again::Later) {
                let wait = RETRY.mul_f64(self.rng.random_range(0.5..1.5));
                sleep(wait).await;
            }
        }
    }

    /// Judges, joins, announces, and stays until the lease is lost or another view is needed.
    async fn attempt(&mut self, lease: &mut watch::Receiver<LeaseState>) -> Result<Again, RegistryError> {
        let registry = self.options.registry.clone();
        // What the disk knew before the read: the agent may commit, and raise it, while the answer is on its way, and a
        // store that is merely older than that was not rolled back.
        let member = self.options.member.get();
        let view = registry.read_trust_view(&self.options.presence.machine).await?;
        let trust = judge(member.as_ref(), view.view());
        if let Some(again) = self.other_etcd(member.as_ref(), &trust).await {
            return Ok(again);
        }
        self.judged(member.as_ref(), &view, &trust);
        match &trust {
            Trust::Create => return self.create().await,
            Trust::Join => return self.join(&view).await,
            Trust::Reanchor { epoch } => return self.reanchor(&view, *epoch).await,
            Trust::Empty | Trust::Foreign { .. } => return Ok(Again::Later),
            Trust::RolledBack { why } => {
                self.hold(&view, why).await?;
                return Ok(Again::Soon);
            }
            Trust::Own | Trust::Held { .. } | Trust::Unsettled { .. } => {}
        }
        let Some(cluster) = view.cluster.as_ref().map(|c| c.modified) else { return Ok(Again::Soon) };
        let Some(id) = held(lease).await else { return Ok(Again::Later) };
        let is_present = self.state.borrow().presence.as_ref().is_some_and(|presence| presence.lease == id);
        // Under a hold a machine that is present stays so without a word: nobody acts on it.
        if (trust.may_act() || !is_present)
            && let Some(again) = self.announce(id, cluster, &trust).await?
        {
            return Ok(again);
        }
        self.stay(id, lease, &trust).await;
        Ok(Again::Soon)
    }

    /// Endpoints can belong to several clusters of etcd, and who answered first is not for that the right one. `Some`: the
    /// judgement was of a store that must not be used, or that nobody may choose but the operator.
    async fn other_etcd(&mut self, member: Option<&Member>, trust: &Trust) -> Option<Again> {
        match (member, trust) {
            (None, _) => {
                let divided = self.options.registry.divided().await?;
                self.connected();
                self.refuse(format!(
                    "the endpoints in `etcd_servers` belong to different clusters of etcd ({divided}), and this machine \
                     belongs to none that could tell which is right; leave only those of one in `etcd_servers`"
                ));
                Some(Again::Later)
            }
            (Some(member), Trust::Empty | Trust::Foreign { .. }) => {
                let holder = self.options.registry.divided().await?.holder(&member.cluster)?;
                self.options.registry.store().use_cluster(holder).then_some(Again::Soon)
            }
            _ => None,
        }
    }

    async fn create(&mut self) -> Result<Again, RegistryError> {
        let id = ClusterId::parse(&uuid::Uuid::new_v4().to_string()).expect("a uuid is an id");
        let record = ClusterRecord {
            v: SCHEMA,
            id: id.clone(),
            epoch: Epoch(self.options.accepted.epoch().0 + 1),
            features: std::collections::BTreeSet::new(),
            settings: Settings::default(),
            created: self.stamp("the registry was empty"),
            extra: Extra::new(),
        };
        match self.options.registry.create_cluster(&record).await? {
            Created::Done(_) => info!(cluster = %id, "created the cluster"),
            Created::Exists(_) => {}
            Created::Importing(by) => {
                self.refuse(format!("{}; {}", claim::text(&by, None), claim::remedy(&self.options.registry)));
                return Ok(Again::Later);
            }
            Created::NotEmpty { keys, sample } => {
                self.refuse(format!(
                    "the prefix {} holds {keys} keys but no cluster ({sample}, ...); choose another `etcd_key_prefix`, \
                     or remove what is there",
                    self.options.registry.keys().prefix()
                ));
                return Ok(Again::Later);
            }
        }
        Ok(Again::Soon)
    }

    async fn join(&mut self, view: &TrustView) -> Result<Again, RegistryError> {
        let Some(cluster) = &view.cluster else { return Ok(Again::Soon) };
        if cluster.value.epoch <= self.options.accepted.epoch() {
            match self.knowledge(cluster).await? {
                None => return Ok(Again::Soon),
                Some(Knowledge::Known) => {}
                Some(Knowledge::RolledBack { why }) => {
                    return self.rolled_back(view, cluster.value.epoch, &why).await;
                }
                Some(Knowledge::Unknown) => return self.raise(view).await,
            }
        }
        let witness = view.witness.as_ref().map_or(0, |w| w.value.passes);
        let (id, epoch) = (cluster.value.id.clone(), cluster.value.epoch);
        info!(cluster = %id, %epoch, "joined the cluster");
        Ok(self.anchor(id, epoch, witness, view.revision).await)
    }

    /// The operator confirmed what is in the store: witness and seen revision start anew from it.
    async fn reanchor(&mut self, view: &TrustView, epoch: Epoch) -> Result<Again, RegistryError> {
        let (Some(cluster), Some(fence)) = (&view.cluster, view.fence()) else { return Ok(Again::Soon) };
        let known = view.witness.as_ref().map(|w| w.value.clone()).unwrap_or_default();
        let passes = known.passes;
        let witness = WitnessRecord { epoch, ..known };
        let machine = &self.options.presence.machine;
        let Some(revision) = self.options.registry.reanchor_witness(machine, &witness, fence).await? else {
            return Ok(Again::Soon);
        };
        info!(%epoch, "re-anchored");
        Ok(self.anchor(cluster.value.id.clone(), epoch, passes, revision).await)
    }

    async fn anchor(&mut self, cluster: ClusterId, epoch: Epoch, witness: u64, seen: Revision) -> Again {
        let kind = self.options.registry.store().kind();
        match self.options.member.anchor_apart(kind, cluster, epoch, witness, seen).await {
            Ok(()) => Again::Soon,
            Err(error) => {
                self.refuse(error.to_string());
                Again::Later
            }
        }
    }

    pub(super) async fn hold(&mut self, view: &TrustView, why: &str) -> Result<(), RegistryError> {
        let Some(cluster) = &view.cluster else { return Ok(()) };
        let hold = HoldRecord {
            v: SCHEMA,
            by: self.options.presence.machine.clone(),
            since: self.options.clock.now(),
            why: why.to_owned(),
            extra: Extra::new(),
        };
        error!(
            why,
            "the store was rolled back; nothing is started or stopped until `fleetctl cluster adopt`"
        );
        self.options.registry.put_hold(&hold, cluster.modified).await?;
        Ok(())
    }

    /// Announces this machine, taking over from an earlier run. `Some`: it is not present, start over.
    async fn announce(
        &mut self,
        lease: LeaseId,
        cluster: Revision,
        trust: &Trust,
    ) -> Result<Option<Again>, RegistryError> {
        let now = self.options.clock.now();
        let member = self.options.member.get();
        let (epoch, passes) = member.map(|m| (m.epoch, m.witness)).unwrap_or_default();
        let mut record = self.described.borrow_and_update().clone();
        record.since = now;
        let witness = WitnessRecord { v: SCHEMA, epoch, passes, extra: Extra::new() };
        let announcement = Announcement { record, lease, cluster, witness, now };
        match self.options.registry.announce(&announcement).await? {
            Announced::Present { created, revision, is_takeover, was_lost, .. } => {
                // A machine that has nothing to report would know no revision but that of its joining.
                if trust.may_act()
                    && let Err(error) = self.options.member.advance_apart(0, revision).await
                {
                    error!(error = chain(&error), "what this machine has seen of the store cannot be kept");
                }
                info!(is_takeover, was_lost = was_lost.is_some(), "present");
                self.state.send_modify(|state| {
                    state.refused = None;
                    state.presence = Some(Presence { created, lease, since: now });
                });
                Ok(None)
            }
            Announced::Fenced => Ok(Some(Again::Soon)),
            Announced::HeldByOther { holder, lease } => {
                let who = holder.map(|holder| holder.value);
                self.outlive(who, lease).await.map(Some)
            }
        }
    }

    /// Another presence under this id: of our own last boot, which runs out, or of a machine that lives.
    async fn outlive(
        &mut self,
        holder: Option<fleet_core::records::PresenceRecord>,
        lease: Option<LeaseId>,
    ) -> Result<Again, RegistryError> {
        let Some(lease) = lease else {
            self.refuse("this machine's presence key has no lease; remove it by hand".to_owned());
            return Ok(Again::Later);
        };
        let store = self.options.registry.store().clone();
        let remaining = |error| RegistryError::Store { doing: "watching the lease of another holder", error };
        let mut last: Option<Duration> = None;
        let began = Instant::now();
        loop {
            let Some(ttl) = store.lease_ttl(lease).await.map_err(remaining)? else {
                // It ran out: it was this machine's own last boot.
                return Ok(Again::Soon);
            };
            let now = ttl.remaining;
            // Whole seconds are reported: growth proves that somebody renews it, and so does a life longer than what
            // was granted.
            if last.is_some_and(|last| now > last) || began.elapsed() > ttl.granted + LEASE_ROUNDING {
                let who = holder.as_ref().map_or_else(
                    || "unknown".to_owned(),
                    |h| format!("{} ({}, boot {})", h.hostname, h.primary_ip, h.boot),
                );
                self.refuse(format!(
                    "another machine lives under this machine's id {}: {who}. Give one of them an id of its own \
                     (remove /etc/machine-id, run systemd-machine-id-setup, reboot); no unit was touched",
                    self.options.presence.machine
                ));
                return Ok(Again::Later);
            }
            last = Some(now);
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Until the lease is lost, or the store has to be judged again.
    async fn stay(&mut self, id: LeaseId, lease: &mut watch::Receiver<LeaseState>, trust: &Trust) {
        let look_again = Instant::now() + HELD_RETRY.mul_f64(self.rng.random_range(0.5..1.5));
        loop {
            let state = lease.borrow_and_update().clone();
            match state {
                LeaseState::Held { id: now, .. } if now == id => self.connected(),
                LeaseState::Silent { id: now, last_error, .. } if now == id => {
                    self.disconnected(&last_error);
                }
                LeaseState::Ended => return,
                LeaseState::Held { .. }
                | LeaseState::Lost { .. }
                | LeaseState::Silent { .. }
                | LeaseState::Pending { .. } => {
                    warn!("the presence lease is lost; units keep running, announcing again");
                    self.state.send_modify(|state| state.presence = None);
                    return;
                }
            }
            // While the store is held, look for the operator's word; the agent tells the rest by itself.
            let is_held = !trust.may_act();
            tokio::select! {
                changed = lease.changed() => if changed.is_err() { return },
                () = sleep_until(look_again), if is_held => return,
                () = self.options.doubt.notified() => return,
                // While the store is held nothing is announced; what was described is, when the hold ends.
                Ok(()) = self.described.changed() => return,
            }
        }
    }

    fn judged(&mut self, member: Option<&Member>, view: &TrustView, trust: &Trust) {
        self.connected();
        let remedy = trust.remedy();
        self.state.send_if_modified(|state| {
            // A store that was restored from before an adoption has forgotten that epoch; the next one is above both.
            let known =
                |id: &ClusterId| member.filter(|m| m.cluster == *id).map(|m| m.epoch).unwrap_or_default();
            let cluster = view.cluster.as_ref().map(|c| {
                let id = c.value.id.clone();
                let epoch = c.value.epoch.max(known(&id));
                (id, epoch)
            });
            let changed = state.trust.as_ref() != Some(trust) || state.cluster != cluster;
            if changed && !remedy.is_empty() {
                error!("{remedy}");
            }
            state.trust = Some(trust.clone());
            state.cluster = cluster;
            if matches!(trust, Trust::Empty | Trust::Foreign { .. }) {
                state.presence = None;
            }
            changed
        });
    }

    fn connected(&mut self) {
        self.is_told = true;
        let now = self.options.clock.now();
        self.state.send_if_modified(|state| {
            let changed = matches!(state.connection, Connection::Disconnected { .. });
            if changed {
                info!("the registry answers");
                state.connection = Connection::Connected { since: now };
            }
            changed
        });
    }

    fn disconnected(&mut self, why: &dyn std::error::Error) {
        let now = self.options.clock.now();
        let text = chain(why);
        if !std::mem::replace(&mut self.is_told, true) {
            warn!(error = text, "the registry does not answer; trying on");
        }
        self.state.send_if_modified(|state| {
            let since = match &state.connection {
                Connection::Disconnected { error, .. } if *error == text => return false,
                Connection::Disconnected { since, .. } => *since,
                Connection::Connected { .. } => {
                    warn!(error = text, "the registry does not answer; everything keeps running");
                    now
                }
            };
            state.connection = Connection::Disconnected { since, error: text.clone() };
            true
        });
    }

    pub(super) fn refuse(&mut self, why: String) {
        self.state.send_if_modified(|state| {
            let changed = state.refused.as_ref() != Some(&why);
            if changed {
                error!("{why}");
                state.refused = Some(why);
                state.presence = None;
            }
            changed
        });
    }

    pub(super) fn stamp(&self, why: &str) -> Stamp {
        Stamp {
            at: self.options.clock.now(),
            by: format!("fleetd@{}", self.options.presence.machine),
            why: why.to_owned(),
        }
    }
}

/// Waits until the lease is held; None if its keeper has ended or the store did not answer for a while.
async fn held(lease: &mut watch::Receiver<LeaseState>) -> Option<LeaseId> {
    let wait = lease.wait_for(|state| matches!(state, LeaseState::Held { .. } | LeaseState::Ended));
    match tokio::time::timeout(RETRY, wait).await {
        Ok(Ok(state)) => match &*state {
            LeaseState::Held { id, .. } => Some(*id),
            _ => None,
        },
        _ => None,
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
