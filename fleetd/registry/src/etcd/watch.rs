//! A watch over several ranges through one gRPC stream to one member.
//!
//! Called by the store, which bounds the time until all ranges are accepted. etcd answers a start
//! below the compaction with "created" and then "cancelled", so that case is a reply of the stream.

use std::collections::{BTreeMap, VecDeque};

use etcd_client::{Client, WatchOptions, WatchResponse};
use futures_util::stream;
use tokio::sync::watch;

use super::classify::{Asked, Failure, classify, may_be_token};
use super::convert;
use crate::store::{Operation, Revision, StoreError, WatchBatch, WatchReply, WatchRequest, WatchStream};

/// Watch replies can carry a thousand revisions of a member that catches up.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// Watch ids are ours to choose, from 1 on; zero would let the member choose.
type WatchId = i64;

struct Watching {
    stream: etcd_client::WatchStream,
    /// Replies that came while ranges were still being accepted, or with another one.
    waiting: VecDeque<WatchReply>,
    /// Up to where each range is complete.
    progress: BTreeMap<WatchId, Revision>,
    is_over: bool,
    /// Changes when another cluster of etcd is used from then on.
    choices: watch::Receiver<u64>,
}

/// With the id of the cluster that accepted it. It ends when `choices` changes.
pub(super) async fn open(
    client: Client,
    request: WatchRequest,
    choices: watch::Receiver<u64>,
) -> Result<(u64, WatchStream), Failure> {
    let asked = Asked { revision: Some(request.from), ..Asked::new(Operation::Watch) };
    let failed = |error: etcd_client::Error| classify(asked, &error);
    let mut watches = client.watch_client().max_decoding_message_size(MAX_REPLY_BYTES);
    let mut ranges = request.keys.iter().zip(1..).map(|(keys, id)| {
        let (key, end) = convert::wire_range(keys);
        let mut options = WatchOptions::new()
            .with_watch_id(id)
            .with_start_revision(convert::wire_revision(request.from))
            .with_progress_notify();
        if let Some(end) = end {
            options = options.with_range(end);
        }
        if request.previous {
            options = options.with_prev_key();
        }
        (key, options)
    });
    let Some((key, options)) = ranges.next() else {
        let detail = "a watch needs at least one range".to_owned();
        return Err(Failure::Final(StoreError::Refused { operation: Operation::Watch, detail }));
    };
    let mut stream = watches.watch(key, Some(options)).await.map_err(failed)?;
    for (key, options) in ranges {
        stream.watch(key, Some(options)).await.map_err(failed)?;
    }
    let mut watching =
        Watching { stream, waiting: VecDeque::new(), progress: BTreeMap::new(), is_over: false, choices };
    let cluster = watching.accept(&request, failed).await?;
    let replies = stream::unfold(watching, |mut watching| async move {
        watching.next().await.map(|reply| (reply, watching))
    });
    Ok((cluster, WatchStream::new(replies)))
}

impl Watching {
    /// Waits until the member has taken every range; remembers what comes meanwhile. The member's cluster.
    async fn accept(
        &mut self,
        request: &WatchRequest,
        failed: impl Fn(etcd_client::Error) -> Failure,
    ) -> Result<u64, Failure> {
        let mut missing = request.keys.len();
        let mut cluster = 0;
        while missing > 0 && !self.is_over {
            let Some(reply) = self.stream.message().await.map_err(&failed)? else {
                return Err(Failure::Ambiguous("the member closed the watch".to_owned()));
            };
            if reply.canceled() && may_be_token(reply.cancel_reason()) {
                return Err(Failure::Token(reply.cancel_reason().to_owned()));
            }
            if reply.created() {
                missing -= 1;
                let header = convert::header(reply.header());
                cluster = header.cluster_id;
                let revision = header.revision;
                if revision.next() < request.from {
                    // A member that lags, or a store that was rolled back: a list tells which.
                    return Err(Failure::Final(StoreError::FutureRevision { asked: request.from }));
                }
                self.progress.insert(reply.watch_id(), Revision(request.from.0.saturating_sub(1)));
            }
            self.take(&reply);
        }
        Ok(cluster)
    }

    async fn next(&mut self) -> Option<WatchReply> {
        loop {
            if !self.is_over && self.choices.has_changed().is_ok_and(|changed| changed) {
                self.waiting.clear();
                self.cancel("another cluster of etcd was chosen".to_owned());
            }
            if let Some(reply) = self.waiting.pop_front() {
                return Some(reply);
            }
            if self.is_over {
                return None;
            }
            let message = tokio::select! {
                // The store may be gone, with its choices; its watches go on.
                Ok(()) = self.choices.changed() => {
                    self.choices.mark_changed();
                    continue;
                }
                // Nothing is lost when this is dropped: a message is taken whole or not at all.
                message = self.stream.message() => message,
            };
            match message {
                Ok(Some(reply)) => self.take(&reply),
                Ok(None) => self.cancel("the member closed the watch".to_owned()),
                Err(error) => match classify(Asked::new(Operation::Watch), &error) {
                    Failure::Final(reason) => self.end(WatchReply::Cancelled { reason }),
                    Failure::NotApplied(detail)
                    | Failure::Ambiguous(detail)
                    | Failure::Token(detail)
                    | Failure::Broken { detail, .. } => self.cancel(detail),
                    Failure::Silent(after) => self.cancel(format!("no answer within {after:?}")),
                },
            }
        }
    }

    fn take(&mut self, reply: &WatchResponse) {
        if reply.canceled() {
            if reply.compact_revision() > 0 {
                self.end(WatchReply::Compacted { revision: convert::revision(reply.compact_revision()) });
            } else if reply.cancel_reason().contains("permission denied") {
                let detail = reply.cancel_reason().to_owned();
                let reason = StoreError::PermissionDenied { operation: Operation::Watch, detail };
                self.end(WatchReply::Cancelled { reason });
            } else {
                self.cancel(reply.cancel_reason().to_owned());
            }
            return;
        }
        let events: Vec<_> = reply.events().iter().filter_map(convert::event).collect();
        if let Some(revision) = events.iter().map(|event| event.kv().mod_revision).max() {
            self.advance(reply.watch_id(), revision);
            self.waiting.push_back(WatchReply::Events(WatchBatch { revision, events }));
        } else if !reply.created()
            && let Some(revision) = self.advance(reply.watch_id(), convert::header(reply.header()).revision)
        {
            self.waiting.push_back(WatchReply::Progress { revision });
        }
    }

    /// Notes that one range is complete up to `revision`; the new common progress, if it grew.
    fn advance(&mut self, id: WatchId, revision: Revision) -> Option<Revision> {
        let before = self.progress.values().min().copied();
        if let Some(progress) = self.progress.get_mut(&id) {
            *progress = revision.max(*progress);
        }
        self.progress.values().min().copied().filter(|after| Some(*after) > before)
    }

    fn cancel(&mut self, detail: String) {
        self.end(WatchReply::Cancelled {
            reason: StoreError::Unavailable { operation: Operation::Watch, detail },
        });
    }

    fn end(&mut self, last: WatchReply) {
        self.waiting.push_back(last);
        self.is_over = true;
    }
}
