//! An HTTP/1 client over any byte stream: a unix socket, TCP, TLS, or what the caller dials.
//!
//! The command line uses it, and one fleetd that asks another. It keeps one idle connection, bounds the time to connect
//! and the time to an answer, and decodes errors. It never decides to ask again, except when a kept connection turns out
//! to be dead: every request of this API may be repeated (reads, and changes that carry a request id).

mod endpoint;
mod error;
mod events;
mod stream;
mod tls;
mod tls_problem;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

pub use endpoint::{Endpoint, EndpointError};
pub use error::ClientError;
pub use events::{EventStream, Received};
pub use stream::NdjsonStream;
pub use tls::{Tls, TlsError, TlsOptions};
pub use tls_problem::TlsProblem;

use crate::ErrorBody;
use stream::Lines;

/// Largest answer that is read as one document: some 20,000 units with states stay far below.
const MAX_BODY_BYTES: usize = 256 * 1024 * 1024;

/// A connection to a server, whatever it runs over.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

type Dialed = Pin<Box<dyn Future<Output = io::Result<Box<dyn ByteStream>>> + Send>>;
type Dial = Box<dyn Fn() -> Dialed + Send + Sync>;

/// How long the client waits.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// From sending a request until the head of the answer, and for the rest of an answer that is no stream.
    pub response: Duration,
    /// Between two lines of a stream, heartbeats included.
    pub silence: Duration,
}

impl Default for Timeouts {
    /// Silence is three heartbeats.
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(3),
            response: Duration::from_secs(10),
            silence: Duration::from_secs(15),
        }
    }
}

/// One server. Cheap to make; the first request connects.
pub struct Client {
    dial: Dial,
    /// What messages call the server.
    name: String,
    host: String,
    prefix: String,
    timeouts: Timeouts,
    idle: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.name)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// The server of an `https` endpoint is verified by the authorities of this system.
    #[must_use]
    pub fn new(endpoint: Endpoint, timeouts: Timeouts) -> Client {
        Client::secured(endpoint, None, timeouts)
    }

    /// As [`new`](Client::new), and `tls` says whom to believe and what to show at an `https` endpoint.
    #[must_use]
    pub fn secured(endpoint: Endpoint, tls: Option<Tls>, timeouts: Timeouts) -> Client {
        let (name, host, prefix) = (endpoint.to_string(), endpoint.host(), endpoint.prefix().to_owned());
        let dial: Dial = Box::new(move || {
            let (endpoint, tls) = (endpoint.clone(), tls.clone());
            Box::pin(async move { endpoint.connect(tls.as_ref()).await })
        });
        Client { dial, name, host, prefix, timeouts, idle: Mutex::new(None) }
    }

    /// A client of `endpoint` over streams of the caller's making that lead there; `name` is what messages call the
    /// server. TLS is spoken inside them if the endpoint says so.
    pub fn through<F, S>(
        name: impl Into<String>,
        endpoint: Endpoint,
        tls: Option<Tls>,
        dial: impl Fn() -> F + Send + Sync + 'static,
        timeouts: Timeouts,
    ) -> Client
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: ByteStream + 'static,
    {
        // Without TLS a server answers only names of its own, and such a stream ends on its machine.
        let host = if endpoint.is_tls() { endpoint.host() } else { "localhost".to_owned() };
        let prefix = endpoint.prefix().to_owned();
        let dial: Dial = Box::new(move || {
            let (dialing, endpoint, tls) = (dial(), endpoint.clone(), tls.clone());
            Box::pin(async move { endpoint.secure(tls.as_ref(), dialing.await?).await })
        });
        Client { dial, name: name.into(), host, prefix, timeouts, idle: Mutex::new(None) }
    }

    /// A client over streams of the caller's making; `name` is what messages call the server.
    pub fn over<F, S>(
        name: impl Into<String>,
        dial: impl Fn() -> F + Send + Sync + 'static,
        timeouts: Timeouts,
    ) -> Client
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: ByteStream + 'static,
    {
        let dial: Dial = Box::new(move || {
            let dialing = dial();
            Box::pin(async move { dialing.await.map(|stream| Box::new(stream) as Box<dyn ByteStream>) })
        });
        Client {
            dial,
            name: name.into(),
            host: "localhost".into(),
            prefix: String::new(),
            timeouts,
            idle: Mutex::new(None),
        }
    }

    /// What messages call the server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads a document. `path` begins with a slash and is encoded already (see [`crate::paths`]).
    ///
    /// # Errors
    /// No connection, no answer in time, an answer that is an error or not a `T`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.decode(path, &self.get_bytes(path).await?)
    }

    /// Reads bytes, as of a unit's text.
    ///
    /// # Errors
    /// As for [`get`](Client::get).
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        let (response, connection) = self.send(&Method::GET, path, None).await?;
        self.body(path, response, connection).await
    }

    /// Sends a document and reads the answer. May reach the server twice if a kept connection breaks.
    ///
    /// # Errors
    /// As for [`get`](Client::get). After [`ClientError::Transport`] and [`ClientError::ResponseTimeout`] it is unknown
    /// whether the request was carried out.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let (response, connection) = self.send(&Method::POST, path, Some(self.encode(path, body)?)).await?;
        let bytes = self.body(path, response, connection).await?;
        self.decode(path, &bytes)
    }

    /// Sends a list of edits, as of machines' metadata; the answer has no body. May reach the server twice.
    ///
    /// # Errors
    /// As for [`post`](Client::post).
    pub async fn patch(&self, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        let (response, connection) = self.send(&Method::PATCH, path, Some(self.encode(path, body)?)).await?;
        self.body(path, response, connection).await.map(drop)
    }

    /// Opens a stream of lines by a GET.
    ///
    /// # Errors
    /// As for [`get`](Client::get), as far as the head of the answer.
    pub async fn get_stream(&self, path: &str) -> Result<NdjsonStream, ClientError> {
        let (response, connection) = self.send(&Method::GET, path, None).await?;
        self.lines(path, response, connection).await.map(NdjsonStream::new)
    }

    /// Opens a stream of server-sent events.
    ///
    /// # Errors
    /// As for [`get`](Client::get), as far as the head of the answer.
    pub async fn get_events(&self, path: &str) -> Result<EventStream, ClientError> {
        let (response, connection) = self.send(&Method::GET, path, None).await?;
        self.lines(path, response, connection).await.map(EventStream::new)
    }

    /// Opens a stream of lines by a POST.
    ///
    /// # Errors
    /// As for [`get`](Client::get), as far as the head of the answer.
    pub async fn post_stream(&self, path: &str, body: &impl Serialize) -> Result<NdjsonStream, ClientError> {
        let (response, connection) = self.send(&Method::POST, path, Some(self.encode(path, body)?)).await?;
        self.lines(path, response, connection).await.map(NdjsonStream::new)
    }

    fn encode(&self, path: &str, body: &impl Serialize) -> Result<Bytes, ClientError> {
        serde_json::to_vec(body).map(Bytes::from).map_err(|source| self.decode_error(path, source))
    }

    fn decode<T: DeserializeOwned>(&self, path: &str, bytes: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(bytes).map_err(|source| self.decode_error(path, source))
    }

    fn decode_error(&self, path: &str, source: serde_json::Error) -> ClientError {
        ClientError::Decode { server: self.name.clone(), path: path.to_owned(), source }
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Bytes>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, concat!("fleet/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(body.cloned().unwrap_or_default()))
            .map_err(|source| ClientError::Request { path: path.to_owned(), source })
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), ClientError> {
        let kept = self.idle.lock().expect("nothing panics while it holds the idle connection").take();
        if let Some(mut connection) = kept
            && connection.ready().await.is_ok()
        {
            let request = self.request(method, path, body.as_ref())?;
            match self.answer(method, path, connection.send_request(request)).await {
                // The server closed it meanwhile.
                Err(ClientError::Transport { .. }) => {}
                answered => return answered.map(|response| (response, connection)),
            }
        }
        let mut connection = self.connect().await?;
        let request = self.request(method, path, body.as_ref())?;
        let response = self.answer(method, path, connection.send_request(request)).await?;
        Ok((response, connection))
    }

    async fn answer(
        &self,
        method: &Method,
        path: &str,
        sending: impl Future<Output = hyper::Result<Response<Incoming>>>,
    ) -> Result<Response<Incoming>, ClientError> {
        match tokio::time::timeout(self.timeouts.response, sending).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(self.transport(path, source)),
            Err(_) => Err(self.response_timeout(method, path)),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let dialed = tokio::time::timeout(self.timeouts.connect, (self.dial)()).await;
        let stream = match dialed {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => {
                let server = self.name.clone();
                return Err(match TlsProblem::behind(&source) {
                    Some(problem) => ClientError::Tls { server, problem },
                    None => ClientError::Connect { server, source },
                });
            }
            Err(_) => {
                let after = self.timeouts.connect;
                return Err(ClientError::ConnectTimeout { server: self.name.clone(), after });
            }
        };
        let (connection, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.transport("", source))?;
        // Ends with the connection; what goes wrong shows at the request that it hits.
        tokio::spawn(driver);
        Ok(connection)
    }

    /// The whole answer; keeps the connection for the next request.
    async fn body(
        &self,
        path: &str,
        response: Response<Incoming>,
        connection: SendRequest<Full<Bytes>>,
    ) -> Result<Bytes, ClientError> {
        let (status, bytes) = self.collect(path, response, connection).await?;
        if status.is_success() { Ok(bytes) } else { Err(api_error(status, &bytes)) }
    }

    async fn collect(
        &self,
        path: &str,
        response: Response<Incoming>,
        connection: SendRequest<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let status = response.status();
        let reading = Limited::new(response.into_body(), MAX_BODY_BYTES).collect();
        let bytes = match tokio::time::timeout(self.timeouts.response, reading).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(source)) => {
                return Err(ClientError::Body { server: self.name.clone(), path: path.to_owned(), source });
            }
            Err(_) => return Err(self.response_timeout(&Method::GET, path)),
        };
        *self.idle.lock().expect("nothing panics while it holds the idle connection") = Some(connection);
        Ok((status, bytes))
    }

    async fn lines(
        &self,
        path: &str,
        response: Response<Incoming>,
        connection: SendRequest<Full<Bytes>>,
    ) -> Result<Lines, ClientError> {
        if !response.status().is_success() {
            let (status, bytes) = self.collect(path, response, connection).await?;
            return Err(api_error(status, &bytes));
        }
        let (server, path) = (self.name.clone(), path.to_owned());
        Ok(Lines::new(response.into_body(), connection, server, path, self.timeouts.silence))
    }

    /// With TLS 1.3 a server judges the client's certificate when the client's part of the handshake is over, so that its
    /// refusal is found where the answer should be.
    fn transport(&self, path: &str, source: hyper::Error) -> ClientError {
        let server = self.name.clone();
        match TlsProblem::behind(&source) {
            Some(
                problem @ (TlsProblem::ClientCertificateMissing | TlsProblem::ClientCertificateRefused(_)),
            ) => ClientError::Tls { server, problem },
            _ => ClientError::Transport { server, path: path.to_owned(), source },
        }
    }

    fn response_timeout(&self, method: &Method, path: &str) -> ClientError {
        ClientError::ResponseTimeout {
            server: self.name.clone(),
            request: format!("{method} {path}"),
            after: self.timeouts.response,
        }
    }
}

fn api_error(status: StatusCode, bytes: &[u8]) -> ClientError {
    let error = serde_json::from_slice::<ErrorBody>(bytes).map(|body| body.error).unwrap_or_default();
    ClientError::Api { status: status.as_u16(), error, body: String::from_utf8_lossy(bytes).into_owned() }
}
