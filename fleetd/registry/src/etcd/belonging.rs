//! Whether an endpoint belongs to the etcd cluster that this fleetd uses.
//!
//! An endpoint can come to another cluster: a member that was started anew as a cluster of its own, a name or an address
//! that was given away. What such a cluster holds is nobody's registry. Asked by the members when a connection is made,
//! before anything is sent over it, and by the fail-over of every answer, because a connection can be made anew below
//! us. What the registry itself says of its cluster is judged elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::warn;

/// Which cluster was seen first, and what each endpoint said last. Clones share it, so that all stores made from one
/// set of options agree.
#[derive(Debug, Clone, Default)]
pub struct Belonging(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    /// How often [`Belonging::choose`] has changed it. What was opened before that is another cluster's.
    choices: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Seen {
    own: Option<u64>,
    endpoints: BTreeMap<String, u64>,
}

/// An endpoint of another cluster than the one in use; ids as `etcdctl` writes them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint} belongs to etcd cluster {found:x}, the one in use is {own:x}; it is not used")]
pub(super) struct Stranger {
    pub endpoint: String,
    pub found: u64,
    pub own: u64,
}

impl Belonging {
    /// Judges what `endpoint`, one of `count`, says of itself. The first id that is seen is the own one.
    ///
    /// If all endpoints have come to say the same other id, etcd was made anew where it was, from a backup for example:
    /// then that one is used from now on, and what it holds decides whether it is trusted.
    ///
    /// # Errors
    /// [`Stranger`], for an endpoint that nothing may be sent to.
    pub(super) fn judge(&self, endpoint: &str, found: u64, count: usize) -> Result<(), Stranger> {
        let mut seen = self.lock();
        let own = *seen.own.get_or_insert(found);
        let before = seen.endpoints.insert(endpoint.to_owned(), found);
        if found == own {
            return Ok(());
        }
        let stranger = Stranger { endpoint: endpoint.to_owned(), found, own };
        if seen.endpoints.len() == count && seen.endpoints.values().all(|id| *id == found) {
            warn!(%endpoint, found = %format_args!("{found:x}"), own = %format_args!("{own:x}"),
                "every etcd endpoint belongs to another cluster than before, which is used from now on");
            seen.own = Some(found);
            return Ok(());
        }
        if before != Some(found) {
            warn!("{stranger}; correct etcd_servers, or put that member back into its cluster");
        }
        Err(stranger)
    }

    /// What `endpoint` said last is another cluster than the one in use: a connection to it is of no more use.
    pub(super) fn is_stranger(&self, endpoint: &str) -> bool {
        let seen = self.lock();
        seen.own.is_some() && seen.endpoints.get(endpoint).is_some_and(|id| Some(*id) != seen.own)
    }

    /// From now on `cluster` is the one in use, whoever was seen first. `false`: it already was.
    pub(super) fn choose(&self, cluster: u64) -> bool {
        let mut seen = self.lock();
        if seen.own == Some(cluster) {
            return false;
        }
        seen.own = Some(cluster);
        // Told under the lock, so that nobody who asks later misses it.
        self.0.choices.send_modify(|choices| *choices += 1);
        true
    }

    /// Changes when another cluster was chosen.
    pub(super) fn choices(&self) -> watch::Receiver<u64> {
        self.0.choices.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that says which cluster gave it; zero: it does not say.
pub(super) trait Told {
    fn cluster(&self) -> u64;
}

impl<T> Told for (u64, T) {
    fn cluster(&self) -> u64 {
        self.0
    }
}

macro_rules! told {
    ($($answer:ty),+) => {$(
        impl Told for $answer {
            fn cluster(&self) -> u64 {
                self.header().map_or(0, etcd_client::ResponseHeader::cluster_id)
            }
        }
    )+};
}
told!(
    etcd_client::GetResponse,
    etcd_client::TxnResponse,
    etcd_client::CompactionResponse,
    etcd_client::LeaseGrantResponse,
    etcd_client::LeaseRevokeResponse,
    etcd_client::LeaseTimeToLiveResponse
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_of_another_cluster_than_the_first_is_refused_by_all_who_share_it() {
        let first = Belonging::default();
        let belonging = first.clone();
        first.judge("a", 1, 3).unwrap();
        let stranger = belonging.judge("b", 0xbad, 3).unwrap_err();
        assert_eq!(
            stranger.to_string(),
            "b belongs to etcd cluster bad, the one in use is 1; it is not used"
        );
        // Also if nobody else answers: what is down has not left.
        belonging.judge("b", 0xbad, 3).unwrap_err();
        belonging.judge("c", 0xbad, 3).unwrap_err();
        // Put back into its cluster.
        belonging.judge("b", 1, 3).unwrap();
    }

    #[test]
    fn a_cluster_that_is_chosen_is_the_own_one_although_another_was_seen_first() {
        let belonging = Belonging::default();
        let choices = belonging.choices();
        belonging.judge("a", 1, 2).unwrap();
        assert!(!belonging.choose(1) && !choices.has_changed().unwrap());
        assert!(belonging.choose(2) && choices.has_changed().unwrap());
        assert!(belonging.is_stranger("a") && !belonging.is_stranger("b"));
        belonging.judge("a", 1, 2).unwrap_err();
        belonging.judge("b", 2, 2).unwrap();
    }

    #[test]
    fn a_cluster_that_was_made_anew_at_every_endpoint_is_used() {
        let belonging = Belonging::default();
        belonging.judge("a", 1, 2).unwrap();
        belonging.judge("b", 1, 2).unwrap();
        belonging.judge("a", 2, 2).unwrap_err();
        belonging.judge("b", 2, 2).unwrap();
        belonging.judge("a", 2, 2).unwrap();
        belonging.judge("a", 1, 2).unwrap_err();
    }
}
