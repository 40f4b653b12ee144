//! API v1: the resources of fleet 1.0, with its status codes, messages and bytes.
//!
//! What is deliberately different from there: content is validated whenever it changes, a bad state is 400, HEAD is
//! answered as GET, and what is not known of a lost machine reads `unknown` or `inactive`.

mod discovery;
mod machines;
mod states;
mod units;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{any, get};
use fleet_api::v1::{PageToken, to_v1_json};
use fleet_core::requests::Refusal;
use fleet_registry::RegistryError;
use serde::Serialize;

use super::Failure;
use super::query::Query;
use super::state::Api;

/// A failure as fleet 1.0 sent it: without remedies.
struct V1Failure(Failure);

impl From<Failure> for V1Failure {
    fn from(failure: Failure) -> V1Failure {
        V1Failure(failure.without_remedy())
    }
}
impl From<Refusal> for V1Failure {
    fn from(refusal: Refusal) -> V1Failure {
        Failure::from(refusal).into()
    }
}
impl From<RegistryError> for V1Failure {
    fn from(error: RegistryError) -> V1Failure {
        Failure::from(error).into()
    }
}
impl IntoResponse for V1Failure {
    fn into_response(self) -> axum::response::Response {
        self.0.into_response()
    }
}

type Answer = Result<axum::response::Response, V1Failure>;

pub(super) fn routes(prefix: &str) -> Router<Api> {
    let only =
        |status: StatusCode, message: &'static str| any(move || async move { Failure::new(status, message) });
    let no_method = StatusCode::METHOD_NOT_ALLOWED;
    let get_only = "only GET supported against this resource";
    let path = |rest: &str| format!("{prefix}{rest}");
    // A method router's own methods come before what it is merged over.
    let units = get(units::list).fallback(move || async move { Failure::new(no_method, get_only) });
    let unit = get(units::get).put(units::put).delete(units::delete).fallback(move || async move {
        Failure::new(no_method, "only GET, PUT and DELETE supported against this resource")
    });
    let states = get(states::list).fallback(move || async move { Failure::new(no_method, get_only) });
    let state = get(states::get).fallback(move || async move { Failure::new(no_method, get_only) });
    let machines = get(machines::list).patch(machines::patch).fallback(move || async move {
        Failure::new(no_method, "only GET and PATCH supported against this resource")
    });
    let discovery = get(discovery::get).fallback(move || async move {
        Failure::new(no_method, "only HTTP GET supported against this resource")
    });
    Router::new()
        .route(prefix, only(no_method, ""))
        .route(&path("/units"), units)
        .route(&path("/units/{name}"), unit)
        .route(&path("/state"), states)
        .route(&path("/state/{name}"), state)
        .route(&path("/machines"), machines)
        .route(&path("/discovery"), discovery)
}

/// An answer with a body.
fn json<T: Serialize>(value: &T) -> Answer {
    let mut response = Response::new(Body::from(to_v1_json(value)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// An answer without a body.
fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    Ok(response)
}

/// The page that a list's query asks for.
fn page(api: &Api, query: &Query) -> Result<PageToken, V1Failure> {
    PageToken::of_query(&query.all("nextPageToken"), api.token_limit)
        .map_err(|error| Failure::bad_request(error.to_string()).into())
}
