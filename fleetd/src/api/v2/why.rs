//! Why a unit is where it is: the engine's own function, for every machine.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use fleet_api::v2::{Explanation, MachineVerdict};
use fleet_core::plan;
use fleet_core::requests::Refusal;
use fleet_core::requests::change::live;
use fleet_core::world::World;

use super::super::in_path::InPath;
use super::super::query::Query;
use super::super::state::Api;
use super::super::{Failure, views};
use super::{Answer, json, unit_name};

pub(super) async fn get(State(api): State<Api>, InPath(name): InPath, uri: Uri) -> Answer {
    let name = unit_name(&name)?;
    let snapshot = api.registry.read_all().await?;
    let record = live(snapshot.units.get(&name).map(|unit| &unit.value)).ok_or(Refusal::Unknown)?;
    let (desired, global) = (record.desired.as_str().to_owned(), record.is_global());
    let machine = match Query::of(&uri).first("machine") {
        Some(text) => {
            Some(api.machine_among(text, snapshot.machines.keys().chain(snapshot.presence.keys()))?)
        }
        None => None,
    };
    let now = api.now();
    let unit = name.clone();
    // A world of a large cluster takes some time to build, which no other request may wait for.
    let explained = tokio::task::spawn_blocking(move || {
        let ips: std::collections::BTreeMap<String, String> =
            snapshot.presence.keys().map(|id| (id.to_string(), views::ip(&snapshot, id))).collect();
        let world = World::from_events(snapshot.into_events(now));
        plan::explain(&world, &unit, now).map(|explained| (explained, ips))
    });
    let explained = explained.await.map_err(|error| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("explaining {name}: {error}"))
    })?;
    let (explained, ips) = explained.ok_or(Refusal::Unknown)?;
    let ip = |id: &str| ips.get(id).cloned().unwrap_or_default();
    let asked = explained.machines.iter().filter(|v| machine.as_ref().is_none_or(|only| *only == v.machine));
    let machines = asked.map(|verdict| MachineVerdict {
        machine: verdict.machine.to_string(),
        ip: ip(verdict.machine.as_str()),
        ok: verdict.against.is_none(),
        code: verdict.against.as_ref().map(|against| against.code().to_owned()).unwrap_or_default(),
        text: verdict.against.as_ref().map(ToString::to_string).unwrap_or_default(),
        would_fit_if: verdict
            .against
            .as_ref()
            .and_then(|against| against.would_fit_without())
            .map(|other| format!("{other} were not there")),
    });
    let placed_on = explained.placed_on.as_ref().filter(|_| !global);
    json(&Explanation {
        unit: name.to_string(),
        desired,
        global,
        machine: placed_on.map(|id| fleet_api::v2::MachineRef { id: id.to_string(), ip: ip(id.as_str()) }),
        decision: explained.decision.as_ref().map(views::decision),
        machines: machines.collect(),
    })
}
