//! The ids of events: which cluster's registry, which lists, and up to which revision a client was told.
//!
//! Called by the client's session. To clients an id is one opaque text. A registry that was exchanged or put back to an
//! earlier state has another cluster id or another epoch, so that its revisions are not taken for those of before.

use std::collections::BTreeSet;

use fleet_api::v2::WatchKind;
use fleet_core::Revision;
use fleet_core::records::ClusterRecord;

/// Where a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Since {
    cluster: String,
    kinds: String,
    revision: Revision,
}

/// `<the cluster's first eight characters>.<epoch>-<lists>-<revision>`.
pub(super) fn id(cluster: Option<&ClusterRecord>, kinds: &BTreeSet<WatchKind>, revision: Revision) -> String {
    format!("{}-{}-{revision}", of_cluster(cluster), kinds.iter().map(letter).collect::<String>())
}

/// `-` stands between the parts, and may be in a cluster's id.
fn of_cluster(cluster: Option<&ClusterRecord>) -> String {
    let Some(cluster) = cluster else { return ".".to_owned() };
    format!("{}.{}", cluster.id.as_str().chars().take(8).collect::<String>(), cluster.epoch)
}

fn letter(kind: &WatchKind) -> char {
    match kind {
        WatchKind::Unit => 'u',
        WatchKind::State => 's',
        WatchKind::Machine => 'm',
    }
}

impl Since {
    /// None if it is no id: such a one was never given.
    pub fn parse(text: &str) -> Option<Since> {
        let mut parts = text.rsplitn(3, '-');
        let revision = parts.next()?.parse().ok().filter(|revision| *revision > 0)?;
        let (kinds, cluster) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Since { cluster, kinds, revision: Revision(revision) })
    }

    /// The revision, if this registry gave the id to a client that followed these lists; or why it is of no use.
    pub fn revision(
        &self,
        cluster: Option<&ClusterRecord>,
        kinds: &BTreeSet<WatchKind>,
        now: Revision,
    ) -> Result<Revision, String> {
        if cluster.is_none() || self.cluster != of_cluster(cluster) {
            return Err("the id is of another registry, or of before it was put back".to_owned());
        }
        if let Some(kind) = kinds.iter().find(|kind| !self.kinds.contains(letter(kind))) {
            return Err(format!("the id is of a stream without the list kind={}", kind.as_str()));
        }
        if self.revision > now {
            let Since { revision, .. } = self;
            return Err(format!("revision {revision} is in the future of this registry, which is at {now}"));
        }
        Ok(self.revision)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(id: &str, epoch: u64) -> ClusterRecord {
        serde_json::from_value(json!({ "id": id, "epoch": epoch })).unwrap()
    }

    #[test]
    fn an_id_is_good_for_its_own_registry_and_lists_alone() {
        let ours = cluster("ab-cd-ef-gh", 2);
        let kinds = BTreeSet::from([WatchKind::Unit, WatchKind::State]);
        let text = id(Some(&ours), &kinds, Revision(7));
        assert_eq!(text, "ab-cd-ef.2-us-7");
        let since = Since::parse(&text).unwrap();
        assert_eq!(since.revision(Some(&ours), &kinds, Revision(7)), Ok(Revision(7)));
        assert!(since.revision(Some(&ours), &[WatchKind::State].into(), Revision(9)).is_ok());
        assert!(since.revision(Some(&ours), &WatchKind::ALL.into(), Revision(9)).is_err());
        assert!(since.revision(Some(&ours), &kinds, Revision(6)).is_err());
        for other in [Some(cluster("ab-cd-ef-gh", 3)), Some(cluster("other", 2)), None] {
            assert!(since.revision(other.as_ref(), &kinds, Revision(9)).is_err(), "{other:?}");
        }
    }

    #[test]
    fn what_was_never_given_is_no_id() {
        for text in ["", "7", "-7", "a.1-us", "a.1-us-0", "a.1-us-x"] {
            assert_eq!(Since::parse(text), None, "{text}");
        }
    }
}
