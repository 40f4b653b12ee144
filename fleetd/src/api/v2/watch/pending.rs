//! What is to be told: the feed is taken in by a task of its own, whether or not the client reads.
//!
//! Started and read by the client's session. What has changed is a set of rows, so that nothing queues here however long
//! the client leaves it. A feed that nobody reads would hold up whatever else comes over the same connection to the
//! registry, this machine's orders among it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_core::Revision;
use fleet_registry::registry::entry::{Change, Entry};
use fleet_registry::registry::follow::{Feed, FeedItem, FeedSnapshot};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::followed::{Followed, Row};

/// A feed that is being taken in. Dropping it ends the feed.
pub(super) struct Reader {
    shared: Arc<Shared>,
    task: JoinSet<()>,
}

struct Shared {
    pending: Mutex<Pending>,
    has_come: Notify,
}

pub(super) struct Pending {
    pub followed: Followed,
    /// Rows that may differ from what the client has.
    pub changed: BTreeSet<Row>,
    /// All changes up to here are in `changed`.
    pub revision: Revision,
    /// `changed` holds the rest of a revision, whose end has to be marked.
    pub is_open: bool,
    /// Why the registry does not answer.
    pub lost: Option<String>,
}

impl Reader {
    pub fn new(mut feed: Feed, pending: Pending) -> Reader {
        let shared = Arc::new(Shared { pending: Mutex::new(pending), has_come: Notify::new() });
        let mut task = JoinSet::new();
        let taking = Arc::clone(&shared);
        task.spawn(async move {
            loop {
                let item = feed.next().await;
                taking.pending().take(item);
                taking.has_come.notify_one();
            }
        });
        Reader { shared, task }
    }

    pub fn pending(&self) -> MutexGuard<'_, Pending> {
        self.shared.pending()
    }

    /// Returns when something has come that may be to be told; false if nothing comes any more. Cancel safe.
    pub async fn has_come(&mut self) -> bool {
        tokio::select! {
            () = self.shared.has_come.notified() => true,
            _ended = self.task.join_next() => false,
        }
    }
}

impl Shared {
    /// What a panic leaves behind is told no more: the task has ended, and with it the session.
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    pub fn new(followed: Followed, list: FeedSnapshot) -> Pending {
        let mut pending = Pending {
            followed,
            changed: BTreeSet::new(),
            revision: list.revision,
            is_open: true,
            lost: None,
        };
        pending.list(list);
        pending
    }

    fn take(&mut self, item: FeedItem) {
        self.lost = match item {
            FeedItem::Disconnected { error } => Some(error.to_string()),
            FeedItem::Snapshot(list) => {
                self.list(list);
                None
            }
            FeedItem::Changes { revision, changes } => {
                self.revision = revision;
                self.is_open = true;
                for change in changes {
                    self.change(change);
                }
                None
            }
        };
    }

    /// Everything anew. What the client has already is not told again.
    fn list(&mut self, list: FeedSnapshot) {
        self.revision = list.revision;
        self.is_open = true;
        // Whatever the client has is among these, or has changed since it was told.
        self.changed.extend(self.followed.rows());
        self.followed.clear();
        for entry in list.entries {
            self.followed.put(entry);
        }
        self.changed.extend(self.followed.rows());
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
            // The lists do not show what cannot be read.
            Change::Deleted { .. } | Change::Undecodable(_) => self.followed.remove(&key),
        }
    }
}
