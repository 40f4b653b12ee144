//! TCP with TLS: who is let in, under which name, and with which certificates.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::client::{Client, ClientError, Endpoint, Timeouts, Tls, TlsOptions, TlsProblem};
use fleet_api::v2::{Action, ChangeReport, ChangeRequest, Event, EventList, Verb};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::listen::ListenError;
use super::super::passed::{Passed, Socket};
use super::super::tls::{CertificateError, Tls as ServerTls};
use super::super::{Options, Service};
use super::bounds::with_tcp;
use super::server::{runs_here, script};
use super::{Lab, Limits, TEXT};
use crate::config::{Listen, ListenTls};

const DEADLINE: Duration = Duration::from_secs(10);

/// An authority with a directory for what it signs.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    pub dir: tempfile::TempDir,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let authority =
            Authority { issuer: Issuer::new(params, key), pem, dir: tempfile::tempdir().unwrap() };
        authority.file("ca.pem", &authority.pem);
        authority
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn sign(&self, common: &str, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Files of a server; with `asks`, for clients of this authority only.
    pub fn server(&self, asks: bool) -> ListenTls {
        let (certificate, key) = self.sign("server", ExtendedKeyUsagePurpose::ServerAuth);
        ListenTls {
            certfile: self.file("server.pem", &certificate),
            keyfile: self.file("server.key", &key),
            cafile: asks.then(|| self.dir.path().join("ca.pem")),
        }
    }

    /// Of a client that believes servers of this authority, and shows a certificate of this name if there is one.
    pub fn client(&self, name: Option<&str>) -> TlsOptions {
        let identity = name.map(|name| {
            let (certificate, key) = self.sign(name, ExtendedKeyUsagePurpose::ClientAuth);
            (self.file("client.pem", &certificate), self.file("client.key", &key))
        });
        TlsOptions { identity, ca: Some(self.dir.path().join("ca.pem")), is_unverified: false }
    }
}

fn over_tls(lab: &Lab, options: &TlsOptions) -> Client {
    let endpoint = Endpoint::parse(&format!("https://localhost:{}", lab.tcp[0].port())).unwrap();
    Client::secured(endpoint, Some(Tls::new(options).unwrap()), Timeouts::default())
}

async fn lab(limits: Limits, tls: ListenTls) -> Lab {
    let change = |options: &mut Options| {
        with_tcp(options);
        options.tls = Some(tls);
    };
    Lab::with(limits, change).await
}

/// Whether it is answered; else what is wrong.
async fn ask(lab: &Lab, options: &TlsOptions) -> Result<(), TlsProblem> {
    match over_tls(lab, options).get_bytes("/healthz").await {
        Ok(_) => Ok(()),
        Err(ClientError::Tls { problem, .. }) => Err(problem),
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn only_clients_with_a_certificate_of_the_authority_are_let_in() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let lab = lab(Limits::default(), authority.server(true)).await;
    assert_eq!(ask(&lab, &authority.client(Some("alice"))).await, Ok(()));
    assert_eq!(ask(&lab, &authority.client(None)).await, Err(TlsProblem::ClientCertificateMissing));
    let stranger = TlsOptions { ca: authority.client(None).ca, ..other.client(Some("mallory")) };
    let problem = ask(&lab, &stranger).await;
    assert!(matches!(problem, Err(TlsProblem::ClientCertificateRefused(_))), "{problem:?}");
    // A certificate of a server is none of a client.
    let server = TlsOptions {
        identity: Some((authority.dir.path().join("server.pem"), authority.dir.path().join("server.key"))),
        ..authority.client(None)
    };
    let problem = ask(&lab, &server).await;
    assert!(matches!(problem, Err(TlsProblem::ClientCertificateRefused(_))), "{problem:?}");
    assert_eq!(lab.get("/healthz").await.code(), 200);
}

#[tokio::test]
async fn the_event_log_names_the_certificate_and_behind_it_what_the_client_says() {
    let authority = Authority::new("ours");
    let lab = lab(Limits::default(), authority.server(true)).await;
    let client = over_tls(&lab, &authority.client(Some("alice")));
    let submit = |id: &str, by: Option<&str>, unit: &str| ChangeRequest {
        request_id: id.into(),
        by: by.map(str::to_owned),
        actions: vec![Action { text: Some(TEXT.into()), ..Action::new(unit, Verb::Submit) }],
        ..ChangeRequest::default()
    };
    for request in [submit("r1", Some("root@laptop"), "a.service"), submit("r2", None, "b.service")] {
        let report: ChangeReport = client.post(fleet_api::paths::REQUESTS, &request).await.unwrap();
        assert!(report.results[0].error.is_none(), "{report:?}");
    }
    lab.one("r3", Verb::Submit, "c.service", Some(TEXT)).await;
    let events: EventList = client.get(fleet_api::paths::EVENTS).await.unwrap();
    let by = |unit: &str| {
        let is_about = |event: &&Event| event.notes.iter().any(|note| note.unit.as_deref() == Some(unit));
        events.events.iter().find(is_about).map(|event| event.by.clone())
    };
    assert_eq!(by("a.service").as_deref(), Some("alice (root@laptop)"));
    assert_eq!(by("b.service").as_deref(), Some("alice"));
    assert_eq!(by("c.service").as_deref(), Some("me"));
    assert_eq!(lab.record("a.service").await.changed.by, "alice (root@laptop)");
}

#[tokio::test]
async fn pages_of_others_are_kept_out_only_where_no_certificate_keeps_them_out() {
    let authority = Authority::new("ours");
    let strange = [("host", "rebound.example.org"), ("origin", "https://example.org")];
    let own = [("host", "localhost:1"), ("origin", "https://localhost:1")];
    for (asks, headers, code) in [(true, strange, 200), (false, strange, 403), (false, own, 200)] {
        let lab = lab(Limits::default(), authority.server(asks)).await;
        let stream = handshake(&lab, &authority.client(Some("alice"))).await;
        let reply = super::exchange(stream, http::Method::GET, "/fleet/v2/units", &headers, "").await;
        assert_eq!(reply.code(), code, "{}", reply.body);
    }
}

/// A connection on which nothing has been asked yet.
pub(super) async fn handshake(lab: &Lab, options: &TlsOptions) -> tokio_rustls::client::TlsStream<TcpStream> {
    shake(&connector(options), TcpStream::connect(lab.tcp[0]).await.unwrap()).await
}

pub(super) async fn shake(
    connector: &tokio_rustls::TlsConnector,
    stream: TcpStream,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    // What it asks follows at once, and must not wait for an acknowledgement.
    stream.set_nodelay(true).unwrap();
    connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

pub(super) fn connector(options: &TlsOptions) -> tokio_rustls::TlsConnector {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(options.ca.as_ref().unwrap()).unwrap()).unwrap();
    let (certificate, key) = options.identity.as_ref().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(certificate).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap();
    Arc::new(config).into()
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let (authority, renewed) = (Authority::new("ours"), Authority::new("renewed"));
    let files = authority.server(false);
    let lab = lab(Limits::default(), files.clone()).await;
    assert_eq!(ask(&lab, &authority.client(None)).await, Ok(()));
    let new = renewed.server(false);
    std::fs::rename(new.certfile, &files.certfile).unwrap();
    std::fs::rename(new.keyfile, &files.keyfile).unwrap();
    let used = async {
        while ask(&lab, &renewed.client(None)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, used).await.expect("the new certificate is used");
}

#[tokio::test(start_paused = true)]
async fn files_are_looked_at_once_a_second_and_broken_ones_change_nothing() {
    let authority = Authority::new("ours");
    let files = authority.server(true);
    let tls = ServerTls::open(files.clone()).unwrap();
    let first = tls.config();
    let is_first = |tls: &ServerTls| Arc::ptr_eq(&first, &tls.config());
    // Half of a renewal: the key is still the old one.
    let (certificate, key) = authority.sign("server", ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::write(&files.certfile, certificate).unwrap();
    let later = || tokio::time::advance(Duration::from_millis(1001));
    later().await;
    assert!(is_first(&tls));
    std::fs::write(&files.keyfile, key).unwrap();
    assert!(is_first(&tls), "looked at too early");
    later().await;
    let second = tls.config();
    assert!(!Arc::ptr_eq(&first, &second));
    for path in [&files.certfile, &files.keyfile, files.cafile.as_ref().unwrap()] {
        let kept = std::fs::read(path).unwrap();
        std::fs::write(path, "nothing of use").unwrap();
        later().await;
        assert!(Arc::ptr_eq(&second, &tls.config()), "{}", path.display());
        std::fs::remove_file(path).unwrap();
        later().await;
        assert!(Arc::ptr_eq(&second, &tls.config()), "{}", path.display());
        std::fs::write(path, kept).unwrap();
    }
    later().await;
    assert!(!Arc::ptr_eq(&second, &tls.config()));
}

#[tokio::test]
async fn a_handshake_that_takes_its_time_holds_up_nobody_and_is_ended() {
    let authority = Authority::new("ours");
    let limits = Limits { handshake: Duration::from_millis(500), ..Limits::default() };
    let lab = lab(limits, authority.server(true)).await;
    let mut mute = TcpStream::connect(lab.tcp[0]).await.unwrap();
    assert_eq!(ask(&lab, &authority.client(Some("alice"))).await, Ok(()));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, mute.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection was kept");
}

#[tokio::test]
async fn strangers_take_no_connection_and_whoever_opens_most_makes_room() {
    let authority = Authority::new("ours");
    let limits =
        Limits { connections: 1, handshakes: 4, handshake: Duration::from_secs(600), ..Limits::default() };
    let lab = lab(limits, authority.server(true)).await;
    let mut mute = Vec::new();
    for _ in 0..40 {
        mute.push(TcpStream::connect(lab.tcp[0]).await.unwrap());
    }
    let client = authority.client(Some("alice"));
    for _ in 0..3 {
        let asked = tokio::time::timeout(DEADLINE, ask(&lab, &client)).await;
        assert_eq!(asked.expect("strangers keep it waiting"), Ok(()));
    }
    let ended = tokio::time::timeout(DEADLINE, mute[0].read(&mut [0])).await;
    assert!(matches!(ended.expect("the longest-silent one is kept"), Ok(0) | Err(_)));
}

#[tokio::test]
async fn who_has_shown_a_certificate_waits_for_a_connection() {
    let authority = Authority::new("ours");
    let lab = lab(Limits { connections: 1, ..Limits::default() }, authority.server(true)).await;
    let client = authority.client(Some("alice"));
    let mut held = handshake(&lab, &client).await;
    held.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    held.read_exact(&mut [0]).await.unwrap();
    // The unix socket has its own.
    let waiting = ask(&lab, &client);
    tokio::pin!(waiting);
    let early = tokio::select! {
        _ = &mut waiting => true,
        reply = lab.get("/healthz") => { assert_eq!(reply.code(), 200); false }
    };
    assert!(!early);
    drop(held);
    let asked = tokio::time::timeout(DEADLINE, waiting).await;
    assert_eq!(asked.expect("the connection has become free"), Ok(()));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_over_tls_too() {
    let authority = Authority::new("ours");
    let limits = Limits { connections: 1, stall: Duration::from_millis(100), ..Limits::default() };
    let change = |options: &mut Options| {
        with_tcp(options);
        options.tls = Some(authority.server(true));
        options.tools.journalctl = script(authority.dir.path(), "journalctl", "exec yes");
    };
    let lab = Lab::with(limits, change).await;
    runs_here(&lab);
    let client = authority.client(Some("alice"));
    let mut slow = handshake(&lab, &client).await;
    let journal = b"GET /fleet/v2/units/a.service/journal?follow=true HTTP/1.1\r\nhost: x\r\n\r\n";
    slow.write_all(journal).await.unwrap();
    // There is one connection, so that it is answered after the slow one has ended.
    let next = async {
        let connection = handshake(&lab, &client).await;
        super::exchange(connection, http::Method::GET, "/healthz", &[], "").await
    };
    let next = tokio::time::timeout(DEADLINE, next).await.expect("the connection was kept");
    assert_eq!(next.code(), 200);
}

async fn refused(change: impl FnOnce(&mut Options)) -> ListenError {
    let mut options = None;
    let lab = Lab::with(Limits::default(), |own| {
        options = Some(Options {
            listen: vec![Listen::Tcp(([127, 0, 0, 1], 0).into())],
            passed: Vec::new(),
            registry: own.registry.clone(),
            machine: own.machine.clone(),
            hostname: own.hostname.clone(),
            version: own.version.clone(),
            features: own.features.clone(),
            clock: own.clock.clone(),
            tls: None,
            session: own.session.clone(),
            agent: own.agent.clone(),
            engine: own.engine.clone(),
            tools: own.tools.clone(),
            joiner: None,
            peers: None,
            limits: own.limits,
            token_limit: own.token_limit,
            shutdown: own.shutdown.clone(),
        });
    })
    .await;
    let mut options = options.unwrap();
    change(&mut options);
    let error = Service::bind(options).await.unwrap_err();
    drop(lab);
    error
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_at_the_start() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let any = Listen::Tcp(([0, 0, 0, 0], 0).into());
    let error = refused(|options| {
        options.listen.push(any.clone());
        options.tls = Some(authority.server(false));
    })
    .await;
    assert!(error.to_string().contains("listen_cafile"), "{error}");
    let socket = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let passed = Passed { socket: Socket::Tcp(socket), name: "fleetd.socket".into() };
    let error = refused(|options| options.passed.push(passed)).await;
    assert!(matches!(error, ListenError::NotLoopback { .. }), "{error}");

    let mixed = ListenTls { keyfile: other.server(false).keyfile, ..authority.server(false) };
    let error = refused(|options| options.tls = Some(mixed)).await;
    assert!(matches!(error, ListenError::Certificate(CertificateError::Pair { .. })), "{error:?}");
    let missing = ListenTls { keyfile: "/nonexistent.key".into(), ..authority.server(false) };
    let error = refused(|options| options.tls = Some(missing)).await.to_string();
    assert!(error.starts_with("cannot read /nonexistent.key; correct listen_keyfile"), "{error}");
    let swapped = authority.server(false);
    let swapped = ListenTls { cafile: Some(swapped.keyfile.clone()), ..swapped };
    let error = refused(|options| options.tls = Some(swapped)).await.to_string();
    assert!(error.ends_with("holds no certificate in PEM; correct listen_cafile"), "{error}");
}

#[tokio::test]
async fn a_passed_socket_that_every_user_may_open_is_refused() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("passed.sock");
    let of_a_file = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let name = format!("fleet-test-{}", std::process::id());
    let of_no_file = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for (socket, place) in
        [(of_a_file, format!("({}, mode 0666)", path.display())), (of_no_file, format!("(@{name}, in"))]
    {
        let passed = Passed { socket: Socket::Unix(socket), name: "fleetd.socket".into() };
        let error = refused(|options| options.passed.push(passed)).await;
        assert!(matches!(error, ListenError::OpenToAll { .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains(&place) && error.contains("SocketMode=0660"), "{error}");
    }
}

#[tokio::test]
async fn what_listen_names_is_not_bound_beside_a_passed_socket_for_all_addresses() {
    let authority = Authority::new("ours");
    let Ok(everywhere) = std::net::TcpListener::bind("[::]:0") else {
        // A machine without IPv6 has no such socket.
        return;
    };
    everywhere.set_nonblocking(true).unwrap();
    let address = everywhere.local_addr().unwrap();
    let lab = Lab::with(Limits::default(), |options| {
        options.tls = Some(authority.server(true));
        options.passed.push(Passed { socket: Socket::Tcp(everywhere), name: "fleetd.socket".into() });
        options.listen.push(Listen::Tcp(([0, 0, 0, 0], address.port()).into()));
    })
    .await;
    assert_eq!(lab.tcp, [address]);
    assert_eq!(ask(&lab, &authority.client(Some("alice"))).await, Ok(()));
}

#[tokio::test]
async fn a_passed_socket_is_served_and_neither_bound_again_nor_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("passed.sock");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    let address = tcp.local_addr().unwrap();
    let inode = || std::fs::metadata(&path).unwrap().ino();
    let before = inode();
    let lab = Lab::with(Limits::default(), |options| {
        for socket in [Socket::Unix(socket), Socket::Tcp(tcp)] {
            options.passed.push(Passed { socket, name: "fleetd.socket".into() });
        }
        // The same by another name.
        let other = directory.path().join(".").join("passed.sock");
        options.listen.extend([Listen::Unix(other), Listen::Unix(path.clone()), Listen::Tcp(address)]);
    })
    .await;
    assert_eq!(lab.tcp, [address]);
    let reply = super::send(&path, http::Method::GET, "/healthz", &[], "").await;
    assert_eq!(reply.code(), 200);
    assert_eq!(lab.send_tcp(http::Method::GET, "/healthz", &[("host", "localhost")], "").await.code(), 200);
    assert_eq!(lab.get("/healthz").await.code(), 200);
    drop(lab);
    assert_eq!(inode(), before);
}
