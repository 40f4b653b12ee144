//! Connections: accepted, bounded, served, and ended in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listen::{self, ListenError, Listener};
use super::route::{guarded, router};
use super::state::Api;
use super::{Limits, Options};

/// How long open requests may go on when fleetd ends.
const DRAIN: Duration = Duration::from_secs(2);
/// After a failed accept, which is a shortage of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The API, listening and not serving yet.
#[derive(Debug)]
pub struct Service {
    listeners: Vec<Listener>,
    router: Router,
    hostname: String,
    limits: Limits,
    shutdown: CancellationToken,
}

/// What others may know of the running API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The TCP addresses that were bound, ports filled in.
    pub tcp: Vec<SocketAddr>,
}

impl Service {
    /// Binds every address, so that clients are queued from here on.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub async fn bind(options: Options) -> Result<(Handle, Service), ListenError> {
        let mut listeners = Vec::new();
        let mut tcp = Vec::new();
        for address in &options.listen {
            let listener = listen::bind(address).await?;
            if let Listener::Tcp(listener) = &listener {
                tcp.extend(listener.local_addr());
            }
            listeners.push(listener);
        }
        let (limits, shutdown, hostname) =
            (options.limits, options.shutdown.clone(), options.hostname.clone());
        let router = router(Api::new(options));
        let service = Service { listeners, router, hostname, limits, shutdown };
        Ok((Handle { tcp }, service))
    }

    /// Serves until the shutdown, then lets open requests end.
    pub async fn run(self) {
        let tasks = TaskTracker::new();
        // Whoever drops this future ends what it has started: a connection must not outlive its fleetd.
        let dropped = CancellationToken::new();
        let _guard = dropped.clone().drop_guard();
        for listener in self.listeners {
            let (router, stall) = match &listener {
                Listener::Unix(_) => (self.router.clone(), self.limits.patience),
                Listener::Tcp(_) => (guarded(self.router.clone(), &self.hostname), self.limits.stall),
            };
            let connections = Connections {
                router,
                bounds: Bounds { header: self.limits.header, stall, keep_alive: true },
                slots: Arc::new(Semaphore::new(self.limits.connections)),
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

struct Connections {
    router: Router,
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
                Ok((Stream::Unix(stream), slot)) => self.serve(stream, slot),
                Ok((Stream::Tcp(stream), slot)) => self.serve(stream, slot),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A slot first: with all of them taken, new clients wait in the kernel's queue.
    async fn next(&self, listener: &Listener) -> std::io::Result<(Stream, OwnedSemaphorePermit)> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener {
            Listener::Unix(listener) => Stream::Unix(listener.accept().await?.0),
            Listener::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
        };
        Ok((stream, slot))
    }

    fn serve<S>(&self, stream: S, slot: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (router, bounds, shutdown) = (self.router.clone(), self.bounds, self.shutdown.clone());
        let dropped = self.dropped.clone();
        self.tasks.spawn(async move {
            dropped.run_until_cancelled(serve_connection(stream, router, bounds, shutdown)).await;
            drop(slot);
        });
    }
}

enum Stream {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream),
}

/// How long one connection may make others wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// For the head of a request.
    pub header: Duration,
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
