//! Watching: what changed since a revision, as a stream.

use std::fmt;
use std::pin::Pin;

use futures_util::{Stream, StreamExt};

use super::{KeyRange, KeyValue, Revision, StoreError};

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRequest {
    /// Several ranges share one stream. A key must not be in two of them.
    pub keys: Vec<KeyRange>,
    /// First revision to report; after a list at R ask for R + 1.
    pub from: Revision,
    /// Report with each event what the key held before.
    pub previous: bool,
}

impl WatchRequest {
    pub fn new(keys: Vec<KeyRange>, from: Revision) -> Self {
        Self { keys, from, previous: false }
    }

    #[must_use]
    pub fn with_previous(mut self) -> Self {
        self.previous = true;
        self
    }
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    Put {
        kv: KeyValue,
        previous: Option<KeyValue>,
    },
    /// `kv` carries the key and, as its mod revision, when it was deleted; its value is empty.
    Delete {
        kv: KeyValue,
        previous: Option<KeyValue>,
    },
}

impl WatchEvent {
    pub fn kv(&self) -> &KeyValue {
        match self {
            Self::Put { kv, .. } | Self::Delete { kv, .. } => kv,
        }
    }
}

/// Changes of one range, or of several, in the order in which they happened. A revision is never
/// split over two batches of the same range. Across ranges there is no such promise: what one
/// transaction did in two watched ranges may come in two batches, and while the store catches up
/// with a watch, one range may run ahead of another. Whoever needs ranges to agree reads them in one
/// transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// Revision of the newest event in it.
    pub revision: Revision,
    pub events: Vec<WatchEvent>,
}

/// One item of a watch stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchReply {
    Events(WatchBatch),
    /// Nothing is missing up to `revision`.
    Progress {
        revision: Revision,
    },
    /// The history asked for is gone: list anew. Ends the stream.
    Compacted {
        revision: Revision,
    },
    /// The store or the way to it gave the watch up. Ends the stream.
    Cancelled {
        reason: StoreError,
    },
}

/// The replies of one watch, in order; dropping it ends the watch.
pub struct WatchStream {
    replies: Pin<Box<dyn Stream<Item = WatchReply> + Send>>,
}

impl WatchStream {
    pub fn new(replies: impl Stream<Item = WatchReply> + Send + 'static) -> Self {
        Self { replies: Box::pin(replies) }
    }

    /// The next reply; `None` after the last one. Cancel safe.
    pub async fn next(&mut self) -> Option<WatchReply> {
        self.replies.next().await
    }
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream").finish_non_exhaustive()
    }
}
