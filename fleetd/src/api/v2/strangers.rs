//! Endpoints of `etcd_servers` that belong to different clusters of etcd, and which of those is this machine's.
//!
//! Part of the health. What machines do about it is decided by the session.

use std::collections::BTreeSet;

use fleet_api::v2::{EndpointView, ProblemView};
use fleet_registry::keys::Key;
use fleet_registry::store::StoreHealth;

use super::super::state::Api;
use super::health::{error, id};

/// What this machine knows of its own cluster.
#[derive(Debug, Default)]
pub(super) struct Ours {
    /// If the endpoints belong to several clusters of etcd: the one that holds the cluster of this machine's member file.
    /// `None`: none of them, several, or that is not known. How many endpoints a cluster has proves nothing.
    etcd: Option<u64>,
    /// Where its record is.
    key: String,
}

pub(super) async fn ours(api: &Api, health: &StoreHealth) -> Ours {
    let key = api.registry.keys().key(&Key::Cluster);
    Ours { etcd: holder(api, health).await, key: String::from_utf8_lossy(&key).into_owned() }
}

async fn holder(api: &Api, health: &StoreHealth) -> Option<u64> {
    let clusters = health.endpoints.iter().filter_map(|report| report.status.as_ref().ok());
    if clusters.map(|health| health.status.header.cluster_id).collect::<BTreeSet<_>>().len() < 2 {
        return None;
    }
    let member = api.session.session().member?;
    api.registry.divided().await?.holder(&member)
}

/// Endpoints that other clusters of etcd serve, as after a member was started anew as a cluster of its own.
pub(super) fn problems(endpoints: &[EndpointView], ours: &Ours) -> Vec<ProblemView> {
    let answering = || endpoints.iter().filter(|view| view.reachable);
    if answering().map(|view| &view.cluster).collect::<BTreeSet<_>>().len() < 2 {
        return Vec::new();
    }
    let Some(etcd) = ours.etcd.map(id) else {
        let each = answering().map(|view| format!("{} to {}", view.endpoint, view.cluster));
        return vec![error(
            "other-cluster",
            "",
            format!(
                "the endpoints belong to different clusters of etcd ({}), and which of them holds this machine's \
                 cluster is not known",
                each.collect::<Vec<_>>().join(", ")
            ),
            format!(
                "find out with `etcdctl get {}` at each endpoint, and leave only those of the right one in \
                 etcd_servers; remove nobody's data before that",
                ours.key
            ),
        )];
    };
    let strange = answering().filter(|view| view.cluster != etcd);
    strange
        .map(|view| {
            error(
                "other-cluster",
                &view.endpoint,
                format!("it belongs to etcd cluster {}; this machine's cluster is kept in {etcd}", view.cluster),
                "take it out of etcd_servers. If it is a member that was started anew by mistake, and holds nothing \
                 else: remove its data directory and add it with --initial-cluster-state=existing"
                    .to_owned(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, cluster: u64) -> EndpointView {
        EndpointView {
            endpoint: format!("http://{name}"),
            reachable: true,
            cluster: id(cluster),
            ..EndpointView::default()
        }
    }

    #[test]
    fn the_stranger_is_who_does_not_hold_this_machines_cluster_however_many_they_are() {
        let endpoints = [endpoint("a", 1), endpoint("b", 2), endpoint("c", 2)];
        let key = "/west/cluster".to_owned();
        let strange = problems(&endpoints, &Ours { etcd: Some(1), key: key.clone() });
        let subjects: Vec<&str> = strange.iter().map(|problem| problem.subject.as_str()).collect();
        assert_eq!(subjects, ["http://b", "http://c"]);
        assert!(strange.iter().all(|problem| problem.is_error && problem.code == "other-cluster"));
        assert!(strange[0].remedy.contains("take it out of etcd_servers"), "{strange:?}");
        // Who is right is not known: no advice may cost data.
        let unknown = problems(&endpoints, &Ours { etcd: None, key });
        assert_eq!(unknown.len(), 1);
        assert!(unknown[0].is_error && unknown[0].text.contains("http://a to 1"), "{unknown:?}");
        assert!(!unknown[0].remedy.contains("data directory"), "{unknown:?}");
        assert!(unknown[0].remedy.contains("`etcdctl get /west/cluster`"), "{unknown:?}");
        assert!(problems(&endpoints[1..], &Ours::default()).is_empty(), "one cluster");
    }
}
