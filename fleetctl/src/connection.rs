//! The API, one method per question that commands ask. Nothing here prints, except requests with `--debug`.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use fleet_api::client::{Client, ClientError, EventStream, NdjsonStream};
use fleet_api::paths;
use fleet_api::v2::{
    AdoptReport, AdoptRequest, ChangeReport, ChangeRequest, ClusterView, Done, EventList, Explanation,
    HealthView, ImportReport, ImportRequest, JoinReport, JoinRequest, MachineList, Requester, StateList,
    StatusReport, UnitList, UnitView, WaitRequest, WatchKind,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::output;
use crate::settings::Settings;

/// Names in one query: their paths stay far below the limit of any server for the head of a request.
const NAMES_PER_QUERY: usize = 200;
/// How often a read is sent when its answer is lost, and a change when its outcome is unknown: that carries a request id,
/// so that it counts once.
const ATTEMPTS: usize = 3;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

/// What is kept of a unit where only its name matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamedUnit {
    pub name: String,
    pub description: String,
}

#[derive(Deserialize)]
struct NamedUnits {
    units: Vec<NamedUnit>,
}

#[derive(Debug)]
pub struct Connection {
    client: Client,
    debug: bool,
}

impl Connection {
    pub fn new(settings: &Settings) -> Connection {
        let client = match &settings.ssh.tunnel {
            Some(tunnel) => {
                settings.ssh.client(tunnel, &settings.endpoint, settings.tls.clone(), settings.timeouts)
            }
            None => Client::secured(settings.endpoint.clone(), settings.tls.clone(), settings.timeouts),
        };
        Connection { client, debug: settings.debug }
    }

    /// Those of the units that exist, by name. Destroyed ones do not.
    pub async fn units(&self, names: &[String]) -> Result<BTreeMap<String, UnitView>, ClientError> {
        let mut units = BTreeMap::new();
        for chunk in names.chunks(NAMES_PER_QUERY) {
            let path = paths::with_query(paths::UNITS, chunk.iter().map(|name| ("name", name.as_str())));
            let list: UnitList = self.read(&path).await?;
            units.extend(list.units.into_iter().map(|unit| (unit.name.clone(), unit)));
        }
        Ok(units)
    }

    /// Which units there are, and no more of them, for hints and completions.
    pub async fn unit_names(&self) -> Result<Vec<NamedUnit>, ClientError> {
        let list: NamedUnits = self.read(paths::UNITS).await?;
        Ok(list.units)
    }

    pub async fn all_units(&self) -> Result<UnitList, ClientError> {
        self.read(paths::UNITS).await
    }

    /// None: there is no such unit.
    pub async fn unit(&self, name: &str) -> Result<Option<UnitView>, ClientError> {
        let path = paths::fill(paths::UNIT, name);
        none_if_not_found(self.read(&path).await)
    }

    /// The bytes as submitted; none if there is no such unit.
    pub async fn text(&self, name: &str) -> Result<Option<Vec<u8>>, ClientError> {
        let path = paths::fill(paths::UNIT_TEXT, name);
        let bytes = none_if_not_found(self.traced("GET", &path, self.client.get_bytes(&path)).await)?;
        Ok(bytes.map(|bytes| bytes.to_vec()))
    }

    pub async fn states(&self) -> Result<StateList, ClientError> {
        self.read(paths::STATES).await
    }

    pub async fn machines(&self) -> Result<MachineList, ClientError> {
        self.read(paths::MACHINES).await
    }

    pub async fn why(&self, unit: &str, machine: Option<&str>) -> Result<Option<Explanation>, ClientError> {
        let path = with_machine(paths::UNIT_WHY, unit, machine, []);
        none_if_not_found(self.read(&path).await)
    }

    pub async fn status(&self, unit: &str, machine: Option<&str>) -> Result<StatusReport, ClientError> {
        let path = with_machine(paths::UNIT_STATUS, unit, machine, []);
        self.read(&path).await
    }

    pub async fn journal(
        &self,
        unit: &str,
        machine: Option<&str>,
        lines: &str,
        follow: bool,
        output: &str,
    ) -> Result<NdjsonStream, ClientError> {
        let follow = if follow { "true" } else { "false" };
        let options = [("lines", lines), ("follow", follow), ("output", output)];
        let path = with_machine(paths::UNIT_JOURNAL, unit, machine, options);
        self.traced("GET", &path, self.client.get_stream(&path)).await
    }

    pub async fn events(&self, query: &[(&str, &str)]) -> Result<EventList, ClientError> {
        let path = paths::with_query(paths::EVENTS, query.iter().copied());
        self.read(&path).await
    }

    pub async fn cluster(&self) -> Result<ClusterView, ClientError> {
        self.read(paths::CLUSTER).await
    }

    pub async fn health(&self) -> Result<HealthView, ClientError> {
        self.read(paths::CLUSTER_HEALTH).await
    }

    pub async fn adopt(&self, request: &AdoptRequest) -> Result<AdoptReport, ClientError> {
        self.traced("POST", paths::CLUSTER_ADOPT, self.client.post(paths::CLUSTER_ADOPT, request)).await
    }

    /// The cluster as a document.
    pub async fn export(&self) -> Result<Vec<u8>, ClientError> {
        let path = paths::CLUSTER_EXPORT;
        let bytes = self.traced("GET", path, self.client.get_bytes(path)).await?;
        Ok(bytes.to_vec())
    }

    pub async fn import(&self, request: &ImportRequest) -> Result<ImportReport, ClientError> {
        let path = paths::CLUSTER_IMPORT;
        self.traced("POST", path, self.client.post(path, request)).await
    }

    pub async fn join(&self, request: &JoinRequest) -> Result<JoinReport, ClientError> {
        let path = paths::MACHINE_JOIN;
        self.traced("POST", path, self.client.post(path, request)).await
    }

    pub async fn resume(&self, requester: &Requester) -> Result<Done, ClientError> {
        self.traced("POST", paths::CLUSTER_RESUME, self.client.post(paths::CLUSTER_RESUME, requester)).await
    }

    /// `pattern` is one of the paths with a machine's id.
    pub async fn machine_request(
        &self,
        pattern: &str,
        machine: &str,
        requester: &Requester,
    ) -> Result<Done, ClientError> {
        let path = paths::fill(pattern, machine);
        self.traced("POST", &path, self.client.post(&path, requester)).await
    }

    /// Sends a batch. If the connection breaks under way it is sent again: the request id makes it count once.
    pub async fn change(&self, mut request: ChangeRequest) -> Result<ChangeReport, ClientError> {
        let mut attempt = 1;
        loop {
            let sent =
                self.traced("POST", paths::REQUESTS, self.client.post(paths::REQUESTS, &request)).await;
            request.resent = true;
            match sent {
                Err(error) if error.is_interrupted() && attempt < ATTEMPTS => attempt += 1,
                answered => return answered,
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
    }

    /// Sets keys of a machine's metadata, which stay until somebody sets others.
    pub async fn set_metadata(
        &self,
        machine: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), ClientError> {
        let path = format!("{}/machines", paths::V1);
        let operation = |(key, value): (&String, &String)| {
            serde_json::json!({
                "op": "add",
                "path": format!("/{machine}/metadata/{key}"),
                "value": { "value": value },
            })
        };
        let operations: Vec<_> = metadata.iter().map(operation).collect();
        self.traced("PATCH", &path, self.client.patch(&path, &operations)).await
    }

    pub async fn wait(&self, request: &WaitRequest) -> Result<NdjsonStream, ClientError> {
        self.traced("POST", paths::WAIT, self.client.post_stream(paths::WAIT, request)).await
    }

    /// One list, and what changes in it; after `since`, what has changed since that id.
    pub async fn watch(&self, kind: WatchKind, since: Option<&str>) -> Result<EventStream, ClientError> {
        let query = [("kind", kind.as_str())].into_iter().chain(since.map(|since| ("since", since)));
        let path = paths::with_query(paths::WATCH, query);
        self.traced("GET", &path, self.client.get_events(&path)).await
    }

    /// A read. One whose connection breaks, as when fleetd is replaced, is sent again.
    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let mut attempt = 1;
        loop {
            match self.traced("GET", path, self.client.get(path)).await {
                Err(ClientError::Transport { .. } | ClientError::Body { .. }) if attempt < ATTEMPTS => {
                    attempt += 1;
                }
                answered => return answered,
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
    }

    async fn traced<T>(
        &self,
        method: &str,
        path: &str,
        request: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        if !self.debug {
            return request.await;
        }
        let started = Instant::now();
        let result = request.await;
        let took = started.elapsed().as_millis();
        let server = self.client.name();
        let outcome = result.as_ref().map_or_else(|error| format!(": {error}"), |_| String::new());
        output::log!("DEBUG", "{method} {server} {path} took {took} ms{outcome}");
        result
    }
}

fn with_machine<'a>(
    pattern: &str,
    unit: &str,
    machine: Option<&'a str>,
    options: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> String {
    let machine = machine.map(|machine| ("machine", machine));
    paths::with_query(&paths::fill(pattern, unit), options.into_iter().chain(machine))
}

fn none_if_not_found<T>(result: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
