//! The cluster as a whole, and the operator's words to it.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use fleet_api::v2::{
    AdoptEffect, AdoptReport, AdoptRequest, BrakeView, ClusterView, Done, HoldView, ImportView, LeaderView,
    LocalView, MachineCounts, MachineState, Requester, StoreView,
};
use fleet_core::records::{
    BrakeCause, BrakeRecord, BrakeState, DesiredState, RowPhase, Stamp, StateRow, Wanted,
};
use fleet_core::requests::change::live;
use fleet_core::store_trust::Trust;
use fleet_core::{Epoch, MachineId};
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::cluster::{Adopted, Resumed};
use fleet_registry::registry::snapshot::Snapshot;
use unit_files::UnitName;

use super::super::Failure;
use super::super::ports::SessionReport;
use super::super::state::Api;
use super::super::views;
use super::machines::state;
use super::{Answer, document, json};
use crate::claim;

/// Answers also without the registry: then it says so, and what this machine itself knows.
pub(super) async fn get(State(api): State<Api>) -> Answer {
    let areas = [
        Area::One(Key::Cluster),
        Area::One(Key::Hold),
        Area::One(Key::Import),
        Area::One(Key::Brake),
        Area::One(Key::Leader),
        Area::Units,
        Area::Machines,
        Area::Presence,
        Area::Lost,
    ];
    // Half of the time for a whole answer, so that this one always arrives.
    let read = tokio::time::timeout(api.limits.request / 2, api.registry.read(&areas)).await;
    let kind = api.registry.store().kind().to_string();
    let local = local(&api);
    let Ok(Ok(snapshot)) = read else {
        let (id, epoch) = api.session.session().cluster.unzip();
        return json(&ClusterView {
            id: id.map(|id| id.to_string()).unwrap_or_default(),
            epoch: epoch.unwrap_or_default().0,
            store: StoreView { kind, revision: api.registry.seen().0, answers: false },
            local,
            ..ClusterView::default()
        });
    };
    let cluster = snapshot.cluster.as_ref().map(|cluster| &cluster.value);
    json(&ClusterView {
        id: cluster.map(|cluster| cluster.id.to_string()).unwrap_or_default(),
        epoch: cluster.map(|cluster| cluster.epoch).unwrap_or_default().0,
        features: cluster.map(|cluster| cluster.features.iter().cloned().collect()).unwrap_or_default(),
        store: StoreView { kind, revision: snapshot.revision.0, answers: true },
        leader: snapshot.leader.as_ref().map(|leader| LeaderView {
            machine: leader.value.machine.to_string(),
            ip: views::ip(&snapshot, &leader.value.machine),
            version: leader.value.version.clone(),
            since: leader.value.since.0,
        }),
        hold: snapshot.hold.as_ref().map(|hold| HoldView {
            by: hold.value.by.to_string(),
            since: hold.value.since.0,
            why: hold.value.why.clone(),
        }),
        import: snapshot.import.as_ref().map(|import| ImportView {
            cluster: import.value.cluster.to_string(),
            by: import.value.begun.by.clone(),
            since: import.value.begun.at.0,
            remedy: claim::remedy(&api.registry),
        }),
        brake: snapshot.brake.as_ref().map(|brake| brake_view(&brake.value)),
        machines: counts(&snapshot),
        units: snapshot.units.values().filter(|unit| live(Some(&unit.value)).is_some()).count(),
        local,
    })
}

pub(super) fn local(api: &Api) -> LocalView {
    let (session, agent) = (api.session.session(), api.agent.agent());
    let connection = match &session.trust {
        _ if !session.is_connected => "disconnected",
        Some(Trust::Held { .. } | Trust::RolledBack { .. }) => "on-hold",
        Some(Trust::Foreign { .. } | Trust::Empty) => "foreign-store",
        Some(_) if session.has_presence => "connected",
        _ => "starting",
    };
    let texts: Vec<String> = [session.text, agent.text, api.engine.engine().text]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect();
    LocalView {
        machine: api.machine.to_string(),
        hostname: api.hostname.clone(),
        version: api.version.clone(),
        features: api.features.iter().cloned().collect(),
        connection: connection.to_owned(),
        holding_since: (!session.is_connected).then_some(session.since.0),
        text: texts.join("; "),
        last_audit: agent.last_audit.map(|at| at.0),
    }
}

fn counts(snapshot: &Snapshot) -> MachineCounts {
    let mut counts = MachineCounts::default();
    let mut ids: Vec<&MachineId> = snapshot.machines.keys().chain(snapshot.presence.keys()).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        match state(snapshot, id) {
            MachineState::Present => counts.present += 1,
            MachineState::Missing => counts.missing += 1,
            MachineState::Lost => counts.lost += 1,
            MachineState::Expected => counts.expected += 1,
            MachineState::Forgotten | MachineState::Unknown => continue,
        }
        counts.cordoned += usize::from(snapshot.machines.get(id).is_some_and(|record| record.value.cordon));
    }
    counts
}

fn brake_view(brake: &BrakeRecord) -> BrakeView {
    let cause = match brake.cause {
        BrakeCause::MassLoss => "mass-loss",
        BrakeCause::MassChange => "mass-change",
    };
    let state = match brake.state {
        BrakeState::Engaged => "engaged",
        BrakeState::Released => "released",
    };
    BrakeView {
        cause: cause.to_owned(),
        state: state.to_owned(),
        since: brake.since.0,
        text: brake.text.clone(),
        held: brake.held,
        sample: brake.sample.iter().map(ToString::to_string).collect(),
        machines: brake.machines.iter().map(ToString::to_string).collect(),
        released: brake.released.as_ref().map(views::stamp),
    }
}

/// Without `yes`, and always before anything is written: what would stop and start.
pub(super) async fn adopt(State(api): State<Api>, body: Body) -> Answer {
    let request: AdoptRequest = document(&api, body).await?;
    let snapshot = api.registry.read_all().await?;
    // Whoever restored a backup asks at once, and perhaps a machine that has not looked at it yet.
    let is_answered = |session: &SessionReport| {
        may_adopt(session, &snapshot)
            .map_or_else(|refusal| refusal.status != StatusCode::SERVICE_UNAVAILABLE, |()| true)
    };
    let _ = tokio::time::timeout(api.limits.settles, api.session.until(&is_answered)).await;
    let session = api.session.session();
    may_adopt(&session, &snapshot)?;
    let seen = session.cluster.map_or(Epoch(0), |(_, epoch)| epoch);
    let stored = snapshot.cluster.as_ref().map_or(Epoch(0), |cluster| cluster.value.epoch);
    let mut report = effects(&api, &snapshot);
    report.epoch = Epoch(stored.max(seen).0 + 1).0;
    if !request.yes {
        return json(&report);
    }
    let asked = api.asked(Some(&request.by), None);
    match api.registry.adopt(seen, &asked).await? {
        Adopted::Done { epoch, .. } => {
            (report.epoch, report.done) = (epoch.0, true);
            json(&report)
        }
        Adopted::NotHeld => Err(Failure::new(StatusCode::CONFLICT, "the registry is not on hold")
            .with_remedy("nothing has to be adopted")),
        Adopted::NoCluster => Err(Failure::new(StatusCode::CONFLICT, "the registry holds no cluster")
            .with_remedy("restore a backup of this cluster's registry")),
    }
}

/// Only a machine that knows the registry for its own cluster's may confirm what is in it.
fn may_adopt(session: &SessionReport, snapshot: &Snapshot) -> Result<(), Failure> {
    let unjudged = || {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "this machine has not judged the registry yet")
            .with_remedy("ask again in a few seconds; `fleetctl cluster status` shows what it is waiting for")
    };
    match &session.trust {
        Some(Trust::Foreign { found }) => {
            let message = format!("the registry is that of cluster {found}");
            return Err(Failure::new(StatusCode::CONFLICT, message)
                .with_remedy("adopt it from one of its own machines"));
        }
        Some(Trust::Join | Trust::Create) => {
            let message = "this machine has not joined its cluster yet";
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
                .with_remedy("ask again in a few seconds, or on a machine that belongs to the cluster"));
        }
        None => return Err(unjudged()),
        Some(_) => {}
    }
    // A registry that was exchanged since the last look at it is not the one that was judged.
    let judged = session.cluster.as_ref().map(|(id, _)| id);
    match &snapshot.cluster {
        Some(stored) if Some(&stored.value.id) != judged => Err(unjudged()),
        _ => Ok(()),
    }
}

/// What the rows in the registry say, and for this machine what it sees itself, against what the orders there want.
fn effects(api: &Api, snapshot: &Snapshot) -> AdoptReport {
    let mut report = AdoptReport::default();
    for id in snapshot.presence.keys().filter(|id| **id != api.machine) {
        let stored = snapshot.states.get(id).into_iter().flatten().map(|(name, row)| (name, &row.value));
        let (stops, starts) = effects_on(snapshot, id, &stored.collect());
        report.would_stop.extend(stops);
        report.would_start.extend(starts);
    }
    if snapshot.presence.contains_key(&api.machine) {
        let (stops, starts) = own_effects(api, snapshot);
        report.would_stop.extend(stops);
        report.would_start.extend(starts);
    }
    report
}

/// What this machine would stop and start if these were its orders.
pub(super) fn own_effects(api: &Api, snapshot: &Snapshot) -> (Vec<AdoptEffect>, Vec<AdoptEffect>) {
    let own = api.agent.agent().units;
    effects_on(snapshot, &api.machine, &own.iter().collect())
}

fn effects_on(
    snapshot: &Snapshot,
    id: &MachineId,
    rows: &BTreeMap<&UnitName, &StateRow>,
) -> (Vec<AdoptEffect>, Vec<AdoptEffect>) {
    let runs = |row: &StateRow| matches!(row.active.as_str(), "active" | "activating" | "reloading");
    let effect = |name: &UnitName, why| AdoptEffect { unit: name.to_string(), machine: id.to_string(), why };
    let running = rows.iter().filter(|(_, row)| runs(row));
    let stops = running.filter_map(|(name, row)| Some(effect(name, stops(snapshot, id, name, row)?)));
    let orders = snapshot.orders.get(id).into_iter().flatten();
    let starts = orders.filter(|(name, order)| {
        let order = &order.value;
        // What was carried out once, and has ended since, is not started again.
        let is_done = |row: &StateRow| {
            row.uid == order.uid && row.wanted == Some(Wanted::Launched) && row.counters == order.counters
        };
        order.wanted == Wanted::Launched && !rows.get(name).is_some_and(|row| runs(row) || is_done(row))
    });
    let starts = starts.map(|(name, order)| effect(name, order.value.reason.text.clone()));
    (stops.collect(), starts.collect())
}

fn stops(snapshot: &Snapshot, id: &MachineId, name: &UnitName, row: &StateRow) -> Option<String> {
    let unit = snapshot.units.get(name).map(|unit| &unit.value);
    let order = snapshot.orders.get(id).and_then(|orders| orders.get(name)).map(|order| &order.value);
    // A machine that knows nothing of a copy takes it over as it is, if it runs what is wanted.
    let is_unknown = row.phase == RowPhase::Orphan;
    match (unit, order) {
        (Some(unit), _) if unit.desired == DesiredState::Destroyed => {
            Some("it is being destroyed".to_owned())
        }
        (Some(unit), _) if unit.desired == DesiredState::Inactive => Some("it is wanted inactive".to_owned()),
        (_, Some(order)) if order.wanted == Wanted::Gone => Some(order.reason.text.clone()),
        (Some(unit), Some(_)) if unit.uid != row.uid && !is_unknown => {
            Some("its name belongs to another unit".to_owned())
        }
        (Some(_), Some(order)) if row.running.is_some_and(|running| running != order.run_hash) => {
            Some("it is started again with another content".to_owned())
        }
        _ if is_unknown => None,
        (_, Some(order)) if order.wanted == Wanted::Loaded && order.counters.stop > row.counters.stop => {
            Some("it was stopped".to_owned())
        }
        (_, Some(order)) if order.counters.restart > row.counters.restart => {
            Some("it is restarted".to_owned())
        }
        // Without an order, or without a record, it is left alone and reported.
        _ => None,
    }
}

/// The operator's word that what the brake holds back shall go on.
pub(super) async fn resume(State(api): State<Api>, body: Body) -> Answer {
    let requester: Requester = document(&api, body).await?;
    api.fence().await?;
    let stamp = Stamp { at: api.now(), by: api.by(Some(&requester.by)), why: requester.why };
    let asked = api.asked(Some(&stamp.by), None);
    let (changed, text) = match api.registry.resume_brake(&stamp, &asked).await? {
        Resumed::Done(_) => (true, "what was held back goes on"),
        Resumed::Already => (false, "the brake had been released before"),
        Resumed::NotBraked => (false, "nothing is held back"),
    };
    json(&Done { changed, text: text.to_owned() })
}
