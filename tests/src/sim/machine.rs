//! One machine of the simulation: a systemd, a state directory, and a fleetd that may run on it.
//!
//! Its name is its machine id, except for a clone. Called by `cluster` alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fleet_core::records::EngineRole;
use fleet_core::{BootId, MachineId, Nonce};
use fleet_registry::lease::{LeaseKeeper, LeaseOptions};
use fleet_registry::memory::{Link, MemoryStore};
use fleet_systemd::Systemd as _;
use fleet_systemd::fake::FakeSystemd;
use fleetd::clock::Clock;
use fleetd::config::{Config, Listen};
use fleetd::identity::Identity;
use fleetd::store::LeaseMaker;
use fleetd::wire::{Daemon, DaemonOptions};
use nix::fcntl::{Flock, FlockArg};
use tokio::time::Instant;

use super::tap::{Tap, TappedStore, TappedSystemd};

/// What an operator would have configured.
#[derive(Debug, Clone)]
pub struct Setup {
    pub metadata: BTreeMap<String, String>,
    pub engine: EngineRole,
    pub agent_ttl: Duration,
}

impl Default for Setup {
    fn default() -> Setup {
        let Config { metadata, engine, agent_ttl, .. } = Config::default();
        Setup { metadata, engine, agent_ttl }
    }
}

#[derive(Debug)]
pub struct Machine {
    pub name: String,
    pub id: MachineId,
    pub setup: Setup,
    pub systemd: FakeSystemd,
    pub tap: Arc<Tap>,
    pub daemon: Option<Daemon>,
    pub is_on: bool,
    /// 1 for the first boot, as in the execution log.
    pub boots: u64,
    /// Where its systemd's clock starts.
    pub born: Instant,
    home: PathBuf,
}

impl Machine {
    /// A machine that has just booted for the first time; fleetd does not run yet.
    pub fn new(name: &str, id: MachineId, setup: Setup, home: &Path) -> Machine {
        Machine {
            name: name.to_owned(),
            id,
            setup,
            systemd: FakeSystemd::new(name),
            tap: Arc::new(Tap::default()),
            daemon: None,
            is_on: true,
            boots: 1,
            born: Instant::now(),
            home: home.join(name),
        }
    }

    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        self.home.join("state")
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.join("fleet.sock")
    }

    /// The client names under which it reaches the store: its tasks', and that of its leases.
    fn clients(&self) -> [String; 2] {
        [self.name.clone(), self.lease_client()]
    }

    /// The client name of its leases, which have a connection of their own.
    #[must_use]
    pub fn lease_client(&self) -> String {
        format!("{}/lease", self.name)
    }

    pub fn set_link(&self, store: &MemoryStore, link: Link) {
        for client in self.clients() {
            store.set_link(&client, link);
        }
    }

    /// Starts fleetd on the running machine.
    ///
    /// # Errors
    /// fleetd refuses to start.
    pub async fn start_fleetd(&mut self, store: &MemoryStore, clock: Clock) -> anyhow::Result<()> {
        anyhow::ensure!(self.is_on, "{} is off", self.name);
        self.kill_fleetd().await;
        let environment = self.systemd.environment().await.context("the fake has a boot id")?;
        let identity = Identity {
            machine: self.id.clone(),
            boot: BootId::parse(&environment.boot_id).context("boot id")?,
            nonce: Nonce::parse(&format!("{}-{}", self.name, self.boots)).context("nonce")?,
            hostname: self.name.clone(),
        };
        let tapped = TappedStore { inner: store.client(&self.name), tap: Arc::clone(&self.tap) };
        let options = DaemonOptions {
            config: self.config()?,
            identity,
            store: Arc::new(tapped),
            lease: self.lease_maker(store),
            systemd: Arc::new(TappedSystemd { inner: self.systemd.clone(), tap: Arc::clone(&self.tap) }),
            clock,
            passed: Vec::new(),
        };
        // A fleetd that dies while it starts has no daemon to drop.
        tokio::select! {
            daemon = Daemon::start(options) => self.daemon = Some(daemon.context("fleetd does not start")?),
            () = self.tap.died() => {}
        }
        Ok(())
    }

    fn config(&self) -> anyhow::Result<Config> {
        let state_directory = self.state_directory();
        std::fs::create_dir_all(&state_directory).context("the temporary directory is writable")?;
        Ok(Config {
            public_ip: Some([10, 0, 0, self.id.as_str().bytes().last().unwrap_or(0)].into()),
            metadata: self.setup.metadata.clone(),
            agent_ttl: self.setup.agent_ttl,
            engine: self.setup.engine,
            state_directory,
            runtime_directory: self.home.join("run"),
            listen: vec![Listen::Unix(self.socket())],
            peer_listen: None,
            ..Config::default()
        })
    }

    fn lease_maker(&self, store: &MemoryStore) -> LeaseMaker {
        let inner = store.client(&self.lease_client());
        let tap = Arc::clone(&self.tap);
        let seed = self.name.bytes().map(u64::from).sum();
        Arc::new(move |name, ttl| {
            let store = TappedStore { inner: inner.clone(), tap: Arc::clone(&tap) };
            Ok(LeaseKeeper::on_task(LeaseOptions::new(name, ttl, seed), store))
        })
    }

    /// SIGKILL: nothing of fleetd runs after it.
    pub async fn kill_fleetd(&mut self) {
        drop(self.daemon.take());
        if !self.state_directory().exists() {
            return;
        }
        // Aborted tasks are dropped when the runtime gets to them. A file that was being written is finished by its
        // own thread, and only then is the lock on the state directory free, as it is once a process is gone.
        for _ in 0..10_000 {
            // Fails only if the runtime is going down.
            let _ = tokio::task::spawn_blocking(std::thread::yield_now).await;
            let directory = File::open(self.state_directory());
            if directory.is_ok_and(|d| Flock::lock(d, FlockArg::LockExclusiveNonblock).is_ok()) {
                break;
            }
        }
    }

    /// Waits until fleetd has died of what its tap arranged, at most so long, and clears it away. False: it lives.
    pub async fn bury_fleetd(&mut self, patience: Duration) -> bool {
        let has_died = tokio::time::timeout(patience, self.tap.died()).await.is_ok();
        if has_died {
            self.kill_fleetd().await;
            self.tap.revive();
        }
        has_died
    }

    /// SIGTERM, and waiting for the end.
    pub async fn stop_fleetd(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop().await;
        }
    }

    /// The power goes.
    pub async fn kill(&mut self) {
        self.kill_fleetd().await;
        if self.is_on {
            self.is_on = false;
            self.boots += 1;
            self.systemd.boot();
        }
    }
}
