//! TLS of the API's TCP listeners: certificates from files, read again when they change.
//!
//! Used by `server`: each new connection gets the certificates as they are then, so that a renewed one needs neither a
//! restart nor a signal. Files that cannot be used keep the last ones that could. With an authority for clients, who
//! has no certificate of it is refused in the handshake. Sessions are never resumed, so that every connection is judged.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::caller;
use crate::config::ListenTls;

/// Between two looks at the files, and two log lines about clients that were refused.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_secs(60);
/// For a refused client to read why. Ended at once, the connection would be reset over what the client has sent, and the
/// reason lost.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: u64 = 64 << 10;

/// Why the files that `listen_certfile` and its like name cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {}; correct {key}, or let fleetd read the file", path.display())]
    Read { key: &'static str, path: PathBuf, source: io::Error },
    #[error("{} holds no {what} in PEM; correct {key}", path.display())]
    Pem { key: &'static str, path: PathBuf, what: &'static str, source: pem::Error },
    #[error(
        "the certificate in {} and the key in {} cannot be used together; correct listen_certfile or listen_keyfile",
        certificate.display(), key.display()
    )]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("a certificate in {} is none of an authority; correct listen_cafile", path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("the authorities in {} cannot be used; correct listen_cafile", path.display())]
    Clients { path: PathBuf, source: VerifierBuilderError },
    #[error("TLS cannot be set up")]
    Setup { source: rustls::Error },
}

/// The certificates of all TCP listeners.
#[derive(Debug)]
pub(super) struct Tls {
    files: ListenTls,
    current: Mutex<Current>,
    refusals: Mutex<Refusals>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// Of the files when they were read last, whether or not they could be used.
    stamp: Stamp,
    looked: Instant,
}

#[derive(Debug, Default)]
struct Refusals {
    told: Option<Instant>,
    untold: u64,
}

/// Changes when a file is replaced, written, or may be read by others than before.
type Stamp = [Option<(u64, u64, i64, i64, u64)>; 3];

/// A client that has shaken hands.
#[derive(Debug)]
pub(super) struct Welcome {
    pub stream: TlsStream<TcpStream>,
    /// Whom its certificate names, where one was asked for.
    pub name: Option<String>,
}

impl Tls {
    /// # Errors
    /// A file that cannot be read or makes no sense.
    pub fn open(files: ListenTls) -> Result<Tls, CertificateError> {
        // Before reading, so that what changes meanwhile is seen at the next look.
        let stamp = stamp(&files);
        let config = Arc::new(server_config(&files)?);
        let current = Mutex::new(Current { config, stamp, looked: Instant::now() });
        Ok(Tls { files, current, refusals: Mutex::default() })
    }

    /// Whether every client has shown a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.files.cafile.is_some()
    }

    /// Shakes hands within `within`. `None`: refused, told, and ended.
    pub async fn accept(&self, stream: TcpStream, from: SocketAddr, within: Duration) -> Option<Welcome> {
        let acceptor = TlsAcceptor::from(self.config());
        match tokio::time::timeout(within, acceptor.accept(stream).into_fallible()).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let name = shown.map(caller::name_of);
                Some(Welcome { stream, name })
            }
            Ok(Err((error, stream))) => {
                self.refused(from, &error);
                // Whether or not it is read makes no difference here.
                let _ = tokio::time::timeout(FAREWELL, farewell(stream)).await;
                None
            }
            Err(_) => {
                self.refused(from, &format!("no handshake within {within:?}"));
                None
            }
        }
    }

    /// As the files are now, or were when they could be used.
    pub fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().expect("nothing panics while it holds the certificates");
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            let stamp = stamp(&self.files);
            if stamp != current.stamp {
                current.stamp = stamp;
                match server_config(&self.files) {
                    Ok(config) => {
                        current.config = Arc::new(config);
                        tracing::info!("the certificates of the API were read again");
                    }
                    Err(error) => {
                        let why = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::warn!(%error, why, "the API keeps the certificates that it had");
                    }
                }
            }
        }
        Arc::clone(&current.config)
    }

    /// Anybody can have this said, so that it is said rarely.
    pub fn refused(&self, from: SocketAddr, why: &dyn std::fmt::Display) {
        let mut refusals = self.refusals.lock().expect("nothing panics while it holds the count");
        if refusals.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            refusals.untold += 1;
            tracing::debug!(%why, %from, "a client was refused");
            return;
        }
        refusals.told = Some(Instant::now());
        let others = std::mem::take(&mut refusals.untold);
        tracing::warn!(%why, %from, others, "a client of the API was refused");
    }
}

async fn farewell(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(FAREWELL_BYTES), &mut tokio::io::sink()).await?;
    Ok(())
}

fn stamp(files: &ListenTls) -> Stamp {
    let of = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.size()))
    };
    [of(&files.certfile), of(&files.keyfile), files.cafile.as_deref().and_then(of)]
}

fn server_config(files: &ListenTls) -> Result<ServerConfig, CertificateError> {
    let chain = certificates("listen_certfile", &files.certfile)?;
    let key = private_key(&files.keyfile)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| CertificateError::Setup { source })?;
    let builder = match &files.cafile {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("listen_cafile", path)? {
                let refused = |source| CertificateError::Authority { path: path.clone(), source };
                roots.add(certificate).map_err(refused)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let refused = |source| CertificateError::Clients { path: path.clone(), source };
            builder.with_client_cert_verifier(verifier.map_err(refused)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|source| CertificateError::Pair {
        certificate: files.certfile.clone(),
        key: files.keyfile.clone(),
        source,
    })?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Read { key, path: path.to_owned(), source })
}

/// At least one.
fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = read(key, path)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let found =
        found.and_then(|found| if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) });
    let what = "certificate";
    found.map_err(|source| CertificateError::Pem { key, path: path.to_owned(), what, source })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let key = "listen_keyfile";
    let what = "private key without a passphrase";
    PrivateKeyDer::from_pem_slice(&read(key, path)?).map_err(|source| CertificateError::Pem {
        key,
        path: path.to_owned(),
        what,
        source,
    })
}
