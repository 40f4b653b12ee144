//! Keys that need one another. Speaks only of keys whose own values are usable.

use std::net::IpAddr;

use fleet_registry::etcd::Endpoint;

use super::problem::{ConfigError, Warning};
use super::source::Loaded;
use super::{Config, Listen, ListenTls};

/// Adds what is missing to the problems, and puts together what belongs together.
pub(super) fn check(loaded: &mut Loaded) {
    let refused = loaded.refused_keys();
    // What seems to be missing may stand where nobody could read it.
    if !loaded.is_incomplete() {
        let is_known = |keys: &[&str]| !keys.iter().any(|key| refused.contains(*key));
        let config = &loaded.config;
        let mut found = Vec::new();
        if is_known(&["etcd_certfile", "etcd_keyfile"]) {
            let pair = [("etcd_certfile", &config.etcd_certfile), ("etcd_keyfile", &config.etcd_keyfile)];
            found.extend(half_of_a_pair(loaded, pair));
        }
        if is_known(&["etcd_servers"]) {
            match half_of_them_secured(loaded) {
                Some(problem) => found.push(problem),
                None => found.extend(etcd_files_without_tls(loaded, is_known)),
            }
        }
        if is_known(&["listen_certfile", "listen_keyfile"]) {
            let pair =
                [("listen_certfile", &config.listen_certfile), ("listen_keyfile", &config.listen_keyfile)];
            found.extend(half_of_a_pair(loaded, pair));
        }
        if is_known(&["listen", "listen_certfile", "listen_keyfile", "listen_cafile"]) {
            found.extend(open_to_the_network(loaded));
            found.extend(clients_without_server(loaded));
        }
        if is_known(&["etcd_username", "etcd_password"]) {
            found.extend(password_of_nobody(loaded));
        }
        let mut warnings = Vec::new();
        if is_known(&["etcd_servers", "etcd_username"]) {
            warnings.extend(password_without_tls(loaded));
        }
        if is_known(&["listen"]) {
            warnings.extend(listens_nowhere(loaded));
        }
        loaded.problems.extend(found);
        loaded.warnings.extend(warnings);
    }
    loaded.config.listen_tls = listen_tls(&loaded.config);
}

fn bad(loaded: &Loaded, key: &'static str, value: &str, expected: String) -> ConfigError {
    ConfigError::BadValue { origin: loaded.origin(key), key, value: value.to_owned(), expected }
}

fn half_of_a_pair(
    loaded: &Loaded,
    pair: [(&'static str, &Option<std::path::PathBuf>); 2],
) -> Option<ConfigError> {
    let [(first, first_path), (second, second_path)] = pair;
    let (key, path, other) = match (first_path, second_path) {
        (Some(path), None) => (first, path, second),
        (None, Some(path)) => (second, path, first),
        _ => return None,
    };
    Some(bad(loaded, key, &path.display().to_string(), format!("{other} beside it")))
}

/// What is meant by certificates, or by a password, would depend on which member is asked.
fn half_of_them_secured(loaded: &Loaded) -> Option<ConfigError> {
    let servers = &loaded.config.etcd_servers;
    let plain = servers.iter().find(|url| url.starts_with("http://"))?;
    servers.iter().any(|url| url.starts_with("https://")).then(|| {
        let expected = "https:// for all members, or http:// for all";
        bad(loaded, "etcd_servers", plain, expected.to_owned())
    })
}

/// Whoever names certificates believes that they are used.
fn etcd_files_without_tls(loaded: &Loaded, is_known: impl Fn(&[&str]) -> bool) -> Vec<ConfigError> {
    let config = &loaded.config;
    let Some(plain) = config.etcd_servers.iter().find(|url| url.starts_with("http://")) else {
        return Vec::new();
    };
    let files = [
        ("etcd_cafile", &config.etcd_cafile),
        ("etcd_certfile", &config.etcd_certfile),
        ("etcd_keyfile", &config.etcd_keyfile),
    ];
    let named = files.into_iter().filter(|(key, _)| is_known(&[key]));
    named
        .filter_map(|(key, path)| {
            let expected = format!("https:// in etcd_servers; with {plain} nothing is encrypted or verified");
            Some(bad(loaded, key, &path.as_ref()?.display().to_string(), expected))
        })
        .collect()
}

fn password_of_nobody(loaded: &Loaded) -> Option<ConfigError> {
    let config = &loaded.config;
    (config.etcd_username.is_empty() && !config.etcd_password.is_empty())
        .then(|| bad(loaded, "etcd_password", "(hidden)", "etcd_username beside it".to_owned()))
}

fn listens_nowhere(loaded: &Loaded) -> Option<Warning> {
    let text = "listen: names no address, so that the API can be reached only on sockets that systemd passes"
        .to_owned();
    loaded.config.listen.is_empty().then(|| Warning { origin: loaded.origin("listen"), text })
}

/// On this machine nobody is on the way.
fn password_without_tls(loaded: &Loaded) -> Option<Warning> {
    let config = &loaded.config;
    let is_far = |url: &&String| {
        Endpoint::parse(url).is_ok_and(|endpoint| {
            let is_own =
                endpoint.host.parse::<IpAddr>().map_or(endpoint.host == "localhost", |ip| ip.is_loopback());
            !endpoint.is_tls && !is_own
        })
    };
    let far = config.etcd_servers.iter().find(is_far)?;
    let text = format!(
        "etcd_username: it and its password go to {far} without TLS, where whoever is on the way can read them; use https://"
    );
    (!config.etcd_username.is_empty()).then(|| Warning { origin: loaded.origin("etcd_username"), text })
}

/// One problem for each key that an address of the network misses.
fn open_to_the_network(loaded: &Loaded) -> Vec<ConfigError> {
    let config = &loaded.config;
    // [::ffff:127.0.0.1] is another way to write 127.0.0.1.
    let is_open = |listen: &&Listen| matches!(listen, Listen::Tcp(address) if !address.ip().to_canonical().is_loopback());
    let Some(open) = config.listen.iter().find(is_open) else { return Vec::new() };
    let needed = [
        ("listen_certfile", &config.listen_certfile, "the server's certificate"),
        ("listen_keyfile", &config.listen_keyfile, "the key of the server's certificate"),
        ("listen_cafile", &config.listen_cafile, "the authority of the clients' certificates"),
    ];
    let missing = needed.into_iter().filter(|(_, path, _)| path.is_none());
    missing
        .map(|(key, _, what)| {
            let expected = format!(
                "{key} beside it ({what}, PEM), or a loopback address: whoever reaches the API is root on every machine, \
                 so clients on the network have to show a certificate"
            );
            bad(loaded, "listen", &open.to_string(), expected)
        })
        .collect()
}

fn clients_without_server(loaded: &Loaded) -> Option<ConfigError> {
    let config = &loaded.config;
    let path = config.listen_cafile.as_ref()?;
    (config.listen_certfile.is_none() && config.listen_keyfile.is_none()).then(|| {
        let expected = "listen_certfile and listen_keyfile beside it: clients show certificates only to a server with one";
        bad(loaded, "listen_cafile", &path.display().to_string(), expected.to_owned())
    })
}

fn listen_tls(config: &Config) -> Option<ListenTls> {
    let (certfile, keyfile) = config.listen_certfile.clone().zip(config.listen_keyfile.clone())?;
    Some(ListenTls { certfile, keyfile, cafile: config.listen_cafile.clone() })
}
