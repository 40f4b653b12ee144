//! Answers that go on: one JSON document per line, with heartbeats between them.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use serde::de::DeserializeOwned;

use super::ClientError;

/// Far above any line of this API.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// The lines of an answer that goes on. Dropping them closes the connection, which tells the server to stop.
pub(super) struct Lines {
    body: Incoming,
    /// The connection lives as long as its sender does.
    _connection: SendRequest<Full<Bytes>>,
    pending: BytesMut,
    /// How much of `pending` is known to hold no newline.
    searched: usize,
    server: String,
    path: String,
    silence: Duration,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("server", &self.server)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Lines {
    pub fn new(
        body: Incoming,
        connection: SendRequest<Full<Bytes>>,
        server: String,
        path: String,
        silence: Duration,
    ) -> Lines {
        let pending = BytesMut::new();
        Lines { body, _connection: connection, pending, searched: 0, server, path, silence }
    }

    /// The next line with its newline, what stands after the last newline, or none at the end. Cancel-safe: a line that
    /// was read in part is kept.
    pub async fn next(&mut self) -> Result<Option<BytesMut>, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.pending.len() > MAX_LINE_BYTES {
                let (server, path) = self.place();
                return Err(ClientError::LineTooLong { server, path, limit: MAX_LINE_BYTES });
            }
            match tokio::time::timeout(self.silence, self.body.frame()).await {
                Err(_) => {
                    let (server, path) = self.place();
                    return Err(ClientError::Silence { server, path, after: self.silence });
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
                Ok(Some(Err(source))) => {
                    let (server, path) = self.place();
                    return Err(ClientError::Transport { server, path, source });
                }
                Ok(None) => {
                    let rest = self.pending.split();
                    self.searched = 0;
                    return Ok((!rest.is_empty()).then_some(rest));
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<BytesMut> {
        match self.pending[self.searched..].iter().position(|&byte| byte == b'\n') {
            Some(at) => {
                let line = self.pending.split_to(self.searched + at + 1);
                self.searched = 0;
                Some(line)
            }
            None => {
                self.searched = self.pending.len();
                None
            }
        }
    }

    fn place(&self) -> (String, String) {
        (self.server.clone(), self.path.clone())
    }

    pub fn undecodable(&self, source: serde_json::Error) -> ClientError {
        let (server, path) = self.place();
        ClientError::Decode { server, path, source }
    }
}

/// A stream of documents, one a line. Dropping it closes the connection.
#[derive(Debug)]
pub struct NdjsonStream(Lines);

impl NdjsonStream {
    pub(super) fn new(lines: Lines) -> NdjsonStream {
        NdjsonStream(lines)
    }

    /// The next line, or none at the end. Cancel-safe. The last line needs no newline.
    ///
    /// # Errors
    /// A connection that broke or is silent for longer than heartbeats allow, and a line that is not a `T`.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        while let Some(line) = self.0.next().await? {
            if !line.iter().all(u8::is_ascii_whitespace) {
                return serde_json::from_slice(&line).map(Some).map_err(|source| self.0.undecodable(source));
            }
        }
        Ok(None)
    }
}
