//! Following lists: server-sent events, one for each row that changed, over one feed of the registry per client.
//!
//! Called by the router. Nothing is queued for a client: what has changed is a set of rows, each shown as it is when the
//! client takes it, so that one that reads slowly is told less often and costs no more. The server cuts off one that does
//! not read at all.

mod followed;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use fleet_api::v2::{RegistryAnswers, Reset, Synced, WatchKind};
use fleet_core::Revision;
use fleet_registry::RegistryError;
use fleet_registry::registry::entry::{Change, Entry};
use fleet_registry::registry::follow::{Feed, FeedItem, FeedSnapshot};
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

/// What is sent at once; a row may exceed it.
const PIECE: usize = 64 << 10;
/// Keeps connections alive through proxies, and is no event to anybody.
const HEARTBEAT: &str = ": heartbeat\n\n";

pub(super) async fn get(State(api): State<Api>, uri: Uri, headers: HeaderMap) -> Answer {
    let query = Query::of(&uri);
    let kinds = kinds(&query)?;
    let since = since(&query, &headers)?;
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

/// The last revision that the client was told: a browser sends the header when it reconnects, to the same address.
fn since(query: &Query, headers: &HeaderMap) -> Result<Option<Revision>, Failure> {
    let asked = match headers.get("last-event-id").filter(|id| !id.is_empty()) {
        None => query.number("since")?,
        Some(id) => match id.to_str().ok().and_then(|id| id.parse().ok()) {
            Some(revision) => Some(revision),
            None => return Err(Failure::bad_request("Last-Event-ID: expected a number")),
        },
    };
    Ok(asked.map(|revision: u64| Revision(i64::try_from(revision).unwrap_or(i64::MAX))))
}

/// One client. Dropping it ends the feed.
struct Session {
    api: Api,
    feed: Feed,
    followed: Followed,
    /// What the client has, as hashes of what it was shown.
    told: HashMap<Row, u64>,
    /// Rows that may differ from what the client has.
    changed: BTreeSet<Row>,
    /// All changes up to here are in `changed`.
    revision: Revision,
    /// `changed` holds the rest of a revision, whose end has to be marked.
    is_open: bool,
    is_synced: bool,
    has_lost_registry: bool,
    /// Events that are no rows.
    remarks: VecDeque<String>,
    /// The last event that was made, without its end: it may get the `id:`.
    held: Option<String>,
    heartbeat: Instant,
    _slot: OwnedSemaphorePermit,
}

impl Session {
    /// Waits for the list, so that a registry that does not answer shows in the status.
    async fn open(
        api: Api,
        kinds: BTreeSet<WatchKind>,
        since: Option<Revision>,
        slot: OwnedSemaphorePermit,
    ) -> Result<Session, Failure> {
        let areas = followed::areas(&kinds);
        let mut feed = api.registry.follow_in_step(&areas);
        let list = match feed.next().await {
            FeedItem::Snapshot(list) => list,
            FeedItem::Disconnected { error } => return Err(error.into()),
            FeedItem::Changes { .. } => unreachable!("a feed begins with a list"),
        };
        let mut remarks = VecDeque::new();
        let told = match since {
            None => HashMap::new(),
            Some(since) => match was_told(&api, kinds.clone(), since, list.revision).await? {
                Ok(told) => told,
                Err(why) => {
                    remarks.push_back(event("reset", &Reset { why }));
                    HashMap::new()
                }
            },
        };
        let heartbeat = Instant::now() + api.limits.heartbeat;
        let mut session = Session {
            api,
            feed,
            followed: Followed::new(kinds),
            told,
            changed: BTreeSet::new(),
            revision: Revision(0),
            is_open: false,
            is_synced: false,
            has_lost_registry: false,
            remarks,
            held: None,
            heartbeat,
            _slot: slot,
        };
        session.list(list);
        Ok(session)
    }

    /// The next piece of the stream; none when fleetd stops.
    async fn next(&mut self) -> Option<String> {
        loop {
            let piece = self.piece();
            if !piece.is_empty() {
                self.heartbeat = Instant::now() + self.api.limits.heartbeat;
                return Some(piece);
            }
            // All arms are cancel safe.
            tokio::select! {
                () = self.api.shutdown.cancelled() => return None,
                item = self.feed.next() => self.take(item),
                () = sleep_until(self.heartbeat) => {
                    self.heartbeat = Instant::now() + self.api.limits.heartbeat;
                    return Some(HEARTBEAT.to_owned());
                }
            }
        }
    }

    fn take(&mut self, item: FeedItem) {
        match item {
            FeedItem::Disconnected { error } => {
                if !std::mem::replace(&mut self.has_lost_registry, true) {
                    let lost = RegistryAnswers { answers: false, text: error.to_string() };
                    self.remarks.push_back(event("registry", &lost));
                }
                return;
            }
            FeedItem::Snapshot(list) => self.list(list),
            FeedItem::Changes { revision, changes } => {
                self.revision = revision;
                self.is_open = true;
                for change in changes {
                    self.change(change);
                }
            }
        }
        if std::mem::replace(&mut self.has_lost_registry, false) {
            let back = RegistryAnswers { answers: true, text: String::new() };
            self.remarks.push_back(event("registry", &back));
        }
    }

    /// Everything anew. What the client has already is not told again.
    fn list(&mut self, list: FeedSnapshot) {
        self.revision = list.revision;
        self.is_open = true;
        self.followed.clear();
        for entry in list.entries {
            self.followed.put(entry);
        }
        self.changed = self.told.keys().cloned().chain(self.followed.rows()).collect();
    }

    fn change(&mut self, change: Change) {
        let key = change.key();
        self.followed.rows_of(&key, &mut self.changed);
        match change {
            Change::Put(entry) => {
                let is_leader = matches!(entry, Entry::Leader(_));
                self.followed.put(entry);
                if is_leader {
                    // The one before was marked above.
                    self.followed.rows_of(&key, &mut self.changed);
                }
            }
            Change::Deleted { key, .. } => self.followed.remove(&key),
            // Unknown, not absent: what was readable last stays.
            Change::Undecodable(_) => {}
        }
    }

    /// Of what is to be told, as much as is sent at once.
    fn piece(&mut self) -> String {
        let mut piece = String::new();
        while let Some(remark) = self.remarks.pop_front() {
            self.append(remark, &mut piece);
        }
        let now = self.api.now();
        while piece.len() < PIECE
            && let Some(row) = self.changed.pop_first()
        {
            let told = self.told.get(&row).copied();
            match self.followed.show(&row, now) {
                Some(shown) if told == Some(shown.hash) => {}
                Some(shown) => {
                    let text = format!("event: {}\ndata: {}\n", row.kind().as_str(), shown.json);
                    self.told.insert(row, shown.hash);
                    self.append(text, &mut piece);
                }
                None if told.is_some() => {
                    self.told.remove(&row);
                    self.append(event("deleted", &row.deleted()), &mut piece);
                }
                None => {}
            }
        }
        if self.changed.is_empty() && std::mem::replace(&mut self.is_open, false) {
            if !std::mem::replace(&mut self.is_synced, true) {
                self.append(event("synced", &Synced { revision: self.revision.0 }), &mut piece);
            }
            if let Some(last) = self.held.take() {
                piece.push_str(&format!("{last}id: {}\n\n", self.revision.0));
            }
        }
        if self.is_open {
            return piece;
        }
        // A remark alone ends nothing.
        if let Some(last) = self.held.take() {
            piece.push_str(&last);
            piece.push('\n');
        }
        piece
    }

    /// Ends the event before this one, which then cannot be the last of its revision.
    fn append(&mut self, event: String, piece: &mut String) {
        if let Some(before) = self.held.replace(event) {
            piece.push_str(&before);
            piece.push('\n');
        }
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

/// What a client has that was told everything up to `since`; or why that cannot be known any more.
async fn was_told(
    api: &Api,
    kinds: BTreeSet<WatchKind>,
    since: Revision,
    now: Revision,
) -> Result<Result<HashMap<Row, u64>, String>, Failure> {
    if since > now {
        let why = format!("revision {since} is in the future of this registry, which is at {now}");
        return Ok(Err(why));
    }
    let snapshot = match api.registry.read_at(&followed::areas(&kinds), since).await {
        Ok(snapshot) => snapshot,
        Err(RegistryError::Store {
            error: error @ (StoreError::Compacted { .. } | StoreError::FutureRevision { .. }),
            ..
        }) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let at = api.now();
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
