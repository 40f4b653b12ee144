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

/// A stream of lines. Dropping it closes the connection, which tells the server to stop.
pub struct NdjsonStream {
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

impl fmt::Debug for NdjsonStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NdjsonStream")
            .field("server", &self.server)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl NdjsonStream {
    pub(super) fn new(
        body: Incoming,
        connection: SendRequest<Full<Bytes>>,
        server: String,
        path: String,
        silence: Duration,
    ) -> NdjsonStream {
        let pending = BytesMut::new();
        NdjsonStream { body, _connection: connection, pending, searched: 0, server, path, silence }
    }

    /// The next line, or none at the end. Cancel-safe: a line that was read in part is kept.
    ///
    /// # Errors
    /// A connection that broke or is silent for longer than heartbeats allow, and a line that is not a `T`.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return self.decode(&line).map(Some);
            }
            if self.pending.len() > MAX_LINE_BYTES {
                let (server, path) = (self.server.clone(), self.path.clone());
                return Err(ClientError::LineTooLong { server, path, limit: MAX_LINE_BYTES });
            }
            match tokio::time::timeout(self.silence, self.body.frame()).await {
                Err(_) => {
                    let (server, path) = (self.server.clone(), self.path.clone());
                    return Err(ClientError::Silence { server, path, after: self.silence });
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
                Ok(Some(Err(source))) => {
                    let (server, path) = (self.server.clone(), self.path.clone());
                    return Err(ClientError::Transport { server, path, source });
                }
                Ok(None) => {
                    // A last line needs no newline.
                    let rest = self.pending.split();
                    self.searched = 0;
                    if rest.iter().all(u8::is_ascii_whitespace) {
                        return Ok(None);
                    }
                    return self.decode(&rest).map(Some);
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

    fn decode<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(line).map_err(|source| ClientError::Decode {
            server: self.server.clone(),
            path: self.path.clone(),
            source,
        })
    }
}
