//! Configuration: `/etc/fleet/fleetd.toml`, overridden by `FLEET_*` in the environment. Names are fleet 1.0's where it
//! had one. A value that cannot be used refuses to start and says where it stands and what is expected.
//!
//! Read once by `main`; everything else gets the values.

mod keys;
mod source;
mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use fleet_core::records::EngineRole;

pub use keys::{KEYS, KeyHelp};
pub use source::{Sources, load};

/// Where the file is unless `--config` says otherwise.
pub const DEFAULT_FILE: &str = "/etc/fleet/fleetd.toml";

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}; correct --config or the file's permissions", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {error}", path.display())]
    Syntax { path: PathBuf, error: String },
    #[error("{place}: unknown key {key:?}{hint}; `fleetd --help` lists the keys")]
    UnknownKey { place: String, key: String, hint: String },
    #[error("{place}: {key} = {value}: expected {expected}")]
    BadValue { place: String, key: &'static str, value: String, expected: String },
    #[error(
        "etcd_servers is not set: fleetd needs an etcd cluster. Set it in {} (etcd_servers = [\"http://10.0.0.1:2379\"]) \
         or in the environment (FLEET_ETCD_SERVERS)",
        file.display()
    )]
    NoEtcd { file: PathBuf },
    #[error("{key} cannot read {}; correct the path or the file's permissions", path.display())]
    Credential { key: &'static str, path: PathBuf, source: std::io::Error },
}

/// Effective values.
#[derive(Clone, Debug)]
pub struct Config {
    pub etcd_servers: Vec<String>,
    pub etcd_key_prefix: String,
    pub etcd_request_timeout: Duration,
    /// Whether the leader compacts etcd's history.
    pub etcd_compaction: bool,
    pub etcd_username: String,
    pub etcd_password: String,
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

impl Default for Config {
    fn default() -> Config {
        Config {
            etcd_servers: Vec::new(),
            etcd_key_prefix: "/fleet/".to_owned(),
            etcd_request_timeout: Duration::from_secs(1),
            etcd_compaction: true,
            etcd_username: String::new(),
            etcd_password: String::new(),
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
