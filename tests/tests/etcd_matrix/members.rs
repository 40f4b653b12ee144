//! Members of etcd that are down, die and are replaced under running machines.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fleet_api::v2::Verb;
use fleet_registry::etcd::{EtcdOptions, EtcdStore};
use fleet_registry::store::{Op, Store, Txn};
use futures_util::FutureExt as _;
use futures_util::future::select_ok;

use super::cluster::{Machine, machines, runs};
use super::etcd::{Etcd, Version};
use super::{PASSWORD_TLS, PLAIN, until};

const SIX: [&str; 6] = ["a1.service", "a2.service", "a3.service", "a4.service", "a5.service", "a6.service"];

#[tokio::test]
async fn a_machine_starts_while_the_first_member_is_down() {
    let home = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(home.path(), Version::V3_5, 3, PLAIN, &[]).await;
    etcd.kill(0);
    etcd.await_answer().await;
    let began = Instant::now();
    let machines = machines(home.path(), 1, &etcd.options()).await;
    machines[0].ask(Verb::Start, &SIX[..1]).await.unwrap();
    machines[0].active(&SIX[..1]).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let health = machines[0].health().await;
    let codes: Vec<&str> = health.problems.iter().map(|problem| problem.code.as_str()).collect();
    assert_eq!((health.healthy, codes.as_slice()), (false, ["unreachable"].as_slice()));
    etcd.restart(0);
    until("all is well", async || machines[0].health().await.healthy.then_some(())).await;
}

/// An operator who gives one command after the other. Returns how long the longest took, and what failed.
async fn operator(machine: &Machine, is_over: &AtomicBool) -> (Duration, Vec<String>) {
    let (mut longest, mut failed) = (Duration::ZERO, Vec::new());
    let mut verbs = [Verb::Start, Verb::Stop].into_iter().cycle();
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        if let Err(error) = machine.ask(verbs.next().unwrap(), &["busy.service"]).await {
            failed.push(format!("after {:?}: {error}", began.elapsed()));
        }
        longest = longest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (longest, failed)
}

/// The longest time in which none of the members took a write: what the fail-over of etcd takes.
async fn outage(stores: Vec<EtcdStore>, is_over: &AtomicBool) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        let writes = stores.iter().map(|store| store.txn(Txn::of(vec![Op::put("/probe", "x")])).boxed());
        let is_taken = select_ok(writes).await.is_ok();
        longest = longest.max(last.elapsed());
        if is_taken {
            last = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    longest
}

#[tokio::test]
async fn p1_members_are_replaced_under_running_machines_3_4() {
    members_are_replaced(Version::V3_4).await;
}

#[tokio::test]
async fn p1_members_are_replaced_under_running_machines_3_5() {
    members_are_replaced(Version::V3_5).await;
}

async fn members_are_replaced(version: Version) {
    let home = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(home.path(), version, 3, PLAIN, &[]).await;
    let mut machines = machines(home.path(), 2, &etcd.options()).await;
    machines[0].ask(Verb::Start, &SIX).await.unwrap();
    machines[0].active(&SIX).await;
    let before = runs(&machines[1..]);

    let is_over = AtomicBool::new(false);
    let stores: Vec<_> = etcd
        .endpoints()
        .into_iter()
        .map(|endpoint| EtcdStore::new(&EtcdOptions { endpoints: vec![endpoint], ..etcd.options() }).unwrap())
        .collect();
    let replacing = async {
        // The member that leads, so that there is an election as well.
        let leader = etcd.leader().await.unwrap();
        etcd.replace(leader, true).await;
        let other = etcd.replace((leader + 1) % 3, false).await;
        is_over.store(true, Ordering::Relaxed);
        other
    };
    let outage = outage(stores, &is_over);
    let (other, (longest, failed), outage) =
        tokio::join!(replacing, operator(&machines[0], &is_over), outage);
    // What etcd's elections take, and the time of a call that met one.
    let allowed = outage + Duration::from_secs(2);
    assert!(longest < allowed, "{version:?}: {longest:?}, etcd was away for {outage:?}: {failed:#?}");
    assert!(failed.len() <= 3, "{version:?}: {failed:#?}");
    machines[0].ask(Verb::Destroy, &["busy.service"]).await.unwrap();
    machines[0].active(&SIX).await;
    assert_eq!(runs(&machines[1..]), before, "{version:?}: the other machine's units");

    // The member at a new address is known to etcd alone, until the machines are told.
    let health = machines[0].health().await;
    assert!(health.unconfigured.iter().any(|member| other.ends_with(port(&member.urls[0]))), "{health:#?}");
    let mut options = etcd.options();
    options
        .endpoints
        .retain(|endpoint| !health.endpoints.iter().any(|e| e.endpoint == *endpoint && !e.reachable));
    let before = runs(&machines);
    for machine in &mut machines {
        machine.kill_fleetd().await;
        machine.start(&options).await;
    }
    machines[0].present(2).await;
    machines[0].active(&SIX).await;
    assert_eq!(runs(&machines), before, "{version:?}: nothing is started or stopped by a restart of fleetd");
    until("all is well", async || machines[0].health().await.healthy.then_some(())).await;
}

fn port(url: &str) -> &str {
    url.rsplit(':').next().unwrap()
}

#[tokio::test]
async fn p1_members_restart_one_by_one_and_their_tokens_end_with_them() {
    let home = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(home.path(), Version::V3_5, 3, PASSWORD_TLS, &[]).await;
    let machines = machines(home.path(), 1, &etcd.options()).await;
    machines[0].ask(Verb::Start, &SIX).await.unwrap();
    machines[0].active(&SIX).await;
    for index in 0..3 {
        etcd.kill(index);
        etcd.restart(index);
        until("all is well", async || machines[0].health().await.healthy.then_some(())).await;
        machines[0].ask(Verb::Restart, &SIX[..1]).await.unwrap();
        // Two restarts that wait would be one.
        let restarted = (7 + index, 1 + index);
        until("it is restarted", async || (runs(&machines) == restarted).then_some(())).await;
    }
    machines[0].active(&SIX).await;
}
