//! For supervisors: whether this fleetd answers, and whether it does its work.

use axum::extract::State;
use axum::http::StatusCode;

use super::state::Api;

/// It answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// It is present in its cluster and has looked at its units.
pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, String) {
    let (session, agent) = (api.session.session(), api.agent.agent());
    let mut missing = Vec::new();
    if !session.has_presence {
        missing.push(format!("presence is not held: {}", session.text));
    }
    if !agent.has_passed {
        missing.push(format!("the agent has not made its first pass: {}", agent.text));
    }
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", missing.join("\n")))
    }
}
