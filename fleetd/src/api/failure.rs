//! Every answer that is not a success.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use axum::response::IntoResponse;
use fleet_api::{ApiError, ErrorBody, v1};
use fleet_core::requests::Refusal;
use fleet_registry::RegistryError;
use fleet_registry::registry::Outcome;
use fleet_registry::store::StoreError;

/// What fleet 1.0 said when its store did not answer; its clients know it.
const NO_REGISTRY: &str = "fleet server unable to communicate with etcd";

/// A request that is not answered with success: status, message and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub status: StatusCode,
    pub message: String,
    pub remedy: Option<String>,
}

impl Failure {
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Failure {
        Failure { status, message: message.into(), remedy: None }
    }

    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Failure {
        self.remedy = Some(remedy.into());
        self
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, message)
    }

    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, message)
    }

    #[must_use]
    pub fn no_registry(why: impl std::fmt::Display) -> Failure {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, NO_REGISTRY).with_remedy(format!(
            "{why}; what runs keeps running. See `fleetctl cluster health`, then try again"
        ))
    }

    /// What to answer when the time for an answer is over. Who kept it waiting is not known: registry, another machine,
    /// or this one.
    #[must_use]
    pub fn late(after: Duration, is_change: bool) -> Failure {
        let (message, remedy) = if is_change {
            (
                format!("no answer within {after:?}; the change may have been made"),
                "`fleetctl events` and `fleetctl list-unit-files` show what was done; a batch that is sent again \
                 under the same request id, with `resent`, counts once. What runs keeps running",
            )
        } else {
            (
                format!("no answer within {after:?}"),
                "the registry or a machine that was asked is slow; see `fleetctl cluster status`, then try again. \
                 What runs keeps running",
            )
        };
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, message).with_remedy(remedy)
    }

    /// As API v1 had it: no remedies.
    #[must_use]
    pub fn without_remedy(mut self) -> Failure {
        self.remedy = None;
        self
    }

    #[must_use]
    pub fn to_api_error(&self) -> ApiError {
        ApiError { code: self.status.as_u16(), message: self.message.clone(), remedy: self.remedy.clone() }
    }

    /// What became of a write that was not applied and is not to be tried again.
    #[must_use]
    pub fn of_outcome(outcome: &Outcome) -> Failure {
        match outcome {
            Outcome::Failed(error) | Outcome::Unknown(error) => Failure::from(error.clone()),
            Outcome::Fenced => {
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the registry is on hold or was re-anchored")
                    .with_remedy("see `fleetctl cluster status`, then try again")
            }
            Outcome::Conflict | Outcome::Applied(_) => {
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, "others changed it again and again")
                    .with_remedy("try again")
            }
            Outcome::Skipped => Failure::no_registry("the write was not tried because an earlier one failed"),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
        Failure { status, message: refusal.to_string(), remedy: refusal.remedy() }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        if error.is_transient() || error.is_unknown() {
            Failure::no_registry(error)
        } else if error.is_for_every_write() {
            // Full, corrupt, or not permitted: for its operator, not for whoever asked.
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
                .with_remedy("`fleetctl cluster health` shows what to do; what runs keeps running")
        } else {
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        match error {
            RegistryError::Store { error, .. } => Failure::from(error),
            RegistryError::Contended { .. } | RegistryError::OnHold { .. } => {
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            RegistryError::Codec { .. } | RegistryError::ContentMissing(_) => {
                Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> axum::response::Response {
        let body = v1::to_v1_json(&ErrorBody::from(self.to_api_error()));
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        response
    }
}
