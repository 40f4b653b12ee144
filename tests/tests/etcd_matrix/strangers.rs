//! `etcd_servers` that name two clusters of etcd, the wrong one first.

use fleet_api::paths;
use fleet_api::v2::{ClusterView, Verb};
use fleet_registry::etcd::EtcdOptions;
use fleet_registry::store::{Range, Store as _};

use super::cluster::{Machine, machines, runs};
use super::etcd::{Etcd, Version};
use super::{PLAIN, until};

/// An empty etcd and the real one, with options that name both in this order.
async fn two(home: &std::path::Path) -> (Etcd, Etcd, EtcdOptions) {
    let [empty, real] = ["empty", "real"].map(|name| home.join(name));
    for directory in [&empty, &real] {
        std::fs::create_dir_all(directory).unwrap();
    }
    let empty = Etcd::start(&empty, Version::V3_5, 1, PLAIN, &[]).await;
    let real = Etcd::start(&real, Version::V3_5, 1, PLAIN, &[]).await;
    let endpoints = [empty.endpoints(), real.endpoints()].concat();
    let both = EtcdOptions { endpoints, ..real.options() };
    (empty, real, EtcdOptions { belonging: fleet_registry::etcd::Belonging::default(), ..both })
}

async fn is_untouched(etcd: &Etcd) -> bool {
    etcd.store().range(Range::prefix("/")).await.unwrap().count == 0
}

#[tokio::test]
async fn a_machine_that_restarts_finds_its_cluster_behind_the_second_endpoint() {
    let home = tempfile::tempdir().unwrap();
    let (empty, real, both) = two(home.path()).await;
    let mut machines = machines(home.path(), 1, &real.options()).await;
    machines[0].ask(Verb::Start, &["a.service"]).await.unwrap();
    machines[0].active(&["a.service"]).await;
    machines[0].kill_fleetd().await;
    machines[0].start(&both).await;
    machines[0].present(1).await;
    machines[0].ask(Verb::Start, &["b.service"]).await.unwrap();
    machines[0].active(&["a.service", "b.service"]).await;
    assert_eq!(runs(&machines), (2, 0));
    assert!(is_untouched(&empty).await);
    // The stranger is named, and not the one that holds the cluster.
    let health = machines[0].health().await;
    let others = health.problems.iter().filter(|problem| problem.code == "other-cluster");
    let others: Vec<&str> = others.map(|problem| problem.subject.as_str()).collect();
    assert_eq!(others, [empty.endpoint(0)], "{health:#?}");
}

#[tokio::test]
async fn a_machine_without_a_cluster_makes_none_while_its_endpoints_belong_to_two() {
    let home = tempfile::tempdir().unwrap();
    let (empty, real, both) = two(home.path()).await;
    let first = machines(home.path(), 1, &real.options()).await;
    let mut second = Machine::new(home.path(), "m2");
    second.start(&both).await;
    let client = second.client();
    until("it says why it takes no part", async || {
        let view: ClusterView = client.get(paths::CLUSTER).await.ok()?;
        let text = &view.local.text;
        (text.contains("different clusters of etcd") && text.contains(&empty.endpoint(0))).then_some(())
    })
    .await;
    assert!(is_untouched(&empty).await);
    second.kill_fleetd().await;
    second.start(&real.options()).await;
    first[0].present(2).await;
}
