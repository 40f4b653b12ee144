//! What `check-config` prints, and the packaged file.

use super::*;

#[test]
fn every_key_is_printed_with_its_value_and_where_that_comes_from() {
    let mut machine = Machine::with(
        "token_limit = 7\netcd_password = \"hunter2\"\netcd_username = \"f\"\n[metadata]\ndisk = \"ssd\"\n",
    );
    machine.allow("etc/fleet/fleetd.toml", 0o640);
    machine.write("usr/lib/fleet/fleetd.d/a.toml", "verbosity = 1");
    machine.write("run/fleet/fleetd.d/a.toml", "verbosity = 2");
    machine.set("FLEET_PUBLIC_IP", "10.0.0.9");
    let (text, remarks) = report(&machine.read(), Format::Text);
    assert_eq!(remarks, "");
    let text = machine.without_root(&text);
    let lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for expected in [
        "# /usr/lib/fleet/fleetd.d/a.toml (masked by /run/fleet/fleetd.d/a.toml)",
        "etcd_servers = [\"http://127.0.0.1:2379\"] # /etc/fleet/fleetd.toml:1",
        "token_limit = 7 # /etc/fleet/fleetd.toml:2",
        "etcd_password = (hidden) # /etc/fleet/fleetd.toml:3",
        "metadata = { disk = \"ssd\" } # /etc/fleet/fleetd.toml:5",
        "verbosity = 2 # /run/fleet/fleetd.d/a.toml:1",
        "public_ip = \"10.0.0.9\" # environment variable FLEET_PUBLIC_IP",
        "agent_ttl = \"15s\" # default",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} in\n{text}");
    }
    for key in KEYS.iter().filter(|key| key.show.is_some()) {
        let shown = lines.iter().filter(|line| line.starts_with(&format!("{} = ", key.name)));
        assert_eq!(shown.count(), 1, "{}", key.name);
    }
}

#[test]
fn json_has_everything_in_one_object() {
    let machine =
        Machine::with("token_limit = 0\netcd_password = \"hunter2\"\nverbosity = 1\netcd_username = \"f\"\n");
    let (text, remarks) = report(&machine.read(), Format::Json);
    assert!(remarks.is_empty() && !text.contains("hunter2"));
    let json: serde_json::Value = serde_json::from_str(&machine.without_root(&text)).unwrap();
    assert_eq!(json["usable"], false);
    let of = |key: &str| {
        let values = json["values"].as_array().unwrap();
        values.iter().find(|value| value["key"] == key).unwrap().clone()
    };
    let file =
        |line: u32| serde_json::json!({ "kind": "file", "path": "/etc/fleet/fleetd.toml", "line": line });
    assert_eq!(
        of("verbosity"),
        serde_json::json!({ "key": "verbosity", "value": 1, "source": file(4), "applies": "in place" })
    );
    assert_eq!(
        of("etcd_password"),
        serde_json::json!({
            "key": "etcd_password", "value": null, "hidden": true, "source": file(3), "applies": "at restart"
        })
    );
    assert_eq!(of("engine")["source"], serde_json::json!({ "kind": "default" }));
    assert_eq!(
        json["problems"],
        serde_json::json!([{
            "message": "/etc/fleet/fleetd.toml:2: token_limit = 0: expected a number from 1 to 65535",
            "source": file(2), "key": "token_limit", "value": "0", "expected": "a number from 1 to 65535"
        }])
    );
}

#[test]
fn problems_and_warnings_are_told_apart() {
    let machine = Machine::with("enable_grpc = true\nengine = \"no\"\n");
    let (text, remarks) = report(&machine.read(), Format::Text);
    assert!(text.contains("enable_grpc = true"), "{text}");
    let remarks = machine.without_root(&remarks);
    assert_eq!(
        remarks,
        "warning: /etc/fleet/fleetd.toml:2: Config option enable_grpc is no longer supported - ignoring: of fleet 1.0; without effect\n\
         error: /etc/fleet/fleetd.toml:3: engine = \"no\": expected auto or never\n"
    );
}

#[test]
fn the_packaged_file_is_what_config_template_prints() {
    let path = repository().join("fleetd/dist/etc/fleet/fleetd.toml");
    let packaged = std::fs::read_to_string(path).unwrap();
    assert!(
        packaged == template(),
        "make it anew: fleetd config-template > fleetd/dist/etc/fleet/fleetd.toml"
    );
}

#[test]
fn the_packaged_file_has_every_key_with_a_value_that_is_taken() {
    let text = template();
    let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    let lines: Vec<&str> =
        text.lines().filter(is_key).map(|line| &line[1..]).filter(|line| line.contains(" = ")).collect();
    assert_eq!(lines.len(), KEYS.len());
    let machine = Machine::new();
    machine.write("etc/fleet/fleetd.toml", &lines.join("\n"));
    let config = machine.config();
    let defaults = Config { etcd_servers: config.etcd_servers.clone(), ..Config::default() };
    assert_eq!(format!("{config:?}"), format!("{defaults:?}"));
    assert_eq!(machine.warnings().len(), 1, "only of a key of fleet 1.0 that cannot ask for nothing");
    let as_packaged = Machine::new();
    as_packaged.write("etc/fleet/fleetd.toml", &text);
    assert!(as_packaged.read().origins.is_empty(), "as it is packaged it sets nothing");
}
