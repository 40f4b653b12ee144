//! What every list can, against canned answers: forms, order, colours.

use super::fake::{Answer, Fake, finish};
use serde_json::json;

fn states() -> Answer {
    let row = |unit: &str, active: &str, since: u64| {
        json!({ "unit": unit, "machine": "1111111111111111", "ip": "10.0.0.1", "load": "loaded", "active": active,
                "sub": "x", "sinceMs": since })
    };
    Answer::ok(json!({ "states": [
        row("a@10.service", "failed", 1_000), row("a@9.service", "active", 3_000), row("b.service", "inactive", 0),
    ] }))
}

#[tokio::test]
async fn table_and_text_are_the_bytes_of_the_default_and_name_is_the_first_column() {
    let fake = Fake::new().on("GET /fleet/v2/states", states());
    let plain = fake.run(&["list-units"]).await;
    for format in ["table", "text"] {
        assert_eq!(fake.run(&["list-units", "-o", format]).await, plain, "{format}");
    }
    let names = fake.run(&["list-units", "-o", "name"]).await;
    assert_eq!((names.out.as_str(), names.code), ("a@10.service\na@9.service\nb.service\n", Some(0)));
    let actives = fake.run(&["list-units", "-o", "name", "--fields", "active,unit"]).await;
    assert_eq!(actives.out, "failed\nactive\ninactive\n");
    let output = fake.run(&["list-units", "-o", "yaml"]).await;
    assert_eq!((output.out.as_str(), output.code), ("", Some(2)));
}

#[tokio::test]
async fn wide_has_all_fields_of_every_list() {
    let fake = Fake::new()
        .on("GET /fleet/v2/states", states())
        .on("GET /fleet/v2/units", Answer::ok(json!({ "units": [] })))
        .on("GET /fleet/v2/machines", Answer::ok(json!({ "machines": [] })))
        .on("GET /fleet/v2/events", Answer::ok(json!({ "events": [] })));
    for (command, fields) in [
        ("list-units", "UNIT MACHINE ACTIVE SUB LOAD HASH RESULT SINCE AGE PHASE INVOCATION"),
        ("list-unit-files", "UNIT HASH DSTATE STATE TARGET DESC GLOBAL GENERATION CHANGED BY WHY"),
        (
            "list-machines",
            "MACHINE IP METADATA HOSTNAME STATE SINCE UNITS LOAD VERSION SYSTEMD CORDON LEADER",
        ),
        ("events", "TIME WHAT UNIT MACHINE BY WHY REQUEST"),
    ] {
        let output = fake.run(&[command, "--output=wide"]).await;
        let head: Vec<&str> = output.out.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(head.join(" "), fields, "{command}");
        assert_eq!(fake.run(&[command, "--output=wide", "--no-legend", "--fields=x"]).await.code, Some(1));
    }
}

#[tokio::test]
async fn lists_are_sorted_by_meaning_in_every_form() {
    let fake = Fake::new().on("GET /fleet/v2/states", states());
    for (sort, names) in [
        ("unit", "a@9.service\na@10.service\nb.service\n"),
        ("active", "a@9.service\nb.service\na@10.service\n"),
        ("-active", "a@10.service\nb.service\na@9.service\n"),
        ("since", "a@9.service\na@10.service\nb.service\n"),
        ("sub", "a@10.service\na@9.service\nb.service\n"),
    ] {
        let output = fake.run(&["list-units", "-o", "name", "--sort", sort]).await;
        assert_eq!(output.out, names, "{sort}: {}", output.err);
    }
    let document = fake.run(&["list-units", "-o", "json", "--sort=-active"]).await.json();
    assert_eq!(document["states"][2]["unit"], "a@9.service");
}

#[tokio::test]
async fn an_unknown_field_to_sort_by_is_an_error_that_names_the_fields() {
    let fake = Fake::new();
    let output = fake.run(&["list-machines", "--sort", "unit,-lod"]).await;
    assert_eq!((output.out.as_str(), output.code), ("", Some(2)));
    assert!(output.err.contains("Invalid key in --sort: \"unit\"; the fields of this list are machine ip "));
    assert!(output.err.ends_with("Did you mean units?\n"), "{}", output.err);
    assert!(fake.seen("GET /fleet/v2/machines").is_empty());
    let output = fake.run(&["list-machines", "--sort", "-lod"]).await;
    assert!(output.err.ends_with("Did you mean load?\n"), "{}", output.err);
}

#[tokio::test]
async fn events_are_a_list_as_well() {
    let note = |kind: &str, unit: &str| json!({ "kind": kind, "unit": unit, "why": "w" });
    let events = json!({ "events": [
        { "at": 2_000, "by": "x", "notes": [note("unit-created", "b.service"), note("unit-placed", "a.service")] },
        { "at": 1_000, "by": "y", "notes": [] },
    ] });
    let fake = Fake::new().on("GET /fleet/v2/events", Answer::ok(events));
    let output = fake.run(&["events", "--fields=what,unit", "--no-legend", "--sort=unit"]).await;
    assert_eq!(output.out, "unit-placed\ta.service\nunit-created\tb.service\n");
    let document = fake.run(&["events", "-o", "json"]).await.json();
    assert_eq!(document["events"][1]["by"], "y");
}

#[tokio::test]
async fn nothing_but_a_terminal_gets_colours_unless_somebody_says_so() {
    let fake = Fake::new().on("GET /fleet/v2/states", states());
    let painted = "\x1b[31mfailed\x1b[0m\n\x1b[32mactive\x1b[0m\ninactive\n";
    let plain = "failed\nactive\ninactive\n";
    let list = ["list-units", "--no-legend", "--fields=active"];
    for (flag, variables, expected) in [
        (None, vec![], plain),
        (Some("--color=always"), vec![], painted),
        (None, vec![("CLICOLOR_FORCE", "1")], painted),
        (None, vec![("FLEETCTL_COLOR", "always")], painted),
        (Some("--color=never"), vec![("CLICOLOR_FORCE", "1")], plain),
    ] {
        let mut command = fake.command(&list);
        command.args(flag).envs(variables.iter().copied());
        assert_eq!(finish(command).await.out, expected, "{flag:?} {variables:?}");
    }
    assert_eq!(fake.run(&["list-units", "--color=sometimes"]).await.code, Some(2));
}

#[tokio::test]
async fn a_terminal_gets_colours_and_none_with_no_color() {
    let fake = Fake::new().on("GET /fleet/v2/states", states());
    for (variable, is_painted) in [(None, true), (Some(("NO_COLOR", "1")), false)] {
        let line = format!("'{}' list-units --no-legend --fields=active", env!("CARGO_BIN_EXE_fleetctl"));
        let mut script = tokio::process::Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).envs(variable).env("TERM", "xterm").env_remove("COLORTERM");
        script.env("FLEETCTL_ENDPOINT", format!("unix://{}", fake.dir.path().join("fleet.sock").display()));
        script.stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = finish(script).await;
        assert_eq!(output.out.contains("\x1b[31mfailed\x1b[0m"), is_painted, "{:?}", output.out);
        assert!(output.out.contains("inactive"), "{}", output.err);
    }
}
