//! What the agent needs of the registry, and nothing more. The typed registry is fitted to it where everything is
//! wired; tests bring one of their own.
//!
//! Whoever implements it also judges the store against the member file, keeps the witness's counter, and fences every
//! write with the machine's own presence.

use async_trait::async_trait;
use bytes::Bytes;
use fleet_core::reconcile::{Ack, Orders};
use fleet_core::records::StateRow;
use fleet_core::store_trust::Trust;
use std::collections::{BTreeMap, BTreeSet};
use unit_files::{ContentHash, UnitName};

/// Why a call has no result. What was written is unknown; writing it again does no harm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct RegistryFault {
    pub doing: &'static str,
    pub why: String,
}

/// The registry as one machine's agent sees it.
#[async_trait]
pub trait AgentRegistry: Send + Sync + 'static {
    /// Follows the orders of this machine, for as long as the feed lives.
    fn follow(&self) -> Box<dyn OrdersFeed>;

    /// The rows of this machine, read linearizably.
    async fn rows(&self) -> Result<BTreeMap<UnitName, StateRow>, RegistryFault>;

    /// A text by its hash; None if the registry has none of that name. The caller checks the bytes.
    async fn content(&self, hash: ContentHash) -> Result<Option<Bytes>, RegistryFault>;

    /// Writes acknowledgements, then rows. Idempotent.
    ///
    /// # Errors
    /// The registry did not answer: nothing is known of what was written.
    async fn commit(&self, report: Report) -> Result<Committed, RegistryFault>;
}

/// Orders as they come. The view always is one of one revision.
#[async_trait]
pub trait OrdersFeed: Send {
    /// Waits for the next change of the view, or of the connection. Reconnects by itself, with backoff. Cancel safe.
    async fn changed(&mut self) -> FeedEvent;

    /// Has the next call of [`changed`](Self::changed) compare the view with the registry in full: watches have lost
    /// events before. A feed that cannot miss anything has nothing to do.
    fn audit(&mut self) {}

    /// None until the registry has answered once.
    fn view(&self) -> Option<FeedView<'_>>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// The view is another one, or was confirmed after a disconnection.
    Changed,
    /// The same orders are trusted, or not any more. Says nothing of the connection: while there is none, the orders may
    /// be ones that the registry has taken back since.
    Judged,
    Disconnected {
        why: String,
    },
    /// The view was compared with the registry. Where they differed, the right one follows as `Changed`.
    Audited {
        differences: usize,
    },
}

/// What was read at one revision: `cluster` and `hold` with the orders.
#[derive(Clone, Copy, Debug)]
pub struct FeedView<'a> {
    pub orders: &'a Orders,
    /// Nothing is applied unless this says so. Whoever implements it says [`Trust::Unsettled`] for as long as it is not
    /// settled that this machine's identity is its own: a cloned machine must not start the other's units.
    pub trust: &'a Trust,
}

/// What one commit writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Comes of carrying out orders: compare `cluster` and `hold`, and raise the witness.
    pub is_of_pass: bool,
    pub acknowledgements: Vec<Ack>,
    /// None deletes the row.
    pub rows: Vec<(UnitName, Option<StateRow>)>,
}

/// What became of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows that stand as reported. What is missing is reported again.
    pub rows: BTreeSet<UnitName>,
    /// Units whose acknowledgement was decided: taken, or overtaken by a newer order.
    pub acknowledged: BTreeSet<UnitName>,
    /// Nothing was written, because the presence is not ours or the store is held.
    pub fenced: Option<String>,
}
