//! What a person who mistypes is told.

use std::io::Write as _;

use super::*;

fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let path = file.path().display().to_string();
    load(&Sources { file: Some(file.path().to_owned()), environment })
        .map_err(|error| error.to_string().replace(&path, "FILE"))
}

const ETCD: &str = "etcd_servers = [\"http://127.0.0.1:2379\"]\n";

#[test]
fn a_bad_value_names_file_key_value_and_what_is_expected() {
    let refused = |line: &str| load_text(&format!("{ETCD}{line}"), &[]).unwrap_err();
    assert_eq!(
        refused("agent_ttl = \"15\""),
        "FILE: agent_ttl = \"15\": expected a time between 3s and 1h with its unit, such as 15s"
    );
    assert_eq!(refused("engine = \"yes\""), "FILE: engine = \"yes\": expected auto or never");
    assert_eq!(refused("token_limit = 0"), "FILE: token_limit = 0: expected a number from 1 to 65535");
    assert!(refused("listen = [\"tcp://0.0.0.0:49153\"]").contains("loopback"));
    assert!(refused("metadata = \"a=b,=c\"").contains("key=value"));
    assert!(refused("agent_tll = \"15s\"").contains("unknown key \"agent_tll\" (did you mean agent_ttl?)"));
    assert!(refused("agent_ttl").contains("FILE: TOML parse error"), "{}", refused("agent_ttl"));
    let unusable = load_text("etcd_servers = [\"127.0.0.1:2379\"]", &[]).unwrap_err();
    assert!(unusable.contains("expected http://HOST:PORT"), "{unusable}");
}

#[test]
fn without_etcd_servers_it_refuses_and_names_the_key() {
    let refused = load_text("", &[]).unwrap_err();
    assert!(
        refused.starts_with("etcd_servers is not set") && refused.contains("FLEET_ETCD_SERVERS"),
        "{refused}"
    );
}

#[test]
fn the_environment_wins_and_takes_the_lists_of_fleet_1_0() {
    let config = load_text(
        &format!("{ETCD}agent_ttl = \"30s\"\nmetadata = {{ role = \"web\" }}"),
        &[
            ("FLEET_ETCD_SERVERS", "[\"http://a:2379\", \"http://b:2379\"]"),
            ("FLEET_METADATA", "role=db, disk=ssd"),
            ("PATH", "ignored"),
        ],
    )
    .unwrap();
    assert_eq!(config.etcd_servers, ["http://a:2379", "http://b:2379"]);
    assert_eq!(
        config.metadata,
        BTreeMap::from([("role".into(), "db".into()), ("disk".into(), "ssd".into())])
    );
    assert_eq!(config.lease_ttl(), Duration::from_secs(20));
    assert_eq!(config.eviction_grace(), Duration::from_secs(10));
    let refused = load_text(ETCD, &[("FLEET_AGENT_TTL", "soon")]).unwrap_err();
    assert!(refused.starts_with("environment variable FLEET_AGENT_TTL: agent_ttl = \"soon\""), "{refused}");
}

#[test]
fn a_password_is_not_repeated() {
    let refused = load_text(&format!("{ETCD}etcd_password = 5"), &[]).unwrap_err();
    assert!(refused.contains("(hidden)"), "{refused}");
}

#[test]
fn names_of_fleet_1_0_that_have_no_meaning_here_do_not_keep_it_from_starting() {
    let old =
        "disable_watches = \"false\"\nenable_grpc = true\nverify_units = \"1\"\nsystemd_user = \"false\"\n";
    load_text(
        &format!("{ETCD}{old}authorized_keys_file = \"/root/keys\"\nengine_reconcile_interval = 2"),
        &[],
    )
    .unwrap();
    let refused = load_text(&format!("{ETCD}systemd_user = true"), &[]).unwrap_err();
    assert!(refused.contains("expected false"), "{refused}");
}

#[test]
fn a_client_certificate_without_its_key_is_refused() {
    let refused = load_text(&format!("{ETCD}etcd_certfile = \"/c.pem\""), &[]).unwrap_err();
    assert_eq!(refused, "FILE: etcd_certfile = /c.pem: expected etcd_keyfile beside it");
    let refused = load_text(&format!("{ETCD}etcd_keyfile = \"/k.pem\""), &[]).unwrap_err();
    assert_eq!(refused, "FILE: etcd_keyfile = /k.pem: expected etcd_certfile beside it");
}
