//! The client against servers with TLS: whom it believes, and what it says when something is wrong.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what every test here is made of fails only if the test is wrong"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::client::{Client, ClientError, Endpoint, Timeouts, Tls, TlsOptions, TlsProblem};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An authority, and what it has signed.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    key: String,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Authority {
        Authority::called("authority of the test")
    }

    fn called(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let secret = key.serialize_pem();
        let issuer = Issuer::new(params, key);
        Authority { issuer, pem, key: secret, dir: tempfile::tempdir().unwrap() }
    }

    /// Certificate and key, both PEM.
    fn sign(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn options(&self) -> TlsOptions {
        TlsOptions { ca: Some(self.file("ca.pem", &self.pem)), ..TlsOptions::default() }
    }

    /// What a client shows.
    fn identity(&self, change: impl FnOnce(&mut CertificateParams)) -> Option<(PathBuf, PathBuf)> {
        let (certificate, key) = self.sign(&[], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        });
        Some((self.file("client.pem", &certificate), self.file("client.key", &key)))
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }
}

/// A server on loopback that answers every request with `ok`; clients need a certificate of `clients`, if there is one.
async fn serve((certificate, key): (String, String), clients: Option<&Authority>, at: &str) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(clients.roots(), provider).build().unwrap(),
        ),
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind((at, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor.accept(stream).into_fallible().await {
                    Ok(stream) => answer(stream).await,
                    Err((_, mut stream)) => {
                        // Unread bytes would turn the end into a reset, which takes the alert away from the client.
                        let _ = stream.shutdown().await;
                        let _ = stream.read_to_end(&mut Vec::new()).await;
                    }
                }
            });
        }
    });
    address
}

async fn answer<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut stream: S) {
    let mut buffer = [0u8; 4096];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 || stream.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

fn client(host: &str, address: SocketAddr, options: &TlsOptions) -> Client {
    let endpoint = Endpoint::parse(&format!("https://{host}:{}", address.port())).unwrap();
    Client::secured(endpoint, Some(Tls::new(options).unwrap()), Timeouts::default())
}

async fn ask(host: &str, address: SocketAddr, options: &TlsOptions) -> Result<(), TlsProblem> {
    match client(host, address, options).get_bytes("/a").await {
        Ok(bytes) => {
            assert_eq!(bytes, "ok");
            Ok(())
        }
        Err(error) => {
            assert!(error.is_unreachable() && !error.is_interrupted(), "{error:?}");
            let ClientError::Tls { problem, .. } = error else { panic!("{error:?}") };
            Err(problem)
        }
    }
}

#[tokio::test]
async fn a_server_is_believed_by_name_and_by_address_if_the_authority_signed_it() {
    let authority = Authority::new();
    let options = authority.options();
    let server = || authority.sign(&["localhost", "127.0.0.1", "::1"], |_| {});
    let over_4 = serve(server(), None, "127.0.0.1").await;
    assert_eq!(ask("localhost", over_4, &options).await, Ok(()));
    assert_eq!(ask("127.0.0.1", over_4, &options).await, Ok(()));
    let over_6 = serve(server(), None, "::1").await;
    assert_eq!(ask("[::1]", over_6, &options).await, Ok(()));
}

#[tokio::test]
async fn nobody_else_is_believed_unless_it_is_said_so() {
    let (authority, other) = (Authority::new(), Authority::called("another"));
    let address = serve(other.sign(&["localhost"], |_| {}), None, "127.0.0.1").await;
    assert_eq!(ask("localhost", address, &authority.options()).await, Err(TlsProblem::UntrustedServer));
    let namesake = serve(Authority::new().sign(&["localhost"], |_| {}), None, "127.0.0.1").await;
    assert_eq!(ask("localhost", namesake, &authority.options()).await, Err(TlsProblem::UntrustedServer));
    let unverified = TlsOptions { is_unverified: true, ..TlsOptions::default() };
    assert_eq!(ask("localhost", address, &unverified).await, Ok(()));
    // An authority that shows itself.
    let address = serve((authority.pem.clone(), authority.key.clone()), None, "127.0.0.1").await;
    assert_eq!(ask("localhost", address, &authority.options()).await, Err(TlsProblem::ServerShowsAuthority));
}

#[tokio::test]
async fn a_certificate_for_another_name_or_another_time_is_told_as_such() {
    let authority = Authority::new();
    let options = authority.options();
    let elsewhere = serve(authority.sign(&["node1.example", "10.0.0.1"], |_| {}), None, "127.0.0.1").await;
    let names = vec!["node1.example".to_owned(), "10.0.0.1".to_owned()];
    assert_eq!(ask("localhost", elsewhere, &options).await, Err(TlsProblem::WrongName { names }));
    let nameless = serve(authority.sign(&[], |_| {}), None, "127.0.0.1").await;
    let names = Vec::new();
    assert_eq!(ask("localhost", nameless, &options).await, Err(TlsProblem::WrongName { names }));

    let old = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let expired = serve(authority.sign(&["localhost"], old), None, "127.0.0.1").await;
    let problem = ask("localhost", expired, &options).await.unwrap_err();
    assert!(matches!(problem, TlsProblem::ServerExpired { seconds_ago: Some(_) }), "{problem:?}");
    let new = |params: &mut CertificateParams| params.not_before = date_time_ymd(3000, 1, 1);
    let future = serve(authority.sign(&["localhost"], new), None, "127.0.0.1").await;
    assert_eq!(ask("localhost", future, &options).await, Err(TlsProblem::ServerNotValidYet));
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_says_whether_it_misses_one_or_refuses_it() {
    let (authority, other) = (Authority::new(), Authority::called("another"));
    let server = authority.sign(&["localhost"], |_| {});
    let address = serve(server, Some(&authority), "127.0.0.1").await;
    let bare = authority.options();
    assert_eq!(ask("localhost", address, &bare).await, Err(TlsProblem::ClientCertificateMissing));
    let own = TlsOptions { identity: authority.identity(|_| {}), ..bare.clone() };
    assert_eq!(ask("localhost", address, &own).await, Ok(()));
    let foreign = TlsOptions { identity: other.identity(|_| {}), ..bare.clone() };
    let why = "its authority is not known there";
    assert_eq!(ask("localhost", address, &foreign).await, Err(TlsProblem::ClientCertificateRefused(why)));
    let remade = Authority::new();
    let namesake = TlsOptions { identity: remade.identity(|_| {}), ..bare.clone() };
    let why = "it is not signed by the key of the authority that is known there";
    assert_eq!(ask("localhost", address, &namesake).await, Err(TlsProblem::ClientCertificateRefused(why)));
    let old = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let expired = TlsOptions { identity: authority.identity(old), ..bare };
    let why = "it has expired";
    assert_eq!(ask("localhost", address, &expired).await, Err(TlsProblem::ClientCertificateRefused(why)));
}

#[tokio::test]
async fn the_wrong_scheme_is_told_with_the_right_one() {
    let authority = Authority::new();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    assert_eq!(ask("localhost", address, &authority.options()).await, Err(TlsProblem::NoTls));

    let address = serve(authority.sign(&["localhost"], |_| {}), None, "127.0.0.1").await;
    let endpoint = Endpoint::parse(&format!("http://localhost:{}", address.port())).unwrap();
    let error = Client::new(endpoint, Timeouts::default()).get_bytes("/a").await.unwrap_err();
    assert!(error.to_string().ends_with("write https:// in --endpoint"), "{error}");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_bounded_like_a_connection() {
    let authority = Authority::new();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap();
    let endpoint = Endpoint::parse(&format!("https://localhost:{}", address.port())).unwrap();
    let timeouts = Timeouts { connect: Duration::from_millis(100), ..Timeouts::default() };
    let client = Client::secured(endpoint, Some(Tls::new(&authority.options()).unwrap()), timeouts);
    let error = client.get_bytes("/a").await.unwrap_err();
    assert!(matches!(error, ClientError::ConnectTimeout { .. }), "{error}");
}

#[tokio::test]
async fn tls_is_spoken_inside_a_stream_of_the_callers_and_the_name_is_the_endpoints() {
    let authority = Authority::new();
    let address = serve(authority.sign(&["node1.example"], |_| {}), None, "127.0.0.1").await;
    let endpoint = Endpoint::parse("https://node1.example:49153").unwrap();
    let tls = Tls::new(&authority.options()).unwrap();
    let dial = move || TcpStream::connect(address);
    let client = Client::through("a tunnel", endpoint, Some(tls), dial, Timeouts::default());
    assert_eq!(client.get_bytes("/a").await.unwrap(), "ok");
}
