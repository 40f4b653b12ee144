//! Answering other machines' fleetds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use axum::routing::get;
use fleet_api::v2::MachineRef;
use fleet_core::MachineId;
use fleet_registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unit_files::UnitName;

use super::keys::fingerprint;
use super::{Options, greeting, pin, published};
use crate::api::query::Query;
use crate::api::server::{Bounds, serve_connection};
use crate::api::tools::{JournalOptions, LocalTools};
use crate::api::{Failure, v2};

pub(super) const STATUS: &str = "/peer/v1/units/{name}/status";
pub(super) const JOURNAL: &str = "/peer/v1/units/{name}/journal";

/// For TLS, greeting and the look into the registry together.
const OPENING: Duration = Duration::from_secs(5);
/// The other machine passes a journal on to somebody who may be reading it page by page.
const BOUNDS: Bounds =
    Bounds { header: Duration::from_secs(10), stall: Duration::from_secs(600), keep_alive: true };
const CONNECTIONS: usize = 256;
const DRAIN: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot listen on {address} for other machines; correct `peer_listen`, or stop what uses the port"
    )]
    Bind { address: SocketAddr, source: io::Error },
    #[error("this machine's certificate cannot be used; remove peer.pem from the state directory")]
    Keys { source: rustls::Error },
}

/// Listening, and not answering yet.
pub struct Service {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    peers: Peers,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// What others may know of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// As bound, port filled in.
    pub address: SocketAddr,
}

#[derive(Clone)]
struct Peers {
    registry: Registry,
    router: Router,
    shutdown: CancellationToken,
}

impl Service {
    /// # Errors
    /// The address cannot be bound; the certificate cannot be used.
    pub async fn bind(options: Options) -> Result<(Handle, Service), ListenError> {
        let Options { registry, machine, keys, listen, tools, heartbeat, shutdown } = options;
        let config = pin::server_config(&keys).map_err(|source| ListenError::Keys { source })?;
        let bound = |source| ListenError::Bind { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(bound)?;
        let address = listener.local_addr().map_err(bound)?;
        let served = Served { machine, tools, heartbeat, shutdown: shutdown.clone() };
        let router = Router::new()
            .route(STATUS, get(status))
            .route(JOURNAL, get(journal))
            .fallback(|| async { Failure::not_found("not a request between machines") })
            .with_state(Arc::new(served));
        let peers = Peers { registry, router, shutdown };
        Ok((Handle { address }, Service { listener, acceptor: TlsAcceptor::from(Arc::new(config)), peers }))
    }

    /// Answers until the shutdown, then lets open requests end.
    pub async fn run(self) {
        let (tasks, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        // Whoever drops this future ends what it has started: a connection must not outlive its fleetd.
        let dropped = CancellationToken::new();
        let _guard = dropped.clone().drop_guard();
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            // Both arms are cancel safe.
            let accepted = tokio::select! {
                () = self.peers.shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let (peers, acceptor) = (self.peers.clone(), self.acceptor.clone());
                    let dropped = dropped.clone();
                    tasks.spawn(async move {
                        dropped.run_until_cancelled(peers.answer(acceptor, stream, from)).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a machine's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tasks.close();
        // What is not over by then is cut off.
        let _ = tokio::time::timeout(DRAIN, tasks.wait()).await;
    }
}

impl Peers {
    async fn answer(self, acceptor: TlsAcceptor, stream: TcpStream, from: SocketAddr) {
        match tokio::time::timeout(OPENING, self.open(acceptor, stream)).await {
            Ok(Ok((stream, machine))) => {
                tracing::debug!(%machine, %from, "a machine asks");
                serve_connection(stream, self.router, BOUNDS, self.shutdown).await;
            }
            Ok(Err(error)) => tracing::warn!(%error, %from, "a connection between machines was refused"),
            Err(_) => tracing::debug!(%from, "a connection between machines was not opened in time"),
        }
    }

    /// TLS, then who calls, then whether the registry says so too.
    async fn open(
        &self,
        acceptor: TlsAcceptor,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, MachineId)> {
        let mut stream = acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(fingerprint);
        let machine = greeting::hear(&mut stream).await?;
        let refusal = match published(&self.registry, &machine).await {
            Err(error) => Some(format!("the registry does not answer, so nobody can be recognised: {error}")),
            Ok(None) => Some(format!("machine {machine} is not present in the registry")),
            Ok(Some(known)) if Some(&known.fingerprint) != shown.as_ref() => {
                Some(format!("the certificate is not the one that machine {machine} published"))
            }
            Ok(Some(_)) => None,
        };
        match refusal {
            None => greeting::welcome(&mut stream).await.map(|()| (stream, machine)),
            Some(why) => {
                greeting::refuse(&mut stream, &why).await?;
                Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
            }
        }
    }
}

/// What requests are answered from.
#[derive(Debug)]
struct Served {
    machine: MachineId,
    tools: LocalTools,
    heartbeat: Duration,
    shutdown: CancellationToken,
}

async fn status(State(served): State<Arc<Served>>, Path(name): Path<String>) -> Result<Response, Failure> {
    let name = UnitName::parse(&name).map_err(|error| Failure::bad_request(error.to_string()))?;
    let machine = MachineRef { id: served.machine.to_string(), ip: String::new() };
    v2::json(&served.tools.status(machine, &name).await?)
}

async fn journal(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Failure> {
    let name = UnitName::parse(&name).map_err(|error| Failure::bad_request(error.to_string()))?;
    let options = JournalOptions::of_query(&Query::of(&uri))?;
    let body = served.tools.journal(&name, &options, served.heartbeat, served.shutdown.clone())?;
    Ok(v2::typed(v2::NDJSON, body))
}
