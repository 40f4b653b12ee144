//! What an operator asks for, over the API socket of a machine.
//!
//! Sockets are real and do not know that time is simulated: the clock stands still until the answer is there, or until
//! the answer evidently waits for time to pass.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use fleet_api::client::{Client, ClientError, Endpoint, Timeouts};
use fleet_api::paths;
use fleet_api::v2::{Action, AdoptReport, AdoptRequest, ChangeReport, ChangeRequest, Done, Requester, Verb};
use serde::Serialize;
use serde::de::DeserializeOwned;
use unit_files::UnitName;

use super::show::masked;

/// Real time in which a fleetd that waits for nothing has answered.
const PROMPT: Duration = Duration::from_millis(500);

/// An operator at a terminal.
#[derive(Debug, Default)]
pub struct Operator {
    /// Unit files on the operator's disk.
    pub texts: BTreeMap<String, String>,
    requests: u64,
}

/// One line for each thing that could not be done.
pub type Answer = Vec<String>;

/// A machine's API, as reached through its socket.
#[derive(Debug)]
pub struct Door(Client);

impl Door {
    #[must_use]
    pub fn new(socket: std::path::PathBuf) -> Door {
        Door(Client::new(Endpoint::Unix { path: socket }, Timeouts::default()))
    }

    /// # Errors
    /// No answer, or one that is an error.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        with_clock_held(self.0.get(path)).await
    }

    /// # Errors
    /// No answer, or one that is an error.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        with_clock_held(self.0.post(path, body)).await
    }
}

/// A paused clock runs ahead when the runtime has nothing to do, and a socket's answer under way is nothing to it; work
/// on another thread holds it.
async fn with_clock_held<T>(asking: impl Future<Output = T>) -> T {
    let (answered, wait) = mpsc::channel::<()>();
    let holding = tokio::task::spawn_blocking(move || {
        // Either way the clock is let go.
        let _ = wait.recv_timeout(PROMPT);
    });
    let answer = asking.await;
    drop(answered);
    // Fails only if the runtime is going down.
    let _ = holding.await;
    answer
}

/// What a person reads of an error, without what differs between runs.
#[must_use]
pub fn told(error: &ClientError) -> String {
    match error {
        // Messages name revisions.
        ClientError::Api { error, .. } => masked(&error.to_string()),
        ClientError::Connect { .. } => "no fleetd answers".to_owned(),
        other => other.to_string(),
    }
}

impl Operator {
    /// The file of the unit, or of its template.
    fn text_of(&self, unit: &UnitName) -> Option<&String> {
        let template = || self.texts.get(unit.template()?.as_str());
        self.texts.get(unit.as_str()).or_else(template)
    }

    /// One request about some units; what is refused is answered.
    #[must_use]
    pub fn request(&mut self, verb: Verb, units: &[UnitName], replace: bool) -> ChangeRequest {
        self.requests += 1;
        let brings_text = matches!(verb, Verb::Submit | Verb::Load | Verb::Start);
        let action = |unit: &UnitName| Action {
            text: self.text_of(unit).filter(|_| brings_text).cloned(),
            replace,
            ..Action::new(unit.as_str(), verb)
        };
        ChangeRequest {
            request_id: format!("request-{}", self.requests),
            by: Some("operator".to_owned()),
            actions: units.iter().map(action).collect(),
            ..ChangeRequest::default()
        }
    }
}

/// Sends a request; what was not done is answered.
pub async fn send(door: &Door, request: &ChangeRequest) -> Answer {
    let report: ChangeReport = match door.post(paths::REQUESTS, request).await {
        Ok(report) => report,
        Err(error) => return vec![told(&error)],
    };
    let line = |result: fleet_api::v2::ActionResult| {
        let refused = result.error.map(|error| format!("{}: {error}", result.unit));
        let warnings = result.warnings.into_iter().map(|warning| format!("warning: {warning}"));
        refused.into_iter().chain(warnings).collect::<Vec<_>>()
    };
    report.results.into_iter().flat_map(line).collect()
}

/// The operator confirms what the store holds.
pub async fn adopt(door: &Door) -> Answer {
    let request =
        AdoptRequest { yes: true, by: "operator".to_owned(), why: "restored on purpose".to_owned() };
    let report: AdoptReport = match door.post(paths::CLUSTER_ADOPT, &request).await {
        Ok(report) => report,
        Err(error) => return vec![told(&error)],
    };
    let mut lines: Answer = Vec::new();
    lines.extend(
        report.would_stop.iter().map(|effect| format!("would stop {} on {}", effect.unit, effect.machine)),
    );
    lines.extend(
        report.would_start.iter().map(|effect| format!("would start {} on {}", effect.unit, effect.machine)),
    );
    lines
}

/// One of the operator's words that take only who and why.
pub async fn say(door: &Door, path: &str) -> Answer {
    let said: Result<Done, ClientError> =
        door.post(path, &Requester { by: "operator".to_owned(), ..Requester::default() }).await;
    said.err().map(|error| told(&error)).into_iter().collect()
}
