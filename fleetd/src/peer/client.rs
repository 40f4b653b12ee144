//! Asking other machines' fleetds.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::StatusCode;
use fleet_api::client::{Client, ClientError, NdjsonStream, Timeouts};
use fleet_api::paths;
use fleet_api::v2::StatusReport;
use fleet_core::MachineId;
use fleet_registry::Registry;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use unit_files::UnitName;

use super::keys::PeerKeys;
use super::{Published, greeting, listener, pin, published};
use crate::api::Failure;
use crate::api::ports::Peers;
use crate::api::tools::JournalOptions;

/// For one question from the look into the registry to the head of the answer. Shorter than what the API gives its own
/// clients, so that they hear what went wrong, and longer than what the other machine gives `systemctl`.
const WITHIN: Duration = Duration::from_secs(7);
/// Within that, of the single steps.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(3),
    response: Duration::from_secs(7),
    silence: Duration::from_secs(15),
};

/// Opens one connection for each question: each is judged anew.
#[derive(Debug)]
pub struct PeerClient {
    registry: Registry,
    machine: MachineId,
    keys: PeerKeys,
    pub(super) within: Duration,
}

impl PeerClient {
    #[must_use]
    pub fn new(registry: Registry, machine: MachineId, keys: PeerKeys) -> PeerClient {
        PeerClient { registry, machine, keys, within: WITHIN }
    }

    /// A client whose connections are to that machine, as it is present now, or to nobody.
    async fn to(&self, machine: &MachineId) -> Result<Client, Failure> {
        let unavailable = |message: String| Failure::new(StatusCode::SERVICE_UNAVAILABLE, message);
        let found = published(&self.registry, machine).await.map_err(|error| {
            unavailable(format!("cannot ask machine {machine}: the registry does not answer"))
                .with_remedy(format!("{error}; ask on the machine itself"))
        })?;
        let Some(Published { address, fingerprint }) = found.filter(|found| !found.address.is_empty()) else {
            return Err(unavailable(format!(
                "cannot ask machine {machine}: it is not present, or its fleetd listens for nobody"
            ))
            .with_remedy("see `fleetctl list-machines`, and `peer_listen` of that machine"));
        };
        let config = pin::client_config(&self.keys, fingerprint)
            .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        let (config, own) = (Arc::new(config), self.machine.clone());
        let name = format!("fleetd of machine {machine} at {address}");
        let dial = move || connect(address.clone(), Arc::clone(&config), own.clone());
        Ok(Client::over(name, dial, TIMEOUTS))
    }

    async fn bounded<T>(
        &self,
        machine: &MachineId,
        question: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(self.within, question).await.unwrap_or_else(|_| {
            let message = format!("machine {machine} gave no answer within {:?}", self.within);
            Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, message)
                .with_remedy("see `fleetctl list-machines`, try again, or ask on the machine itself"))
        })
    }
}

async fn connect(
    address: String,
    config: Arc<ClientConfig>,
    own: MachineId,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(&address).await?;
    // The certificate is judged by its fingerprint; a name is asked for and not looked at.
    let name = ServerName::try_from("fleet-peer").expect("a valid DNS name");
    let mut stream = TlsConnector::from(config).connect(name, stream).await.map_err(told)?;
    greeting::introduce(&mut stream, &own).await.map_err(told)?;
    Ok(stream)
}

/// What is wrong between machines. The API's client would take it for the certificates of its user.
fn told(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            io::Error::new(error.kind(), "it shows another certificate than the machine published")
        }
        Some(other) => io::Error::new(error.kind(), other.to_string()),
        None => error,
    }
}

#[async_trait]
impl Peers for PeerClient {
    async fn status(&self, machine: &MachineId, unit: &UnitName) -> Result<StatusReport, Failure> {
        let path = paths::fill(listener::STATUS, unit.as_str());
        self.bounded(machine, async { self.to(machine).await?.get(&path).await.map_err(failure) }).await
    }

    async fn journal(
        &self,
        machine: &MachineId,
        unit: &UnitName,
        options: &JournalOptions,
    ) -> Result<NdjsonStream, Failure> {
        let pairs = options.to_pairs();
        let path = paths::fill(listener::JOURNAL, unit.as_str());
        let path = paths::with_query(&path, pairs.iter().map(|(key, value)| (*key, value.as_str())));
        self.bounded(machine, async { self.to(machine).await?.get_stream(&path).await.map_err(failure) })
            .await
    }
}

fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::Api { status, error, .. } => Failure {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
            message: error.message,
            remedy: error.remedy,
        },
        other => {
            let mut message = other.to_string();
            let mut source = std::error::Error::source(&other);
            while let Some(inner) = source {
                message = format!("{message}: {inner}");
                source = inner.source();
            }
            Failure::new(StatusCode::BAD_GATEWAY, message)
        }
    }
}
