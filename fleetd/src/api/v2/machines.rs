//! Machines, present or not, and the operator's words about those that are not.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use fleet_api::v2::{Done, MachineList, MachineState, MachineView, Requester};
use fleet_core::MachineId;
use fleet_core::records::{Stamp, Wanted, effective_metadata};
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::machines::Said;
use fleet_registry::registry::snapshot::Snapshot;

use super::super::Failure;
use super::super::in_path::InPath;
use super::super::state::Api;
use super::{Answer, document, json};

pub(super) async fn list(State(api): State<Api>) -> Answer {
    let areas = [Area::Machines, Area::Presence, Area::Lost, Area::Orders, Area::One(Key::Leader)];
    let snapshot = api.registry.read(&areas).await?;
    let mut ids: Vec<&MachineId> = snapshot.machines.keys().chain(snapshot.presence.keys()).collect();
    ids.sort_unstable();
    ids.dedup();
    let machines = ids.into_iter().map(|id| view(&snapshot, id));
    let machines = machines.filter(|view| view.state != MachineState::Forgotten).collect();
    json(&MachineList { revision: snapshot.revision.0, machines })
}

pub(super) fn state(snapshot: &Snapshot, id: &MachineId) -> MachineState {
    // Not any more, if the operator has said that it is off.
    let is_expected = snapshot
        .machines
        .get(id)
        .is_some_and(|record| record.value.expected.is_some() && record.value.confirmed_dead.is_none());
    let is_forgotten = snapshot.machines.get(id).is_some_and(|record| record.value.forgotten.is_some());
    match (snapshot.presence.contains_key(id), snapshot.lost.contains_key(id)) {
        _ if is_forgotten => MachineState::Forgotten,
        (_, true) => MachineState::Lost,
        (true, false) => MachineState::Present,
        (false, false) if is_expected => MachineState::Expected,
        (false, false) => MachineState::Missing,
    }
}

pub(super) fn view(snapshot: &Snapshot, id: &MachineId) -> MachineView {
    let record = snapshot.machines.get(id).map(|record| &record.value);
    let presence = snapshot.presence.get(id).map(|presence| &presence.value);
    let lost = snapshot.lost.get(id).map(|lost| lost.value.since);
    let orders = snapshot.orders.get(id).into_iter().flatten();
    let units = orders.filter(|(_, order)| order.value.wanted != Wanted::Gone).count();
    let since = lost.or(presence.map(|p| p.since)).or(record.map(|r| r.first_seen)).unwrap_or_default();
    MachineView {
        id: id.to_string(),
        ip: presence.map(|p| p.primary_ip.clone()).unwrap_or_default(),
        metadata: effective_metadata(presence, record),
        hostname: presence.map(|p| p.hostname.clone()).unwrap_or_default(),
        version: presence.map(|p| p.version.clone()).unwrap_or_default(),
        systemd: presence.map(|p| p.systemd.clone()).unwrap_or_default(),
        state: state(snapshot, id),
        since_ms: since.0,
        cordon: record.is_some_and(|record| record.cordon),
        units,
        load: units as u64,
        boot_id: presence.map(|p| p.boot.to_string()).unwrap_or_default(),
        leader: snapshot.leader.as_ref().is_some_and(|leader| leader.value.machine == *id),
    }
}

pub(super) async fn forget(State(api): State<Api>, InPath(id): InPath, body: Body) -> Answer {
    let (machine, stamp) = said(&api, &id, body).await?;
    let asked = api.asked(Some(&stamp.by), None);
    let said = api.registry.forget_machine(api.fence().await?, &machine, &stamp, &asked).await?;
    answer(&said, &machine, "is forgotten", "had been forgotten before")
}

pub(super) async fn confirm_dead(State(api): State<Api>, InPath(id): InPath, body: Body) -> Answer {
    let (machine, stamp) = said(&api, &id, body).await?;
    let asked = api.asked(Some(&stamp.by), None);
    let said = api.registry.confirm_dead(api.fence().await?, &machine, &stamp, &asked).await?;
    answer(&said, &machine, "is taken as off; its units move now", "had been confirmed as off before")
}

async fn said(api: &Api, id: &str, body: Body) -> Result<(MachineId, Stamp), Failure> {
    let requester: Requester = document(api, body).await?;
    let snapshot = api.registry.read(&[Area::Machines, Area::Presence]).await?;
    let machine = api.machine_among(id, snapshot.machines.keys().chain(snapshot.presence.keys()))?;
    Ok((machine, Stamp { at: api.now(), by: api.by(Some(&requester.by)), why: requester.why }))
}

fn answer(said: &Said, machine: &MachineId, done: &str, already: &str) -> Answer {
    match said {
        Said::Done(_) => json(&Done { changed: true, text: format!("machine {machine} {done}") }),
        Said::Already => json(&Done { changed: false, text: format!("machine {machine} {already}") }),
        Said::Present => Err(Failure::new(StatusCode::CONFLICT, format!("machine {machine} is present"))
            .with_remedy("stop its fleetd, or switch it off, and wait until its lease has run out")),
        Said::NotFound => Err(Failure::not_found("machine does not exist")),
        Said::Fenced => {
            Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the registry is on hold or was re-anchored")
                .with_remedy("see `fleetctl cluster status`, then try again"))
        }
    }
}
