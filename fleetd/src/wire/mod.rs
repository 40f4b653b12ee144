//! Where the components meet: the only place that knows all of them.
//!
//! `main` and the simulator hand in a store, a systemd and a clock; [`Daemon::start`] makes the tasks and the handles
//! and puts them in one supervised set that ends on one token.

mod agent_registry;
mod views;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use fleet_core::leadership::KNOWN_FEATURES;
use fleet_core::reconcile::Accepted;
use fleet_core::records::{Extra, PresenceRecord, SCHEMA};
use fleet_registry::Registry;
use fleet_registry::keys::{DEFAULT_PREFIX, Keys, PrefixError};
use fleet_registry::lease::StartLeaseError;
use fleet_registry::store::{Store, StoreKind};
use fleet_systemd::Systemd;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::agent::{Agent, AgentError, AgentHandle, AgentOptions, accepted};
use crate::api::tools::LocalTools;
use crate::api::{self, Limits, ListenError};
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::{self, EngineHandle, EngineOptions};
use crate::identity::{Identity, default_address};
use crate::join::Join;
use crate::member::{MemberError, MemberFile};
use crate::peer::{self, KeysError, PeerClient, PeerKeys};
use crate::session::{self, SessionHandle, SessionOptions, SessionState};
use crate::store::LeaseMaker;
use agent_registry::WiredRegistry;

/// Release, as lists and headers show it.
pub const VERSION: &str = if cfg!(feature = "next-records") {
    concat!(env!("CARGO_PKG_VERSION"), "+next")
} else {
    env!("CARGO_PKG_VERSION")
};

/// What a daemon is made of.
pub struct DaemonOptions {
    pub config: Config,
    pub identity: Identity,
    pub store: Arc<dyn Store>,
    /// Makes leases that nothing delays: on threads of their own, or on tasks in a simulation.
    pub lease: LeaseMaker,
    pub systemd: Arc<dyn Systemd>,
    pub clock: Clock,
    /// Sockets of the API that systemd has bound.
    pub passed: Vec<api::Passed>,
}

impl std::fmt::Debug for DaemonOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DaemonOptions")
            .field("config", &self.config)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error(transparent)]
    Lease(#[from] StartLeaseError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    PeerListen(#[from] peer::ListenError),
    #[error(transparent)]
    PeerKeys(#[from] KeysError),
    #[error("cannot make the state directory {}; mount it writable", path.display())]
    StateDirectory { path: std::path::PathBuf, source: std::io::Error },
}

/// A registry that does not answer must not delay a restart: resigning takes at most a request's time-out or two.
const STOP_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// The session with an embedded store takes a few fsyncs.
const SERVES_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// A running fleetd. Dropping it ends its tasks like SIGKILL would; [`Daemon::stop`] ends them in order. Neither
/// touches a unit.
#[derive(Debug)]
pub struct Daemon {
    pub registry: Registry,
    pub session: SessionHandle,
    pub agent: AgentHandle,
    pub engine: EngineHandle,
    pub api: api::Handle,
    /// One line for systemd.
    pub status: watch::Receiver<String>,
    pub shutdown: CancellationToken,
    peer_port: Option<u16>,
    tasks: JoinSet<()>,
}

impl Daemon {
    /// Starts every task. Returns as soon as systemd is subscribed and the state directory read, whatever the registry
    /// does.
    ///
    /// # Errors
    /// The state directory cannot be used; systemd's answers make no sense; no thread for the lease.
    pub async fn start(options: DaemonOptions) -> Result<Daemon, StartError> {
        let DaemonOptions { config, identity, store, lease, systemd, clock, passed } = options;
        let state_directory = config.state_directory.clone();
        std::fs::create_dir_all(&state_directory)
            .map_err(|source| StartError::StateDirectory { path: state_directory.clone(), source })?;
        let seed = seed(&identity);
        // A store of its own needs no place of its own in it, and can be found again when etcd has come.
        let is_alone = store.kind() == StoreKind::Embedded;
        let prefix = if is_alone { DEFAULT_PREFIX } else { &config.etcd_key_prefix };
        let registry = Registry::new(store, Keys::new(prefix)?, seed);
        let member = MemberFile::open(&state_directory)?;
        // Only a machine that belongs to no cluster makes or joins one by itself.
        let accepted = match member.get() {
            Some(_) => Accepted::default(),
            None => accepted(&state_directory)?,
        };
        let shutdown = CancellationToken::new();
        let doubt = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();

        let keys = PeerKeys::open(&state_directory, &identity.machine)?;
        let mut peer_port = None;
        if let Some(listen) = config.peer_listen.filter(|_| !is_alone) {
            let (bound, serve) = peer::Service::bind(peer::Options {
                registry: registry.clone(),
                machine: identity.machine.clone(),
                keys: keys.clone(),
                listen,
                tools: LocalTools::default(),
                heartbeat: Limits::default().heartbeat,
                shutdown: shutdown.clone(),
            })
            .await?;
            peer_port = Some(bound.address.port());
            tasks.spawn(serve.run());
        }

        let systemd_version = systemd.environment().await.map(|e| e.version).unwrap_or_default();
        let (session, serve) = session::start(SessionOptions {
            registry: registry.clone(),
            member: member.clone(),
            accepted,
            clock: clock.clone(),
            presence: presence(&config, &identity, systemd_version, peer_port, keys.fingerprint()),
            lease: lease("fleet-presence", config.lease_ttl())?,
            doubt: Arc::clone(&doubt),
            seed,
            shutdown: shutdown.clone(),
        });
        tasks.spawn(serve);

        let wired = WiredRegistry {
            registry: registry.clone(),
            machine: identity.machine.clone(),
            member: member.clone(),
            session: session.state.clone(),
            doubt: Arc::clone(&doubt),
            judged: Arc::new(Mutex::new(None)),
        };
        let agent_clock = clock.clone();
        let agent_options = AgentOptions {
            units_directory: config.units_directory.clone(),
            features: KNOWN_FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
            offline_start_after: config.offline_start_after,
            clock: Arc::new(move || agent_clock.now()),
            ..AgentOptions::new(state_directory)
        };
        let (agent, agent_handle) = Agent::open(agent_options, systemd, Arc::new(wired)).await?;
        let stop = shutdown.clone();
        tasks.spawn(async move {
            if let Err(error) = agent.run(stop.clone()).await {
                error!(error = session::chain(&error), "the agent has ended; units keep running");
                // Without its agent a machine only pretends to be a member: let systemd start it anew.
                stop.cancel();
            }
        });

        let join = Join {
            registry: registry.clone(),
            member: member.clone(),
            machine: identity.machine.clone(),
            state_directory: config.state_directory.clone(),
            session: session.state.clone(),
            doubt: Arc::clone(&doubt),
        };
        let (engine, serve) = engine::start(EngineOptions {
            registry: registry.clone(),
            clock: clock.clone(),
            machine: identity.machine.clone(),
            version: VERSION.to_owned(),
            role: config.engine,
            grace: config.eviction_grace(),
            compacts: config.etcd_compaction,
            session: session.state.clone(),
            member: member.clone(),
            doubt,
            lease,
            seed: seed.rotate_left(17),
            shutdown: shutdown.clone(),
        });
        tasks.spawn(serve);

        let (api, serve) = api::Service::bind(api::Options {
            registry: registry.clone(),
            machine: identity.machine.clone(),
            hostname: identity.hostname.clone(),
            version: VERSION.to_owned(),
            features: KNOWN_FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
            clock: clock.clone(),
            listen: config.listen.clone(),
            passed,
            tls: config.listen_tls.clone(),
            token_limit: config.token_limit,
            session: Arc::new(views::Session { handle: session.clone(), member: member.clone() }),
            agent: Arc::new(views::LocalUnits { handle: agent_handle.clone() }),
            engine: Arc::new(engine.clone()),
            tools: LocalTools::default(),
            joiner: Some(Arc::new(join)),
            peers: Some(Arc::new(PeerClient::new(registry.clone(), identity.machine.clone(), keys))),
            limits: Limits::default(),
            shutdown: shutdown.clone(),
        })
        .await?;
        tasks.spawn(serve.run());

        let (line, status) = watch::channel(String::new());
        tasks.spawn(status_line(line, session.clone(), agent_handle.clone(), engine.clone()));
        info!(machine = %identity.machine, version = VERSION, "fleetd runs");
        Ok(Daemon { registry, session, agent: agent_handle, engine, api, status, shutdown, peer_port, tasks })
    }

    /// What puts another configuration's metadata and address in the place of this one's, without a restart.
    pub fn describer(&self) -> impl Fn(&Config) + Send + 'static {
        let (session, peer_port) = (self.session.clone(), self.peer_port);
        move |config| session.describe(|presence| describe(config, peer_port, presence))
    }

    /// Adds a task of the caller's to the supervised set.
    pub fn supervise(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Ends every task in order: leadership is given back, presence is left to run out, no unit is touched.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    error!(%error, "a task had a fault");
                }
            }
        };
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            // What is left is dropped, as SIGKILL would; nothing is lost by it.
            warn!("tasks did not end within {STOP_WITHIN:?}; ending without them");
        }
    }

    /// Waits until requests are carried out, where that depends on nobody else: with a store of this machine's own, for
    /// as long as a disk may take. Then, and with etcd at once, fleetd is ready, whatever the registry does.
    pub async fn serves(&mut self) {
        if self.registry.store().kind() == StoreKind::Embedded {
            let mut state = self.session.state.clone();
            let may_act = state.wait_for(SessionState::may_act);
            // If not by then, the status line says why.
            drop(tokio::time::timeout(SERVES_WITHIN, may_act).await);
        }
    }

    /// Waits until a task has ended on its own, or the token is cancelled.
    pub async fn ended(&mut self) {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            ended = self.tasks.join_next() => {
                if let Some(Err(error)) = ended {
                    error!(%error, "a task had a fault; ending, so that systemd starts fleetd anew");
                }
            }
        }
    }
}

/// Differs between machines and boots; spreads what would otherwise happen on all machines at once.
fn seed(identity: &Identity) -> u64 {
    let text = format!("{}{}", identity.machine, identity.nonce);
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn presence(
    config: &Config,
    identity: &Identity,
    systemd: String,
    peer_port: Option<u16>,
    fingerprint: String,
) -> PresenceRecord {
    let mut presence = PresenceRecord {
        v: SCHEMA,
        machine: identity.machine.clone(),
        primary_ip: String::new(),
        peer_address: String::new(),
        fingerprint,
        metadata: BTreeMap::new(),
        hostname: identity.hostname.clone(),
        version: VERSION.to_owned(),
        systemd,
        features: KNOWN_FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
        boot: identity.boot.clone(),
        nonce: identity.nonce.clone(),
        engine: config.engine,
        agent_ttl: config.agent_ttl.into(),
        since: fleet_core::Timestamp(0),
        extra: Extra::new(),
    };
    describe(config, peer_port, &mut presence);
    presence
}

/// The part of what a machine says of itself that its configuration may change while it runs.
fn describe(config: &Config, peer_port: Option<u16>, presence: &mut PresenceRecord) {
    let address = config.public_ip.or_else(default_address);
    let peer_address =
        address.zip(peer_port).map(|(address, port)| SocketAddr::new(address, port).to_string());
    presence.primary_ip = address.map(|address| address.to_string()).unwrap_or_default();
    presence.peer_address = peer_address.unwrap_or_default();
    presence.metadata.clone_from(&config.metadata);
}

async fn status_line(
    line: watch::Sender<String>,
    mut session: SessionHandle,
    mut agent: AgentHandle,
    mut engine: EngineHandle,
) {
    loop {
        let leads = engine.status.borrow().leading.is_some();
        let session_line = session.state.borrow().summary();
        let agent_line = agent.status().line();
        let text = format!("{session_line}; {agent_line}{}", if leads { "; leads the cluster" } else { "" });
        line.send_if_modified(|old| {
            let changed = *old != text;
            *old = text;
            changed
        });
        let changed = tokio::select! {
            changed = session.state.changed() => changed.is_ok(),
            changed = agent.changed() => changed.is_some(),
            changed = engine.status.changed() => changed.is_ok(),
        };
        if !changed {
            return;
        }
    }
}
