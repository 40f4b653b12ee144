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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unit_files::UnitName;

use super::keys::fingerprint;
use super::looks::{Looks, Rate, Word};
use super::{Options, greeting, pin};
use crate::api::gate::{Gate, Opening, Room};
use crate::api::query::Query;
use crate::api::server::{Bounds, serve_connection};
use crate::api::tools::{JournalOptions, LocalTools};
use crate::api::{Failure, v2};

pub(super) const STATUS: &str = "/peer/v1/units/{name}/status";
pub(super) const JOURNAL: &str = "/peer/v1/units/{name}/journal";

/// For TLS and the greeting, which take a few round trips; for telling the caller the registry's word, too.
const GREETING: Duration = Duration::from_secs(2);
/// For the registry's word, which may have to wait for that on others.
const LOOK: Duration = Duration::from_secs(3);
/// One question is asked on each connection, and the other machine passes a journal on to somebody who may be reading
/// it page by page.
const BOUNDS: Bounds = Bounds {
    header: Duration::from_secs(10),
    head: 16 << 10,
    stall: Duration::from_secs(600),
    keep_alive: false,
};
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
    pub(super) looks: Looks,
    router: Router,
    shutdown: CancellationToken,
    pub(super) gate: Gate,
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
            looks: Looks::new(registry, Rate::default()),
            router,
            shutdown,
            gate: Gate::new(Room::default()),
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
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let opening = self.peers.gate.enter(from.ip());
                    let (peers, acceptor) = (self.peers.clone(), self.acceptor.clone());
                    let dropped = dropped.clone();
                    tasks.spawn(async move {
                        let answer = peers.answer(acceptor, stream, from, opening);
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
}

/// A connection of a machine that was recognised.
struct Opened {
    stream: TlsStream<TcpStream>,
    machine: MachineId,
    fingerprint: String,
    _slot: OwnedSemaphorePermit,
}

/// One that has said who it is.
struct Caller {
    stream: TlsStream<TcpStream>,
    machine: MachineId,
    fingerprint: String,
}

impl Peers {
    async fn answer(self, acceptor: TlsAcceptor, stream: TcpStream, from: SocketAddr, opening: Opening) {
        let open = async {
            tokio::select! {
                () = opening.closed() => Err(io::Error::other("it made room for other callers")),
                opened = self.open(acceptor, stream, &opening) => opened,
            }
        };
        let Some(opened) = self.shutdown.run_until_cancelled(open).await else { return };
        drop(opening);
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return self.refused(from, &error),
        };
        let Opened { stream, machine, fingerprint, _slot } = opened;
        tracing::debug!(%machine, %from, "a machine asks");
        tokio::select! {
            () = serve_connection(stream, self.router.clone(), BOUNDS, self.shutdown.clone()) => {}
            why = self.until_refused(&machine, &fingerprint) => self.refused(from, &why),
        }
    }

    /// Who calls, then whether the registry says so too.
    async fn open(&self, acceptor: TlsAcceptor, stream: TcpStream, opening: &Opening) -> io::Result<Opened> {
        let heard = timeout(GREETING, hear(acceptor, stream)).await;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it did not say in time who it is");
        let Caller { mut stream, machine, fingerprint } = heard.map_err(late)??;
        opening.asks();
        let word = timeout(LOOK, self.looks.first(&machine, &fingerprint)).await;
        let word = word.unwrap_or_else(|_| Word::Unknown(format!("no answer within {LOOK:?}")));
        let why = match (word, Arc::clone(&self.slots).try_acquire_owned()) {
            (Word::Named, Ok(_slot)) => {
                timeout(GREETING, greeting::welcome(&mut stream)).await??;
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
        timeout(GREETING, greeting::refuse(&mut stream, &why)).await??;
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }

    /// Ends when the registry names the machine no longer, with the reason. One that does not answer ends nothing.
    async fn until_refused(&self, machine: &MachineId, fingerprint: &str) -> String {
        loop {
            tokio::time::sleep(self.holds).await;
            if let Word::Refused(why) = self.looks.again(machine, fingerprint).await {
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

/// TLS, then who calls.
async fn hear(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<Caller> {
    let mut stream = acceptor.accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(fingerprint);
    let fingerprint = shown.unwrap_or_default();
    let machine = greeting::hear(&mut stream).await?;
    Ok(Caller { stream, machine, fingerprint })
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
