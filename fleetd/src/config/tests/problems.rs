//! What is said of a configuration that cannot be used.

use super::*;

/// The only problem of a line, which stands in line 2.
fn refused(line: &str) -> String {
    let problems = Machine::with(line).problems();
    assert_eq!(problems.len(), 1, "{line}: {problems:?}");
    problems[0].replace("/etc/fleet/fleetd.toml", "FILE")
}

#[test]
fn a_bad_value_names_file_line_key_value_and_what_is_expected() {
    assert_eq!(
        refused("agent_ttl = \"15\""),
        "FILE:2: agent_ttl = \"15\": expected a time between 3s and 1h with its unit, such as 15s"
    );
    assert_eq!(refused("engine = \"yes\""), "FILE:2: engine = \"yes\": expected auto or never");
    assert_eq!(refused("token_limit = 0"), "FILE:2: token_limit = 0: expected a number from 1 to 65535");
    assert!(refused("listen = [\"tcp://localhost:49153\"]").contains("with an IP address"));
    assert!(refused("metadata = \"a=b,=c\"").contains("key=value"));
    assert!(
        refused("agent_tll = \"15s\"")
            .contains("FILE:2: unknown key \"agent_tll\" (did you mean agent_ttl?)")
    );
    assert_eq!(refused("agent_ttl"), "FILE:2: not TOML: key with no value, expected `=` in \"agent_ttl\"");
    let mut machine = Machine::with("");
    machine.set("FLEET_ETCD_SERVERS", "127.0.0.1:2379");
    assert_eq!(
        machine.problems(),
        [
            "environment variable FLEET_ETCD_SERVERS: etcd_servers = \"127.0.0.1:2379\": expected http://HOST:PORT or \
          https://HOST:PORT, one for each etcd member (it must begin with http:// or https://)"
        ]
    );
}

#[test]
fn an_address_of_etcd_that_fleetd_could_not_use_is_no_value() {
    let refused = |servers: &str| {
        let machine = Machine::new();
        machine.write("etc/fleet/fleetd.toml", &format!("etcd_servers = {servers}"));
        let problems = machine.problems();
        assert_eq!(problems.len(), 1, "{servers}: {problems:?}");
        problems[0].clone()
    };
    assert!(refused("[\"http://:2379\"]").ends_with("(it names no host)"));
    let port = "(http://b:99999: its port is no number from 1 to 65535)";
    assert!(refused("[\"http://a:1\", \"http://b:99999\"]").ends_with(port));
    assert!(refused("[\"http://a:2379x\"]").ends_with("(its port is no number from 1 to 65535)"));
    assert!(!refused("[\"http://a:1\", \"http://me:hunter2@b:1\"]").contains("hunter2"));
    assert_eq!(
        refused("[\"https://a:1\", \"http://b:2\"]"),
        "/etc/fleet/fleetd.toml:1: etcd_servers = http://b:2: expected https:// for all members, or http:// for all"
    );
}

#[test]
fn certificates_for_an_etcd_that_is_not_secured_are_refused_and_a_password_is_warned_about() {
    let machine = |servers: &str, text: &str| {
        let machine = Machine::new();
        machine.write("etc/fleet/fleetd.toml", &format!("etcd_servers = \"{servers}\"\n{text}"));
        let (pem, key) = certificate();
        machine.write("ca.pem", &pem);
        machine.write("key.pem", &key);
        machine
    };
    let files = "etcd_cafile = \"/ca.pem\"\netcd_certfile = \"/ca.pem\"\netcd_keyfile = \"/key.pem\"";
    assert_eq!(machine("https://a:1", files).problems(), Vec::<String>::new());
    let problems = machine("http://a:1", files).problems();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert_eq!(
        problems[0],
        "/etc/fleet/fleetd.toml:2: etcd_cafile = /ca.pem: expected https:// in etcd_servers; with http://a:1 nothing is \
         encrypted or verified"
    );
    let user = "etcd_username = \"fleet\"\netcd_password = \"hunter2\"";
    for (servers, is_warned) in [
        ("http://127.0.0.1:1", false),
        ("http://localhost:1,http://[::1]:1", false),
        ("https://10.0.0.1:1", false),
        ("http://127.0.0.1:1,http://10.0.0.1:1", true),
        ("http://etcd1:1", true),
    ] {
        let warnings = machine(servers, user).warnings().join("\n");
        assert_eq!(
            warnings.contains("fleetd.toml:2: etcd_username: it and its password go to"),
            is_warned,
            "{warnings}"
        );
        assert!(!warnings.contains("hunter2"));
    }
    assert_eq!(machine("http://10.0.0.1:1", "").warnings(), Vec::<String>::new());
}

#[test]
fn secrets_that_others_can_read_or_write_are_warned_about() {
    let machine = Machine::with("listen_certfile = \"/a.pem\"\nlisten_keyfile = \"/a.key\"");
    let (pem, key) = certificate();
    machine.write("a.pem", &pem);
    machine.write("a.key", &key);
    machine.write("etc/fleet/fleetd.d/secret.toml", "etcd_username = \"fleet\"\netcd_password = \"hunter2\"");
    for mode in [0o600, 0o640, 0o440] {
        machine.allow("a.key", mode);
        machine.allow("etc/fleet/fleetd.d/secret.toml", mode);
        assert_eq!(machine.warnings(), Vec::<String>::new(), "{mode:o}");
    }
    for mode in [0o644, 0o604, 0o602, 0o660] {
        machine.allow("a.key", mode);
        machine.allow("etc/fleet/fleetd.d/secret.toml", mode);
        let told = |what: &str| {
            format!(
                "{what} has mode {mode:04o}, so that others can get at the secret in it; make it 0600, or 0640"
            )
        };
        assert_eq!(
            machine.warnings(),
            [
                told("/etc/fleet/fleetd.d/secret.toml:2: etcd_password: /etc/fleet/fleetd.d/secret.toml"),
                told("/etc/fleet/fleetd.toml:3: listen_keyfile: /a.key"),
            ]
        );
    }
}

#[test]
fn what_would_be_used_otherwise_than_it_was_meant_is_refused_or_told() {
    assert_eq!(
        refused("etcd_password = \"hunter2\""),
        "FILE:2: etcd_password = (hidden): expected etcd_username beside it"
    );
    assert_eq!(refused("verbosity = 9"), "FILE:2: verbosity = 9: expected a number from 0 to 2");
    let mut machine = Machine::with("etcd_username = \"fleet\"");
    let no_text = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes;
    machine.set("FLEET_ETCD_PASSWORD", no_text(b"hunter\xff"));
    machine.set("FLEET_PUBLIC_IP", no_text(b"\xff"));
    assert_eq!(
        machine.problems(),
        [
            "environment variable FLEET_ETCD_PASSWORD: etcd_password = (hidden): expected UTF-8 text",
            "environment variable FLEET_PUBLIC_IP: public_ip = \"\u{fffd}\": expected UTF-8 text",
        ]
    );
    let nowhere =
        "listen: names no address, so that the API can be reached only on sockets that systemd passes";
    let machine = Machine::with("listen = []");
    assert_eq!(machine.warnings(), [format!("/etc/fleet/fleetd.toml:2: {nowhere}")]);
    let mut machine = Machine::with("");
    machine.set("FLEET_LISTEN", "");
    assert_eq!(machine.warnings(), [format!("environment variable FLEET_LISTEN: {nowhere}")]);
    assert_eq!(machine.problems(), Vec::<String>::new());
}

#[test]
fn every_problem_is_reported_not_only_the_first() {
    let mut machine = Machine::new();
    machine.write(
        "etc/fleet/fleetd.toml",
        "etcd_servers = []\nagent_ttl \"15s\"\ntoken_limit = 0\n\nengine = maybe\nspeed = 5\nverbosity = 999\n",
    );
    machine.write("etc/fleet/fleetd.d/a.toml", "listen = 5");
    machine.write("run/fleet/fleetd.d/b.toml", "metadata = [");
    machine.set("FLEET_ENGINE", "maybe");
    machine.set("FLEET_SPEED", "1");
    let places: Vec<String> = machine
        .problems()
        .iter()
        .map(|problem| problem.split(": ").take(2).collect::<Vec<_>>().join(": "))
        .collect();
    assert_eq!(
        places,
        [
            "/etc/fleet/fleetd.toml:2: not TOML",
            "/etc/fleet/fleetd.toml:3: token_limit = 0",
            "/etc/fleet/fleetd.toml:5: not TOML",
            "/etc/fleet/fleetd.toml:6: unknown key \"speed\"; `fleetd --help` lists the keys",
            "/etc/fleet/fleetd.toml:7: verbosity = 999",
            "/etc/fleet/fleetd.d/a.toml:1: listen = 5",
            "/run/fleet/fleetd.d/b.toml:1: not TOML",
            "environment variable FLEET_SPEED: unknown key \"speed\"; `fleetd --help` lists the keys",
            "environment variable FLEET_ENGINE: engine = \"maybe\"",
        ],
        "and not that etcd_servers is missing, which a file that could not be read may hold"
    );
    let told = load(&machine.sources()).unwrap_err().to_string();
    assert!(told.starts_with("the configuration has 9 faults:\n  "), "{told}");
    assert_eq!(told.lines().count(), 10);
}

#[test]
fn a_fault_is_one_line_whatever_its_text_holds() {
    let line = "engine = \"never\\n\\\"or\\\"\\u001b[31m\"";
    let told = "FILE:2: engine = \"never\\n\\\"or\\\"\\u{1b}[31m\": expected auto or never";
    assert_eq!(refused(line), told);
    assert!(
        refused("listen = [\"\"\"\nhttp:\n\"\"\", \"b\"]")
            .starts_with("FILE:2: listen = [\"http:\\n\", \"b\"]: expected ")
    );
    let machine = Machine::with("\"to\\nken\" = 1\nlisten_certfile = \"/a\\nb\"\ntoken_limit = \"a\\nb\"");
    let problems = machine.problems();
    assert_eq!(problems.len(), 4, "{problems:?}");
    let told = load(&machine.sources()).unwrap_err().to_string();
    assert_eq!(told.lines().count(), 5, "{told}");
}

#[test]
fn a_value_that_another_hides_has_to_be_usable_too() {
    let mut machine = Machine::with("agent_ttl = \"soon\"");
    machine.set("FLEET_AGENT_TTL", "20s");
    assert!(machine.problems()[0].starts_with("/etc/fleet/fleetd.toml:2: agent_ttl = \"soon\""));
}

#[test]
fn without_a_file_it_is_a_machine_by_itself_and_a_wrong_etcd_is_not_a_missing_one() {
    let machine = Machine::new();
    assert!(machine.problems().is_empty());
    machine.write("etc/fleet/fleetd.toml", "etcd_servers = [\"10.0.0.1\"]");
    assert_eq!(machine.problems().len(), 1);
}

#[test]
fn secrets_are_not_repeated() {
    let secret = "hunter2";
    for line in [
        "etcd_password = [\"hunter2\"]",
        "etcd_password \"hunter2\"",
        "etcd_password = hunter2",
        "etcd_pasword = \"hunter2\"",
        "etcd_password = \"hunter2",
        "etcd.password = \"hunter2\"",
        "etcd_cafile etcd@hunter2",
    ] {
        let refused = refused(line);
        assert!(!refused.contains(secret), "{refused}");
    }
    let mut machine = Machine::with("etcd_username = \"fleet\"");
    machine.set("FLEET_ETCD_PASSWORD", secret);
    let sources = machine.sources();
    let loaded = read(&sources);
    assert_eq!(loaded.config.etcd_password.expose(), secret);
    for told in [format!("{sources:?}"), format!("{loaded:?}"), format!("{:#?}", loaded.config)] {
        assert!(!told.contains(secret), "{told}");
    }
    assert!(format!("{:?}", loaded.config).contains("etcd_password: (hidden)"));
    let machine = Machine::new();
    machine.write("etc/fleet/fleetd.toml", "etcd_servers = \"http://me:hunter2@host:2379\"");
    let problems = machine.problems();
    assert!(problems[0].contains("etcd_servers = (hidden)"), "{problems:?}");
}

#[test]
fn a_file_that_is_no_text_names_the_line() {
    let machine = Machine::with("");
    std::fs::write(machine.path("etc/fleet/fleetd.toml"), b"verbosity = 1\n# \xff\n").unwrap();
    assert_eq!(machine.problems(), ["/etc/fleet/fleetd.toml:2: not UTF-8 text"]);
}

#[test]
fn a_directory_is_no_file() {
    let mut machine = Machine::with("");
    machine.file = Some(machine.path("etc/fleet"));
    assert!(machine.problems()[0].starts_with("cannot read the configuration file /etc/fleet;"));
}

#[test]
fn names_of_fleet_1_0_that_have_no_meaning_here_do_not_keep_it_from_starting() {
    let old = "disable_watches = \"false\"\nenable_grpc = true\nverify_units = \"1\"\nsystemd_user = \"false\"\n\
               authorized_keys_file = \"/root/keys\"\nengine_reconcile_interval = 2";
    let machine = Machine::with(old);
    assert_eq!(machine.problems(), Vec::<String>::new());
    let warned: Vec<String> =
        machine.warnings().iter().filter_map(|text| text.split(' ').nth(3).map(str::to_owned)).collect();
    assert_eq!(warned, ["enable_grpc", "verify_units", "authorized_keys_file", "engine_reconcile_interval"]);
    assert!(refused("systemd_user = true").contains("expected false"));
}

#[test]
fn what_is_shown_of_a_value_is_taken_again() {
    for key in KEYS {
        if let Some(shown) = key.default() {
            let mut config = Config::default();
            (key.set)(&mut config, &shown).unwrap();
            assert_eq!((key.show.unwrap())(&config), shown, "{}", key.name);
        }
    }
    let text = "agent_ttl = \"1m30s\"\nlisten = [\"unix:///a\", \"tcp://[::1]:5\"]\nmetadata = \"a=b\"\n\
                public_ip = \"::1\"\npeer_listen = \"\"\netcd_request_timeout = 0.25\nengine = \"never\"";
    let config = Machine::with(text).config();
    let mut again = Config::default();
    for key in KEYS {
        if let Some(show) = key.show {
            (key.set)(&mut again, &show(&config)).unwrap();
        }
    }
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
}

#[test]
fn a_file_without_an_end_is_refused() {
    let mut machine = Machine::new();
    machine.write("etc/fleet/fleetd.toml", "etcd_servers = \"https://a:1\"\netcd_cafile = \"/zero\"");
    machine.link("zero", "/dev/zero");
    assert!(machine.problems()[0].contains("more than 1 MiB"));
    machine.file = Some("/dev/zero".into());
    assert!(machine.problems()[0].contains("more than 1 MiB"));
}

#[test]
fn any_text_is_judged_without_looking_at_files() {
    let toml = read_text("agent_ttl = \"1s\"\netcd_cafile = \"/nowhere\"", Grammar::Toml);
    assert_eq!(toml.problems.len(), 1, "{:?}", toml.problems);
    let old = read_text("etcd_servers=https://a:1\netcd_cafile=/nowhere", Grammar::Fleet1);
    assert!(old.problems.is_empty(), "{:?}", old.problems);
}
