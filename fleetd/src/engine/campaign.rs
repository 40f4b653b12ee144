//! Candidates: wait until nobody leads, then try to.

use std::time::Duration;

use fleet_core::leadership::{Candidacy, KNOWN_FEATURES, candidacy};
use fleet_core::records::{EngineRole, Extra, LeaderRecord, SCHEMA};
use fleet_core::store_trust::judge;
use fleet_registry::RegistryError;
use fleet_registry::keys::{Area, Key};
use fleet_registry::lease::{End, LeaseState};
use fleet_registry::registry::entry::{Change, Entry};
use fleet_registry::registry::follow::FeedItem;
use fleet_registry::registry::leader::Campaign;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use super::lead::{Leader, lead};
use super::{EngineOptions, EngineStatus, LEADER_TTL};

/// Spreads the candidates that all see the leader go at the same moment.
const CAMPAIGN_JITTER: Duration = Duration::from_millis(200);
/// Between two looks when something is in the way; jittered.
const RETRY: Duration = Duration::from_secs(1);

pub async fn run(mut options: EngineOptions, status: watch::Sender<EngineStatus>) {
    let mut rng = SmallRng::seed_from_u64(options.seed);
    let shutdown = options.shutdown.clone();
    while !shutdown.is_cancelled() {
        let again = tokio::select! {
            () = shutdown.cancelled() => return,
            again = candidate(&mut options, &status, &mut rng) => again,
        };
        match again {
            Ok(Some(leader)) => lead(&options, leader, &status).await,
            Ok(None) => {}
            Err(error) => {
                debug!(%error, "cannot campaign");
                status.send_modify(|status| status.failures += 1);
                pause(&shutdown, RETRY.mul_f64(rng.random_range(0.5..1.5))).await;
            }
        }
    }
}

async fn pause(shutdown: &tokio_util::sync::CancellationToken, time: Duration) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = sleep(time) => {}
    }
}

/// Waits for its chance and takes it. `None`: somebody was faster, look again.
async fn candidate(
    options: &mut EngineOptions,
    status: &watch::Sender<EngineStatus>,
    rng: &mut SmallRng,
) -> Result<Option<Leader>, RegistryError> {
    // Leading without being present would be legal, but a machine that cannot hold its own lease leads badly.
    if options.session.wait_for(super::SessionState::may_act).await.is_err() {
        std::future::pending::<()>().await;
    }
    // What the disk knew before the read: the agent may commit, and raise it, while the answer is on its way.
    let member = options.member.get();
    let view = options.registry.read_trust_view(&options.machine).await?;
    let leader = options.registry.read_leader().await?;
    let cluster = view.cluster.as_ref().map(|c| &c.value);
    let trust = judge(member.as_ref(), view.view());
    if !trust.may_act() {
        // The session holds the store, or joins or re-anchors.
        options.doubt.notify_one();
    }
    let verdict = candidacy(options.role, leader.as_ref().map(|l| &l.value), cluster, &trust);
    status.send_modify(|status| {
        status.leader = leader.map(|l| l.value);
        status.abstains = match &verdict {
            Candidacy::Abstain(why) => Some(why.clone()),
            _ => None,
        };
    });
    match verdict {
        Candidacy::Abstain(_) | Candidacy::Follow => {
            wait_for_vacancy(options, status).await;
            return Ok(None);
        }
        Candidacy::Campaign => {}
    }
    sleep(CAMPAIGN_JITTER.mul_f64(rng.random_range(0.0..1.0))).await;
    let Some(fence) = view.fence() else { return Ok(None) };
    let keeper = match (options.lease)("fleet-leader", LEADER_TTL) {
        Ok(keeper) => keeper,
        Err(error) => {
            error!(%error, "cannot hold a leader's lease");
            sleep(RETRY).await;
            return Ok(None);
        }
    };
    let mut lease = keeper.state();
    let held = lease.wait_for(|state| matches!(state, LeaseState::Held { .. }));
    let id = match timeout(LEADER_TTL, held).await {
        Ok(Ok(state)) => match &*state {
            LeaseState::Held { id, .. } => *id,
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    let record = LeaderRecord {
        v: SCHEMA,
        machine: options.machine.clone(),
        version: options.version.clone(),
        features: KNOWN_FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
        since: options.clock.now(),
        extra: Extra::new(),
    };
    match options.registry.campaign(&record, id, fence).await? {
        Campaign::Won(term) => {
            info!(%term, "leading");
            status.send_modify(|status| {
                status.leader = Some(record.clone());
                status.leading = Some((term, record.since));
            });
            Ok(Some(Leader { term, keeper, lease: id }))
        }
        Campaign::Lost { .. } | Campaign::Fenced => {
            keeper.close(End::Revoke).await;
            Ok(None)
        }
    }
}

/// Until the leader key is gone, or what this machine abstains for may have changed: its session, the cluster's record
/// or a hold.
async fn wait_for_vacancy(options: &mut EngineOptions, status: &watch::Sender<EngineStatus>) {
    let abstains = status.borrow().abstains.is_some() && options.role == EngineRole::Auto;
    let mut areas = vec![Area::One(Key::Leader)];
    if abstains {
        areas.extend([Area::One(Key::Cluster), Area::One(Key::Hold)]);
    }
    let mut feed = options.registry.follow(&areas);
    loop {
        tokio::select! {
            changed = options.session.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                if abstains || !options.session.borrow().may_act() {
                    return;
                }
            }
            item = feed.next() => match item {
                FeedItem::Snapshot(snapshot) => {
                    let leader = snapshot.entries.into_iter().find_map(|entry| match entry {
                        Entry::Leader(record) => Some(record.value),
                        _ => None,
                    });
                    let is_vacant = leader.is_none();
                    status.send_modify(|status| status.leader = leader);
                    if is_vacant && status.borrow().abstains.is_none() {
                        return;
                    }
                }
                FeedItem::Changes { changes, .. } => {
                    for change in changes {
                        match change {
                            Change::Put(Entry::Leader(record)) => {
                                status.send_modify(|status| status.leader = Some(record.value));
                            }
                            Change::Deleted { key: Key::Leader, .. } => {
                                status.send_modify(|status| status.leader = None);
                                return;
                            }
                            _ if abstains => return,
                            _ => {}
                        }
                    }
                }
                FeedItem::Disconnected { error } => {
                    warn!(%error, "lost sight of the leader");
                }
            },
        }
    }
}
