//! Any bytes as requests of API v1, one after the other, against a whole API over a store in memory.
//!
//! Holds: every request is answered; no answer says that the server has failed; an answer from 400 on has an error
//! document that repeats the status; what was written can be read, and what was deleted cannot.
//!
//! An input is one or more requests with a line `----` between them: `METHOD TARGET`, a line for each header, an empty
//! line, the body. What is no HTTP at all never reaches the code of this repository and is left out.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleet_api::{ErrorBody, paths, v1};
use fleet_core::store_trust::Trust;
use fleet_core::{ClusterId, Epoch, MachineId, Timestamp};
use fleet_registry::Registry;
use fleet_registry::keys::{DEFAULT_PREFIX, Key, Keys};
use fleet_registry::memory::{MemorySnapshot, MemoryStore};
use fleet_registry::store::{Op, Store, Txn};
use fleetd::api::ports::{AgentReport, EngineReport, EngineView, LocalAgent, SessionReport, SessionView};
use fleetd::api::tools::LocalTools;
use fleetd::api::{Limits, Options, Service};
use fleetd::clock::Clock;
use fleetd::config::Listen;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use unit_files::UnitName;

const MACHINE: &str = "aaaaaaaa11111111";
const SEPARATOR: &str = "\n----\n";
/// Far more than any answer takes, so that only a lost one is missed.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_REQUESTS: usize = 8;
/// Hyper answers more than a hundred by itself.
const MAX_HEADERS: usize = 16;
/// What frames a message is between hyper and hyper.
const FRAMING: [&str; 8] =
    ["connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"];

/// Sends every request of `bytes` and judges the answers.
pub fn check(bytes: &[u8]) {
    thread_local! {
        static LAB: RefCell<Lab> = RefCell::new(Lab::new());
    }
    let requests = requests(bytes);
    if requests.is_empty() {
        return;
    }
    LAB.with_borrow_mut(|lab| {
        lab.restore();
        for request in &requests {
            lab.judge(request);
        }
    });
}

/// A request that hyper would send.
struct Sent {
    method: Method,
    target: Uri,
    headers: HeaderMap,
    body: Bytes,
}

fn requests(bytes: &[u8]) -> Vec<Sent> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while found.len() < MAX_REQUESTS {
        let end = position(rest, SEPARATOR.as_bytes());
        found.extend(request(&rest[..end.unwrap_or(rest.len())]));
        match end {
            Some(end) => rest = &rest[end + SEPARATOR.len()..],
            None => break,
        }
    }
    found
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn request(bytes: &[u8]) -> Option<Sent> {
    let (head, body) = match position(bytes, b"\n\n") {
        Some(end) => (&bytes[..end], &bytes[end + 2..]),
        None => (bytes, &b""[..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = position(first, b" ")?;
    let method = Method::from_bytes(&first[..space]).ok()?;
    let target = Uri::try_from(&first[space + 1..]).ok()?;
    // Version 2 has answers without an end and programs that it starts; and CONNECT is for proxies.
    if method == Method::CONNECT || target.path().starts_with(paths::V2) || !target.path().starts_with('/') {
        return None;
    }
    // The router answers such a path by itself, in plain text.
    if percent_decode_str(target.path()).decode_utf8().is_err() {
        return None;
    }
    let mut headers = HeaderMap::new();
    for line in lines.take(MAX_HEADERS) {
        let Some(colon) = position(line, b":") else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value)
            && !FRAMING.contains(&name.as_str())
        {
            headers.append(name, value);
        }
    }
    Some(Sent { method, target, headers, body: Bytes::copy_from_slice(body) })
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: HeaderName) -> Cow<'_, str> {
        String::from_utf8_lossy(self.headers.get(name).map_or(&[][..], HeaderValue::as_bytes))
    }
}

/// The API, its store, and the state of that to which every input goes back.
struct Lab {
    runtime: Runtime,
    store: MemoryStore,
    start: MemorySnapshot,
    registry: Registry,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Lab {
    fn new() -> Lab {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime of our own");
        let store = MemoryStore::new(7);
        let keys = Keys::new(DEFAULT_PREFIX).expect("the default prefix is legal");
        let registry = Registry::new(Arc::new(store.clone()), keys, 1);
        runtime.block_on(found(&registry));
        let mut lab = Lab { runtime, start: store.snapshot(), store, registry, sender: None };
        for unit in ["hello.service", "everywhere.service", "web@.service", "stopped.service"] {
            lab.judge(&submission(unit));
        }
        lab.runtime.block_on(place(&lab.registry, "hello.service"));
        lab.start = lab.store.snapshot();
        lab
    }

    fn restore(&self) {
        self.store.restore(&self.start);
    }

    fn judge(&mut self, request: &Sent) {
        let what = format!("{} {}", request.method, request.target);
        let answer = self.answer(request);
        well_formed(&what, request, &answer);
        let Some(name) = unit_of(&request.target) else { return };
        let read = |lab: &mut Lab| lab.answer(&get(&format!("{}/units/{name}", paths::V1)));
        match (&request.method, answer.status) {
            (&Method::PUT, StatusCode::CREATED) => {
                let found = read(self);
                assert_eq!(found.status, StatusCode::OK, "after {what}");
                let unit: v1::Unit = serde_json::from_slice(&found.body).expect("a unit");
                assert_eq!(unit.name, name.as_str());
                assert!(!unit.options.is_empty(), "after {what}");
            }
            (&Method::DELETE, StatusCode::NO_CONTENT) => {
                assert_eq!(read(self).status, StatusCode::NOT_FOUND, "after {what}");
            }
            _ => {}
        }
    }

    /// # Panics
    /// If there is no answer.
    fn answer(&mut self, sent: &Sent) -> Answer {
        let mut request = Request::new(Full::new(sent.body.clone()));
        *request.method_mut() = sent.method.clone();
        *request.uri_mut() = sent.target.clone();
        *request.headers_mut() = sent.headers.clone();
        request.headers_mut().insert(http::header::HOST, HeaderValue::from_static("fleet"));
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(sent.body.len()));
        let (registry, sender) = (self.registry.clone(), self.sender.take());
        let (answer, sender) = self.runtime.block_on(async {
            let mut sender = match sender {
                Some(sender) => sender,
                None => connect(registry.clone()).await,
            };
            // The server may have ended the connection after its last answer.
            if sender.ready().await.is_err() {
                sender = connect(registry).await;
            }
            let exchange = async {
                let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
                let body = body.collect().await.expect("a whole body").to_bytes();
                Answer { status: head.status, headers: head.headers, body }
            };
            let answer = tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time");
            (answer, sender)
        });
        self.sender = Some(sender);
        answer
    }
}

/// A new API, listening where only this connection was made.
async fn connect(registry: Registry) -> SendRequest<Full<Bytes>> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("s");
    let views = Arc::new(Views);
    let day = Duration::from_secs(86_400);
    let options = Options {
        registry,
        machine: machine(),
        hostname: "host".into(),
        version: "1.2.3".into(),
        features: BTreeSet::new(),
        clock: Clock::Wall,
        listen: vec![Listen::Unix(socket.clone())],
        passed: Vec::new(),
        tls: None,
        token_limit: 3,
        session: Arc::clone(&views) as Arc<dyn SessionView>,
        agent: Arc::clone(&views) as Arc<dyn LocalAgent>,
        engine: views as Arc<dyn EngineView>,
        tools: LocalTools::default(),
        joiner: None,
        peers: None,
        // The connection waits for the fuzzer.
        limits: Limits { header: day, request: PATIENCE / 2, v1_body: 1 << 16, ..Limits::default() },
        shutdown: CancellationToken::new(),
    };
    let (_, service) = Service::bind(options).await.expect("a socket of our own");
    let serving = tokio::spawn(service.run());
    let stream = UnixStream::connect(&socket).await.expect("it listens");
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("a connection of our own");
    tokio::spawn(async move {
        // Its end is the end of the API behind it.
        let _ = connection.await;
        serving.abort();
    });
    sender
}

fn well_formed(what: &str, request: &Sent, answer: &Answer) {
    let text = || String::from_utf8_lossy(&answer.body);
    assert!(!answer.status.is_server_error(), "{what}: {} {}", answer.status, text());
    let is_json = answer.header(CONTENT_TYPE) == "application/json";
    if request.method == Method::HEAD {
        assert!(answer.body.is_empty(), "{what}");
    } else if answer.status.as_u16() >= 400 {
        assert!(is_json, "{what}: {} without an error document: {}", answer.status, text());
        let document: ErrorBody = serde_json::from_slice(&answer.body).expect("an error document");
        assert_eq!(document.error.code, answer.status.as_u16(), "{what}");
        assert_eq!(document.error.remedy, None, "{what}: fleet 1.0 had no remedies");
    } else if answer.status.is_redirection() {
        assert!(answer.header(LOCATION).starts_with('/'), "{what}: {}", answer.header(LOCATION));
    } else if is_json {
        assert!(serde_json::from_slice::<serde_json::Value>(&answer.body).is_ok(), "{what}: {}", text());
    } else {
        assert!(std::str::from_utf8(&answer.body).is_ok(), "{what}");
    }
}

/// The unit that a target names as it stands.
fn unit_of(target: &Uri) -> Option<UnitName> {
    let prefixes = [paths::V1, paths::V1_ALPHA];
    let rest =
        prefixes.iter().find_map(|prefix| target.path().strip_prefix(prefix)?.strip_prefix("/units/"))?;
    UnitName::parse(rest).ok()
}

fn get(target: &str) -> Sent {
    let target = target.parse().expect("a unit's name is part of a path");
    Sent { method: Method::GET, target, headers: HeaderMap::new(), body: Bytes::new() }
}

fn submission(unit: &str) -> Sent {
    let mut options = vec![json!({"section": "Service", "name": "ExecStart", "value": "/bin/sleep 1d"})];
    if unit.starts_with("everywhere") {
        options.push(json!({"section": "X-Fleet", "name": "Global", "value": "true"}));
    }
    let desired = if unit.starts_with(['h', 'e']) { "launched" } else { "inactive" };
    let body = json!({"options": options, "desiredState": desired}).to_string();
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    Sent { method: Method::PUT, headers, body: body.into(), ..get(&format!("{}/units/{unit}", paths::V1)) }
}

fn machine() -> MachineId {
    MachineId::parse(MACHINE).expect("letters and digits are an id")
}

/// A cluster with one machine.
async fn found(registry: &Registry) {
    let record = serde_json::from_value(json!({"id": "ours", "epoch": 1})).expect("a cluster's record");
    registry.create_cluster(&record).await.expect("the store is open");
    let presence = json!({"machine": MACHINE, "boot": "b", "nonce": "n", "agent_ttl": 15_000, "since": 1,
                          "primary_ip": "10.0.0.1", "metadata": {"role": "web"}});
    write(registry, &Key::Presence(machine()), &presence).await;
    write(registry, &Key::Machine(machine()), &json!({"metadata": {"rack": "1"}})).await;
}

/// What an engine and an agent write about a unit that runs.
async fn place(registry: &Registry, unit: &str) {
    let name = UnitName::parse(unit).expect("a unit's name");
    let found = registry.read_unit(&name).await.expect("the store is open").expect("it was submitted");
    let record = found.value;
    let (number, current) = ("1-7-1", &record.current);
    let placement = json!({"uid": record.uid, "machine": MACHINE, "number": number,
                           "decision": {"judged": found.modified, "reason": {"code": "placed"}, "at": 7}});
    write(registry, &Key::Placement(name.clone()), &placement).await;
    let row = json!({"uid": record.uid, "applied": number, "wanted": "launched", "counters": record.counters,
                     "load": "loaded", "active": "active", "sub": "running", "invocation": "i",
                     "unit_hash": current.unit_hash, "generation": current.generation});
    write(registry, &Key::State(machine(), name), &row).await;
}

async fn write(registry: &Registry, key: &Key, value: &serde_json::Value) {
    let put = Op::put(registry.keys().key(key), value.to_string());
    assert!(registry.store().txn(Txn::of(vec![put])).await.expect("the store is open").succeeded);
}

/// What the other components of this machine would say.
struct Views;

impl SessionView for Views {
    fn session(&self) -> SessionReport {
        SessionReport {
            since: Timestamp(1),
            is_connected: true,
            trust: Some(Trust::Own),
            cluster: Some((ClusterId::parse("ours").expect("letters are an id"), Epoch(1))),
            member: Some(ClusterId::parse("ours").expect("letters are an id")),
            has_presence: true,
            text: String::new(),
        }
    }
}

impl LocalAgent for Views {
    fn agent(&self) -> AgentReport {
        AgentReport { has_passed: true, ..AgentReport::default() }
    }
}

impl EngineView for Views {
    fn engine(&self) -> EngineReport {
        EngineReport::default()
    }
}
