//! Several fleetds on one etcd: what the store in memory could get wrong.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fleet_api::client::Client;
use fleet_api::paths;
use fleet_api::v2::{AdoptReport, AdoptRequest, ClusterView, Verb};
use fleet_registry::store::Store;
use fleet_systemd::fake::What;
use tempfile::TempDir;

use super::cluster::{AGENT_TTL, Machine, machines, runs};
use super::etcd::{Etcd, Version};
use super::{PLAIN, until};

struct Cluster {
    machines: Vec<Machine>,
    etcd: Etcd,
    home: TempDir,
}

impl Cluster {
    async fn of(count: usize) -> Cluster {
        let home = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(home.path(), Version::V3_4, 1, PLAIN, &[]).await;
        let machines = machines(home.path(), count, &etcd.options()).await;
        Cluster { machines, etcd, home }
    }

    /// One whose fleetd runs.
    fn machine(&self) -> &Machine {
        self.machines.iter().find(|machine| machine.daemon.is_some()).expect("a fleetd runs")
    }

    fn client(&self) -> Client {
        self.machine().client()
    }

    async fn present(&self, machines: usize) {
        self.machine().present(machines).await;
    }

    async fn ask(&self, verb: Verb, units: &[&str]) -> Result<(), String> {
        self.machine().ask(verb, units).await
    }

    async fn active(&self, units: &[&str]) {
        self.machine().active(units).await;
    }

    fn count(&self, what: What) -> usize {
        let (started, stopped) = runs(&self.machines);
        if what == What::Started { started } else { stopped }
    }
}

const SIX: [&str; 6] = ["a1.service", "a2.service", "a3.service", "a4.service", "a5.service", "a6.service"];

#[tokio::test]
async fn units_are_spread_over_the_machines_and_stop_when_they_are_told() {
    let cluster = Cluster::of(3).await;
    cluster.ask(Verb::Start, &SIX).await.unwrap();
    cluster.active(&SIX).await;
    assert_eq!(cluster.machines.iter().map(|m| m.count(What::Started)).collect::<Vec<_>>(), [2, 2, 2]);
    cluster.ask(Verb::Stop, &SIX[..2]).await.unwrap();
    cluster.active(&SIX[2..]).await;
    cluster.ask(Verb::Destroy, &SIX).await.unwrap();
    cluster.active(&[]).await;
    assert_eq!(cluster.count(What::Stopped), 6);
}

#[tokio::test]
async fn units_of_a_dead_machine_run_elsewhere_within_its_ttl_and_a_second() {
    let mut cluster = Cluster::of(3).await;
    cluster.ask(Verb::Start, &SIX).await.unwrap();
    cluster.active(&SIX).await;
    // A leader's own death takes longer here: its lease of five seconds is longer than this ttl.
    let leads = |machine: &Machine| {
        machine.daemon.as_ref().is_some_and(|daemon| daemon.engine.status.borrow().leading.is_some())
    };
    let dead = cluster.machines.iter().position(|machine| !leads(machine)).expect("one of three leads");
    drop(cluster.machines[dead].daemon.take());
    cluster.machines[dead].systemd.boot();
    let died = Instant::now();
    until("the units run elsewhere", async || (cluster.count(What::Started) == 8).then_some(())).await;
    let took = died.elapsed();
    assert!(took < AGENT_TTL + Duration::from_secs(1), "{took:?}");
    cluster.active(&SIX).await;
    assert_eq!(cluster.count(What::Stopped), 0);
}

#[tokio::test]
async fn p1_a_restart_of_etcd_stops_nothing() {
    let mut cluster = Cluster::of(3).await;
    cluster.ask(Verb::Start, &SIX).await.unwrap();
    cluster.active(&SIX).await;
    cluster.etcd.kill(0);
    let client = cluster.client();
    until("the machine says that it is disconnected", async || {
        let view: ClusterView = client.get(paths::CLUSTER).await.ok()?;
        (view.local.connection == "disconnected").then_some(())
    })
    .await;
    assert!(cluster.ask(Verb::Start, &["b1.service"]).await.is_err());
    cluster.etcd.restart(0);
    cluster.etcd.await_answer().await;
    cluster.present(3).await;
    cluster.ask(Verb::Start, &["b2.service"]).await.unwrap();
    let mut all = SIX.to_vec();
    all.push("b2.service");
    cluster.active(&all).await;
    assert_eq!((cluster.count(What::Started), cluster.count(What::Stopped)), (7, 0));
}

#[tokio::test]
async fn p6_a_compaction_while_a_fleetd_is_down_loses_no_change() {
    let mut cluster = Cluster::of(1).await;
    cluster.ask(Verb::Start, &SIX).await.unwrap();
    cluster.active(&SIX).await;
    // Its own machine is the only one that could write: change the store by hand, through another machine.
    let mut second = Machine::new(cluster.home.path(), "m2");
    second.start(&cluster.etcd.options()).await;
    cluster.machines.push(second);
    cluster.present(2).await;
    cluster.machines[0].kill_fleetd().await;
    cluster.ask(Verb::Restart, &SIX[..1]).await.unwrap();
    cluster.ask(Verb::Restart, &SIX[..1]).await.unwrap();
    let store = cluster.etcd.store();
    until("history is compacted", async || {
        let revision = store.status().await.ok()?.header.revision;
        store.compact(revision).await.ok()
    })
    .await;
    cluster.machines[0].start(&cluster.etcd.options()).await;
    until("the unit is restarted", async || (cluster.machines[0].count(What::Started) == 7).then_some(()))
        .await;
    cluster.active(&SIX).await;
    assert_eq!((cluster.count(What::Started), cluster.count(What::Stopped)), (7, 1));
}

#[tokio::test]
async fn p1_an_etcd_restored_from_a_copy_is_held_until_it_is_adopted() {
    let mut cluster = Cluster::of(2).await;
    cluster.ask(Verb::Start, &SIX[..2]).await.unwrap();
    cluster.active(&SIX[..2]).await;
    let copy = cluster.home.path().join("copy");
    cluster.etcd.kill(0);
    copy_tree(cluster.etcd.data(0), &copy);
    cluster.etcd.restart(0);
    cluster.etcd.await_answer().await;
    cluster.present(2).await;
    cluster.ask(Verb::Stop, &SIX[..1]).await.unwrap();
    cluster.active(&SIX[1..2]).await;

    cluster.etcd.kill(0);
    std::fs::remove_dir_all(cluster.etcd.data(0)).unwrap();
    copy_tree(&copy, cluster.etcd.data(0));
    cluster.etcd.restart(0);
    cluster.etcd.await_answer().await;
    let client = cluster.client();
    until("the store is held", async || {
        let view: ClusterView = client.get(paths::CLUSTER).await.ok()?;
        view.hold.map(drop)
    })
    .await;
    assert!(cluster.ask(Verb::Start, &SIX[2..3]).await.is_err());
    assert_eq!((cluster.count(What::Started), cluster.count(What::Stopped)), (2, 1));

    let adopt = AdoptRequest { yes: true, by: "operator".into(), why: String::new() };
    let report: AdoptReport = client.post(paths::CLUSTER_ADOPT, &adopt).await.unwrap();
    assert!(report.done && report.would_stop.is_empty(), "{report:?}");
    // The rows that came with the copy say that it runs; the machine knows better.
    until("what was stopped since the copy is started", async || {
        (cluster.count(What::Started) == 3).then_some(())
    })
    .await;
    cluster.active(&SIX[..2]).await;
    assert_eq!((cluster.count(What::Started), cluster.count(What::Stopped)), (3, 1));
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("/bin/cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}
