//! The memory that the bodies of requests take, all clients and listeners together.
//!
//! Used by `route` for every request. A body is counted as it arrives, so that whoever announces much and sends nothing
//! takes nothing. Where there is no room for more, the request is refused and what it held is free at once: nobody waits
//! for anybody. Small bodies and large ones have room of their own, and the smallest need none.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Failure, Limits};

/// So much of a body is counted as part of its connection, whose number is bounded: a unit of usual size, or an order to
/// start one, is taken however much others send.
const UNCOUNTED: usize = 16 << 10;

/// Room for what is counted, in bytes.
#[derive(Debug)]
pub(super) struct Bodies {
    /// The largest body that is a small one.
    small: usize,
    of_small: Arc<Semaphore>,
    of_large: Arc<Semaphore>,
}

/// What a body holds, until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Held {
    small: Option<OwnedSemaphorePermit>,
    large: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    pub fn new(limits: &Limits) -> Bodies {
        Bodies {
            small: limits.v1_body,
            of_small: Arc::new(Semaphore::new(limits.v1_bodies)),
            of_large: Arc::new(Semaphore::new(limits.v2_bodies)),
        }
    }

    /// The whole body, which counts until what is returned beside it is dropped.
    ///
    /// # Errors
    /// 413 above `limit`, 503 without room for it, 400 if it breaks off.
    pub async fn read(&self, mut body: Body, limit: usize) -> Result<(Bytes, Held), Failure> {
        let (mut bytes, mut held) = (Vec::new(), Held::default());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
            let length = bytes.len() + data.len();
            if length > limit {
                return Err(too_large(limit));
            }
            if !held.grows(self, length) {
                drop((bytes, held));
                return Err(drained(body, limit - length).await);
            }
            bytes.extend_from_slice(&data);
        }
        Ok((bytes.into(), held))
    }
}

impl Held {
    /// Whether there is room for so many bytes in all.
    fn grows(&mut self, bodies: &Bodies, length: usize) -> bool {
        if length <= UNCOUNTED {
            return true;
        }
        if length <= bodies.small {
            return take(&mut self.small, &bodies.of_small, length);
        }
        let has_room = take(&mut self.large, &bodies.of_large, length);
        self.small = None;
        has_room
    }
}

fn take(held: &mut Option<OwnedSemaphorePermit>, room: &Arc<Semaphore>, length: usize) -> bool {
    let more = length - held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let Ok(more) = u32::try_from(more) else { return false };
    let Ok(taken) = Arc::clone(room).try_acquire_many_owned(more) else { return false };
    match held {
        Some(held) => held.merge(taken),
        None => *held = Some(taken),
    }
    true
}

/// The rest is read and dropped: ended at once, the connection would be reset over what the client still sends, and the
/// reason lost.
async fn drained(mut body: Body, mut left: usize) -> Failure {
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(length) else { break };
        left = rest;
    }
    Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "this machine takes in as much for other requests as it may",
    )
    .with_remedy("nothing was changed; try again in a few seconds")
}

pub(super) fn too_large(limit: usize) -> Failure {
    let message = format!("the request's body is larger than {limit} bytes");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

fn broken(error: &axum::Error) -> Failure {
    Failure::bad_request(format!("cannot read the request's body: {error}"))
}
