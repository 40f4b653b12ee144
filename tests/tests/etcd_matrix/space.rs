//! A store that is full, and one that is written to all the time.

use fleet_api::v2::{HealthView, Verb};
use fleet_registry::store::{Op, Store, StoreError, Txn};
use fleet_systemd::fake::What;
use futures_util::StreamExt as _;
use futures_util::stream;
use unit_files::UnitName;

use super::cluster::{machines, runs};
use super::etcd::{Etcd, Version};
use super::{PLAIN, until};

const TWO: [&str; 2] = ["a1.service", "a2.service"];

fn codes(health: &HealthView) -> Vec<&str> {
    health.problems.iter().map(|problem| problem.code.as_str()).collect()
}

#[tokio::test]
async fn p1_a_full_store_stops_nothing_and_all_goes_on_when_it_is_cleared() {
    for version in [Version::V3_4, Version::V3_5] {
        let home = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(home.path(), version, 1, PLAIN, &["--quota-backend-bytes=16777216"]).await;
        let machines = machines(home.path(), 2, &etcd.options()).await;
        machines[0].ask(Verb::Start, &TWO).await.unwrap();
        machines[0].active(&TWO).await;

        // Somebody else fills it.
        let store = etcd.store();
        let fill = Txn::of(vec![Op::put("/other", "x".repeat(1 << 20))]);
        until("the store is full", async || {
            matches!(store.txn(fill.clone()).await, Err(StoreError::NoSpace { .. })).then_some(())
        })
        .await;
        let refused = machines[0].ask(Verb::Start, &["b.service"]).await.unwrap_err();
        assert!(refused.contains("out of space") && refused.contains("fleetctl cluster health"), "{refused}");
        let health = machines[1].health().await;
        assert_eq!((health.healthy, codes(&health)), (false, vec!["no-space"]), "{version:?}");
        assert_eq!(health.endpoints[0].alarms, ["NOSPACE"]);
        // What happens meanwhile is told when it can be: a unit ends, and leases go on.
        let of_second = machines[1].count(What::Started);
        assert_eq!(of_second, 1, "one each");
        let ended =
            TWO.iter().find(|unit| machines[1].systemd.runs(&UnitName::parse(unit).unwrap()) > 0).unwrap();
        machines[1].systemd.exit_main(&UnitName::parse(ended).unwrap(), 1);
        assert_eq!(runs(&machines), (2, 0));

        // The remedy, word for word.
        let remedy = &health.problems[0].remedy;
        for command in remedy.split(". ").next().unwrap().split("; ") {
            let words: Vec<&str> = command.split(' ').collect();
            assert_eq!(words[0], "etcdctl");
            etcd.etcdctl(&words[1..]);
        }
        let left: Vec<&str> = TWO.into_iter().filter(|unit| unit != ended).collect();
        machines[0].active(&left).await;
        machines[0].ask(Verb::Start, &["b.service"]).await.unwrap();
        let mut now = left;
        now.push("b.service");
        machines[0].active(&now).await;
        until("all is well", async || machines[0].health().await.healthy.then_some(())).await;
        machines[0].present(2).await;
        assert_eq!(runs(&machines), (3, 0), "{version:?}");
    }
}

#[tokio::test]
async fn history_stays_bounded_under_steady_writes() {
    let home = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(home.path(), Version::V3_5, 1, PLAIN, &[]).await;
    let machines = machines(home.path(), 1, &etcd.options()).await;
    let store = etcd.store();
    let mut longest = 0;
    for round in 0..24 {
        let puts = stream::iter(0..1_000).map(|_| store.txn(Txn::of(vec![Op::put("/other", "x")])));
        let failed = puts.buffer_unordered(32).filter(|put| std::future::ready(put.is_err())).count().await;
        assert_eq!(failed, 0);
        // Another one each time: systemd limits how often one unit is started.
        let unit = format!("u{round:02}.service");
        machines[0].ask(Verb::Start, &[&unit]).await.unwrap();
        machines[0].active(&[&unit]).await;
        machines[0].ask(Verb::Destroy, &[&unit]).await.unwrap();
        machines[0].active(&[]).await;
        longest = longest.max(machines[0].health().await.history.unwrap());
    }
    let health = machines[0].health().await;
    assert!(health.endpoints[0].revision > 24_000);
    // Every 10,000 revisions, and the newest 1,000 stay.
    assert!((9_000..13_000).contains(&longest), "{longest}");
}
