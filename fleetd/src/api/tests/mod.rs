//! The API against a store in memory, over a real unix socket.

mod bounds;
mod child;
mod many;
mod openapi;
mod passed;
mod requests;
mod server;
mod tls;
mod transfer;
mod v1;
mod wait;
mod watching;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fleet_api::client::{Client, Endpoint, Timeouts};
use fleet_api::v2::{Action, ActionResult, ChangeReport, ChangeRequest, Verb};
use fleet_core::records::UnitRecord;
use fleet_core::store_trust::Trust;
use fleet_core::{ClusterId, Epoch, MachineId, Timestamp};
use fleet_registry::Registry;
use fleet_registry::codec::Record;
use fleet_registry::keys::{DEFAULT_PREFIX, Key, Keys};
use fleet_registry::memory::MemoryStore;
use fleet_registry::store::{Op, Store, Txn};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use unit_files::UnitName;

use super::ports::{AgentReport, EngineReport, EngineView, LocalAgent, SessionReport, SessionView};
use super::tools::LocalTools;
use super::{Limits, Options, Service};
use crate::clock::Clock;
use crate::config::Listen;

const TEXT: &str = "[Service]\nExecStart=/bin/sleep 1d\n";
const OWN: &str = "aaaaaaaa11111111";

/// What the other components would say.
#[derive(Debug)]
struct Fake {
    session: watch::Sender<SessionReport>,
    agent: Mutex<AgentReport>,
}

#[async_trait]
impl SessionView for Fake {
    fn session(&self) -> SessionReport {
        self.session.borrow().clone()
    }
    async fn until(&self, is_met: &(dyn for<'r> Fn(&'r SessionReport) -> bool + Sync)) {
        self.session.subscribe().wait_for(is_met).await.unwrap();
    }
}
impl LocalAgent for Fake {
    fn agent(&self) -> AgentReport {
        self.agent.lock().unwrap().clone()
    }
}
impl EngineView for Fake {
    fn engine(&self) -> EngineReport {
        let tasks = vec![
            ("task_count_total", "attemptscheduleunit", 3),
            ("task_count_total", "unscheduleunit", 1),
            ("reconcile_failure_count_total", "run", 2),
        ];
        EngineReport { counters: vec![("pass_count_total", 7)], tasks, ..EngineReport::default() }
    }
}

struct Lab {
    store: MemoryStore,
    registry: Registry,
    fake: Arc<Fake>,
    socket: PathBuf,
    /// Where it listens besides, if a test's options say so.
    tcp: Vec<SocketAddr>,
    directory: tempfile::TempDir,
    shutdown: CancellationToken,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn code(&self) -> u16 {
        self.status.as_u16()
    }
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

fn name(text: &str) -> UnitName {
    UnitName::parse(text).unwrap()
}
fn machine(id: &str) -> MachineId {
    MachineId::parse(id).unwrap()
}

impl Lab {
    async fn start() -> Lab {
        let limits = Limits {
            request: Duration::from_secs(3),
            leaderless: Duration::from_millis(50),
            heartbeat: Duration::from_millis(200),
            settles: Duration::from_millis(100),
            ..Limits::default()
        };
        Lab::with(limits, |_| {}).await
    }

    async fn with(limits: Limits, change: impl FnOnce(&mut Options)) -> Lab {
        let store = MemoryStore::new(7);
        let registry = Registry::new(Arc::new(store.clone()), Keys::new(DEFAULT_PREFIX).unwrap(), 1);
        let record = serde_json::from_value(json!({"id": "ours", "epoch": 1})).unwrap();
        registry.create_cluster(&record).await.unwrap();
        let session = SessionReport {
            since: Timestamp(1),
            is_connected: true,
            trust: Some(Trust::Own),
            cluster: Some((ClusterId::parse("ours").unwrap(), Epoch(1))),
            member: Some(ClusterId::parse("ours").unwrap()),
            has_presence: true,
            text: String::new(),
        };
        let agent = AgentReport { has_passed: true, ..AgentReport::default() };
        let fake = Arc::new(Fake { session: watch::Sender::new(session), agent: Mutex::new(agent) });
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("fleet.sock");
        let shutdown = CancellationToken::new();
        let mut options = Options {
            registry: registry.clone(),
            machine: machine(OWN),
            hostname: "host".into(),
            version: "1.2.3".into(),
            features: BTreeSet::new(),
            clock: Clock::Wall,
            listen: vec![Listen::Unix(socket.clone())],
            passed: Vec::new(),
            tls: None,
            token_limit: 100,
            session: Arc::clone(&fake) as Arc<dyn SessionView>,
            agent: Arc::clone(&fake) as Arc<dyn LocalAgent>,
            engine: Arc::clone(&fake) as Arc<dyn EngineView>,
            tools: LocalTools::default(),
            joiner: None,
            peers: None,
            limits,
            shutdown: shutdown.clone(),
        };
        change(&mut options);
        let (handle, service) = Service::bind(options).await.unwrap();
        tokio::spawn(service.run());
        Lab { store, registry, fake, socket, tcp: handle.tcp, directory, shutdown }
    }

    fn client(&self) -> Client {
        let endpoint = Endpoint::parse(&format!("unix://{}", self.socket.display())).unwrap();
        Client::new(endpoint, Timeouts::default())
    }

    /// One request, with exactly these headers.
    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        send(&self.socket, method, path, headers, body).await
    }

    /// The same over TCP.
    async fn send_tcp(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let stream = TcpStream::connect(self.tcp[0]).await.unwrap();
        exchange(stream, method, path, headers, body).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    async fn put(&self, unit: &str, body: &Value) -> Reply {
        let path = format!("/fleet/v1/units/{unit}");
        self.send(Method::PUT, &path, &[("content-type", "application/json")], &body.to_string()).await
    }

    async fn change(&self, id: &str, actions: Vec<Action>) -> Vec<ActionResult> {
        let request = ChangeRequest {
            request_id: id.into(),
            by: Some("me".into()),
            actions,
            ..ChangeRequest::default()
        };
        let report: ChangeReport = self.client().post(fleet_api::paths::REQUESTS, &request).await.unwrap();
        report.results
    }

    async fn one(&self, id: &str, verb: Verb, unit: &str, text: Option<&str>) -> ActionResult {
        let action = Action { text: text.map(str::to_owned), ..Action::new(unit, verb) };
        self.change(id, vec![action]).await.remove(0)
    }

    async fn record(&self, unit: &str) -> UnitRecord {
        self.registry.read_unit(&name(unit)).await.unwrap().unwrap().value
    }

    /// Writes a record as another component would.
    async fn write(&self, key: &Key, value: Value) {
        let op = Op::put(self.registry.keys().key(key), value.to_string());
        assert!(self.store.txn(Txn::of(vec![op])).await.unwrap().succeeded);
    }

    async fn delete(&self, key: &Key) {
        let op = Op::delete(self.registry.keys().key(key));
        assert!(self.store.txn(Txn::of(vec![op])).await.unwrap().succeeded);
    }

    async fn present(&self, id: &str, ip: &str) {
        let value = json!({"machine": id, "boot": "b", "nonce": "n", "agent_ttl": 15_000, "since": 1,
                           "primary_ip": ip, "metadata": {"role": "web"}});
        self.write(&Key::Presence(machine(id)), value).await;
        self.write(&Key::Machine(machine(id)), json!({})).await;
    }

    async fn lead(&self, id: &str) {
        self.write(&Key::Leader, json!({"machine": id, "version": "1.2.3", "since": 5})).await;
    }

    /// What an engine writes when it places a unit, and with `active` what the machine answers.
    async fn place(&self, unit: &str, on: &str, sequence: u64, active: Option<&str>) {
        let found = self.registry.read_unit(&name(unit)).await.unwrap().unwrap();
        let (record, judged) = (found.value, found.modified);
        let number = format!("1-7-{sequence}");
        let order = json!({
            "number": number, "uid": record.uid, "generation": record.current.generation,
            "content": record.current.content, "unit_hash": record.current.unit_hash,
            "run_hash": record.current.run_hash, "wanted": record.desired, "counters": record.counters,
            "reason": {"code": "placed"}, "at": 8});
        self.write(&Key::Order(machine(on), name(unit)), order).await;
        let decision = json!({"judged": judged, "reason": {"code": "placed"}, "at": 7});
        let placement = json!({"uid": record.uid, "machine": on, "number": number, "decision": decision});
        self.write(&Key::Placement(name(unit)), placement).await;
        if let Some(active) = active {
            let row = json!({
                "uid": record.uid, "applied": number, "wanted": record.desired, "counters": record.counters,
                "load": "loaded", "active": active, "sub": "running", "invocation": "i",
                "unit_hash": record.current.unit_hash, "generation": record.current.generation});
            self.write(&Key::State(machine(on), name(unit)), row).await;
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn send(socket: &Path, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    exchange(UnixStream::connect(socket).await.unwrap(), method, path, headers, body).await
}

/// Adds a `Host` that is no name of this machine, unless there is one.
async fn exchange<S>(stream: S, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path);
    if headers.iter().all(|(name, _)| *name != "host") {
        request = request.header("host", "fleet");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(bytes::Bytes::from(body.to_owned()))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply { status: head.status, headers: head.headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

/// A record has the fields that it is written with here.
fn assert_record<R: Record>(value: &Value) {
    serde_json::from_value::<R>(value.clone()).unwrap();
}
