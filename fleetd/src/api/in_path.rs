//! The name in a request's path. Called by every handler whose path holds one; what the name is of, they judge.

use axum::extract::{FromRequestParts, MatchedPath, Path};
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;

use super::Failure;

/// The decoded element of the path that stands for a name.
///
/// An element that is no UTF-8 is taken with replacement characters: no name has one, so that each resource says of it
/// what it says of any name that is none, in its own order of checks.
pub(super) struct InPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<InPath, Failure> {
        let rejection = match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => return Ok(InPath(name)),
            Err(rejection) => rejection,
        };
        let route = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
        let at = route.split('/').position(|element| element.starts_with('{'));
        let raw = at.and_then(|at| parts.uri.path().split('/').nth(at));
        let name = raw.map(|raw| percent_decode_str(raw).decode_utf8_lossy().into_owned());
        name.map(InPath).ok_or_else(|| Failure::new(rejection.status(), rejection.body_text()))
    }
}
