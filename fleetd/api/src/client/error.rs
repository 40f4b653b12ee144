//! What can go wrong between a client and its server, and what to do about it.

use std::io;
use std::time::Duration;

use super::tls_problem::TlsProblem;
use crate::ApiError;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect to {server}: {source}; {}", remedy(source))]
    Connect { server: String, source: io::Error },
    /// The handshake failed, or the server refused this client's certificate right after it.
    #[error("cannot connect to {server}: {problem}")]
    Tls { server: String, problem: TlsProblem },
    #[error(
        "cannot connect to {server} within {after:?}; check that fleetd runs there and that --endpoint is right"
    )]
    ConnectTimeout { server: String, after: Duration },
    #[error("no answer to {request} from {server} within {after:?}; a longer --request-timeout may help")]
    ResponseTimeout { server: String, request: String, after: Duration },
    #[error("connection to {server} broke during {path}: {source}{}", hint(source))]
    Transport { server: String, path: String, source: hyper::Error },
    #[error("answer of {server} to {path} ended early: {source}")]
    Body { server: String, path: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{server} was silent for {after:?} in {path}, heartbeats included")]
    Silence { server: String, path: String, after: Duration },
    #[error("{server} sent a line of more than {limit} bytes in {path}")]
    LineTooLong { server: String, path: String, limit: usize },
    #[error(
        "{server} and this program do not understand each other at {path}: {source}; check their versions"
    )]
    Decode { server: String, path: String, source: serde_json::Error },
    #[error("path {path} cannot be asked for: {source}")]
    Request { path: String, source: hyper::http::Error },
    /// The server answered with an error.
    #[error("{}", api_text(*status, error, body))]
    Api { status: u16, error: ApiError, body: String },
}

impl ClientError {
    /// The server's own error, if it gave one.
    #[must_use]
    pub fn api(&self) -> Option<(u16, &ApiError)> {
        match self {
            ClientError::Api { status, error, .. } => Some((*status, error)),
            _ => None,
        }
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, ClientError::Api { status: 404, .. })
    }

    /// Whether the server was never reached, so that nothing can have happened.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            ClientError::Connect { .. } | ClientError::Tls { .. } | ClientError::ConnectTimeout { .. }
        )
    }

    /// Whether the connection failed while the request was under way, so that its outcome is unknown.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(
            self,
            ClientError::Transport { .. }
                | ClientError::Body { .. }
                | ClientError::ResponseTimeout { .. }
                | ClientError::Silence { .. }
        )
    }
}

/// A server that speaks TLS answers a plain request with bytes that are no HTTP.
fn hint(source: &hyper::Error) -> &'static str {
    if source.is_parse() { "; if TLS is spoken there, write https:// in --endpoint" } else { "" }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "run as root, or join the group that the socket belongs to (fleet)"
        }
        _ => "check that fleetd runs there and that --endpoint is right",
    }
}

/// The words of fleet 1.0's client, which wrappers compare.
fn api_text(status: u16, error: &ApiError, body: &str) -> String {
    if error.message.is_empty() {
        return format!("googleapi: got HTTP response code {status} with body: {body}");
    }
    format!("googleapi: Error {status}: {error}")
}
