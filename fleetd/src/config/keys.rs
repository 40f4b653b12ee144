//! Every key: its default, its help, and how its value gets into [`Config`].

use fleet_core::records::EngineRole;

use super::value::{self, Bad};
use super::{Config, Listen};

/// A key as `--help` and the packaged configuration file show it.
#[derive(Debug)]
pub struct KeyHelp {
    pub name: &'static str,
    pub default: &'static str,
    pub help: &'static str,
    pub(super) set: fn(&mut Config, &toml::Value) -> Result<(), Bad>,
}

macro_rules! key {
    (as $name:ident, $default:literal, $help:literal, $set:expr) => {
        KeyHelp { name: stringify!($name), default: $default, help: $help, set: $set }
    };
    ($name:ident, $default:literal, $help:literal, $parse:expr) => {
        KeyHelp {
            name: stringify!($name),
            default: $default,
            help: $help,
            set: |config, value| {
                config.$name = $parse(value)?;
                Ok(())
            },
        }
    };
}

/// All keys, in the order in which help shows them.
pub const KEYS: &[KeyHelp] = &[
    key!(etcd_servers, "", "URLs of the etcd members; a list, or text with commas between them", value::urls),
    key!(etcd_key_prefix, "/fleet/", "where the cluster's keys live in etcd", value::prefix),
    key!(
        etcd_request_timeout,
        "1.0",
        "seconds that one etcd request may take, fail-over included",
        value::seconds
    ),
    key!(
        etcd_compaction,
        "true",
        "the leader compacts etcd's history; false if etcd's own auto-compaction does",
        value::boolean
    ),
    key!(etcd_username, "", "user for etcd's authentication", value::text),
    key!(etcd_password, "", "password of that user", value::text),
    key!(etcd_cafile, "", "certificate authority of etcd's members (PEM)", value::path_or_none),
    key!(etcd_certfile, "", "client certificate for etcd (PEM)", value::path_or_none),
    key!(etcd_keyfile, "", "key of that certificate (PEM)", value::path_or_none),
    key!(
        public_ip,
        "",
        "address that this machine publishes; empty: that of the default route",
        value::address_or_none
    ),
    key!(metadata, "", "what this machine says of itself: a table, or text \"k=v,k=v\"", value::metadata),
    key!(agent_ttl, "15s", "time without a sign of life after which a machine's units move", value::ttl),
    key!(engine, "auto", "whether this machine may lead: auto or never", value::role),
    key!(as disable_engine, "false", "fleet 1.0's name for engine = \"never\"", |config, value| {
        if value::boolean(value)? {
            config.engine = EngineRole::Never;
        }
        Ok(())
    }),
    key!(units_directory, "/run/fleet/units/", "where unit files are written for systemd", value::directory),
    key!(state_directory, "/var/lib/fleet", "what has to survive a reboot", value::directory),
    key!(runtime_directory, "/run/fleet", "what must not survive a reboot", value::directory),
    key!(
        listen,
        "unix:///run/fleet.sock",
        "where the API listens: unix:///path or tcp://loopback:port",
        value::listen
    ),
    key!(
        peer_listen,
        "0.0.0.0:49154",
        "where the fleetds of other machines reach this one; empty: nowhere",
        value::socket_or_none
    ),
    key!(
        offline_start_after,
        "8s",
        "without a registry for this long after start, the last known units are started",
        value::duration
    ),
    key!(token_limit, "100", "page size of API v1, 1 to 65535", value::page_size),
    key!(verbosity, "0", "0: what changes; 1: why; 2: everything", value::verbosity),
    key!(as engine_reconcile_interval, "", "of fleet 1.0; changes act at once, so it has no effect", |_config, _value| Ok(())),
    key!(as disable_watches, "", "of fleet 1.0; without effect", |_config, _value| Ok(())),
    key!(as enable_grpc, "", "of fleet 1.0; without effect", |_config, _value| Ok(())),
    key!(as verify_units, "", "of fleet 1.0; without effect", |_config, _value| Ok(())),
    key!(as authorized_keys_file, "", "of fleet 1.0; without effect", |_config, _value| Ok(())),
    key!(as systemd_user, "false", "of fleet 1.0; only false: units are the system's", |_config, value| {
        if value::boolean(value)? { Err("false: units are run by the system's systemd".to_owned()) } else { Ok(()) }
    }),
];

impl Listen {
    pub(super) const EXPECTED: &str = "unix:///path, or tcp://ADDRESS:PORT on a loopback address";
}
