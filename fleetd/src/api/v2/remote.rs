//! Status and journal of a unit, from the machine that runs it. On this machine it works without the registry.

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use bytes::Bytes;
use fleet_api::client::NdjsonStream;
use fleet_api::v2::{JournalLine, MachineRef};
use fleet_core::MachineId;
use fleet_core::requests::Refusal;
use fleet_core::requests::change::live;
use fleet_registry::keys::{Area, Key};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use unit_files::UnitName;

use super::super::in_path::InPath;
use super::super::query::Query;
use super::super::state::Api;
use super::super::tools::JournalOptions;
use super::super::units::{read_keys, refuse_unreadable};
use super::super::{Failure, views};
use super::{Answer, NDJSON, json, typed, unit_name};

pub(super) async fn status(State(api): State<Api>, InPath(name): InPath, uri: Uri) -> Answer {
    let name = unit_name(&name)?;
    let machine = find(&api, &name, Query::of(&uri).first("machine"), "loaded").await?;
    if machine.id == api.machine.as_str() {
        return json(&api.tools.status(machine, &name).await?);
    }
    let id = MachineId::parse(&machine.id).map_err(|error| Failure::bad_request(error.to_string()))?;
    let _passed_on = api.relay()?;
    let mut report = peers(&api)?.status(&id, &name).await?;
    report.machine = machine;
    json(&report)
}

pub(super) async fn journal(State(api): State<Api>, InPath(name): InPath, uri: Uri) -> Answer {
    let name = unit_name(&name)?;
    let query = Query::of(&uri);
    let options = JournalOptions::of_query(&query)?;
    let machine = find(&api, &name, query.first("machine"), "running").await?;
    if machine.id == api.machine.as_str() {
        let body = api.tools.journal(&name, &options, api.limits.heartbeat, api.shutdown.clone())?;
        return Ok(typed(NDJSON, body));
    }
    let id = MachineId::parse(&machine.id).map_err(|error| Failure::bad_request(error.to_string()))?;
    let passed_on = api.relay()?;
    let lines = peers(&api)?.journal(&id, &name, &options).await?;
    Ok(typed(NDJSON, relay(lines, passed_on, api.shutdown.clone())))
}

fn peers(api: &Api) -> Result<&dyn super::super::ports::Peers, Failure> {
    api.peers.as_deref().ok_or_else(|| {
        Failure::new(StatusCode::NOT_IMPLEMENTED, "this machine does not talk to other machines' fleetds")
            .with_remedy("set peer_listen, or ask the unit's machine itself")
    })
}

/// The machine to ask: the one that is named, this one if it has the unit, else where the unit is placed.
async fn find(api: &Api, name: &UnitName, asked: Option<&str>, word: &str) -> Result<MachineRef, Failure> {
    let own = || MachineRef { id: api.machine.to_string(), ip: String::new() };
    let is_own = |text: &str| text == api.machine.as_str() || text == api.machine.short();
    let is_here = api.agent.agent().units.contains_key(name);
    if is_here && asked.is_none_or(is_own) {
        return Ok(own());
    }
    let keys = [Area::One(Key::Unit(name.clone())), Area::One(Key::Placement(name.clone()))];
    let mut snapshot = api.registry.read(&keys).await?;
    refuse_unreadable(&snapshot)?;
    let record = live(snapshot.units.get(name).map(|unit| &unit.value)).ok_or(Refusal::Unknown)?;
    let uid = record.uid.clone();
    let machine = match asked {
        Some(text) => {
            snapshot.presence = api.registry.read(&[Area::Presence]).await?.presence;
            api.machine_among(text, snapshot.presence.keys())?
        }
        None if record.is_global() => {
            return Err(Failure::bad_request(format!("unit {name} is global and not on this machine"))
                .with_remedy("name the machine"));
        }
        None => {
            let placed = snapshot.placements.get(name).map(|p| &p.value).filter(|p| p.uid == uid);
            let machine = placed.and_then(|placement| placement.machine.clone());
            machine.ok_or_else(|| {
                Failure::new(StatusCode::CONFLICT, format!("Unit {name} does not appear to be {word}."))
            })?
        }
    };
    read_keys(api, &mut snapshot, vec![Key::Presence(machine.clone())]).await?;
    Ok(views::machine_ref(&snapshot, &machine))
}

/// Passes another machine's lines on; a stream that breaks ends in a line that says so.
fn relay(lines: NdjsonStream, passed_on: OwnedSemaphorePermit, shutdown: CancellationToken) -> Body {
    Body::from_stream(stream::unfold(Some((lines, passed_on)), move |relayed| {
        let shutdown = shutdown.clone();
        async move {
            let (mut lines, passed_on) = relayed?;
            let next = tokio::select! {
                () = shutdown.cancelled() => return None,
                next = lines.next::<JournalLine>() => next,
            };
            let (line, rest) = match next {
                Ok(None) => return None,
                Ok(Some(line)) => (line, Some((lines, passed_on))),
                Err(error) => {
                    let error = fleet_api::ApiError::new(502, error.to_string());
                    (JournalLine { error: Some(error), ..JournalLine::default() }, None)
                }
            };
            let mut line = serde_json::to_vec(&line).unwrap_or_default();
            line.push(b'\n');
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), rest))
        }
    }))
}
