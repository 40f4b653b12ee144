//! Following lists: server-sent events, one for each row that changed, over one feed of the registry per client.
//!
//! Called by the router. Nothing is queued for a client: what has changed is a set of rows, each shown as it is when the
//! client takes it, so that one that reads slowly is told less often and costs no more. The server cuts off one that does
//! not read at all.

mod followed;
mod id;
mod pending;

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use fleet_api::v2::{RegistryAnswers, Reset, Synced, WatchKind};
use fleet_core::Revision;
use fleet_registry::RegistryError;
use fleet_registry::registry::follow::FeedItem;
use fleet_registry::store::StoreError;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::super::Failure;
use super::super::query::Query;
use super::super::state::Api;
use super::{Answer, typed};
use followed::{Followed, Row};
use id::{Since, id};
use pending::{Pending, Reader};

/// What is sent at once; a row may exceed it.
const PIECE: usize = 64 << 10;
/// Rows that are looked at before others have their turn.
const ROWS: usize = 256;
/// From the end of what was told to the next: changes that come close together are told together.
const PACE: Duration = Duration::from_millis(50);
/// Keeps connections alive through proxies, and is no event to anybody.
const HEARTBEAT: &str = ": heartbeat\n\n";

pub(super) async fn get(State(api): State<Api>, uri: Uri, headers: HeaderMap) -> Answer {
    let query = Query::of(&uri);
    let kinds = kinds(&query)?;
    let since = since(&query, &headers);
    let slot = api.watch()?;
    let session = Session::open(api, kinds, since, slot).await?;
    let pieces = stream::unfold(session, |mut session| async move {
        let piece = session.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), session))
    });
    let mut response = typed("text/event-stream", Body::from_stream(pieces));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// All of them, unless some are named.
fn kinds(query: &Query) -> Result<BTreeSet<WatchKind>, Failure> {
    let named = query.all("kind");
    if named.is_empty() {
        return Ok(WatchKind::ALL.into());
    }
    let parse = |text| {
        WatchKind::parse(text)
            .ok_or_else(|| Failure::bad_request(format!("kind={text}: expected unit, state or machine")))
    };
    named.into_iter().map(parse).collect()
}

/// The last id that the client was told: a browser sends the header when it reconnects, to the same address. A number
/// that no revision has is none, as 0 is to clients that have nothing yet.
fn since(query: &Query, headers: &HeaderMap) -> Option<String> {
    let sent = headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    let sent = sent.filter(|id| !id.is_empty()).or_else(|| query.first("since").map(str::to_owned));
    sent.filter(|id| id != "0")
}

/// One client. Dropping it ends the feed.
struct Session {
    api: Api,
    kinds: BTreeSet<WatchKind>,
    reader: Reader,
    /// What the client has, as hashes of what it was shown.
    told: HashMap<Row, u64>,
    is_synced: bool,
    has_told_lost: bool,
    /// Comes before everything else.
    reset: Option<String>,
    /// The last event that was made, without its end: it may get the `id:`.
    held: Option<String>,
    heartbeat: Instant,
    /// When something may be told next.
    pace: Instant,
    /// More can be told at once.
    has_more: bool,
    _slot: OwnedSemaphorePermit,
}

/// As much as is sent at once.
struct Piece {
    text: String,
    /// There is nothing more to tell for now.
    is_last: bool,
}

impl Session {
    /// Waits for the list, so that a registry that does not answer shows in the status.
    async fn open(
        api: Api,
        kinds: BTreeSet<WatchKind>,
        since: Option<String>,
        slot: OwnedSemaphorePermit,
    ) -> Result<Session, Failure> {
        let turn = api.opens_watch().await;
        let areas = followed::areas(&kinds);
        let mut feed = api.registry.follow_in_step(&areas);
        let list = match feed.next().await {
            FeedItem::Snapshot(list) => list,
            FeedItem::Disconnected { error } => return Err(error.into()),
            FeedItem::Changes { .. } => unreachable!("a feed begins with a list"),
        };
        let pending = Pending::new(Followed::new(kinds.clone()), list);
        // From here on it is read.
        let reader = Reader::new(feed, pending);
        let (mut told, mut reset) = (HashMap::new(), None);
        if let Some(since) = since {
            match was_told(&api, &kinds, &since, &reader).await? {
                Ok(known) => told = known,
                Err(why) => reset = Some(event("reset", &Reset { why })),
            }
        }
        drop(turn);
        reader.pending().changed.extend(told.keys().cloned());
        let now = Instant::now();
        let heartbeat = now + api.limits.heartbeat;
        Ok(Session {
            api,
            kinds,
            reader,
            told,
            is_synced: false,
            has_told_lost: false,
            reset,
            held: None,
            heartbeat,
            pace: now,
            has_more: false,
            _slot: slot,
        })
    }

    /// The next piece of the stream; none when fleetd stops.
    async fn next(&mut self) -> Option<String> {
        loop {
            if Instant::now() < self.pace {
                tokio::select! {
                    () = self.api.shutdown.cancelled() => return None,
                    () = sleep_until(self.pace) => {}
                }
            }
            if self.has_more {
                // A long list leaves room for what else this thread does.
                tokio::task::yield_now().await;
            }
            let piece = self.piece();
            self.has_more = !piece.is_last;
            if !piece.text.is_empty() {
                let now = Instant::now();
                self.heartbeat = now + self.api.limits.heartbeat;
                if piece.is_last {
                    self.pace = now + PACE;
                }
                return Some(piece.text);
            }
            if self.has_more {
                continue;
            }
            // All arms are cancel safe.
            tokio::select! {
                () = self.api.shutdown.cancelled() => return None,
                has_come = self.reader.has_come() => if !has_come { return None },
                () = sleep_until(self.heartbeat) => {
                    self.heartbeat = Instant::now() + self.api.limits.heartbeat;
                    return Some(HEARTBEAT.to_owned());
                }
            }
        }
    }

    /// Of what is to be told, as much as is sent at once.
    fn piece(&mut self) -> Piece {
        let Session { api, kinds, reader, told, is_synced, has_told_lost, reset, held, .. } = self;
        let pending = &mut *reader.pending();
        let mut text = String::new();
        if let Some(reset) = reset.take() {
            append(held, reset, &mut text);
        }
        if pending.lost.is_some() != *has_told_lost {
            *has_told_lost = pending.lost.is_some();
            let answers =
                RegistryAnswers { answers: !*has_told_lost, text: pending.lost.clone().unwrap_or_default() };
            append(held, event("registry", &answers), &mut text);
        }
        let (now, mut rows) = (api.now(), 0);
        while rows < ROWS
            && text.len() < PIECE
            && let Some(row) = pending.changed.pop_first()
        {
            rows += 1;
            let before = told.get(&row).copied();
            match pending.followed.show(&row, now) {
                Some(shown) if before == Some(shown.hash) => {}
                Some(shown) => {
                    let row_event = format!("event: {}\ndata: {}\n", row.kind().as_str(), shown.json);
                    told.insert(row, shown.hash);
                    append(held, row_event, &mut text);
                }
                None if before.is_some() => {
                    told.remove(&row);
                    append(held, event("deleted", &row.deleted()), &mut text);
                }
                None => {}
            }
        }
        if pending.is_open && !pending.changed.is_empty() {
            return Piece { text, is_last: false };
        }
        if std::mem::replace(&mut pending.is_open, false) {
            if !std::mem::replace(is_synced, true) {
                append(held, event("synced", &Synced { revision: pending.revision.0 }), &mut text);
            }
            if let Some(last) = held.take() {
                let id = id(pending.followed.cluster(), kinds, pending.revision);
                text.push_str(&format!("{last}id: {id}\n\n"));
            }
        }
        // A remark alone ends nothing.
        if let Some(last) = held.take() {
            text.push_str(&last);
            text.push('\n');
        }
        Piece { text, is_last: true }
    }
}

/// Ends the event before this one, which then cannot be the last of its revision.
fn append(held: &mut Option<String>, event: String, text: &mut String) {
    if let Some(before) = held.replace(event) {
        text.push_str(&before);
        text.push('\n');
    }
}

/// An event without its end.
fn event(name: &str, data: &impl Serialize) -> String {
    let json = serde_json::to_string(data).expect("wire types have string keys and no fallible fields");
    format!("event: {name}\ndata: {json}\n")
}

fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// What a client has that was told everything up to the id `since`; or why that cannot be known any more.
async fn was_told(
    api: &Api,
    kinds: &BTreeSet<WatchKind>,
    since: &str,
    reader: &Reader,
) -> Result<Result<HashMap<Row, u64>, String>, Failure> {
    let Some(since) = Since::parse(since) else {
        return Ok(Err("this is no id of this registry's events".to_owned()));
    };
    let revision = {
        let pending = reader.pending();
        since.revision(pending.followed.cluster(), kinds, pending.revision)
    };
    let revision: Revision = match revision {
        Ok(revision) => revision,
        Err(why) => return Ok(Err(why)),
    };
    let snapshot = match api.registry.read_at(&followed::areas(kinds), revision).await {
        Ok(snapshot) => snapshot,
        Err(RegistryError::Store {
            error: error @ (StoreError::Compacted { .. } | StoreError::FutureRevision { .. }),
            ..
        }) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let (at, kinds) = (api.now(), kinds.clone());
    // As long as a list: beside the other requests.
    let told = tokio::task::spawn_blocking(move || {
        let followed = Followed::at(kinds, snapshot);
        let show = |row: Row| Some((followed.show(&row, at)?.hash, row));
        followed.rows().filter_map(show).map(|(hash, row)| (row, hash)).collect()
    });
    told.await.map(Ok).map_err(|error| {
        let message = format!("looking at what was told: {error}");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })
}
