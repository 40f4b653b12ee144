//! Whether the store in front of a machine is its own cluster's, and not rolled back.
//!
//! The agent asks before it applies anything, a candidate before it campaigns, the API before it writes. Pure: the
//! caller reads the member file and the store.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, Epoch, Revision};
use crate::records::{ClusterRecord, Extra, HoldRecord, WitnessRecord};

/// What a machine keeps on its disk about the cluster it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    #[serde(default)]
    pub v: u32,
    pub cluster: ClusterId,
    pub epoch: Epoch,
    /// `etcd` or `embedded`.
    pub store: String,
    /// Last witness written, copied after the store's reply.
    #[serde(default)]
    pub witness: u64,
    /// Highest store revision seen in a linearizable answer.
    #[serde(default)]
    pub seen: Revision,
    /// Fields that this release does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What one linearizable read of the store says.
#[derive(Clone, Copy, Debug)]
pub struct StoreView<'a> {
    pub cluster: Option<&'a ClusterRecord>,
    pub hold: Option<&'a HoldRecord>,
    /// This machine's witness.
    pub witness: Option<&'a WitnessRecord>,
    /// This machine carries a forgotten marker: its witness was removed on purpose and proves nothing.
    pub is_forgotten: bool,
    pub revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Go on.
    Own,
    /// This machine belongs to no cluster yet and the store holds one: join it.
    Join,
    /// Neither the machine nor the store knows a cluster: create one.
    Create,
    /// The machine belongs to a cluster, the store has none. Write nothing.
    Empty,
    /// The store is another cluster's. Write nothing.
    Foreign { found: ClusterId },
    /// The store was rolled back: put a hold, apply nothing.
    RolledBack { why: String },
    /// Somebody found it rolled back before us: apply nothing.
    Held { why: String },
    /// Nothing is known against the store, but this machine may not apply anything yet; `why` is a sentence.
    Unsettled { why: String },
    /// Re-anchored under a higher epoch: write witness and seen revision anew, then go on.
    Reanchor { epoch: Epoch },
}

impl Trust {
    /// Whether orders may be applied and written.
    #[must_use]
    pub fn may_act(&self) -> bool {
        matches!(self, Trust::Own)
    }

    /// What to do about it, for the status line and the API; empty if nothing is wrong.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Trust::Own | Trust::Join | Trust::Create | Trust::Reanchor { .. } => String::new(),
            Trust::Empty => {
                "the store is empty although this machine belongs to a cluster; nothing is stopped. If another store is \
                 meant, correct `etcd_servers` and `etcd_key_prefix`. Else fill it: `fleetctl cluster import FILE`, \
                 `fleetctl machine join`, or restore a backup of the store. To begin anew without its units, stop \
                 fleetd, remove member.json from its state directory and start it"
                    .to_owned()
            }
            Trust::Foreign { found } => format!(
                "the store belongs to another cluster ({found}); nothing is stopped. Check `etcd_servers` and \
                 `etcd_key_prefix`, or restore a backup of this cluster's store. A machine that has a store of its own \
                 moves with it: `fleetctl machine join --adopt`, or `--abandon` without its units. Any other joins that \
                 cluster anew: stop fleetd, remove /var/lib/fleet/member.json (below `state_directory`), and start it; \
                 what still runs there goes on and belongs to nobody"
            ),
            Trust::Unsettled { why } => why.clone(),
            Trust::RolledBack { why } | Trust::Held { why } => format!(
                "the store was rolled back ({why}); nothing is started or stopped until `fleetctl cluster adopt` \
                 confirms what is in it"
            ),
        }
    }
}

/// Judges the store. `member` is what the machine's disk says, None if it never belonged to a cluster.
#[must_use]
pub fn judge(member: Option<&Member>, view: StoreView<'_>) -> Trust {
    let Some(member) = member else {
        return if view.cluster.is_some() { Trust::Join } else { Trust::Create };
    };
    let Some(cluster) = view.cluster else {
        return Trust::Empty;
    };
    if cluster.id != member.cluster {
        return Trust::Foreign { found: cluster.id.clone() };
    }
    if let Some(hold) = view.hold {
        return Trust::Held { why: hold.why.clone() };
    }
    if cluster.epoch > member.epoch {
        return Trust::Reanchor { epoch: cluster.epoch };
    }
    if cluster.epoch < member.epoch {
        return Trust::RolledBack {
            why: format!("its epoch is {}, this machine has seen {}", cluster.epoch, member.epoch),
        };
    }
    if view.revision < member.seen {
        return Trust::RolledBack {
            why: format!("its revision is {}, this machine has seen {}", view.revision, member.seen),
        };
    }
    let counted = view.witness.map_or(0, |w| w.passes);
    if counted < member.witness && !view.is_forgotten {
        return Trust::RolledBack {
            why: format!(
                "it counts {counted} passes of this machine, the machine has made {}",
                member.witness
            ),
        };
    }
    Trust::Own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{SCHEMA, Settings, Stamp};
    use std::collections::{BTreeMap, BTreeSet};

    fn id(text: &str) -> ClusterId {
        ClusterId::parse(text).unwrap()
    }
    fn cluster(name: &str, epoch: u64) -> ClusterRecord {
        ClusterRecord {
            v: SCHEMA,
            id: id(name),
            epoch: Epoch(epoch),
            features: BTreeSet::new(),
            settings: Settings::default(),
            created: Stamp::default(),
            extra: BTreeMap::new(),
        }
    }
    fn member() -> Member {
        Member {
            v: SCHEMA,
            cluster: id("ours"),
            epoch: Epoch(1),
            store: "etcd".into(),
            witness: 5,
            seen: Revision(100),
            extra: BTreeMap::new(),
        }
    }
    fn witness(passes: u64) -> WitnessRecord {
        WitnessRecord { v: SCHEMA, epoch: Epoch(1), passes, extra: BTreeMap::new() }
    }
    fn view<'a>(
        cluster: Option<&'a ClusterRecord>,
        witness: Option<&'a WitnessRecord>,
        revision: i64,
    ) -> StoreView<'a> {
        StoreView { cluster, hold: None, witness, is_forgotten: false, revision: Revision(revision) }
    }

    #[test]
    fn a_store_that_knows_less_than_the_disk_was_rolled_back() {
        let (ours, w5, w4) = (cluster("ours", 1), witness(5), witness(4));
        assert_eq!(judge(Some(&member()), view(Some(&ours), Some(&w5), 100)), Trust::Own);
        for (epoch, witness, revision) in [(0, &w5, 100), (1, &w4, 100), (1, &w5, 99)] {
            let cluster = cluster("ours", epoch);
            let trust = judge(Some(&member()), view(Some(&cluster), Some(witness), revision));
            assert!(matches!(trust, Trust::RolledBack { .. }), "{trust:?}");
        }
        assert!(matches!(judge(Some(&member()), view(Some(&ours), None, 100)), Trust::RolledBack { .. }));
    }

    #[test]
    fn an_empty_or_foreign_store_is_never_joined_by_a_member() {
        assert_eq!(judge(Some(&member()), view(None, None, 1)), Trust::Empty);
        let other = cluster("theirs", 9);
        assert_eq!(
            judge(Some(&member()), view(Some(&other), None, 1)),
            Trust::Foreign { found: id("theirs") }
        );
        let remedy = Trust::Foreign { found: id("theirs") }.remedy();
        let at = |part: &str| remedy.find(part).unwrap_or_else(|| panic!("{part}: {remedy}"));
        assert!(at("machine join --adopt") < at("remove /var/lib/fleet/member.json"), "no way out: {remedy}");
        assert!(remedy.ends_with("goes on and belongs to nobody"), "{remedy}");
        assert_eq!(judge(None, view(None, None, 1)), Trust::Create);
        assert_eq!(judge(None, view(Some(&other), None, 1)), Trust::Join);
    }

    #[test]
    fn a_higher_epoch_re_anchors_even_at_a_lower_revision() {
        let adopted = cluster("ours", 2);
        assert_eq!(
            judge(Some(&member()), view(Some(&adopted), None, 3)),
            Trust::Reanchor { epoch: Epoch(2) }
        );
    }

    #[test]
    fn a_forgotten_machine_starts_a_new_witness() {
        let ours = cluster("ours", 1);
        let view = StoreView { is_forgotten: true, ..view(Some(&ours), None, 100) };
        assert_eq!(judge(Some(&member()), view), Trust::Own);
    }
}
