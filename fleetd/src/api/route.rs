//! Which path goes where, and what all answers have in common.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::uri::Scheme;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::get;
use fleet_api::paths;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::bodies::Held;
use super::state::Api;
use super::{Failure, health, metrics, origin, v1, v2};

pub(super) fn router(api: Api) -> Router {
    let nothing = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "");
    Router::new()
        .merge(v1::routes(paths::V1))
        .merge(v1::routes(paths::V1_ALPHA))
        .merge(v2::routes())
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/", axum::routing::any(move || async { nothing }))
        .fallback(|| async { Failure::not_found("") })
        .method_not_allowed_fallback(|| async { Failure::new(StatusCode::METHOD_NOT_ALLOWED, "") })
        .layer(middleware::from_fn_with_state(api.clone(), frame))
        .with_state(api)
}

/// The same for a listener that browsers can reach, on the machine of this name.
pub(super) fn guarded(router: Router, scheme: Scheme, hostname: &str) -> Router {
    let own: Arc<str> = hostname.into();
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let judged = origin::judge(&request, &scheme, &own);
        async move {
            match judged {
                Ok(()) => next.run(request).await,
                Err(failure) => {
                    tracing::debug!(%failure, "a request was refused");
                    failure.into_response()
                }
            }
        }
    }))
}

/// Cleans paths, bounds the time to the head of an answer, names the server.
async fn frame(State(api): State<Api>, request: Request, next: Next) -> axum::response::Response {
    if let Some(cleaned) = cleaned(request.uri().path()) {
        return signed(&api, moved(&cleaned));
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = match received(&api, request).await {
        Err(failure) => failure.into_response(),
        // Held until the answer: what is made of a body takes as much again.
        Ok((request, _held)) => match tokio::time::timeout(api.limits.request, next.run(request)).await {
            Ok(response) => response,
            Err(_) => late(&api, &method, &path).into_response(),
        },
    };
    signed(&api, response)
}

/// Named as fleet 1.0 named itself: not where it has nothing to say.
fn signed(api: &Api, mut response: axum::response::Response) -> axum::response::Response {
    if response.status() != StatusCode::SERVICE_UNAVAILABLE
        && let Ok(server) = HeaderValue::from_str(&format!("fleetd/{}", api.version))
    {
        response.headers_mut().insert(header::SERVER, server);
    }
    response
}

/// The request with its whole body, so that a slow client is not taken for a slow registry.
async fn received(api: &Api, request: Request) -> Result<(Request, Held), Failure> {
    let (head, body) = request.into_parts();
    if head.method == Method::POST && head.uri.path().starts_with(paths::V2) {
        // Also keeps web pages out: a browser asks before it sends this type to another origin.
        let media = head.headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
        let media = media.and_then(|media| media.split(';').next()).unwrap_or_default().trim();
        if media != "application/json" {
            let message = "only acceptable Content-Type is application/json";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
    }
    let limit = body_limit(api, &head);
    match tokio::time::timeout(api.limits.body, api.bodies().read(body, limit)).await {
        Ok(Ok((bytes, held))) => Ok((Request::from_parts(head, Body::from(bytes)), held)),
        Ok(Err(failure)) => Err(failure),
        Err(_) => {
            let message = format!("the request's body did not arrive within {:?}", api.limits.body);
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

/// Applied while reading, so that nobody fills the memory through a path that takes no such body.
fn body_limit(api: &Api, head: &Parts) -> usize {
    let path = head.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    match (&head.method, path) {
        (&Method::POST, Some(paths::REQUESTS | paths::WAIT | paths::CLUSTER_IMPORT)) => api.limits.v2_body,
        _ => api.limits.v1_body,
    }
}

fn late(api: &Api, method: &Method, path: &str) -> Failure {
    let after = api.limits.request;
    tracing::warn!(%method, path, ?after, "no answer in time");
    let is_change = !method.is_safe() && path != paths::WAIT;
    let failure = Failure::late(after, is_change);
    if path.starts_with(paths::V2) {
        return failure;
    }
    // Without a remedy the message has to say it.
    let mut failure = failure.without_remedy();
    if is_change {
        failure.message.push_str(": read what is wanted now before sending it again");
    }
    failure
}

/// The path without empty, `.` and `..` elements, if it has any.
fn cleaned(path: &str) -> Option<String> {
    let is_odd = |part: &str| matches!(part, "" | "." | "..");
    let inner = path.strip_prefix('/').unwrap_or(path);
    let parts: Vec<&str> = inner.split('/').collect();
    // A single slash at the end is no empty element.
    let elements = match parts.split_last() {
        Some((&"", rest)) => rest,
        _ => &parts[..],
    };
    if !elements.iter().copied().any(is_odd) {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    for part in elements {
        match *part {
            "" | "." => {}
            ".." => drop(kept.pop()),
            part => kept.push(part),
        }
    }
    Some(format!("/{}", kept.join("/")))
}

/// What may not stand in the path of a URI as it is (RFC 3986, 3.3), besides all that is not ASCII. `%` may: what is
/// escaped stays so.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

fn moved(to: &str) -> axum::response::Response {
    let to = utf8_percent_encode(to, ESCAPED).to_string();
    let mut response =
        Response::new(Body::from(format!("<a href=\"{}\">Moved Permanently</a>.\n\n", escape(&to))));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(to) = HeaderValue::from_str(&to) {
        headers.insert(header::LOCATION, to);
    }
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::cleaned;

    #[test]
    fn odd_paths_are_cleaned_and_others_left_alone() {
        for path in ["/", "/fleet/v1/units", "/fleet/v1/units/", "/fleet/v1/units/a.service"] {
            assert_eq!(cleaned(path), None, "{path}");
        }
        assert_eq!(cleaned("/fleet/v1/units/../machines").as_deref(), Some("/fleet/v1/machines"));
        assert_eq!(cleaned("/fleet/v1//units").as_deref(), Some("/fleet/v1/units"));
        assert_eq!(cleaned("//").as_deref(), Some("/"));
    }
}
