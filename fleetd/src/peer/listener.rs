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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unit_files::UnitName;

use super::gate::{Gate, Looks, Opening};
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
/// One question is asked on each connection, and the other machine passes a journal on to somebody who may be reading
/// it page by page.
const BOUNDS: Bounds = Bounds {
    header: Duration::from_secs(10),
    head: 16 << 10,
    stall: Duration::from_secs(600),
    keep_alive: false,
};
/// Being opened, by whomever.
pub(super) const OPENING_CONNECTIONS: usize = 128;
/// Of machines that the registry names.
const CONNECTIONS: usize = 256;
/// How long the registry's word on an open connection holds.
const HOLDS: Duration = Duration::from_secs(60);
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
    pub(super) peers: Peers,
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
pub(super) struct Peers {
    registry: Registry,
    router: Router,
    shutdown: CancellationToken,
    pub(super) gate: Gate,
    /// Connections that may be opening.
    pub(super) openings: Arc<Semaphore>,
    /// Connections that may be open.
    slots: Arc<Semaphore>,
    pub(super) holds: Duration,
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
        let peers = Peers {
            registry,
            router,
            shutdown,
            gate: Gate::new(Looks::default()),
            openings: Arc::new(Semaphore::new(OPENING_CONNECTIONS)),
            slots: Arc::new(Semaphore::new(CONNECTIONS)),
            holds: HOLDS,
        };
        Ok((Handle { address }, Service { listener, acceptor: TlsAcceptor::from(Arc::new(config)), peers }))
    }

    /// Answers until the shutdown, then lets open requests end.
    pub async fn run(self) {
        let tasks = TaskTracker::new();
        // Whoever drops this future ends what it has started: a connection must not outlive its fleetd.
        let dropped = CancellationToken::new();
        let _guard = dropped.clone().drop_guard();
        loop {
            // Both arms are cancel safe: a connection that was not taken stays in the queue.
            let accepted = tokio::select! {
                () = self.peers.shutdown.cancelled() => break,
                accepted = self.accept() => accepted,
            };
            match accepted {
                Ok((stream, from, slot)) => {
                    let Some(opening) = self.peers.gate.enter(from.ip()) else {
                        self.peers.refused(from, &"this address is opening too many connections");
                        continue;
                    };
                    let (peers, acceptor) = (self.peers.clone(), self.acceptor.clone());
                    let dropped = dropped.clone();
                    tasks.spawn(async move {
                        let answer = peers.answer(acceptor, stream, from, (slot, opening));
                        dropped.run_until_cancelled(answer).await;
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

    /// A slot first: with all of them taken, new callers wait in the kernel's queue.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let openings = Arc::clone(&self.peers.openings);
        let slot = openings.acquire_owned().await.expect("the semaphore is never closed");
        let (stream, from) = self.listener.accept().await?;
        Ok((stream, from, slot))
    }
}

/// A connection of a machine that was recognised.
struct Opened {
    stream: TlsStream<TcpStream>,
    machine: MachineId,
    fingerprint: String,
    _slot: OwnedSemaphorePermit,
}

/// What the registry says of a caller.
enum Word {
    Named,
    Refused(String),
    /// It does not answer.
    Unknown(String),
}

impl Peers {
    /// `held` counts the connection as one that is being opened.
    async fn answer(
        self,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        from: SocketAddr,
        held: (OwnedSemaphorePermit, Opening),
    ) {
        let open = tokio::time::timeout(OPENING, self.open(acceptor, stream));
        let Some(opened) = self.shutdown.run_until_cancelled(open).await else { return };
        drop(held);
        let opened = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return self.refused(from, &error),
            Err(_) => return self.refused(from, &"it was not opened in time"),
        };
        let Opened { stream, machine, fingerprint, _slot } = opened;
        tracing::debug!(%machine, %from, "a machine asks");
        tokio::select! {
            () = serve_connection(stream, self.router.clone(), BOUNDS, self.shutdown.clone()) => {}
            why = self.until_refused(&machine, &fingerprint) => self.refused(from, &why),
        }
    }

    /// TLS, then who calls, then whether the registry says so too.
    async fn open(&self, acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<Opened> {
        let mut stream = acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(fingerprint);
        let fingerprint = shown.unwrap_or_default();
        let machine = greeting::hear(&mut stream).await?;
        let word = if self.gate.may_look(&machine, &fingerprint, Instant::now()) {
            self.look(&machine, &fingerprint).await
        } else {
            Word::Refused(
                "too many callers that nobody knows ask at once; try again in a few seconds".to_owned(),
            )
        };
        let why = match (word, Arc::clone(&self.slots).try_acquire_owned()) {
            (Word::Named, Ok(_slot)) => {
                greeting::welcome(&mut stream).await?;
                return Ok(Opened { stream, machine, fingerprint, _slot });
            }
            (Word::Named, Err(_)) => {
                "this machine answers too many others at once; try again in a few seconds".to_owned()
            }
            (Word::Refused(why), _) => why,
            (Word::Unknown(error), _) => {
                format!("the registry does not answer, so nobody can be recognised: {error}")
            }
        };
        greeting::refuse(&mut stream, &why).await?;
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }

    async fn look(&self, machine: &MachineId, fingerprint: &str) -> Word {
        let word = match published(&self.registry, machine).await {
            Err(error) => return Word::Unknown(error.to_string()),
            Ok(None) => Word::Refused(format!("machine {machine} is not present in the registry")),
            Ok(Some(known)) if known.fingerprint != fingerprint => {
                Word::Refused(format!("the certificate is not the one that machine {machine} published"))
            }
            Ok(Some(_)) => Word::Named,
        };
        self.gate.looked(machine, fingerprint, matches!(word, Word::Named));
        word
    }

    /// Ends when the registry names the machine no longer, with the reason. One that does not answer ends nothing.
    async fn until_refused(&self, machine: &MachineId, fingerprint: &str) -> String {
        loop {
            tokio::time::sleep(self.holds).await;
            if let Word::Refused(why) = self.look(machine, fingerprint).await {
                return why;
            }
        }
    }

    /// Anybody can have this said, so that it is said rarely.
    fn refused(&self, from: SocketAddr, why: &dyn std::fmt::Display) {
        match self.gate.refused(Instant::now()) {
            Some(others) => {
                tracing::warn!(%why, %from, others, "a connection between machines was refused");
            }
            None => tracing::debug!(%why, %from, "a connection between machines was refused"),
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
