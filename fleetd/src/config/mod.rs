//! Configuration: files in layers, overridden by `FLEET_*` in the environment. Names are fleet 1.0's where it had one. A
//! value that cannot be used refuses to start and says where it stands and what is expected.
//!
//! Read by `main`, at start and with SIGHUP; everything else gets the values. Nothing here changes a file.

mod credentials;
mod fleet_conf;
mod keys;
mod layers;
mod problem;
pub mod reload;
mod report;
mod rules;
mod secret;
mod show;
mod source;
mod template;
mod toml_file;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use fleet_core::records::EngineRole;

pub use keys::{Applies, KEYS, Key};
pub use layers::{Grammar, Layer};
pub use problem::{ConfigError, Origin, Problems, Warning};
pub use report::{Format, report};
pub use secret::Secret;
pub use source::{Loaded, Sources, load, read, read_text};
pub use template::template;

/// Effective values.
#[derive(Clone, Debug)]
pub struct Config {
    pub etcd_servers: Vec<String>,
    pub etcd_key_prefix: String,
    pub etcd_request_timeout: Duration,
    /// Whether the leader compacts etcd's history.
    pub etcd_compaction: bool,
    pub etcd_username: String,
    pub etcd_password: Secret,
    pub etcd_cafile: Option<PathBuf>,
    pub etcd_certfile: Option<PathBuf>,
    pub etcd_keyfile: Option<PathBuf>,
    /// Published as the machine's address; empty: found out.
    pub public_ip: Option<IpAddr>,
    pub metadata: BTreeMap<String, String>,
    pub agent_ttl: Duration,
    pub engine: EngineRole,
    pub units_directory: PathBuf,
    pub state_directory: PathBuf,
    pub runtime_directory: PathBuf,
    pub listen: Vec<Listen>,
    pub listen_certfile: Option<PathBuf>,
    pub listen_keyfile: Option<PathBuf>,
    pub listen_cafile: Option<PathBuf>,
    /// The three above, if there is a certificate with its key.
    pub listen_tls: Option<ListenTls>,
    pub peer_listen: Option<SocketAddr>,
    pub offline_start_after: Duration,
    pub token_limit: u16,
    pub verbosity: u8,
}

/// Where the API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix://{}", path.display()),
            Listen::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// What the API shows and asks for on TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// The server's certificate, PEM.
    pub certfile: PathBuf,
    /// Its key, PEM.
    pub keyfile: PathBuf,
    /// The authority of the clients' certificates, PEM. None only if every address in `listen` is a loopback address;
    /// addresses that systemd passes are not known here.
    pub cafile: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            etcd_servers: Vec::new(),
            etcd_key_prefix: "/fleet/".to_owned(),
            etcd_request_timeout: Duration::from_secs(1),
            etcd_compaction: true,
            etcd_username: String::new(),
            etcd_password: Secret::default(),
            etcd_cafile: None,
            etcd_certfile: None,
            etcd_keyfile: None,
            public_ip: None,
            metadata: BTreeMap::new(),
            agent_ttl: Duration::from_secs(15),
            engine: EngineRole::Auto,
            units_directory: PathBuf::from("/run/fleet/units/"),
            state_directory: PathBuf::from("/var/lib/fleet"),
            runtime_directory: PathBuf::from("/run/fleet"),
            listen: vec![Listen::Unix(PathBuf::from("/run/fleet.sock"))],
            listen_certfile: None,
            listen_keyfile: None,
            listen_cafile: None,
            listen_tls: None,
            peer_listen: Some(SocketAddr::from(([0, 0, 0, 0], 49154))),
            offline_start_after: Duration::from_secs(8),
            token_limit: 100,
            verbosity: 0,
        }
    }
}

impl Config {
    /// The TTL of the presence lease: two thirds of the detection time, in whole seconds.
    #[must_use]
    pub fn lease_ttl(&self) -> Duration {
        Duration::from_secs((self.agent_ttl.as_secs() * 2 / 3).max(1))
    }

    /// What the engine waits between the lost marker and the first eviction.
    #[must_use]
    pub fn eviction_grace(&self) -> Duration {
        self.agent_ttl / 3
    }
}

#[cfg(test)]
mod tests;
