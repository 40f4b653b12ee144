//! Where the API may listen, and the certificates that this takes.

use super::*;

struct Files {
    machine: Machine,
    lines: Vec<String>,
}

impl Files {
    fn listening(address: &str) -> Files {
        let machine = Machine::new();
        let (certificate, key) = certificate();
        machine.write("pki/server.pem", &certificate);
        machine.write("pki/server.key", &key);
        machine.write("pki/ca.pem", &certificate);
        Files {
            machine,
            lines: vec![ETCD.trim().replace("http:", "https:"), format!("listen = \"{address}\"")],
        }
    }

    fn and(mut self, key: &str, path: &str) -> Files {
        self.lines.push(format!("{key} = \"{path}\""));
        self
    }

    fn loaded(&self) -> Result<Config, Vec<String>> {
        self.machine.write("etc/fleet/fleetd.toml", &self.lines.join("\n"));
        let problems = self.machine.problems();
        if problems.is_empty() { Ok(self.machine.config()) } else { Err(problems) }
    }
}

#[test]
fn loopback_needs_no_certificate() {
    for address in
        ["tcp://127.0.0.1:49153", "tcp://[::1]:49153", "tcp://[::ffff:127.0.0.1]:49153", "unix:///run/x.sock"]
    {
        assert_eq!(Files::listening(address).loaded().unwrap().listen_tls, None, "{address}");
    }
}

#[test]
fn the_network_needs_all_three_files_and_each_that_is_missing_is_named() {
    let missing = |files: Files| -> Vec<String> {
        let problems = files.loaded().unwrap_err();
        let start = "/etc/fleet/fleetd.toml:2: listen = tcp://0.0.0.0:49153: expected ";
        problems
            .iter()
            .filter_map(|problem| problem.strip_prefix(start)?.split(' ').next().map(str::to_owned))
            .collect()
    };
    let open = || Files::listening("tcp://0.0.0.0:49153");
    assert_eq!(missing(open()), ["listen_certfile", "listen_keyfile", "listen_cafile"]);
    let server = || open().and("listen_certfile", "/pki/server.pem").and("listen_keyfile", "/pki/server.key");
    assert_eq!(missing(server()), ["listen_cafile"]);
    let config = server().and("listen_cafile", "/pki/ca.pem").loaded().unwrap();
    assert_eq!(config.listen, [Listen::Tcp(([0, 0, 0, 0], 49153).into())]);
    assert_eq!(
        config.listen_tls,
        Some(ListenTls {
            certfile: "/pki/server.pem".into(),
            keyfile: "/pki/server.key".into(),
            cafile: Some("/pki/ca.pem".into())
        })
    );
    let why = open().loaded().unwrap_err();
    assert!(why[0].contains("root on every machine"), "{why:?}");
}

#[test]
fn a_certificate_without_client_authority_is_for_loopback() {
    let files = Files::listening("tcp://127.0.0.1:49153")
        .and("listen_certfile", "/pki/server.pem")
        .and("listen_keyfile", "/pki/server.key");
    assert_eq!(files.loaded().unwrap().listen_tls.unwrap().cafile, None);
}

#[test]
fn an_authority_or_half_a_pair_alone_is_refused() {
    let refused = |key: &str, path: &str| {
        let problems = Files::listening("unix:///run/x.sock").and(key, path).loaded().unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].clone()
    };
    assert!(
        refused("listen_cafile", "/pki/ca.pem")
            .contains("expected listen_certfile and listen_keyfile beside it")
    );
    assert!(refused("listen_certfile", "/pki/server.pem").ends_with("expected listen_keyfile beside it"));
    assert!(refused("listen_keyfile", "/pki/server.key").ends_with("expected listen_certfile beside it"));
    assert_eq!(
        refused("etcd_certfile", "/pki/server.pem"),
        "/etc/fleet/fleetd.toml:3: etcd_certfile = /pki/server.pem: expected etcd_keyfile beside it"
    );
    assert!(refused("etcd_keyfile", "/pki/server.key").ends_with("expected etcd_certfile beside it"));
}

#[test]
fn files_that_are_not_what_they_should_be_are_refused() {
    let with = |certificate: &str, key: &str| {
        Files::listening("tcp://127.0.0.1:49153")
            .and("listen_certfile", certificate)
            .and("listen_keyfile", key)
    };
    let refused = |files: Files| {
        let problems = files.loaded().unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].clone()
    };
    let absent = refused(with("/pki/absent.pem", "/pki/server.key"));
    assert!(
        absent.contains("listen_certfile = /pki/absent.pem: expected a file that can be read"),
        "{absent}"
    );
    assert!(refused(with("/pki/server.key", "/pki/server.key")).contains("BEGIN CERTIFICATE"));
    assert!(refused(with("/pki/server.pem", "/pki/server.pem")).contains("BEGIN PRIVATE KEY"));
    let other = with("/pki/server.pem", "/pki/other.key");
    other.machine.write("pki/other.key", &certificate().1);
    assert_eq!(
        refused(other),
        "/etc/fleet/fleetd.toml:4: listen_keyfile = /pki/other.key: expected the key of the certificate in \
         listen_certfile"
    );
}
