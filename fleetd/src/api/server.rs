//! Connections: accepted, bounded, served, and ended in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::uri::Scheme;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gate::{Gate, Opening, Room};
use super::listen::{self, ListenError, Listener};
use super::route::{guarded, router};
use super::state::Api;
use super::tls::{Tls, Welcome};
use super::{Limits, Options, caller};

/// How long open requests may go on when fleetd ends.
const DRAIN: Duration = Duration::from_secs(2);
/// After a failed accept, which is a shortage of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The API, listening and not serving yet.
#[derive(Debug)]
pub struct Service {
    listeners: Vec<Listener>,
    tls: Option<Arc<Tls>>,
    router: Router,
    hostname: String,
    limits: Limits,
    shutdown: CancellationToken,
}

/// What others may know of the running API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The TCP addresses that are listened on, ports filled in.
    pub tcp: Vec<SocketAddr>,
}

impl Service {
    /// Binds every address that was not passed, so that clients are queued from here on.
    ///
    /// # Errors
    /// The first address or socket that cannot be used; a certificate that cannot.
    pub async fn bind(mut options: Options) -> Result<(Handle, Service), ListenError> {
        let tls = options.tls.take().map(Tls::open).transpose()?.map(Arc::new);
        let asks_for_certificates = tls.as_ref().is_some_and(|tls| tls.asks_for_certificates());
        let passed = std::mem::take(&mut options.passed);
        let listeners = listen::open(passed, &options.listen, asks_for_certificates).await?;
        let tcp = listeners.iter().filter_map(|listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        });
        let handle = Handle { tcp: tcp.collect() };
        let (limits, shutdown, hostname) =
            (options.limits, options.shutdown.clone(), options.hostname.clone());
        let router = router(Api::new(options));
        Ok((handle, Service { listeners, tls, router, hostname, limits, shutdown }))
    }

    /// Serves until the shutdown, then lets open requests end.
    pub async fn run(self) {
        let tasks = TaskTracker::new();
        // Whoever drops this future ends what it has started: a connection must not outlive its fleetd.
        let dropped = CancellationToken::new();
        let _guard = dropped.clone().drop_guard();
        for listener in self.listeners {
            let (tls, stall) = match &listener {
                Listener::Unix(_) => (None, self.limits.patience),
                Listener::Tcp(_) => (self.tls.clone(), self.limits.stall),
            };
            let router = match (&listener, &tls) {
                (Listener::Unix(_), _) => self.router.clone(),
                // No page of a stranger has the certificate's name.
                (_, Some(tls)) if tls.asks_for_certificates() => self.router.clone(),
                (_, tls) => {
                    let scheme = if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
                    guarded(self.router.clone(), scheme, &self.hostname)
                }
            };
            let Limits { handshake, handshakes, header, head, connections, .. } = self.limits;
            let connections = Connections {
                router,
                tls,
                handshake,
                gate: Gate::new(Room { silent: handshakes, asking: handshakes }),
                bounds: Bounds { header, head, stall, keep_alive: true },
                slots: Arc::new(Semaphore::new(connections)),
                tasks: tasks.clone(),
                shutdown: self.shutdown.clone(),
                dropped: dropped.clone(),
            };
            let dropped = dropped.clone();
            tasks.spawn(async move { dropped.run_until_cancelled(connections.accept(listener)).await });
        }
        self.shutdown.cancelled().await;
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::debug!(open = tasks.len(), "requests are cut off");
        }
    }
}

#[derive(Clone)]
struct Connections {
    router: Router,
    tls: Option<Arc<Tls>>,
    handshake: Duration,
    /// Where there is TLS.
    gate: Gate,
    bounds: Bounds,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    dropped: CancellationToken,
}

impl Connections {
    async fn accept(self, listener: Listener) {
        loop {
            // Both arms are cancel safe: a connection that was not taken stays in the queue.
            let taken = tokio::select! {
                () = self.shutdown.cancelled() => return,
                taken = self.next(&listener) => taken,
            };
            match taken {
                Ok(newcomer) => self.serve(newcomer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Whoever is let in without a handshake needs a slot first: with all of them taken, new clients wait in the kernel's
    /// queue. A stranger is let come, and gets a slot after it has shown its certificate.
    async fn next(&self, listener: &Listener) -> std::io::Result<Newcomer> {
        if let (Listener::Tcp(listener), Some(tls)) = (listener, &self.tls) {
            let (stream, from) = listener.accept().await?;
            let opening = self.gate.enter(from.ip());
            return Ok(Newcomer::Stranger(Stranger { stream, from, opening, tls: Arc::clone(tls) }));
        }
        let slot = self.slot().await;
        match listener {
            Listener::Unix(listener) => Ok(Newcomer::Unix(listener.accept().await?.0, slot)),
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                send_at_once(&stream, from);
                Ok(Newcomer::Tcp(stream, slot))
            }
        }
    }

    async fn slot(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// In a task of its own from here on: a handshake that takes its time holds up nobody.
    fn serve(&self, newcomer: Newcomer) {
        let own = self.clone();
        self.tasks.spawn(async move {
            let dropped = own.dropped.clone();
            dropped.run_until_cancelled(own.answer(newcomer)).await;
        });
    }

    async fn answer(self, newcomer: Newcomer) {
        match newcomer {
            Newcomer::Unix(stream, _slot) => self.connection(stream).await,
            Newcomer::Tcp(stream, _slot) => self.connection(stream).await,
            Newcomer::Stranger(stranger) => {
                let admitted = self.shutdown.run_until_cancelled(self.admit(stranger)).await;
                let Some(Some((Welcome { stream, name }, _slot))) = admitted else { return };
                match name {
                    Some(name) => caller::scope(name, self.connection(stream)).await,
                    None => self.connection(stream).await,
                }
            }
        }
    }

    /// Its handshake, then a slot, unless others need the room.
    async fn admit(&self, stranger: Stranger) -> Option<(Welcome, OwnedSemaphorePermit)> {
        let Stranger { stream, from, opening, tls } = stranger;
        send_at_once(&stream, from);
        let opened = async {
            let welcome = tls.accept(stream, from, self.handshake).await?;
            opening.asks();
            match tokio::time::timeout(self.bounds.header, self.slot()).await {
                Ok(slot) => Some((welcome, slot)),
                Err(_) => {
                    tls.refused(from, &"no connection became free for it");
                    None
                }
            }
        };
        tokio::select! {
            opened = opened => opened,
            () = opening.closed() => {
                tls.refused(from, &"it made room for others");
                None
            }
        }
    }

    async fn connection<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        serve_connection(stream, self.router.clone(), self.bounds, self.shutdown.clone()).await;
    }
}

/// Small answers are not held back for more to come.
fn send_at_once(stream: &TcpStream, from: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %from, "small answers may be late");
    }
}

/// A connection that was taken from the kernel's queue.
enum Newcomer {
    Unix(UnixStream, OwnedSemaphorePermit),
    Tcp(TcpStream, OwnedSemaphorePermit),
    Stranger(Stranger),
}

/// One whose certificate has not been seen yet.
struct Stranger {
    stream: TcpStream,
    from: SocketAddr,
    opening: Opening,
    tls: Arc<Tls>,
}

/// How long one connection may make others wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// For the head of a request.
    pub header: Duration,
    /// Of the head of a request, in bytes.
    pub head: usize,
    /// Without a byte taken of what is sent.
    pub stall: Duration,
    /// Whether another request may follow.
    pub keep_alive: bool,
}

/// Serves one connection until its end, or until the shutdown and the end of its open request.
pub(crate) async fn serve_connection<S>(
    stream: S,
    router: Router,
    bounds: Bounds,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // Hyper bounds what it reads, and nothing that it writes.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.stall));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header)
        .max_buf_size(bounds.head)
        .keep_alive(bounds.keep_alive)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => log_end(ended),
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            log_end(connection.await);
        }
    }
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
