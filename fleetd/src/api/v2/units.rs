//! Units as the registry has them.

use std::collections::{BTreeSet, HashMap};

use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use fleet_api::v2::{UnitList, UnreadableUnit};
use fleet_core::requests::Refusal;
use fleet_core::requests::change::live;
use fleet_registry::codec::Undecodable;
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::snapshot::Snapshot;
use unit_files::UnitName;

use super::super::in_path::InPath;
use super::super::query::Query;
use super::super::state::Api;
use super::super::units::{read_keys, refuse_unreadable, texts, unreadable_record};
use super::super::{Failure, views};
use super::{Answer, encoded, json, typed, unit_name};

/// More names than this are answered from everything.
const NAMED_READS: usize = 250;

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let query = Query::of(&uri);
    let named: BTreeSet<UnitName> =
        query.all("name").into_iter().filter_map(|name| UnitName::parse(name).ok()).collect();
    let (has_names, prefix) = (!query.all("name").is_empty(), query.first("prefix").unwrap_or_default());
    let snapshot =
        if has_names && named.len() <= NAMED_READS { some(&api, &named).await? } else { all(&api).await? };
    let is_asked =
        |name: &UnitName| (!has_names || named.contains(name)) && name.as_str().starts_with(prefix);
    let unreadable: Vec<_> = snapshot.undecodable.iter().filter(|one| is_unit(&one.key, is_asked)).collect();
    if has_names && let Some(one) = unreadable.first() {
        // A unit that was asked for by its name and is left out would read as one that does not exist.
        return Err(unreadable_record(one));
    }
    let unreadable = unreadable.into_iter().filter_map(told_as_unreadable).collect();
    let shown =
        snapshot.units.iter().filter(|(name, unit)| is_asked(name) && live(Some(&unit.value)).is_some());
    let shown: Vec<UnitName> = shown.map(|(name, _)| name.clone()).collect();
    let texts = if query.is_set("text") {
        let hashes = shown.iter().filter_map(|name| snapshot.units.get(name));
        texts(&api, hashes.map(|unit| unit.value.current.content).collect()).await?
    } else {
        HashMap::new()
    };
    let now = api.now();
    encoded(move || {
        let views = views::Units::of(&snapshot, now);
        let view = |name: &UnitName| {
            let unit = snapshot.units.get(name)?;
            Some(views.view(name, unit, texts.get(&unit.value.current.content).cloned()))
        };
        UnitList { revision: snapshot.revision.0, units: shown.iter().filter_map(view).collect(), unreadable }
    })
    .await
}

fn is_unit(key: &Key, is_asked: impl Fn(&UnitName) -> bool) -> bool {
    matches!(key, Key::Unit(name) if is_asked(name))
}

fn told_as_unreadable(record: &Undecodable) -> Option<UnreadableUnit> {
    let Key::Unit(name) = &record.key else { return None };
    Some(UnreadableUnit { name: name.to_string(), text: record.error.to_string() })
}

async fn all(api: &Api) -> Result<Snapshot, Failure> {
    let areas = [Area::Units, Area::Placements, Area::Orders, Area::States, Area::Presence, Area::Lost];
    Ok(api.registry.read(&areas).await?)
}

/// A few units, with what their own machines were told and say. Global ones, and those that are leaving, need the
/// orders of all machines.
async fn some(api: &Api, names: &BTreeSet<UnitName>) -> Result<Snapshot, Failure> {
    let mut snapshot = Snapshot::default();
    let keys = names.iter().flat_map(|name| [Key::Unit(name.clone()), Key::Placement(name.clone())]);
    read_keys(api, &mut snapshot, keys.collect()).await?;
    if snapshot.units.values().any(|unit| unit.value.is_global()) {
        return all(api).await;
    }
    let mut keys = Vec::new();
    for (name, placement) in &snapshot.placements {
        if let Some(machine) = placement.value.machine.clone() {
            keys.extend([
                Key::Order(machine.clone(), name.clone()),
                Key::State(machine.clone(), name.clone()),
                Key::Presence(machine.clone()),
                Key::Lost(machine),
            ]);
        }
    }
    read_keys(api, &mut snapshot, keys).await?;
    Ok(snapshot)
}

/// One unit with everything that is known of it on all machines.
pub(super) async fn get(State(api): State<Api>, InPath(name): InPath) -> Answer {
    let name = unit_name(&name)?;
    let found = api.registry.read_unit_whole(&name).await?;
    let mut snapshot =
        Snapshot { revision: found.revision, undecodable: found.undecodable, ..Snapshot::default() };
    let record = found.unit.filter(|unit| live(Some(&unit.value)).is_some());
    let Some(record) = record else {
        refuse_unreadable(&snapshot)?;
        return Err(Refusal::Unknown.into());
    };
    let machines: Vec<_> = found.orders.keys().chain(found.states.keys()).cloned().collect();
    snapshot.placements.extend(found.placement.map(|placement| (name.clone(), placement)));
    for (machine, order) in found.orders {
        snapshot.orders.entry(machine).or_default().insert(name.clone(), order);
    }
    for (machine, row) in found.states {
        snapshot.states.entry(machine).or_default().insert(name.clone(), row);
    }
    let keys = machines.into_iter().flat_map(|machine| [Key::Presence(machine.clone()), Key::Lost(machine)]);
    read_keys(&api, &mut snapshot, keys.collect()).await?;
    let text = api.registry.get_content(&record.value.current.content).await?;
    json(&views::Units::of(&snapshot, api.now()).view(&name, &record, Some(text)))
}

/// The stored bytes.
pub(super) async fn text(State(api): State<Api>, InPath(name): InPath) -> Answer {
    let name = unit_name(&name)?;
    let record = api.registry.read_unit(&name).await?;
    let record = live(record.as_ref().map(|record| &record.value)).ok_or(Refusal::Unknown)?;
    let text = api.registry.get_content(&record.current.content).await?;
    Ok(typed("text/plain; charset=utf-8", Body::from(text)))
}
