//! Leadership of the engine: one key, created under a lease; its create revision is the leader's term.
//!
//! Called by the engine's task, after it has judged the store. A leader that has lost the key writes nothing any more,
//! because every one of its writes compares the term.

use fleet_core::records::{LeaderRecord, Versioned};
use fleet_core::{Revision, Term};

use super::follow::Feed;
use super::snapshot::values;
use super::{ClusterFence, Registry, RegistryError, typed};
use crate::codec::encode;
use crate::keys::{Area, Key};
use crate::store::{Compare, LeaseId, Op, Range, Txn};

/// What every write of a leader compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderFence {
    pub term: Term,
    /// Modification revision of the `cluster` record that the plan was made under.
    pub cluster: Revision,
}

/// How a campaign ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Campaign {
    Won(Term),
    /// Somebody leads; `None` if their record cannot be read.
    Lost {
        holder: Option<Box<Versioned<LeaderRecord>>>,
    },
    /// The store is held or was re-anchored since it was judged: judge again.
    Fenced,
}

impl Registry {
    /// Tries to become leader under `lease`. Idempotent: a repetition after an unknown outcome wins if the first
    /// attempt did.
    ///
    /// # Errors
    /// `Store`, a dead lease included.
    pub async fn campaign(
        &self,
        record: &LeaderRecord,
        lease: LeaseId,
        fence: ClusterFence,
    ) -> Result<Campaign, RegistryError> {
        const DOING: &str = "campaigning for leadership";
        let leader = self.key(&Key::Leader);
        let mut compares = self.compare_cluster(fence);
        compares.push(Compare::absent(leader.clone()));
        let txn = Txn::of(vec![Op::put_leased(leader.clone(), encode(record), lease)])
            .when(compares)
            .otherwise(vec![Op::range(Range::key(leader))]);
        let reply = self.txn(DOING, txn).await?;
        if reply.succeeded {
            return Ok(Campaign::Won(Term(typed(reply.header.revision).0)));
        }
        let Some(kv) = values(&reply.replies).next() else { return Ok(Campaign::Fenced) };
        if kv.lease == Some(lease) {
            return Ok(Campaign::Won(Term(typed(kv.create_revision).0)));
        }
        let holder = self.decoded(DOING, &Key::Leader, Some(kv)).ok().flatten().map(Box::new);
        Ok(Campaign::Lost { holder })
    }

    /// Gives leadership up at once, so that another can be elected before the lease runs out. Idempotent; never
    /// touches another leader's key.
    ///
    /// # Errors
    /// `Store`; then the lease ends it.
    pub async fn resign(&self, term: Term) -> Result<(), RegistryError> {
        let leader = self.key(&Key::Leader);
        let own = self.compare_held(&Key::Leader, Revision(term.0));
        self.txn("resigning from leadership", Txn::of(vec![Op::delete(leader)]).when(own)).await?;
        Ok(())
    }

    /// # Errors
    /// `Store`; `Codec` if the leader's record cannot be read.
    pub async fn read_leader(&self) -> Result<Option<Versioned<LeaderRecord>>, RegistryError> {
        self.read_record("reading the leader", &Key::Leader).await
    }

    /// Follows the leader key: what a candidate waits on.
    #[must_use]
    pub fn watch_leader(&self) -> Feed {
        self.follow(&[Area::One(Key::Leader)])
    }

    pub(super) fn compare_leader(&self, fence: LeaderFence) -> Vec<Compare> {
        let mut compares = self.compare_cluster(ClusterFence { cluster: fence.cluster });
        compares.extend(self.compare_held(&Key::Leader, Revision(fence.term.0)));
        compares
    }
}
