//! Whole fleetds in this process, with fake systemds, on a real etcd.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleet_api::client::{Client, Endpoint, Timeouts};
use fleet_api::paths;
use fleet_api::v2::{Action, ChangeReport, ChangeRequest, ClusterView, HealthView, StateList, Verb};
use fleet_core::records::EngineRole;
use fleet_core::{BootId, MachineId, Nonce, OrderNumber};
use fleet_registry::etcd::{EtcdOptions, EtcdStore};
use fleet_registry::lease::{LeaseKeeper, LeaseOptions};
use fleet_systemd::Systemd as _;
use fleet_systemd::fake::{FakeSystemd, What};
use fleetd::clock::Clock;
use fleetd::config::{Config, Listen};
use fleetd::identity::Identity;
use fleetd::wire::{Daemon, DaemonOptions};

use super::until;

const HELLO: &str = "[Service]\nExecStart=/usr/bin/hello\n";
/// The shortest that can be configured.
pub const AGENT_TTL: Duration = Duration::from_secs(3);

pub struct Machine {
    name: String,
    pub systemd: FakeSystemd,
    starts: u64,
    engine: EngineRole,
    pub daemon: Option<Daemon>,
    home: PathBuf,
}

impl Machine {
    pub fn new(home: &Path, name: &str) -> Machine {
        let home = home.join(name);
        std::fs::create_dir_all(home.join("state")).unwrap();
        let systemd = FakeSystemd::new(name);
        Machine { name: name.to_owned(), systemd, starts: 0, engine: EngineRole::Auto, daemon: None, home }
    }

    pub fn never_leads(mut self) -> Machine {
        self.engine = EngineRole::Never;
        self
    }

    pub async fn start(&mut self, etcd: &EtcdOptions) {
        self.starts += 1;
        let environment = self.systemd.environment().await.unwrap();
        let identity = Identity {
            machine: MachineId::parse(&self.name).unwrap(),
            boot: BootId::parse(&environment.boot_id).unwrap(),
            nonce: Nonce::parse(&format!("{}-1", self.name)).unwrap(),
            hostname: self.name.clone(),
        };
        let config = Config {
            agent_ttl: AGENT_TTL,
            state_directory: self.home.join("state"),
            runtime_directory: self.home.join("run"),
            listen: vec![Listen::Unix(self.socket())],
            peer_listen: None,
            engine: self.engine,
            ..Config::default()
        };
        let (options, seed) = (etcd.clone(), self.name.bytes().map(u64::from).sum());
        let daemon = Daemon::start(DaemonOptions {
            config,
            identity,
            store: Arc::new(EtcdStore::new(etcd).unwrap()),
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
    pub async fn kill_fleetd(&mut self) {
        drop(self.daemon.take());
        let state = self.home.join("state");
        until("the state directory is free", async || {
            let directory = File::open(&state).ok()?;
            nix::fcntl::Flock::lock(directory, nix::fcntl::FlockArg::LockExclusiveNonblock).ok().map(drop)
        })
        .await;
    }

    /// SIGKILL, and what it knew of its cluster is gone. Its orders are not.
    pub async fn lose_member_file(&mut self) {
        self.kill_fleetd().await;
        std::fs::remove_file(self.home.join("state/member.json")).unwrap();
    }

    /// Puts it into the log of a fleetd that does not run.
    pub fn accepted_before(&self, floor: OrderNumber) {
        let mut log = File::options().append(true).open(self.home.join("state/records.log")).unwrap();
        writeln!(log, r#"{{"floor":"{floor}"}}"#).unwrap();
    }

    /// Of its cluster, as it knows it.
    pub async fn epoch(&self) -> u64 {
        let view: ClusterView = self.client().get(paths::CLUSTER).await.unwrap();
        view.epoch
    }

    fn socket(&self) -> PathBuf {
        self.home.join("fleet.sock")
    }

    pub fn client(&self) -> Client {
        Client::new(Endpoint::Unix { path: self.socket() }, Timeouts::default())
    }

    pub async fn health(&self) -> HealthView {
        self.client().get(paths::CLUSTER_HEALTH).await.unwrap()
    }

    pub async fn ask(&self, verb: Verb, units: &[&str]) -> Result<(), String> {
        let action = |unit: &&str| Action {
            text: (verb == Verb::Start).then(|| HELLO.to_owned()),
            ..Action::new(*unit, verb)
        };
        let request = ChangeRequest {
            request_id: format!("{:016x}", rand::random::<u64>()),
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

    /// Waits until exactly these units are active.
    pub async fn active(&self, units: &[&str]) {
        let client = self.client();
        until("the units are active", async || {
            let list: StateList = client.get(paths::STATES).await.ok()?;
            let states = list.states.iter().filter(|state| state.active == "active");
            let mut active: Vec<&str> = states.map(|state| state.unit.as_str()).collect();
            active.sort_unstable();
            (active == units).then_some(())
        })
        .await;
    }

    /// Waits until so many machines are present and one of them leads.
    pub async fn present(&self, machines: usize) {
        let client = self.client();
        until("all machines are present and one leads", async || {
            let view: ClusterView = client.get(paths::CLUSTER).await.ok()?;
            let is_connected = view.local.connection == "connected";
            (is_connected && view.machines.present == machines && view.leader.is_some()).then_some(())
        })
        .await;
    }

    pub fn count(&self, what: What) -> usize {
        self.systemd.executions().iter().filter(|execution| execution.what == what).count()
    }
}

/// Machines m1, m2, ..., all present, one of them leading.
pub async fn machines(home: &Path, count: usize, etcd: &EtcdOptions) -> Vec<Machine> {
    let mut machines = Vec::new();
    for number in 1..=count {
        let mut machine = Machine::new(home, &format!("m{number}"));
        machine.start(etcd).await;
        machines.push(machine);
    }
    machines[0].present(count).await;
    machines
}

/// Units started and stopped so far, on all machines.
pub fn runs(machines: &[Machine]) -> (usize, usize) {
    let sum = |what| machines.iter().map(|machine| machine.count(what)).sum();
    (sum(What::Started), sum(What::Stopped))
}
