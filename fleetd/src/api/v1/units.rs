//! `/units`: what is wanted.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use fleet_api::v1::{Unit, UnitOption, UnitPage, decode_request};
use fleet_core::RequestId;
use fleet_core::UnitUid;
use fleet_core::records::{Stamp, UnitRecord};
use fleet_core::requests::Refusal;
use fleet_core::requests::change::{Change, Request, Verb, live};
use fleet_core::requests::content::Content;
use fleet_core::requests::current::current_state;
use fleet_core::requests::put::Put;
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::snapshot::Snapshot;
use unit_files::{ContentHash, UnitFile, UnitName, go_quote};

use super::super::Failure;
use super::super::in_path::InPath;
use super::super::query::Query;
use super::super::state::{Api, new_id, read_body};
use super::super::units;
use super::super::views::is_present;
use super::{Answer, V1Failure, empty, json, page};

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let token = page(&api, &Query::of(&uri))?;
    // Only the page's own records are read. Those that are being destroyed are left out of it, so that a page may be
    // shorter than the next token promises; clients go by the token.
    let names = units::names(&api).await?;
    let range = token.range(names.len());
    let mut snapshot = Snapshot::default();
    let keys = names[range.clone()].iter();
    let keys = keys.flat_map(|name| [Key::Unit(name.clone()), Key::Placement(name.clone())]);
    units::read_keys(&api, &mut snapshot, keys.collect()).await?;
    let shown: Vec<UnitName> = names[range]
        .iter()
        .filter(|name| live(snapshot.units.get(*name).map(|unit| &unit.value)).is_some())
        .cloned()
        .collect();
    read_rows(&api, &mut snapshot, &shown).await?;
    let hashes =
        shown.iter().filter_map(|name| snapshot.units.get(name)).map(|unit| unit.value.current.content);
    let texts = units::texts(&api, hashes.collect()).await?;
    let mut units = Vec::with_capacity(shown.len());
    for name in &shown {
        let Some(record) = snapshot.units.get(name) else { continue };
        let mut unit =
            entity(&snapshot, name, &record.value, options(&texts, &record.value.current.content)?);
        if record.value.is_global() {
            unit.current_state = "inactive".to_owned();
        }
        units.push(unit);
    }
    let next_page_token = token.next(names.len()).map(|next| next.to_string()).unwrap_or_default();
    json(&UnitPage { next_page_token, units })
}

pub(super) async fn get(State(api): State<Api>, InPath(name): InPath) -> Answer {
    let name = UnitName::parse(&name).map_err(|_| Refusal::Unknown)?;
    let keys = [Area::One(Key::Unit(name.clone())), Area::One(Key::Placement(name.clone()))];
    let mut snapshot = api.registry.read(&keys).await?;
    units::refuse_unreadable(&snapshot)?;
    let record = snapshot.units.get(&name).filter(|unit| live(Some(&unit.value)).is_some()).cloned();
    let record = record.ok_or(Refusal::Unknown)?;
    read_rows(&api, &mut snapshot, std::slice::from_ref(&name)).await?;
    let texts = units::texts(&api, vec![record.value.current.content]).await?;
    json(&entity(&snapshot, &name, &record.value, options(&texts, &record.value.current.content)?))
}

/// Adds what the machines of these units say of them.
async fn read_rows(api: &Api, snapshot: &mut Snapshot, names: &[UnitName]) -> Result<(), Failure> {
    let mut keys = Vec::new();
    for name in names {
        let on = snapshot.placements.get(name).and_then(|placement| placement.value.machine.clone());
        if let Some(machine) = on {
            keys.push(Key::State(machine.clone(), name.clone()));
            keys.push(Key::Presence(machine.clone()));
            keys.push(Key::Lost(machine));
        }
    }
    units::read_keys(api, snapshot, keys).await
}

fn options(
    texts: &std::collections::HashMap<ContentHash, String>,
    hash: &ContentHash,
) -> Result<Vec<UnitOption>, V1Failure> {
    let text = texts.get(hash).map(String::as_str).unwrap_or_default();
    let file = UnitFile::parse(text).map_err(|error| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the stored text cannot be read: {error}"))
    })?;
    Ok(file.into_options().into_iter().map(UnitOption::from).collect())
}

fn entity(snapshot: &Snapshot, name: &UnitName, unit: &UnitRecord, options: Vec<UnitOption>) -> Unit {
    let placement = snapshot.placements.get(name).map(|p| &p.value).filter(|p| p.uid == unit.uid);
    let machine = placement.and_then(|placement| placement.machine.as_ref()).filter(|_| !unit.is_global());
    let row = machine.and_then(|id| snapshot.states.get(id)?.get(name)).map(|row| &row.value);
    let row = row.filter(|row| row.uid == unit.uid);
    let is_lost = machine.is_some_and(|id| !is_present(snapshot, id));
    let current_state =
        if unit.is_global() { String::new() } else { current_state(row, is_lost).as_str().to_owned() };
    Unit {
        current_state,
        desired_state: unit.desired.as_str().to_owned(),
        machine_id: machine.map(ToString::to_string).unwrap_or_default(),
        name: name.to_string(),
        options,
    }
}

pub(super) async fn put(
    State(api): State<Api>,
    InPath(in_url): InPath,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let types: Vec<_> = headers.get_all(header::CONTENT_TYPE).iter().collect();
    let unsupported = |message| Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    let [media] = types.as_slice() else {
        return Err(unsupported(format!("expected 1 Content-Type, got {}", types.len())).into());
    };
    let media = media.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if media != "application/json" {
        return Err(unsupported("only acceptable Content-Type is application/json".to_owned()).into());
    }
    let body = read_body(body, api.limits.v1_body).await?;
    let unit: Unit = decode_request(&body)
        .map_err(|error| Failure::bad_request(format!("unable to decode body: {error}")))?;
    if !unit.name.is_empty() && unit.name != in_url {
        let message = format!(
            "name in URL {} differs from unit name in request body {}",
            go_quote(&in_url),
            go_quote(&unit.name)
        );
        return Err(Failure::bad_request(message).into());
    }
    let name = UnitName::parse(&in_url).map_err(Refusal::from)?;
    let content = if unit.options.is_empty() {
        None
    } else {
        let options = unit.options.into_iter().map(Into::into).collect();
        Some(Content::judge_options(&name, options)?)
    };
    let has_content = content.is_some();
    let aliases = content.as_ref().map(|content| content.aliases.clone()).unwrap_or_default();
    let machine_of =
        content.as_ref().map(|content| content.requirements.machine_of.clone()).unwrap_or_default();
    let put = Put { content, desired: unit.desired_state };
    if has_content {
        units::check_surroundings(&api, &name, &aliases, &machine_of).await?;
    }
    let judge = |record: Option<&UnitRecord>, request: &Request| put.decide(&name, record, request);
    let done = units::write_one(&api, &name, judge, &new_request(&api)).await?;
    empty(if done.has_new_text { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
}

pub(super) async fn delete(State(api): State<Api>, InPath(name): InPath) -> Answer {
    let name = UnitName::parse(&name).map_err(|_| Refusal::Unknown)?;
    let change = Change::new(Verb::Destroy);
    let judge = |record: Option<&UnitRecord>, request: &Request| change.decide(&name, record, request);
    units::write_one(&api, &name, judge, &new_request(&api)).await?;
    empty(StatusCode::NO_CONTENT)
}

/// Each request of a v1 client is one of its own: it has no ids.
fn new_request(api: &Api) -> Request {
    Request {
        id: RequestId::parse(&new_id()).expect("hexadecimal digits are an id"),
        stamp: Stamp { at: api.now(), by: api.by(None), why: String::new() },
        new_uid: UnitUid::parse(&new_id()).expect("hexadecimal digits are an id"),
    }
}
