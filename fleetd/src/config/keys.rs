//! Every key: what it means, how its value gets into [`Config`] and out again, and when a change takes effect. Help, the
//! packaged configuration file and `check-config` are all made from this list.

use fleet_core::records::EngineRole;
use toml::Value;

use super::value::{self, Bad};
use super::{Config, show};

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// With SIGHUP.
    InPlace,
    /// When fleetd starts.
    AtRestart,
    /// Never: a key of fleet 1.0 that means nothing here.
    Nowhere,
}

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// One line, for `--help`.
    pub help: &'static str,
    /// For the packaged file, where it says more than `help`; lines as they stand there.
    pub about: &'static str,
    pub applies: Applies,
    /// fleet 1.0 knew it, so it counts in a `fleet.conf`.
    pub is_of_fleet_1: bool,
    /// Never printed.
    pub is_secret: bool,
    pub(super) set: fn(&mut Config, &Value) -> Result<(), Bad>,
    /// The effective value, in a form that `set` takes. None: a name that only stands for something else.
    pub(super) show: Option<fn(&Config) -> Value>,
}

impl Key {
    /// The key of this name, in small letters.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The default as TOML; None for a key that has no value of its own.
    pub(super) fn default(&self) -> Option<Value> {
        self.show.map(|show| show(&Config::default()))
    }

    /// The default for reading; empty if there is none.
    #[must_use]
    pub fn default_text(&self) -> String {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match self.default() {
            None => String::new(),
            Some(Value::Array(items)) => items.iter().map(plain).collect::<Vec<_>>().join(","),
            Some(Value::Table(table)) if table.is_empty() => String::new(),
            Some(value) => plain(&value),
        }
    }
}

const IS_1: bool = true;
const IS_NEW: bool = false;

macro_rules! key {
    ($name:ident, $parse:path, $show:path, $is_of_fleet_1:expr, $applies:ident, $help:literal, $about:literal) => {
        Key {
            name: stringify!($name),
            help: $help,
            about: $about,
            applies: Applies::$applies,
            is_of_fleet_1: $is_of_fleet_1,
            is_secret: false,
            set: |config, value| {
                config.$name = $parse(value)?;
                Ok(())
            },
            show: Some(|config| $show(&config.$name)),
        }
    };
}

macro_rules! old_key {
    ($name:ident, $applies:ident, $help:literal, $set:expr) => {
        Key {
            name: stringify!($name),
            help: $help,
            about: "",
            applies: Applies::$applies,
            is_of_fleet_1: true,
            is_secret: false,
            set: $set,
            show: None,
        }
    };
}

/// All keys, in the order in which help and the packaged file show them.
pub const KEYS: &[Key] = &[
    key!(
        etcd_servers,
        value::urls,
        show::texts,
        IS_1,
        AtRestart,
        "URLs of the etcd members; a list, or text with commas; none: a machine by itself",
        "The cluster's etcd, version 3.4 or later. All fleetds of a cluster name the same one. Not set: a machine by itself,\nwith a registry of its own in the state directory."
    ),
    key!(
        etcd_key_prefix,
        value::prefix,
        show::text,
        IS_1,
        AtRestart,
        "where the cluster's keys live in etcd",
        "Below which key the cluster keeps everything; clusters with different prefixes can share an etcd."
    ),
    key!(
        etcd_request_timeout,
        value::seconds,
        show::seconds,
        IS_1,
        AtRestart,
        "seconds that one etcd request may take, fail-over included",
        "How long one request to etcd may take, in seconds, fail-over to other members included; 0.05 to 60."
    ),
    key!(
        etcd_compaction,
        value::boolean,
        show::boolean,
        IS_NEW,
        AtRestart,
        "the leader compacts etcd's history; false if etcd's own auto-compaction does",
        "The leader compacts etcd's history. false: etcd's own auto-compaction does."
    ),
    key!(
        etcd_username,
        value::text,
        show::text,
        IS_1,
        AtRestart,
        "user for etcd's authentication",
        "For an etcd that asks who comes. Keep the password in a file below /etc/fleet/fleetd.d that only root can read."
    ),
    Key {
        is_secret: true,
        ..key!(etcd_password, value::secret, show::secret, IS_1, AtRestart, "password of that user", "")
    },
    key!(
        etcd_cafile,
        value::path_or_none,
        show::path_or_none,
        IS_1,
        AtRestart,
        "certificate authority of etcd's members (PEM)",
        "For https:// addresses: the authority of etcd's members, PEM."
    ),
    key!(
        etcd_certfile,
        value::path_or_none,
        show::path_or_none,
        IS_1,
        AtRestart,
        "client certificate for etcd (PEM)",
        "A client certificate for etcd and its key, PEM; both or none."
    ),
    key!(
        etcd_keyfile,
        value::path_or_none,
        show::path_or_none,
        IS_1,
        AtRestart,
        "key of that certificate (PEM)",
        ""
    ),
    key!(
        public_ip,
        value::address_or_none,
        show::address_or_none,
        IS_1,
        InPlace,
        "address that this machine publishes; empty: that of the default route",
        "The address under which other machines reach this one. Empty: the address of the default route."
    ),
    key!(
        metadata,
        value::metadata,
        show::metadata,
        IS_1,
        InPlace,
        "what this machine says of itself: a table, or text \"k=v,k=v\"",
        "What units can ask for with MachineMetadata=, such as { disk = \"ssd\", zone = \"a\" } or \"disk=ssd,zone=a\"."
    ),
    key!(
        agent_ttl,
        value::ttl,
        show::duration,
        IS_1,
        AtRestart,
        "time without a sign of life after which a machine's units move",
        "How long a machine may be silent before its units are started elsewhere; 3s to 1h."
    ),
    key!(
        engine,
        value::role,
        show::role,
        IS_NEW,
        AtRestart,
        "whether this machine may lead: auto or never",
        "Whether this machine may lead the cluster: auto or never."
    ),
    old_key!(disable_engine, AtRestart, "fleet 1.0's name for engine = \"never\"", |config, value| {
        config.engine = if value::boolean(value)? { EngineRole::Never } else { EngineRole::Auto };
        Ok(())
    }),
    key!(
        units_directory,
        value::directory,
        show::path,
        IS_1,
        AtRestart,
        "where unit files are written for systemd",
        "Where unit files are written. On a tmpfs: units of the cluster do not outlive a reboot on their own."
    ),
    key!(
        state_directory,
        value::directory,
        show::path,
        IS_NEW,
        AtRestart,
        "what has to survive a reboot",
        "What has to outlive a reboot: this machine's identity in the cluster and its orders."
    ),
    key!(
        runtime_directory,
        value::directory,
        show::path,
        IS_NEW,
        AtRestart,
        "what must not survive a reboot",
        "What must not outlive a reboot."
    ),
    key!(
        listen,
        value::listen,
        show::listen,
        IS_NEW,
        AtRestart,
        "where the API listens: unix:///PATH or tcp://ADDRESS:PORT; a list, or text with commas",
        "Where the API listens: unix:///PATH or tcp://ADDRESS:PORT. Whoever reaches it is root on every machine: on an\n\
         address other than loopback, clients have to show a certificate, so all three listen_*file keys are needed.\n\
         Sockets that systemd passes are used in addition."
    ),
    key!(
        listen_certfile,
        value::path_or_none,
        show::path_or_none,
        IS_NEW,
        AtRestart,
        "certificate that the API shows on TCP (PEM)",
        "The certificate that the API shows on TCP, and its key, PEM; both or none."
    ),
    key!(
        listen_keyfile,
        value::path_or_none,
        show::path_or_none,
        IS_NEW,
        AtRestart,
        "key of that certificate (PEM)",
        ""
    ),
    key!(
        listen_cafile,
        value::path_or_none,
        show::path_or_none,
        IS_NEW,
        AtRestart,
        "authority of the certificates that the API's clients have to show on TCP (PEM)",
        "The authority of the certificates that the API's clients have to show on TCP, PEM."
    ),
    key!(
        peer_listen,
        value::socket_or_none,
        show::socket_or_none,
        IS_NEW,
        AtRestart,
        "where the fleetds of other machines reach this one; empty: nowhere",
        "Where the fleetds of other machines reach this one; empty: nowhere, then status and journal are shown only here."
    ),
    key!(
        offline_start_after,
        value::duration,
        show::duration,
        IS_NEW,
        AtRestart,
        "without a registry for this long after start, the last known units are started",
        "Without a registry for this long after fleetd's start, the last known units are started."
    ),
    key!(
        token_limit,
        value::page_size,
        show::page_size,
        IS_1,
        AtRestart,
        "page size of API v1, 1 to 65535",
        "Page size of API v1, 1 to 65535."
    ),
    key!(
        verbosity,
        value::verbosity,
        show::verbosity,
        IS_1,
        InPlace,
        "0: what changes; 1: why; 2: everything",
        "0: what changes; 1: why; 2: everything. The environment variable RUST_LOG wins."
    ),
    old_key!(
        engine_reconcile_interval,
        Nowhere,
        "of fleet 1.0; changes act at once, so it has no effect",
        |_, _| Ok(())
    ),
    old_key!(disable_watches, Nowhere, "of fleet 1.0; without effect", |_, _| Ok(())),
    old_key!(enable_grpc, Nowhere, "of fleet 1.0; without effect", |_, _| Ok(())),
    old_key!(verify_units, Nowhere, "of fleet 1.0; without effect", |_, _| Ok(())),
    old_key!(authorized_keys_file, Nowhere, "of fleet 1.0; without effect", |_, _| Ok(())),
    old_key!(systemd_user, Nowhere, "of fleet 1.0; only false: units are the system's", |_, value| {
        if value::boolean(value)? {
            Err("false: units are run by the system's systemd".to_owned())
        } else {
            Ok(())
        }
    }),
];
