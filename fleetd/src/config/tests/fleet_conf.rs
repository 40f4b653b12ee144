//! `fleet.conf` as fleet 1.0 read it.

use super::*;

fn machine(text: &str) -> Machine {
    let machine = Machine::with("");
    machine.write("etc/fleet/fleet.conf", text);
    machine
}

/// What `public_ip` would be, read from a file of this text, as far as only the grammar is asked.
fn value(text: &str) -> Option<String> {
    let read = crate::config::fleet_conf::read(Path::new("/f"), text);
    assert!(read.problems.is_empty(), "{text}: {:?}", read.problems);
    read.assignments.last().and_then(|assignment| assignment.value.as_str().map(str::to_owned))
}

#[test]
fn quotes_comments_and_joined_lines_are_read_as_fleet_1_0_read_them() {
    let is = |text: &str, expected: &str| assert_eq!(value(text).as_deref(), Some(expected), "{text}");
    is("public_ip=1.2.3.4", "1.2.3.4");
    is("  PUBLIC_ip \t=\t 1.2.3.4  ", "1.2.3.4");
    is("public_ip = \"1.2.3.4\"", "1.2.3.4");
    is("public_ip = '1.2.3.4'", "1.2.3.4");
    is("public_ip=\"  x  \"", "  x  ");
    is("public_ip=\"a#b;c\"", "a#b;c");
    is("public_ip=a#b", "a");
    is("public_ip=a ; b", "a");
    is("public_ip=", "");
    is("public_ip= # nothing", "");
    is("public_ip=\"\"", "");
    is("public_ip=\"a", "\"a");
    is("public_ip=\"a\" # b", "\"a\"");
    is("public_ip=\"a\"b\"", "\"a\"b\"");
    is("public_ip='a\"", "'a\"");
    is("public_ip=a=b", "a=b");
    is("public_ip=a\\\n   b\\\nc", "abc");
    is("public_ip=a\\", "a");
    is("public_ip=1\npublic_ip=2", "2");
    is("public_ip=1\r\n", "1");
}

#[test]
fn comments_empty_lines_and_sections_give_nothing() {
    for text in ["", "\n  \n", "# public_ip=1", "  ; public_ip=1", "# a \\\npublic_ip=1", "[public_ip=1]"] {
        assert_eq!(value(text), None, "{text}");
    }
    let machine = machine("token_limit=5\n[fleet]\ntoken_limit=6\n");
    assert_eq!(machine.config().token_limit, 5);
    assert_eq!(
        machine.warnings(),
        ["/etc/fleet/fleet.conf:3: token_limit: ignored, as the keys of any section"]
    );
}

#[test]
fn anything_else_is_a_syntax_error_with_its_line() {
    let machine = machine("\n\npublic_ip\nbad key = 1\n= 1\nverbosity=1\n");
    let problems = machine.problems();
    let expected = |line| format!("/etc/fleet/fleet.conf:{line}: not KEY=VALUE, [SECTION] or a comment");
    assert_eq!(problems, [expected(3), expected(4), expected(5)]);
}

#[test]
fn lists_of_servers_may_have_brackets_and_quotes() {
    for text in [
        "etcd_servers=[\"http://a:1\",\"http://b:2\"]",
        "etcd_servers = \"http://a:1, http://b:2\"",
        "etcd_servers = http://a:1 , http://b:2",
        "etcd_servers=\"http://a:1\",\"http://b:2\"",
    ] {
        let machine = Machine::new();
        machine.write("etc/fleet/fleet.conf", text);
        assert_eq!(machine.config().etcd_servers, ["http://a:1", "http://b:2"], "{text}");
    }
}

#[test]
fn metadata_keeps_the_quirks_of_fleet_1_0_and_says_so() {
    let metadata = |text: &str| {
        let machine = machine(&format!("metadata={text}"));
        let metadata = machine.config().metadata.into_iter().map(|(key, value)| format!("{key}:{value}"));
        (metadata.collect::<Vec<_>>(), machine.warnings().len())
    };
    let is = |text: &str, pairs: &[&str], warnings: usize| {
        assert_eq!(
            metadata(text),
            (pairs.iter().map(|pair| (*pair).to_owned()).collect(), warnings),
            "{text}"
        );
    };
    is("a=b, c = d ,", &["a:b", "c:d"], 0);
    is("\"a=b,c=d\"", &["a:b", "c:d"], 0);
    is("\"a=b", &["\"a:b"], 0);
    is("\"a=b\" # comment", &["\"a:b\""], 0);
    is("a=b=c", &["a:b=c"], 0);
    is("a,b=c", &["b:c"], 1);
    is("a=1,a=2", &["a:2"], 1);
    is("=q", &[":q"], 1);
    is("r=", &["r:"], 1);
    is("", &[], 0);
}

#[test]
fn booleans_that_fleet_1_0_mistook_in_silence_are_taken_the_same_way_and_told() {
    let machine = machine("disable_engine=yes\nenable_grpc=maybe\n");
    assert_eq!(machine.config().engine, EngineRole::Auto);
    assert_eq!(machine.warnings().len(), 2, "{:?}", machine.warnings());
    for text in ["1", "t", "T", "TRUE", "true", "True"] {
        let machine = self::machine(&format!("disable_engine={text}"));
        assert_eq!((machine.config().engine, machine.warnings().len()), (EngineRole::Never, 0), "{text}");
    }
    for (text, taken) in [("3", 2), ("100000", 2), ("-1", 0)] {
        let machine = self::machine(&format!("verbosity={text}"));
        assert_eq!((machine.config().verbosity, machine.warnings().len()), (taken, 1), "{text}");
    }
}

#[test]
fn numbers_that_are_none_are_refused_with_their_key() {
    let refused = machine("token_limit=many\nverbosity=loud").problems();
    assert_eq!(
        refused,
        [
            "/etc/fleet/fleet.conf:1: token_limit = \"many\": expected a number from 1 to 65535",
            "/etc/fleet/fleet.conf:2: verbosity = \"loud\": expected a number from 0 to 2"
        ]
    );
}

#[test]
fn a_value_that_a_comment_may_have_cut_is_told() {
    let cut = |text: &str| {
        let warnings = machine(text).warnings();
        assert!(warnings.len() < 2, "{warnings:?}");
        warnings.first().is_some_and(|told| {
            assert!(
                told.starts_with("/etc/fleet/fleet.conf:1: ") && told.contains("put the value in quotes"),
                "{told}"
            );
            !told.contains("ssword")
        })
    };
    for text in ["etcd_username=pa;ss#word", "etcd_username=#password", "public_ip=\"1.2.3.4\"#a"] {
        let read = crate::config::fleet_conf::read(Path::new("/f"), text);
        assert_eq!(read.warnings.len(), 1, "{text}: {:?}", read.warnings);
    }
    assert!(cut("etcd_username=pa;ss#word"));
    for text in
        ["etcd_username='pa;ss#word'", "etcd_username = a # comment", "etcd_username= # nothing", "#a#b"]
    {
        assert!(!cut(text), "{text}");
    }
}

#[test]
fn unknown_keys_are_ignored_with_a_warning() {
    let machine = machine("verify_units=false\netcd_pasword=hunter2\nlisten=unix:///x\nverbosity=1\n");
    assert_eq!(machine.config().verbosity, 1);
    assert_eq!(machine.config().listen, Config::default().listen);
    let warnings = machine.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("/etc/fleet/fleet.conf:2: etcd_pasword: not a key of fleet 1.0"));
    assert!(!warnings.join("").contains("hunter2"));
}

#[test]
fn times_are_those_of_go() {
    for (text, seconds) in [("30s", 30.0), ("1m30s", 90.0), ("1.5m", 90.0), ("3500ms", 3.5)] {
        let config = machine(&format!("agent_ttl=\"{text}\"")).config();
        assert_eq!(config.agent_ttl, Duration::from_secs_f64(seconds), "{text}");
    }
    assert_eq!(machine("agent_ttl=30").problems().len(), 1);
}

#[test]
fn a_file_of_that_name_may_be_given_on_the_command_line() {
    let mut machine = Machine::new();
    machine.write("old.conf", "etcd_servers=http://a:1\netcd_key_prefix=/_coreos.com/fleet/\n");
    machine.file = Some(machine.path("old.conf"));
    let config = machine.config();
    assert_eq!(
        (config.etcd_servers, config.etcd_key_prefix.as_str()),
        (vec!["http://a:1".to_owned()], "/_coreos.com/fleet/")
    );
    assert_eq!(machine.origin("etcd_key_prefix"), "/old.conf:2");
}
