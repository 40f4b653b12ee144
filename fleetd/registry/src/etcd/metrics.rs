//! What a member says only in `/metrics`: its quota, and up to where its history is forgotten.
//!
//! Called for the health of the store, on an operator's request. etcd serves the page on its client port without asking
//! for a user, unless `--listen-metrics-urls` moves it.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::credentials::{Credentials, Pems};
use super::options::EtcdTls;
use super::place::Place;
use crate::store::Revision;

/// etcd's page has 150 to 200 KB.
const PAGE_BYTES: usize = 4 << 20;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub quota: Option<u64>,
    pub compacted: Option<Revision>,
}

pub(super) struct Metrics {
    tls: Option<Credentials>,
}

impl Metrics {
    pub fn new(tls: Option<&EtcdTls>) -> Self {
        Self { tls: tls.cloned().map(Credentials::new) }
    }

    /// # Errors
    /// When there is no such page; what is missing on it is no error.
    pub async fn read(&self, place: &Place) -> Result<Numbers, Error> {
        let stream = TcpStream::connect(place.next_address().await?).await?;
        if !place.is_tls() {
            return get(stream, place.host()).await;
        }
        let name = ServerName::try_from(place.host().to_owned())?;
        let stream = TlsConnector::from(self.client_config().await?).connect(name, stream).await?;
        get(stream, place.host()).await
    }

    async fn client_config(&self) -> Result<Arc<ClientConfig>, Error> {
        let tls = match &self.tls {
            Some(tls) => tls.read().await?,
            None => Pems::default(),
        };
        let mut roots = RootCertStore::empty();
        match &tls.ca {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    roots.add(certificate?)?;
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match &tls.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
            }
        };
        Ok(Arc::new(config))
    }
}

async fn get<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    host: &str,
) -> Result<Numbers, Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get("/metrics").header(http::header::HOST, host);
    let asked = async {
        let reply = sender.send_request(request.body(Empty::<bytes::Bytes>::new())?).await?;
        let page = Limited::new(reply.into_body(), PAGE_BYTES).collect().await?.to_bytes();
        Ok(parse(&String::from_utf8_lossy(&page)))
    };
    // The connection has to be driven while the answer is read, and ends with it.
    tokio::select! {
        biased;
        numbers = asked => numbers,
        ended = connection => Err(ended.err().map_or_else(|| "it ended early".into(), Error::from)),
    }
}

fn parse(page: &str) -> Numbers {
    let number = |name: &str| {
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        // Written as floating point; all integers of a size and a revision are exact in it.
        let value: f64 = value.trim().parse().ok()?;
        // A history that was never compacted is said to be compacted up to -1.
        format!("{:.0}", value.max(0.0)).parse::<u64>().ok()
    };
    Numbers {
        quota: number("etcd_server_quota_backend_bytes"),
        compacted: number("etcd_debugging_mvcc_compact_revision").map(Revision),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_etcds_notation_and_may_be_missing() {
        let page = "# HELP etcd_server_quota_backend_bytes x\netcd_server_quota_backend_bytes 2.147483648e+09\n\
                    etcd_debugging_mvcc_compact_revision 4\n";
        assert_eq!(parse(page), Numbers { quota: Some(2 << 30), compacted: Some(Revision(4)) });
        assert_eq!(parse("go_threads 8\n"), Numbers::default());
    }
}
