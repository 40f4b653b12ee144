//! API v2: everything that fleet 1.0 did not have. The wire types are `fleet-api`'s.

mod change;
mod cluster;
mod events;
mod health;
mod machines;
mod own_store;
mod remote;
mod states;
mod strangers;
mod transfer;
mod units;
mod wait;
mod watch;
mod why;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::routing::{MethodRouter, get, post};
use fleet_api::paths;
use fleet_core::requests::Refusal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use unit_files::UnitName;

use super::Failure;
use super::state::{Api, read_body};

type Answer = Result<axum::response::Response, Failure>;

/// One JSON document per line.
pub(crate) const NDJSON: &str = "application/x-ndjson";

pub(super) fn routes() -> Router<Api> {
    table().into_iter().fold(Router::new(), |router, (_, path, handler)| router.route(path, handler))
}

/// Every resource. The API's own description has the same, which a test compares.
pub(super) fn table() -> Vec<(Method, &'static str, MethodRouter<Api>)> {
    vec![
        (Method::POST, paths::REQUESTS, post(change::post)),
        (Method::POST, paths::WAIT, post(wait::post)),
        (Method::GET, paths::UNITS, get(units::list)),
        (Method::GET, paths::UNIT, get(units::get)),
        (Method::GET, paths::UNIT_TEXT, get(units::text)),
        (Method::GET, paths::UNIT_WHY, get(why::get)),
        (Method::GET, paths::UNIT_STATUS, get(remote::status)),
        (Method::GET, paths::UNIT_JOURNAL, get(remote::journal)),
        (Method::GET, paths::STATES, get(states::list)),
        (Method::GET, paths::MACHINES, get(machines::list)),
        (Method::POST, paths::MACHINE_FORGET, post(machines::forget)),
        (Method::POST, paths::MACHINE_CONFIRM_DEAD, post(machines::confirm_dead)),
        (Method::GET, paths::WATCH, get(watch::get)),
        (Method::GET, paths::EVENTS, get(events::list)),
        (Method::GET, paths::CLUSTER, get(cluster::get)),
        (Method::GET, paths::CLUSTER_HEALTH, get(health::get)),
        (Method::POST, paths::CLUSTER_ADOPT, post(cluster::adopt)),
        (Method::GET, paths::CLUSTER_EXPORT, get(transfer::export)),
        (Method::POST, paths::CLUSTER_IMPORT, post(transfer::import)),
        (Method::POST, paths::MACHINE_JOIN, post(transfer::join)),
        (Method::POST, paths::CLUSTER_RESUME, post(cluster::resume)),
        (Method::GET, paths::OPENAPI, get(openapi)),
    ]
}

/// This API's description.
async fn openapi() -> Answer {
    Ok(typed("application/json", Body::from(fleet_api::OPENAPI)))
}

pub(crate) fn json<T: Serialize>(value: &T) -> Answer {
    let body = serde_json::to_vec(value).expect("wire types have string keys and no fallible fields");
    Ok(typed("application/json", Body::from(body)))
}

/// A document that may be large: made and encoded beside the other requests.
async fn encoded<T: Serialize>(make: impl FnOnce() -> T + Send + 'static) -> Answer {
    let encode =
        move || serde_json::to_vec(&make()).expect("wire types have string keys and no fallible fields");
    let body = tokio::task::spawn_blocking(encode).await.map_err(|error| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("encoding the answer: {error}"))
    })?;
    Ok(typed("application/json", Body::from(body)))
}

pub(crate) fn typed(media: &'static str, body: Body) -> axum::response::Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// The document in a request's body; an empty body is an empty document.
async fn document<T: DeserializeOwned>(api: &Api, body: Body) -> Result<T, Failure> {
    let bytes: Bytes = read_body(body, api.limits.v2_body).await?;
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::bad_request(format!("unable to decode body: {error}")))
}

/// A name that is no unit's is as unknown as one that nobody has.
fn unit_name(text: &str) -> Result<UnitName, Failure> {
    UnitName::parse(text).map_err(|_| Refusal::Unknown.into())
}
