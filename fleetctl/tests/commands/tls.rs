//! An `https` endpoint: the flags, the environment, and what is said when one is wrong.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use crate::fake::{Answer, Fake, Output, finish};

/// In the fake's directory: `ca.pem`, and of a client `client.pem` and `client.key`. The answer is the port on which the
/// fake is reached over TLS, by clients with a certificate.
async fn secure(fake: &Fake) -> u16 {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let ca = authority.self_signed(&key).expect("an authority").pem();
    fake.file("ca.pem", &ca);
    let issuer = Issuer::new(authority, key);
    let sign = |name: &str, purpose| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![purpose];
        (params.signed_by(&key, &issuer).expect("a certificate").pem(), key.serialize_pem())
    };
    let (certificate, key) = sign("client.example", ExtendedKeyUsagePurpose::ClientAuth);
    fake.file("client.pem", &certificate);
    fake.file("client.key", &key);
    let acceptor = acceptor(&ca, &sign("localhost", ExtendedKeyUsagePurpose::ServerAuth));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let socket = fake.dir.path().join("fleet.sock");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, socket) = (acceptor.clone(), socket.clone());
            tokio::spawn(async move {
                match acceptor.accept(stream).into_fallible().await {
                    Ok(mut stream) => {
                        let mut plain = UnixStream::connect(&socket).await.expect("the fake listens");
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
                    }
                    // Read to the end, so that the alert reaches the client.
                    Err((_, mut stream)) => {
                        let _ = stream.shutdown().await;
                        let _ = stream.read_to_end(&mut Vec::new()).await;
                    }
                }
            });
        }
    });
    port
}

fn acceptor(ca: &str, (certificate, key): &(String, String)) -> TlsAcceptor {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(der(ca)).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(vec![der(certificate)], key)
        .expect("a certificate with its key");
    TlsAcceptor::from(Arc::new(config))
}

/// `fleetctl list-machines` at this endpoint.
async fn list(fake: &Fake, endpoint: &str, flags: &[&str], variables: &[(&str, &Path)]) -> Output {
    let mut command = fake.command(&[&["--endpoint", endpoint, "list-machines"], flags].concat());
    command.envs(variables.iter().copied());
    finish(command).await
}

fn fake() -> Fake {
    let machines = json!({"machines": [{"id": "m1", "present": true}]});
    Fake::new().on("GET /fleet/v2/machines", Answer::ok(machines))
}

const FLAGS: [&str; 6] = ["--ca-file", "ca.pem", "--cert-file", "client.pem", "--key-file", "client.key"];

#[tokio::test]
async fn a_server_over_tls_is_asked_with_the_three_flags_or_their_variables() {
    let fake = fake();
    let endpoint = format!("https://localhost:{}", secure(&fake).await);
    let output = list(&fake, &endpoint, &FLAGS, &[]).await;
    assert!(output.code == Some(0) && output.out.contains("m1"), "{output:?}");
    let dir = fake.dir.path();
    let (ca, certificate, key) = (dir.join("ca.pem"), dir.join("client.pem"), dir.join("client.key"));
    let variables: [(&str, &Path); 3] =
        [("FLEETCTL_CA_FILE", &ca), ("FLEETCTL_CERT_FILE", &certificate), ("FLEETCTL_KEY_FILE", &key)];
    let by_variables = list(&fake, &endpoint, &[], &variables).await;
    assert_eq!(by_variables, output);
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said_with_the_next_step() {
    let fake = fake();
    let port = secure(&fake).await;
    let endpoint = format!("https://localhost:{port}");
    for (endpoint, flags, words) in [
        (&endpoint, &FLAGS[..2], "it answers only clients with a certificate; give one with --cert-file"),
        (&endpoint, &FLAGS[..4], "--cert-file needs --key-file beside it"),
        (&format!("https://127.0.0.1:{port}"), &FLAGS, "is not for this name, but for localhost; use a name"),
        (&format!("http://localhost:{port}"), &FLAGS, "if TLS is spoken there, write https://"),
        (&endpoint, &["--ca-file", "client.key"], "holds no certificate in PEM"),
        (&endpoint, &["--ca-file", "none.pem"], "cannot read none.pem: "),
    ] {
        let output = list(&fake, endpoint, flags, &[]).await;
        let code = if words.contains("beside it") { 2 } else { 1 };
        assert!(output.code == Some(code) && output.err.contains(words), "{words}: {output:?}");
    }
    assert_eq!(fake.seen("GET /fleet/v2/machines").len(), 0);
}

#[tokio::test]
async fn a_server_is_not_believed_without_its_authority_unless_it_is_said_so() {
    let fake = fake();
    let endpoint = format!("https://localhost:{}", secure(&fake).await);
    // An authority of this system, so that there is one.
    let other = Fake::new();
    secure(&other).await;
    let system = other.dir.path().join("ca.pem");
    let system: [(&str, &Path); 1] = [("SSL_CERT_FILE", &system)];
    let output = list(&fake, &endpoint, &FLAGS[2..], &system).await;
    assert!(
        output.code == Some(1) && output.err.contains("give the certificate of its authority"),
        "{output:?}"
    );
    let flags = [&FLAGS[2..], &["--insecure-skip-tls-verify"]].concat();
    let output = list(&fake, &endpoint, &flags, &system).await;
    assert!(output.code == Some(0) && output.err.contains("is taken for the server"), "{output:?}");
}
