//! Which of several values counts.

use super::*;

const VENDOR: &str = "usr/lib/fleet/fleetd.d";
const LOCAL: &str = "etc/fleet/fleetd.d";
const RUNTIME: &str = "run/fleet/fleetd.d";

#[test]
fn each_layer_overrides_the_ones_below_it() {
    let mut machine = Machine::new();
    machine.set("FLEET_ETCD_SERVERS", "http://127.0.0.1:2379");
    let ascending = [
        (format!("{VENDOR}/50-a.toml"), "token_limit = 1\n", 1),
        (format!("{VENDOR}/60-a.toml"), "\ntoken_limit = 2\n", 2),
        ("etc/fleet/fleet.conf".to_owned(), "\n\ntoken_limit = 3\n", 3),
        ("etc/fleet/fleetd.toml".to_owned(), "token_limit = 4\n", 1),
        (format!("{LOCAL}/10-a.toml"), "token_limit = 5\n", 1),
        (format!("{RUNTIME}/00-a.toml"), "verbosity = 1\ntoken_limit = 6\n", 2),
    ];
    for (limit, (file, text, line)) in (1..).zip(ascending) {
        machine.write(&file, text);
        assert_eq!(machine.config().token_limit, limit, "{file}");
        assert_eq!(machine.origin("token_limit"), format!("/{file}:{line}"));
    }
    machine.set("FLEET_TOKEN_LIMIT", "7");
    assert_eq!(machine.config().token_limit, 7);
    assert_eq!(machine.origin("token_limit"), "environment variable FLEET_TOKEN_LIMIT");
    assert_eq!(machine.config().verbosity, 1, "other keys of a lower layer still count");
    assert_eq!(machine.origin("agent_ttl"), "default");
}

#[test]
fn files_of_one_directory_count_in_the_order_of_their_names() {
    let machine = Machine::with("");
    machine.write(&format!("{LOCAL}/9.toml"), "token_limit = 9");
    machine.write(&format!("{LOCAL}/10.toml"), "token_limit = 10");
    assert_eq!(machine.config().token_limit, 9);
}

#[test]
fn what_does_not_end_in_toml_is_not_read() {
    let machine = Machine::with("");
    for name in ["a.conf", "a.toml.dpkg-old", ".a.toml", "README"] {
        machine.write(&format!("{LOCAL}/{name}"), "nonsense");
    }
    assert_eq!(machine.problems(), Vec::<String>::new());
}

#[test]
fn a_file_masks_those_of_the_same_name_in_lower_directories() {
    let machine = Machine::with("");
    machine.write(&format!("{VENDOR}/50-a.toml"), "token_limit = 1\nverbosity = 1");
    machine.write(&format!("{LOCAL}/50-a.toml"), "token_limit = 2\nengine = \"never\"");
    let config = machine.config();
    assert_eq!((config.token_limit, config.verbosity, config.engine), (2, 0, EngineRole::Never));
    machine.write(&format!("{RUNTIME}/50-a.toml"), "token_limit = 3");
    let config = machine.config();
    assert_eq!((config.token_limit, config.verbosity, config.engine), (3, 0, EngineRole::Auto));
    let masked = machine.read().files.into_iter().filter_map(|file| file.masked_by).collect::<Vec<_>>();
    assert_eq!(
        masked,
        [machine.path(&format!("{RUNTIME}/50-a.toml")), machine.path(&format!("{RUNTIME}/50-a.toml"))]
    );
}

#[test]
fn a_file_that_is_masked_may_hold_anything() {
    let machine = Machine::with("");
    machine.write(&format!("{VENDOR}/50-a.toml"), "nonsense");
    assert_eq!(machine.problems().len(), 1);
    machine.write(&format!("{LOCAL}/50-a.toml"), "");
    assert_eq!(machine.problems(), Vec::<String>::new());
}

#[test]
fn a_link_to_dev_null_masks_and_says_nothing() {
    let machine = Machine::with("");
    machine.write(&format!("{VENDOR}/50-a.toml"), "token_limit = 1");
    machine.write(&format!("{LOCAL}/60-b.toml"), "verbosity = 1");
    machine.link(&format!("{LOCAL}/50-a.toml"), "/dev/null");
    machine.link(&format!("{RUNTIME}/60-b.toml"), "/dev/null");
    let config = machine.config();
    assert_eq!((config.token_limit, config.verbosity), (100, 0));
}

#[test]
fn a_link_that_leads_nowhere_is_a_fault() {
    let machine = Machine::with("");
    machine.link(&format!("{LOCAL}/50-a.toml"), "/nowhere/at/all");
    let problems = machine.problems();
    assert!(
        problems[0].starts_with("cannot read the configuration file /etc/fleet/fleetd.d/50-a.toml"),
        "{problems:?}"
    );
}

#[test]
fn a_table_replaces_the_table_below_it_as_a_whole() {
    let mut machine = Machine::with("[metadata]\ndisk = \"ssd\"\nzone = \"a\"\n");
    assert_eq!(machine.origin("metadata"), "/etc/fleet/fleetd.toml:2");
    machine.write(&format!("{LOCAL}/50-a.toml"), "metadata.zone = \"b\"");
    assert_eq!(machine.config().metadata, BTreeMap::from([("zone".into(), "b".into())]));
    machine.set("FLEET_METADATA", "");
    assert_eq!(machine.config().metadata, BTreeMap::new(), "an empty variable is a value");
}

#[test]
fn a_file_named_on_the_command_line_stands_in_the_place_of_the_main_files() {
    let mut machine = Machine::with("token_limit = 1\nverbosity = 1");
    machine.write("etc/fleet/fleet.conf", "disable_engine=true\n");
    machine.write(&format!("{VENDOR}/50-a.toml"), "token_limit = 2\noffline_start_after = \"9s\"");
    machine.write(&format!("{LOCAL}/50-b.toml"), "agent_ttl = \"20s\"");
    machine.write("mine.toml", &format!("{ETCD}token_limit = 3\nagent_ttl = \"30s\""));
    machine.file = Some(machine.path("mine.toml"));
    let config = machine.config();
    assert_eq!((config.token_limit, config.verbosity, config.engine), (3, 0, EngineRole::Auto));
    assert_eq!(config.agent_ttl, Duration::from_secs(20), "drop-ins of the operator are above it");
    assert_eq!(config.offline_start_after, Duration::from_secs(9), "and those of the vendor below");
    machine.file = Some(machine.path("absent.toml"));
    assert!(machine.problems()[0].starts_with("cannot read the configuration file /absent.toml"));
}

#[test]
fn of_the_two_names_of_the_engines_role_the_higher_layer_counts() {
    let machine = Machine::with("disable_engine = true");
    assert_eq!(machine.config().engine, EngineRole::Never);
    assert_eq!(machine.origin("engine"), "/etc/fleet/fleetd.toml:2");
    machine.write(&format!("{LOCAL}/50-a.toml"), "engine = \"auto\"");
    assert_eq!(machine.config().engine, EngineRole::Auto);
    machine.write(&format!("{RUNTIME}/50-b.toml"), "disable_engine = true");
    assert_eq!(machine.config().engine, EngineRole::Never);
    assert_eq!(machine.origin("engine"), "/run/fleet/fleetd.d/50-b.toml:1");
    machine.write(&format!("{RUNTIME}/60-c.toml"), "disable_engine = false");
    assert_eq!(machine.config().engine, EngineRole::Auto, "that it may is a value too");
    assert_eq!(machine.origin("engine"), "/run/fleet/fleetd.d/60-c.toml:1");
    let mut machine = Machine::with("engine = \"never\"");
    assert_eq!(machine.config().engine, EngineRole::Never);
    machine.set("FLEET_DISABLE_ENGINE", "false");
    assert_eq!(machine.config().engine, EngineRole::Auto);
    let machine = Machine::with("engine = \"never\"\ndisable_engine = false");
    assert_eq!(machine.config().engine, EngineRole::Never, "in one file, the name of today");
    let machine = Machine::with("engine = \"auto\"\ndisable_engine = true");
    assert_eq!(machine.config().engine, EngineRole::Auto, "in one file, the name of today");
}

#[test]
fn the_environment_takes_the_lists_of_fleet_1_0_and_ignores_what_is_not_of_fleet() {
    let mut machine = Machine::with("agent_ttl = \"30s\"\nmetadata = { role = \"web\" }");
    machine.set("FLEET_ETCD_SERVERS", "[\"http://a:2379\", \"http://b:2379\"]");
    machine.set("FLEET_METADATA", "role=db, disk=ssd");
    machine.set("PATH", "ignored");
    let config = machine.config();
    assert_eq!(config.etcd_servers, ["http://a:2379", "http://b:2379"]);
    assert_eq!(
        config.metadata,
        BTreeMap::from([("role".into(), "db".into()), ("disk".into(), "ssd".into())])
    );
    assert_eq!(config.lease_ttl(), Duration::from_secs(20));
    assert_eq!(config.eviction_grace(), Duration::from_secs(10));
}
