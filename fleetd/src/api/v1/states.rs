//! `/state`: what machines say of units. `unknown` stands for what cannot be known of a machine that is away.

use axum::extract::State;
use axum::http::Uri;
use fleet_api::v1::{UnitState, UnitStatePage};
use fleet_core::MachineId;
use fleet_core::records::StateRow;
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::snapshot::Snapshot;
use unit_files::UnitName;

use super::super::Failure;
use super::super::in_path::InPath;
use super::super::query::Query;
use super::super::state::Api;
use super::super::units::KEYS_AT_ONCE;
use super::super::views::{has_left, is_known};
use super::{Answer, json, page};

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let query = Query::of(&uri);
    let token = page(&api, &query)?;
    let machine = query.first("machineID").map(MachineId::parse);
    let unit = query.first("unitName").map(UnitName::parse);
    let rows = match (machine, unit) {
        // No machine and no unit has such a name.
        (Some(Err(_)), _) | (_, Some(Err(_))) => Vec::new(),
        (machine, unit) => {
            let machine = machine.transpose().ok().flatten();
            let unit = unit.transpose().ok().flatten();
            rows(&api, machine, unit).await?
        }
    };
    let states = rows[token.range(rows.len())].to_vec();
    let next_page_token = token.next(rows.len()).map(|next| next.to_string()).unwrap_or_default();
    json(&UnitStatePage { next_page_token, states })
}

pub(super) async fn get(State(api): State<Api>, InPath(name): InPath) -> Answer {
    let missing = || Failure::not_found("unit state does not exist");
    let unit = UnitName::parse(&name).map_err(|_| missing())?;
    let rows = rows(&api, None, Some(unit)).await?;
    json(rows.first().ok_or_else(missing)?)
}

/// By unit, then machine. What no order has been carried out for is not shown: it had no state in fleet 1.0 either.
async fn rows(
    api: &Api,
    machine: Option<MachineId>,
    unit: Option<UnitName>,
) -> Result<Vec<UnitState>, Failure> {
    let area = match (machine, &unit) {
        (Some(machine), Some(unit)) => Area::One(Key::State(machine, unit.clone())),
        (Some(machine), None) => Area::StatesOf(machine),
        (None, _) => Area::States,
    };
    let mut snapshot = api.registry.read(&[area, Area::Presence, Area::Lost]).await?;
    if !snapshot.lost.is_empty() {
        // Only what was ordered of machines that are away matters here.
        let areas: Vec<Area> = snapshot.lost.keys().cloned().map(Area::OrdersOf).collect();
        for areas in areas.chunks(KEYS_AT_ONCE) {
            snapshot.orders.extend(api.registry.read(areas).await?.orders);
        }
    }
    let mut found: Vec<(&UnitName, &MachineId, UnitState)> = Vec::new();
    for (id, states) in &snapshot.states {
        let asked = states.iter().filter(|(name, _)| unit.as_ref().is_none_or(|unit| unit == *name));
        for (name, row) in asked.filter(|(name, _)| !has_left(&snapshot, id, name)) {
            found.extend(entity(&snapshot, id, name, &row.value).map(|state| (name, id, state)));
        }
    }
    found.sort_by(|(a, x, _), (b, y, _)| (a, x).cmp(&(b, y)));
    Ok(found.into_iter().map(|(_, _, state)| state).collect())
}

fn entity(snapshot: &Snapshot, id: &MachineId, name: &UnitName, row: &StateRow) -> Option<UnitState> {
    let hash = row.unit_hash.as_ref()?.to_string();
    let is_known = is_known(snapshot, id, row);
    Some(UnitState {
        hash,
        machine_id: id.to_string(),
        name: name.to_string(),
        systemd_active_state: if is_known { row.active.clone() } else { "unknown".to_owned() },
        systemd_load_state: row.load.clone(),
        systemd_sub_state: if is_known { row.sub.clone() } else { "unknown".to_owned() },
    })
}
