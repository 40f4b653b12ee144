//! Machines that ask each other, over loopback and a store in memory.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::v2::JournalLine;
use fleet_core::MachineId;
use fleet_registry::Registry;
use fleet_registry::keys::{DEFAULT_PREFIX, Key, Keys};
use fleet_registry::memory::{Link, MemoryStore};
use fleet_registry::store::{Op, Store, Txn};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use unit_files::UnitName;

use super::looks::{Looks, Rate};
use super::{Options, PeerClient, PeerKeys, Service, listener};
use crate::api::gate::{Gate, Room};
use crate::api::ports::Peers;
use crate::api::tools::{JournalOptions, LocalTools};

fn machine(id: &str) -> MachineId {
    MachineId::parse(id).unwrap()
}
fn unit() -> UnitName {
    UnitName::parse("a.service").unwrap()
}

struct Pair {
    store: MemoryStore,
    registry: Registry,
    address: SocketAddr,
    server_keys: PeerKeys,
    client_keys: PeerKeys,
    _tools: tempfile::TempDir,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Pair {
    /// `m1` answers; `m2` may ask.
    async fn start() -> Pair {
        Pair::with("echo \"$@\"\nexit 3", |_| {}).await
    }

    /// With this script as `systemctl` and `journalctl` of `m1`, and its listener changed.
    async fn with(script: &str, change: impl FnOnce(&mut listener::Peers)) -> Pair {
        let store = MemoryStore::new(7);
        let registry = Registry::new(Arc::new(store.clone()), Keys::new(DEFAULT_PREFIX).unwrap(), 1);
        let (server_keys, client_keys) =
            (PeerKeys::generate(&machine("m1")).unwrap(), PeerKeys::generate(&machine("m2")).unwrap());
        let tools = tempfile::tempdir().unwrap();
        let program = tools.path().join("tool");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let shutdown = CancellationToken::new();
        let options = Options {
            registry: registry.clone(),
            machine: machine("m1"),
            keys: server_keys.clone(),
            listen: ([127, 0, 0, 1], 0).into(),
            tools: LocalTools { systemctl: program.clone(), journalctl: program, ..LocalTools::default() },
            heartbeat: Duration::from_millis(100),
            shutdown: shutdown.clone(),
        };
        let (handle, mut service) = Service::bind(options).await.unwrap();
        change(&mut service.peers);
        let running = tokio::spawn(service.run());
        let pair = Pair {
            store,
            registry,
            address: handle.address,
            server_keys,
            client_keys,
            _tools: tools,
            shutdown,
            running,
        };
        pair.publish("m1", &pair.server_keys).await;
        pair.publish("m2", &pair.client_keys).await;
        pair
    }

    async fn publish(&self, id: &str, keys: &PeerKeys) {
        let presence = json!({
            "machine": id, "boot": "b", "nonce": "n", "agent_ttl": 15_000, "since": 1,
            "peer_address": self.address.to_string(), "fingerprint": keys.fingerprint()});
        let key = self.registry.keys().key(&Key::Presence(machine(id)));
        self.store.txn(Txn::of(vec![Op::put(key, presence.to_string())])).await.unwrap();
    }

    async fn withdraw(&self, id: &str) {
        let key = self.registry.keys().key(&Key::Presence(machine(id)));
        self.store.txn(Txn::of(vec![Op::delete(key)])).await.unwrap();
    }

    fn client(&self, id: &str, keys: &PeerKeys) -> PeerClient {
        PeerClient::new(self.registry.clone(), machine(id), keys.clone())
    }

    /// Up to the greeting.
    async fn connect(&self, keys: &PeerKeys) -> TlsStream<TcpStream> {
        let config = Arc::new(super::pin::client_config(keys, self.server_keys.fingerprint()).unwrap());
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("fleet-peer").unwrap();
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap()
    }

    async fn refusal(&self, client: &PeerClient) -> String {
        let failure = client.status(&machine("m1"), &unit()).await.unwrap_err();
        assert!(failure.status.is_server_error());
        failure.message
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test]
async fn a_machine_that_the_registry_names_is_answered() {
    let pair = Pair::start().await;
    let client = pair.client("m2", &pair.client_keys);
    let report = client.status(&machine("m1"), &unit()).await.unwrap();
    assert_eq!((report.machine.id.as_str(), report.exit_code), ("m1", 3));
    assert_eq!(report.text, "status -l --no-pager -- a.service\n");
    let options = JournalOptions { lines: Some(5), follow: false, output: "cat".into() };
    let mut lines = client.journal(&machine("m1"), &unit(), &options).await.unwrap();
    let first = lines.next::<JournalLine>().await.unwrap().unwrap();
    assert_eq!(first.text.as_deref(), Some("--unit=a.service --no-pager -n 5 -o cat\n"));
    assert_eq!(lines.next::<JournalLine>().await.unwrap().unwrap().exit_code, Some(3));
}

#[tokio::test]
async fn a_caller_with_another_certificate_or_without_presence_is_refused() {
    let pair = Pair::start().await;
    let stranger = PeerKeys::generate(&machine("m2")).unwrap();
    let message = pair.refusal(&pair.client("m2", &stranger)).await;
    assert!(message.contains("the certificate is not the one that machine m2 published"), "{message}");
    let message = pair.refusal(&pair.client("m3", &pair.client_keys)).await;
    assert!(message.contains("machine m3 is not present"), "{message}");
    pair.withdraw("m2").await;
    let message = pair.refusal(&pair.client("m2", &pair.client_keys)).await;
    assert!(message.contains("machine m2 is not present"), "{message}");
}

#[tokio::test]
async fn a_server_with_another_certificate_or_without_presence_is_not_asked() {
    let pair = Pair::start().await;
    let client = pair.client("m2", &pair.client_keys);
    pair.publish("m1", &PeerKeys::generate(&machine("m1")).unwrap()).await;
    let message = pair.refusal(&client).await;
    assert!(message.contains("it shows another certificate than the machine published"), "{message}");
    pair.withdraw("m1").await;
    let message = pair.refusal(&client).await;
    assert!(message.contains("it is not present"), "{message}");
}

#[tokio::test]
async fn without_the_registry_nobody_is_asked_and_the_reason_is_told() {
    let pair = Pair::start().await;
    pair.store.set_all_links(Link::Refused);
    let message = pair.refusal(&pair.client("m2", &pair.client_keys)).await;
    assert_eq!(message, "cannot ask machine m1: the registry does not answer");
}

#[tokio::test]
async fn a_machine_that_does_not_answer_is_named_before_the_own_client_gives_up() {
    let mut pair = Pair::start().await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    pair.address = mute.local_addr().unwrap();
    pair.publish("m1", &pair.server_keys).await;
    let mut client = pair.client("m2", &pair.client_keys);
    client.within = Duration::from_millis(100);
    let message = pair.refusal(&client).await;
    assert_eq!(message, "machine m1 gave no answer within 100ms");
    let options = JournalOptions { lines: None, follow: true, output: "cat".into() };
    let failure = client.journal(&machine("m1"), &unit(), &options).await.err().unwrap();
    assert_eq!(failure.message, "machine m1 gave no answer within 100ms");
}

#[tokio::test]
async fn the_listener_refuses_callers_that_it_cannot_look_up() {
    let pair = Pair::start().await;
    let mut stream = pair.connect(&pair.client_keys).await;
    pair.store.set_all_links(Link::Refused);
    let refused = super::greeting::introduce(&mut stream, &machine("m2")).await.unwrap_err();
    assert!(refused.to_string().contains("the registry does not answer"), "{refused}");
}

#[tokio::test]
async fn a_flood_of_strangers_makes_nobody_refused_whom_the_registry_names() {
    let rate = Rate { at_once: 1, every: Duration::from_millis(200) };
    let change = |peers: &mut listener::Peers| peers.looks = Looks::new(peers.looks.registry.clone(), rate);
    let pair = Pair::with("exit 0", change).await;
    let stranger = PeerKeys::generate(&machine("x")).unwrap();
    let (shutdown, pair) = (CancellationToken::new(), Arc::new(pair));
    let flood = futures_util::future::join_all((0..4).map(|_| {
        let (pair, stranger, shutdown) = (Arc::clone(&pair), stranger.clone(), shutdown.clone());
        tokio::spawn(async move {
            while !shutdown.is_cancelled() {
                let mut stream = pair.connect(&stranger).await;
                super::greeting::introduce(&mut stream, &machine("m2")).await.unwrap_err();
            }
        })
    }));
    for new in 0..4 {
        let id = format!("n{new}");
        let keys = PeerKeys::generate(&machine(&id)).unwrap();
        pair.publish(&id, &keys).await;
        let mut stream = pair.connect(&keys).await;
        super::greeting::introduce(&mut stream, &machine(&id)).await.unwrap();
    }
    shutdown.cancel();
    for ended in flood.await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn callers_that_say_nothing_keep_nobody_waiting() {
    let room = Room { silent: 2, ..Room::default() };
    let pair = Pair::with("exit 0", |peers| peers.gate = Gate::new(room)).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(pair.address).await.unwrap());
    }
    let client = pair.client("m2", &pair.client_keys);
    let (machine, unit) = (machine("m1"), unit());
    let answer = tokio::time::timeout(Duration::from_secs(1), client.status(&machine, &unit)).await;
    answer.expect("it has to wait").unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(1), silent[0].read(&mut [0])).await;
    assert!(matches!(closed.expect("the longest-silent one is kept"), Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_stream_ends_when_the_registry_no_longer_names_the_machine() {
    let script = "echo hello\nexec sleep 1000";
    let pair = Pair::with(script, |peers| peers.holds = Duration::from_millis(50)).await;
    let client = pair.client("m2", &pair.client_keys);
    let options = JournalOptions { lines: None, follow: true, output: "cat".into() };
    let mut lines = client.journal(&machine("m1"), &unit(), &options).await.unwrap();
    assert_eq!(lines.next::<JournalLine>().await.unwrap().unwrap().text.as_deref(), Some("hello\n"));
    // A registry that does not answer takes nothing from who was recognised: four judgements and heartbeats go by.
    pair.store.set_all_links(Link::Refused);
    for _ in 0..2 {
        assert_eq!(lines.next::<JournalLine>().await.unwrap(), Some(JournalLine::default()));
    }
    pair.store.set_all_links(Link::Open);
    pair.withdraw("m2").await;
    let ended = async { while let Ok(Some(_)) = lines.next::<JournalLine>().await {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the stream goes on");
}

#[tokio::test]
async fn a_connection_is_for_one_question() {
    let pair = Pair::start().await;
    let mut stream = pair.connect(&pair.client_keys).await;
    super::greeting::introduce(&mut stream, &machine("m2")).await.unwrap();
    let question = "GET /peer/v1/units/a.service/status HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(question.repeat(2).as_bytes()).await.unwrap();
    let mut answers = String::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answers)).await;
    assert!(read.is_ok(), "the connection was kept");
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 1, "{answers}");
}

#[tokio::test]
async fn the_listener_ends_while_callers_say_nothing() {
    let mut pair = Pair::start().await;
    let _silent = pair.connect(&pair.client_keys).await;
    pair.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(1), &mut pair.running).await;
    ended.expect("it waits for a caller").unwrap();
}

#[tokio::test]
async fn a_caller_without_certificate_never_gets_past_the_handshake() {
    let pair = Pair::start().await;
    let mut config = super::pin::client_config(&pair.client_keys, pair.server_keys.fingerprint()).unwrap();
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let stream = TcpStream::connect(pair.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("fleet-peer").unwrap();
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    // In TLS 1.3 the client hears of it with the first thing that it reads.
    let heard = match connected {
        Ok(mut stream) => stream.read_u8().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(heard.is_err());
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}
