//! What a client needs for an `https` endpoint: whom it believes, and what it shows of itself.
//!
//! Made once by whoever makes the client, so that a file that cannot be used is told before the first request. A
//! server is verified unless it is said otherwise; what is wrong with one is told by
//! [`TlsProblem`](super::TlsProblem).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ByteStream;

/// The flags `--cert-file`, `--key-file`, `--ca-file`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// This client's certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The authority of the server's certificate, PEM. None: those of this system.
    pub ca: Option<PathBuf>,
    /// Whoever answers is taken for the server.
    pub is_unverified: bool,
}

/// Why no connection with TLS can be made, whatever the server.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}; correct {flag}", path.display())]
    Read { flag: &'static str, path: PathBuf, source: io::Error },
    #[error("{flag} names {}, which holds no {what} in PEM: {source}", path.display())]
    Pem { flag: &'static str, path: PathBuf, what: &'static str, source: pem::Error },
    #[error("{flag} names {}, whose certificate is none of an authority: {source}", path.display())]
    Authority { flag: &'static str, path: PathBuf, source: Error },
    #[error(
        "the certificate in {} and the key in {} cannot be used together: {source}; correct --cert-file or --key-file",
        certificate.display(), key.display()
    )]
    Identity { certificate: PathBuf, key: PathBuf, source: Error },
    #[error(
        "this system knows no certificate authority; give the one of the server with --ca-file, or install the \
         package ca-certificates{}", why(.errors)
    )]
    NoAuthorities { errors: Vec<String> },
    #[error("TLS cannot be set up")]
    Setup { source: Error },
}

fn why(errors: &[String]) -> String {
    errors.first().map_or_else(String::new, |error| format!(" ({error})"))
}

/// Makes connections with TLS. Clones share everything.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files of the options, or the authorities of this system.
    ///
    /// # Errors
    /// A file that cannot be read or makes no sense; a system without authorities where they are needed.
    pub fn new(options: &TlsOptions) -> Result<Tls, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Setup { source })?;
        let builder = if options.is_unverified {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked::new(&provider)))
        } else {
            builder.with_root_certificates(authorities(options.ca.as_deref())?)
        };
        let config = match &options.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let (chain, secret) = (certificates("--cert-file", certificate)?, private_key(key)?);
                builder.with_client_auth_cert(chain, secret).map_err(|source| TlsError::Identity {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    source,
                })?
            }
        };
        Ok(Tls(TlsConnector::from(Arc::new(config))))
    }

    /// Speaks TLS with the server called `host` over `stream`.
    pub(super) async fn connect<S: ByteStream>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>> {
        let name = server_name(host).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{host:?} is no name that a certificate can have"),
            )
        })?;
        self.0.connect(name, stream).await
    }
}

/// What the server's certificate has to name. The zone of a link-local address is this machine's own business.
pub(super) fn server_name(host: &str) -> Option<ServerName<'static>> {
    let without_zone = host.split('%').next().unwrap_or_default();
    let host = if without_zone.contains(':') { without_zone } else { host };
    ServerName::try_from(host.to_owned()).ok()
}

fn authorities(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = ca {
        const FLAG: &str = "--ca-file";
        for certificate in certificates(FLAG, path)? {
            let refused = |source| TlsError::Authority { flag: FLAG, path: path.to_owned(), source };
            store.add(certificate).map_err(refused)?;
        }
        return Ok(store);
    }
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = store.add_parsable_certificates(found.certs);
    if added == 0 {
        let errors = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoAuthorities { errors });
    }
    Ok(store)
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { flag, path: path.to_owned(), source })
}

/// At least one.
fn certificates(flag: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(flag, path)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let found =
        found.and_then(|found| if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) });
    found.map_err(|source| TlsError::Pem { flag, path: path.to_owned(), what: "certificate", source })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const FLAG: &str = "--key-file";
    const WHAT: &str = "private key without a passphrase";
    PrivateKeyDer::from_pem_slice(&read(FLAG, path)?).map_err(|source| TlsError::Pem {
        flag: FLAG,
        path: path.to_owned(),
        what: WHAT,
        source,
    })
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct Unchecked(WebPkiSupportedAlgorithms);

impl Unchecked {
    fn new(provider: &CryptoProvider) -> Unchecked {
        Unchecked(provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_called_by_its_name_or_address_without_a_zone() {
        let name = |host| server_name(host).map(|name| name.to_str().into_owned());
        assert_eq!(name("node1.example.org").as_deref(), Some("node1.example.org"));
        assert_eq!(name("10.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(name("fd00::1").as_deref(), Some("fd00::1"));
        assert_eq!(name("fe80::1%eth0").as_deref(), Some("fe80::1"));
        assert_eq!(name("no name"), None);
    }

    #[test]
    fn files_that_cannot_be_used_are_told_with_their_flag() {
        let missing = TlsOptions { ca: Some("/nonexistent/ca.pem".into()), ..TlsOptions::default() };
        let error = Tls::new(&missing).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot read /nonexistent/ca.pem: ") && error.ends_with("correct --ca-file"),
            "{error}"
        );
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let empty_ca = TlsOptions { ca: Some(empty.clone()), ..TlsOptions::default() };
        assert!(Tls::new(&empty_ca).unwrap_err().to_string().contains("holds no certificate in PEM"));
        let identity = Some((empty.clone(), empty));
        let error =
            Tls::new(&TlsOptions { identity, is_unverified: true, ca: None }).unwrap_err().to_string();
        assert!(error.starts_with("--cert-file names "), "{error}");
    }
}
