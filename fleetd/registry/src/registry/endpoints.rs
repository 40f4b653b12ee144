//! Whether the endpoints of the store belong to one cluster of etcd, and if not, which of them holds which cluster of
//! machines.
//!
//! Asked by the session before it makes or joins a cluster and when it finds another store than its own, and by the API
//! for the health. Decides nothing.

use std::collections::BTreeSet;
use std::fmt;

use fleet_core::ClusterId;
use fleet_core::records::ClusterRecord;

use super::Registry;
use crate::codec::decode;
use crate::keys::Key;

/// The endpoints that answer, with the cluster of etcd they belong to; there are at least two such clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divided(Vec<Endpoint>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    url: String,
    etcd: u64,
    holds: Option<ClusterId>,
}

impl Registry {
    /// `None`: all endpoints that answer are one cluster of etcd, or the store is no etcd.
    pub async fn divided(&self) -> Option<Divided> {
        let endpoints = self.store().divided(&self.keys().key(&Key::Cluster)).await.into_iter();
        let endpoints = endpoints.filter_map(|content| {
            let record = |value| decode::<ClusterRecord>(&Key::Cluster, value).ok();
            Some(Endpoint {
                url: content.endpoint,
                etcd: content.cluster_id?,
                holds: content.value.as_deref().and_then(record).map(|record| record.id),
            })
        });
        let divided = Divided(endpoints.collect());
        (!divided.0.is_empty()).then_some(divided)
    }
}

impl Divided {
    /// The one cluster of etcd that holds this cluster of machines. `None`: none of those that answer does, or several
    /// do, as copies of one another. How many endpoints a cluster has proves nothing.
    #[must_use]
    pub fn holder(&self, cluster: &ClusterId) -> Option<u64> {
        let holders = self.0.iter().filter(|endpoint| endpoint.holds.as_ref() == Some(cluster));
        let holders: BTreeSet<u64> = holders.map(|endpoint| endpoint.etcd).collect();
        holders.first().copied().filter(|_| holders.len() == 1)
    }
}

/// Every endpoint with its id, as `etcdctl` writes it.
impl fmt::Display for Divided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Endpoint { url, etcd, .. }) in self.0.iter().enumerate() {
            write!(f, "{}{url} to {etcd:x}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_the_only_one_that_has_the_cluster_however_many_endpoints_the_others_have() {
        let ours = ClusterId::parse("ours").unwrap();
        let of = |each: &[(u64, Option<&str>)]| {
            let endpoint = |(etcd, holds): &(u64, Option<&str>)| Endpoint {
                url: format!("http://e{etcd}"),
                etcd: *etcd,
                holds: holds.map(|id| ClusterId::parse(id).unwrap()),
            };
            Divided(each.iter().map(endpoint).collect())
        };
        assert_eq!(of(&[(1, None), (1, None), (2, Some("ours"))]).holder(&ours), Some(2));
        assert_eq!(of(&[(1, Some("ours")), (2, Some("theirs")), (1, Some("ours"))]).holder(&ours), Some(1));
        assert_eq!(of(&[(1, Some("ours")), (2, Some("ours"))]).holder(&ours), None);
        assert_eq!(of(&[(1, None), (2, Some("theirs"))]).holder(&ours), None);
        assert_eq!(of(&[(0x1f, None), (2, None)]).to_string(), "http://e31 to 1f, http://e2 to 2");
    }
}
