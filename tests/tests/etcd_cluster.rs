//! Several fleetds on a real etcd, with fake systemds: what the store in memory could get wrong.
//!
//! Real time; every wait is for a condition and has a deadline. Each test has an etcd of its own on a loopback port.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_api::client::{Client, Endpoint, Timeouts};
use fleet_api::paths;
use fleet_api::v2::{
    Action, AdoptReport, AdoptRequest, ChangeReport, ChangeRequest, ClusterView, StateList, Verb,
};
use fleet_core::{BootId, MachineId, Nonce};
use fleet_registry::etcd::{EtcdOptions, EtcdStore};
use fleet_registry::lease::{LeaseKeeper, LeaseOptions};
use fleet_registry::store::Store;
use fleet_systemd::Systemd as _;
use fleet_systemd::fake::{FakeSystemd, What};
use fleetd::clock::Clock;
use fleetd::config::{Config, Listen};
use fleetd::identity::Identity;
use fleetd::wire::{Daemon, DaemonOptions};
use tempfile::TempDir;

const HELLO: &str = "[Service]\nExecStart=/usr/bin/hello\n";
/// The shortest that can be configured.
const AGENT_TTL: Duration = Duration::from_secs(3);
/// For what takes milliseconds on a quiet machine.
const SOON: Duration = Duration::from_secs(20);

/// A port that was free a moment ago. etcd takes no listening socket from its parent.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}

struct Etcd {
    child: Option<Child>,
    client: String,
    peer: String,
    data: PathBuf,
}

impl Etcd {
    fn new(home: &Path) -> Etcd {
        let url = || format!("http://127.0.0.1:{}", free_port());
        let mut etcd = Etcd { child: None, client: url(), peer: url(), data: home.join("etcd") };
        etcd.start();
        etcd
    }

    fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.data.with_extension("log"));
        // Dies with the test even if that is killed; setpriv becomes etcd, so that the process id is etcd's.
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .args(["--pdeathsig", "KILL", "/usr/bin/etcd", "--name=one"])
            .arg(format!("--data-dir={}", self.data.display()))
            .arg(format!("--listen-client-urls={}", self.client))
            .arg(format!("--advertise-client-urls={}", self.client))
            .arg(format!("--listen-peer-urls={}", self.peer))
            .arg(format!("--initial-advertise-peer-urls={}", self.peer))
            .arg(format!("--initial-cluster=one={}", self.peer))
            .args(["--heartbeat-interval=50", "--election-timeout=500", "--unsafe-no-fsync"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the directory is writable"));
        self.child = Some(command.spawn().expect("etcd is installed (Debian: etcd-server)"));
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have died by itself; either way it is reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn options(&self) -> EtcdOptions {
        EtcdOptions::new(vec![self.client.clone()])
    }

    fn store(&self) -> EtcdStore {
        EtcdStore::new(&self.options()).expect("the endpoint is well formed")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Machine {
    name: String,
    systemd: FakeSystemd,
    boots: u64,
    daemon: Option<Daemon>,
    home: PathBuf,
}

impl Machine {
    fn socket(&self) -> PathBuf {
        self.home.join("fleet.sock")
    }

    async fn start(&mut self, etcd: &Etcd) {
        let environment = self.systemd.environment().await.unwrap();
        let identity = Identity {
            machine: MachineId::parse(&self.name).unwrap(),
            boot: BootId::parse(&environment.boot_id).unwrap(),
            nonce: Nonce::parse(&format!("{}-{}", self.name, self.boots)).unwrap(),
            hostname: self.name.clone(),
        };
        let config = Config {
            agent_ttl: AGENT_TTL,
            state_directory: self.home.join("state"),
            runtime_directory: self.home.join("run"),
            listen: vec![Listen::Unix(self.socket())],
            peer_listen: None,
            ..Config::default()
        };
        let options = etcd.options();
        let seed = self.name.bytes().map(u64::from).sum();
        let daemon = Daemon::start(DaemonOptions {
            config,
            identity,
            store: Arc::new(etcd.store()),
            lease: Arc::new(move |name, ttl| {
                let etcd = options.clone();
                LeaseKeeper::on_thread(LeaseOptions::new(name, ttl, seed), move || EtcdStore::new(&etcd))
            }),
            systemd: Arc::new(self.systemd.clone()),
            clock: Clock::Wall,
            passed: Vec::new(),
        });
        self.daemon = Some(daemon.await.unwrap());
    }

    /// SIGKILL. The next fleetd needs the lock on the state directory, which a write under way may still hold.
    async fn kill_fleetd(&mut self) {
        drop(self.daemon.take());
        let state = self.home.join("state");
        until("the state directory is free", async || {
            let directory = File::open(&state).ok()?;
            nix::fcntl::Flock::lock(directory, nix::fcntl::FlockArg::LockExclusiveNonblock).ok().map(drop)
        })
        .await;
    }

    fn count(&self, what: What) -> usize {
        self.systemd.executions().iter().filter(|execution| execution.what == what).count()
    }
}

/// Waits for a condition, and says how long it took.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> Option<()>) -> Duration {
    let began = Instant::now();
    while condition().await.is_none() {
        assert!(began.elapsed() < SOON, "waited {SOON:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

struct Cluster {
    machines: Vec<Machine>,
    etcd: Etcd,
    requests: u64,
    home: TempDir,
}

impl Cluster {
    async fn of(machines: usize) -> Cluster {
        let home = tempfile::tempdir().unwrap();
        let etcd = Etcd::new(home.path());
        let mut cluster = Cluster { machines: Vec::new(), etcd, requests: 0, home };
        cluster.etcd_answers().await;
        for number in 1..=machines {
            let name = format!("m{number}");
            let directory = cluster.home.path().join(&name);
            std::fs::create_dir_all(directory.join("state")).unwrap();
            let systemd = FakeSystemd::new(&name);
            let mut machine = Machine { name, systemd, boots: 1, daemon: None, home: directory };
            machine.start(&cluster.etcd).await;
            cluster.machines.push(machine);
        }
        cluster.present(machines).await;
        cluster
    }

    async fn etcd_answers(&self) {
        let store = self.etcd.store();
        until("etcd answers", async || {
            store.range(fleet_registry::store::Range::key("/")).await.ok().map(drop)
        })
        .await;
    }

    fn client(&self) -> Client {
        let machine = self.machines.iter().find(|machine| machine.daemon.is_some()).expect("a fleetd runs");
        Client::new(Endpoint::Unix { path: machine.socket() }, Timeouts::default())
    }

    /// Waits until so many machines are present and one of them leads.
    async fn present(&self, machines: usize) {
        let client = self.client();
        until("all machines are present and one leads", async || {
            let view: ClusterView = client.get(paths::CLUSTER).await.ok()?;
            (view.machines.present == machines && view.leader.is_some()).then_some(())
        })
        .await;
    }

    async fn ask(&mut self, verb: Verb, units: &[&str]) -> Result<(), String> {
        self.requests += 1;
        let action = |unit: &&str| Action {
            text: (verb == Verb::Start).then(|| HELLO.to_owned()),
            ..Action::new(*unit, verb)
        };
        let request = ChangeRequest {
            request_id: format!("request-{}", self.requests),
            actions: units.iter().map(action).collect(),
            ..ChangeRequest::default()
        };
        let report: ChangeReport =
            self.client().post(paths::REQUESTS, &request).await.map_err(|error| error.to_string())?;
        match report.results.into_iter().find_map(|result| result.error) {
            Some(error) => Err(error.to_string()),
            None => Ok(()),
        }
    }

    /// Waits until exactly these units are active, each on one machine.
    async fn active(&self, units: &[&str]) -> Duration {
        let client = self.client();
        until("the units are active", async || {
            let list: StateList = client.get(paths::STATES).await.ok()?;
            let states = list.states.iter().filter(|state| state.active == "active");
            let mut active: Vec<&str> = states.map(|state| state.unit.as_str()).collect();
            active.sort_unstable();
            (active == units).then_some(())
        })
        .await
    }

    fn count(&self, what: What) -> usize {
        self.machines.iter().map(|machine| machine.count(what)).sum()
    }
}

const SIX: [&str; 6] = ["a1.service", "a2.service", "a3.service", "a4.service", "a5.service", "a6.service"];

#[tokio::test]
async fn units_are_spread_over_the_machines_and_stop_when_they_are_told() {
    let mut cluster = Cluster::of(3).await;
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
    cluster.etcd.kill();
    let client = cluster.client();
    until("the machine says that it is disconnected", async || {
        let view: ClusterView = client.get(paths::CLUSTER).await.ok()?;
        (view.local.connection == "disconnected").then_some(())
    })
    .await;
    assert!(cluster.ask(Verb::Start, &["b1.service"]).await.is_err());
    cluster.etcd.start();
    cluster.etcd_answers().await;
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
    let second = {
        let directory = cluster.home.path().join("m2");
        std::fs::create_dir_all(directory.join("state")).unwrap();
        let systemd = FakeSystemd::new("m2");
        Machine { name: "m2".into(), systemd, boots: 1, daemon: None, home: directory }
    };
    cluster.machines.push(second);
    let Cluster { machines, etcd, .. } = &mut cluster;
    machines[1].start(etcd).await;
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
    let Cluster { machines, etcd, .. } = &mut cluster;
    machines[0].start(etcd).await;
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
    cluster.etcd.kill();
    copy_tree(&cluster.etcd.data, &copy);
    cluster.etcd.start();
    cluster.etcd_answers().await;
    cluster.present(2).await;
    cluster.ask(Verb::Stop, &SIX[..1]).await.unwrap();
    cluster.active(&SIX[1..2]).await;

    cluster.etcd.kill();
    std::fs::remove_dir_all(&cluster.etcd.data).unwrap();
    copy_tree(&copy, &cluster.etcd.data);
    cluster.etcd.start();
    cluster.etcd_answers().await;
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
