//! The commands that show something, against canned answers: output and exit codes.

use super::fake::{Answer, Fake};
use serde_json::json;

#[tokio::test]
async fn list_units_has_the_columns_of_fleet_1_in_byte_order() {
    let row = |unit: &str, machine: &str, active: &str| {
        json!({ "unit": unit, "machine": machine, "ip": "10.0.0.1", "load": "loaded", "active": active, "sub": "running",
                "hash": "95d57ff0a51f0f0d7e2bd2a1d3b0f2b3c4d5e6f7" })
    };
    let states = json!({ "states": [
        row("hello@1.service", "2222222222222222", "unknown"),
        row("hello@.service", "1111111111111111", "active"),
        row("hello.service", "1111111111111111", "active"),
    ] });
    let fake = Fake::new().on("GET /fleet/v2/states", Answer::ok(states));
    let output = fake.run(&["list-units"]).await;
    assert_eq!(
        output.out,
        "UNIT\t\tMACHINE\t\t\tACTIVE\tSUB\n\
         hello.service\t11111111.../10.0.0.1\tactive\trunning\n\
         hello@.service\t11111111.../10.0.0.1\tactive\trunning\n\
         hello@1.service\t22222222.../10.0.0.1\tunknown\trunning\n"
    );
    let output = fake.run(&["list-units", "--no-legend", "--full", "--fields=unit,hash,machine"]).await;
    assert!(
        output.out.starts_with(
            "hello.service\t95d57ff0a51f0f0d7e2bd2a1d3b0f2b3c4d5e6f7\t1111111111111111/10.0.0.1\n"
        ),
        "{}",
        output.out
    );
    let output = fake.run(&["list-units", "-o", "json"]).await;
    assert_eq!(output.json()["states"][0]["unit"], "hello.service");
}

#[tokio::test]
async fn what_shows_something_exits_with_6_if_the_registry_does_not_answer() {
    let fake = [
        "GET /fleet/v2/states",
        "GET /fleet/v2/units",
        "GET /fleet/v2/machines",
        "GET /fleet/v2/events",
        "GET /fleet/v2/units/a.service",
        "GET /fleet/v2/units/a.service/text",
        "GET /fleet/v2/units/a.service/why",
    ]
    .into_iter()
    .fold(Fake::new(), |fake, path| fake.on(path, Answer::error(503, "no registry")));
    for command in [
        &["list-units"][..],
        &["list-unit-files"],
        &["list-machines"],
        &["events"],
        &["status", "a"],
        &["cat", "a"],
        &["why", "a"],
        &["journal", "a"],
        &["ssh", "--unit", "a"],
    ] {
        let output = fake.run(command).await;
        assert!(output.err.contains("Error 503: no registry"), "{command:?}: {}", output.err);
        assert_eq!((output.out.as_str(), output.code), ("", Some(6)), "{command:?}");
    }
}

#[tokio::test]
async fn wrong_fields_are_refused_before_anything_is_asked() {
    let fake = Fake::new();
    for command in ["list-units", "list-unit-files", "list-machines"] {
        let output = fake.run(&[command, "--fields="]).await;
        assert_eq!((output.err.as_str(), output.code), ("Must define output format\n", Some(1)));
        let output = fake.run(&[command, "--fields", "bogus"]).await;
        assert_eq!(
            (output.err.as_str(), output.code),
            ("Invalid key in output format: \"bogus\"\n", Some(1))
        );
    }
}

#[tokio::test]
async fn list_unit_files_shows_targets_globals_and_dashes() {
    let units = json!({ "units": [
        { "name": "g.service", "hash": "95d57ff0", "desired": "launched", "global": true, "currentState": "inactive" },
        { "name": "a.service", "hash": "95d57ff0", "desired": "launched", "currentState": "launched", "description": "Web",
          "placement": { "machine": { "id": "1111111111111111", "ip": "10.0.0.1" } } },
        { "name": "b.service", "hash": "95d57ff0", "desired": "inactive", "currentState": "inactive" },
    ] });
    let fake = Fake::new().on("GET /fleet/v2/units", Answer::ok(units));
    let output = fake.run(&["list-unit-files"]).await;
    assert_eq!(
        output.out,
        "UNIT\t\tHASH\tDSTATE\t\tSTATE\t\tTARGET\n\
         a.service\t95d57ff\tlaunched\tlaunched\t11111111.../10.0.0.1\n\
         b.service\t95d57ff\tinactive\tinactive\t-\n\
         g.service\t95d57ff\tlaunched\t-\t\tglobal\n"
    );
    let output = fake.run(&["list-unit-files", "--fields", "unit,desc,global,tmachine", "--no-legend"]).await;
    assert!(output.out.starts_with("a.service\tWeb\tfalse\t11111111.../10.0.0.1\n"), "{}", output.out);
    assert_eq!(output.err, "WARNING: The \"tmachine\" field is deprecated. Use \"target\" instead\n");
}

#[tokio::test]
async fn list_machines_shows_those_that_are_there_and_all_on_request() {
    let machines = json!({ "machines": [
        { "id": "2222222222222222", "ip": "", "state": "lost" },
        { "id": "1111111111111111", "ip": "10.0.0.1", "state": "present", "metadata": { "z": "1", "a": "2" } },
    ] });
    let fake = Fake::new().on("GET /fleet/v2/machines", Answer::ok(machines));
    let output = fake.run(&["list-machines", "--no-legend", "true"]).await;
    assert_eq!(output.out, "11111111...\t10.0.0.1\ta=2,z=1\n");
    let output = fake.run(&["list-machines", "--all", "--fields", "machine,ip,state", "--full"]).await;
    assert_eq!(
        output.out,
        "MACHINE\t\t\tIP\t\tSTATE\n1111111111111111\t10.0.0.1\tpresent\n2222222222222222\t-\t\tlost\n"
    );
}

#[tokio::test]
async fn an_empty_list_is_its_header() {
    let fake = Fake::new().on("GET /fleet/v2/machines", Answer::ok(json!({})));
    let output = fake.run(&["list-machines"]).await;
    assert_eq!((output.out.as_str(), output.code), ("MACHINE\tIP\tMETADATA\n", Some(0)));
}

#[tokio::test]
async fn cat_prints_the_serialized_text() {
    let fake = Fake::new()
        .on("GET /fleet/v2/units/a.service/text", Answer::Text("# comment\n[A]\nb = c\n[B]\nx=y\n"));
    assert_eq!(fake.run(&["cat", "a"]).await.out, "[A]\nb=c\n\n[B]\nx=y\n");
    let output = fake.run(&["cat", "b"]).await;
    assert_eq!((output.err.as_str(), output.code), ("Unit b.service not found\n", Some(1)));
    let output = fake.run(&["cat", "a", "b"]).await;
    assert_eq!((output.err.as_str(), output.code), ("One unit file must be provided\n", Some(1)));
}

fn placed(desired: &str) -> Answer {
    Answer::ok(json!({ "name": "a.service", "desired": desired,
        "placement": { "machine": { "id": "1111111111111111", "ip": "10.0.0.1" } } }))
}

#[tokio::test]
async fn status_prints_the_text_of_systemctl_and_passes_its_exit_code() {
    let report =
        json!({ "machine": { "id": "1111111111111111" }, "exitCode": 3, "text": "\u{25cf} a.service\n" });
    let fake = Fake::new()
        .on("GET /fleet/v2/units/a.service", placed("launched"))
        .on("GET /fleet/v2/units/a.service/status", Answer::ok(report));
    let output = fake.run(&["status", "--ssh-port=22", "a", "never-asked"]).await;
    assert_eq!((output.out.as_str(), output.code), ("\u{25cf} a.service\n", Some(3)));
    assert_eq!(fake.seen("GET /fleet/v2/units/a.service/status")[0].query, "machine=1111111111111111");
    let output = fake.run(&["status", "b"]).await;
    assert_eq!((output.err.as_str(), output.code), ("Unit b.service does not exist.\n", Some(1)));
    let fake = Fake::new().on("GET /fleet/v2/units/a.service", placed("inactive"));
    let output = fake.run(&["status", "a"]).await;
    assert_eq!(
        (output.err.as_str(), output.code),
        ("Unit a.service does not appear to be loaded.\n", Some(1))
    );
}

#[tokio::test]
async fn status_of_a_wanted_unit_without_a_machine_says_where_the_reason_is() {
    let fake = Fake::new().on(
        "GET /fleet/v2/units/a.service",
        Answer::ok(json!({ "name": "a.service", "desired": "launched" })),
    );
    let output = fake.run(&["status", "a"]).await;
    assert_eq!(
        (output.err.as_str(), output.code),
        (
            "Unit a.service does not appear to be loaded.\n  it is wanted launched and no machine has it; see fleetctl why a.service\n",
            Some(1)
        )
    );
}

#[tokio::test]
async fn status_of_a_global_unit_asks_each_machine() {
    let unit = json!({ "name": "g.service", "desired": "launched", "global": true, "orders": [
        { "machine": "1111111111111111", "wanted": "launched" },
        { "machine": "2222222222222222", "wanted": "launched" },
        { "machine": "3333333333333333", "wanted": "gone" },
    ] });
    let report = |id: &str| Answer::ok(json!({ "machine": { "id": id, "ip": "10.0.0.1" }, "text": "ok\n" }));
    let fake = Fake::new()
        .on("GET /fleet/v2/units/g.service", Answer::ok(unit))
        .on("GET /fleet/v2/units/g.service/status", report("1111111111111111"))
        .on("GET /fleet/v2/units/g.service/status", report("2222222222222222"));
    let output = fake.run(&["status", "g"]).await;
    assert_eq!(output.out, "On 11111111.../10.0.0.1:\nok\n\nOn 22222222.../10.0.0.1:\nok\n");
}

#[tokio::test]
async fn journal_streams_its_text_and_passes_the_exit_code() {
    let lines =
        vec![json!({ "text": "one\n" }), json!({}), json!({ "text": "two\n" }), json!({ "exitCode": 0 })];
    let fake = Fake::new()
        .on("GET /fleet/v2/units/a.service", placed("launched"))
        .on("GET /fleet/v2/units/a.service/journal", Answer::Lines(lines));
    let output = fake.run(&["journal", "--f", "--lines=5", "--sudo", "a"]).await;
    assert_eq!((output.out.as_str(), output.code), ("one\ntwo\n", Some(0)));
    assert_eq!(
        fake.seen("GET /fleet/v2/units/a.service/journal")[0].query,
        "lines=5&follow=true&output=short"
    );
    let output = fake.run(&["journal"]).await;
    assert_eq!((output.err.as_str(), output.code), ("One unit file must be provided.\n", Some(1)));
}

#[tokio::test]
async fn adopt_needs_yes_and_prints_what_stops() {
    let report = |done: bool| {
        Answer::ok(
            json!({ "wouldStop": [{ "unit": "a.service", "machine": "1111111111111111", "why": "not in the store" }],
                           "epoch": 3, "done": done }),
        )
    };
    let fake = Fake::new()
        .on("POST /fleet/v2/cluster/adopt", report(false))
        .on("POST /fleet/v2/cluster/adopt", report(true));
    let output = fake.run(&["cluster", "adopt"]).await;
    assert_eq!(
        (output.out.as_str(), output.code),
        (
            "Would stop 1 units:\n  a.service on 11111111...: not in the store\nWould start nothing.\n",
            Some(1)
        )
    );
    let output = fake.run(&["cluster", "adopt", "--yes", "--why", "restored"]).await;
    assert!(output.out.ends_with("Adopted; the epoch is now 3.\n"), "{}", output.out);
    let sent = &fake.seen("POST /fleet/v2/cluster/adopt")[1].body;
    assert_eq!((&sent["yes"], &sent["why"]), (&json!(true), &json!("restored")));
}

#[tokio::test]
async fn machines_are_named_by_the_beginning_of_their_id() {
    let machines = json!({ "machines": [
        { "id": "1111111111111111aaaaaaaaaaaaaaaa", "state": "lost" },
        { "id": "1222222222222222bbbbbbbbbbbbbbbb", "state": "present" },
    ] });
    let fake = Fake::new().on("GET /fleet/v2/machines", Answer::ok(machines)).on(
        "POST /fleet/v2/machines/1111111111111111aaaaaaaaaaaaaaaa/forget",
        Answer::ok(json!({ "changed": true, "text": "Forgot it." })),
    );
    let output = fake.run(&["machine", "forget", "11111111..."]).await;
    assert_eq!((output.out.as_str(), output.code), ("Forgot it.\n", Some(0)), "{}", output.err);
    let output = fake.run(&["machine", "forget", "1"]).await;
    assert!(output.err.starts_with("Machine 1 is ambiguous: ") && output.code == Some(1), "{}", output.err);
    let output = fake.run(&["machine", "confirm-dead", "9"]).await;
    assert!(output.err.starts_with("Machine 9 does not exist"), "{}", output.err);
}

#[tokio::test]
async fn a_machine_may_be_named_as_lists_show_it_and_must_be_named() {
    const ID: &str = "1111111111111111aaaaaaaaaaaaaaaa";
    let machines = json!({ "machines": [{ "id": ID, "ip": "10.0.0.1", "state": "present" }] });
    let forget = format!("POST /fleet/v2/machines/{ID}/forget");
    let fake = Fake::new()
        .on("GET /fleet/v2/machines", Answer::ok(machines))
        .on(&forget, Answer::ok(json!({ "changed": true, "text": "Forgot it." })));
    let path = fake_ssh(&fake);
    let run = async |arguments: &[&str]| {
        let mut command = fake.command(arguments);
        command.env("PATH", &path).env("HOME", fake.dir.path());
        super::fake::finish(command).await
    };
    // What a script with an unset variable gives must not mean the only machine of a cluster.
    for named in ["", "...", "/10.0.0.1"] {
        let output = run(&["machine", "forget", named]).await;
        assert_eq!(output.code, Some(1), "{named:?}");
        assert!(output.err.starts_with("No machine is named"), "{}", output.err);
        let output = run(&["ssh", "--machine", named]).await;
        assert_eq!(
            (output.err.as_str(), output.code),
            ("Unable to proceed: machine does not exist\n", Some(1))
        );
        assert_eq!(run(&["ssh", named]).await.code, Some(1), "{named:?}");
    }
    assert!(fake.seen(&forget).is_empty());
    for named in ["11111111", "11111111...", "11111111.../10.0.0.1", ID, &format!("{ID}/10.0.0.1")] {
        let output = run(&["machine", "forget", named]).await;
        assert_eq!((output.out.as_str(), output.code), ("Forgot it.\n", Some(0)), "{named}: {}", output.err);
        assert_eq!(run(&["ssh", named, "exit", "3"]).await.code, Some(3), "{named}");
        assert_eq!(run(&["ssh", "--machine", named, "exit", "3"]).await.code, Some(3), "{named}");
    }
}

#[tokio::test]
async fn cluster_status_says_who_leads_and_what_is_held_back() {
    let view = json!({ "id": "c1", "epoch": 2, "store": { "kind": "etcd", "revision": 9, "answers": true },
        "hold": { "by": "1111111111111111", "since": 1_700_000_000_000_u64, "why": "revision went back" },
        "machines": { "present": 3 }, "local": { "machine": "1111111111111111", "connection": "connected" } });
    let fake = Fake::new().on("GET /fleet/v2/cluster", Answer::ok(view));
    let output = fake.run(&["cluster", "status"]).await;
    assert!(output.out.contains("    Leader: nobody\n"), "{}", output.out);
    assert!(
        output.out.contains("HOLD: since 2023-11-14 22:13:20Z, found by 11111111...: revision went back")
    );
}

#[tokio::test]
async fn mistakes_in_the_command_line_exit_with_2() {
    let fake = Fake::new();
    for arguments in
        [&["strat", "a"][..], &["start", "--bogus", "a"], &["start", "--timeout=soon", "a"], &["cluster"]]
    {
        assert_eq!(fake.run(arguments).await.code, Some(2), "{arguments:?}");
    }
    let output = fake.run(&["--request-timeout=x", "list-units"]).await;
    assert_eq!(output.code, Some(2), "{}", output.err);
    let output = fake.run(&["--driver=etcd", "list-units"]).await;
    assert!(output.err.starts_with("Unable to initialize client: --driver=etcd is gone"), "{}", output.err);
    assert_eq!(output.code, Some(1));
    let output = fake.run(&["verify", "a"]).await;
    assert_eq!((output.err.lines().count(), output.code), (2, Some(2)));
    let output = fake.run(&[]).await;
    assert!(output.out.contains("Usage: fleetctl") && output.code == Some(0));
    assert_eq!(
        fake.run(&["cat", "a", "--version"]).await.out,
        concat!("fleetctl version ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[tokio::test]
async fn fd_forward_joins_its_input_with_a_socket() {
    let fake = Fake::new().on("GET /fleet/v2/machines", Answer::ok(json!({ "revision": 5 })));
    let socket = fake.dir.path().join("fleet.sock");
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_fleetctl"))
        .arg("fd-forward")
        .arg(&socket)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let request = b"GET /fleet/v2/machines HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stdin, request).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with(r#"{"revision":5}"#), "{text}");
    assert!(output.status.success());
}

#[tokio::test]
async fn fd_forward_ends_when_the_server_does_though_its_input_is_still_open() {
    let fake = Fake::new().on("GET /fleet/v2/machines", Answer::ok(json!({})));
    let socket = fake.dir.path().join("fleet.sock");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_fleetctl"));
    command.arg("fd-forward").arg(&socket).kill_on_drop(true);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let request = b"GET /fleet/v2/machines HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stdin, request).await.unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), child.wait()).await;
    assert!(ended.expect("it ends by itself").unwrap().success());
    drop(stdin);
}

/// An `ssh` that notes its arguments and runs the command, if there is one, here.
fn fake_ssh(fake: &Fake) -> String {
    use std::os::unix::fs::PermissionsExt;
    let bin = fake.dir.path().join("bin");
    std::fs::create_dir(&bin).expect("a directory for programs");
    let script = "#!/bin/sh\nprintf '%s\\n' \"$@\" > ssh.args\nwhile [ $# -gt 1 ] && [ \"$1\" != -- ]; do shift; done\nshift 2\n[ $# -gt 0 ] && exec sh -c \"$*\"\nexit 7\n";
    let text = fake.dir.path().join("ssh.sh");
    std::fs::write(&text, script).expect("a text");
    std::fs::set_permissions(&text, std::fs::Permissions::from_mode(0o755)).expect("an executable");
    // Copied by another program: a file that this one has written may still be open in a test's child, and is then busy.
    let copied = std::process::Command::new("cp").arg(&text).arg(bin.join("ssh")).status();
    assert!(copied.expect("cp runs").success());
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fleetctl"), bin.join("fleetctl")).expect("a link");
    format!("{}:/usr/bin:/bin", bin.display())
}

#[tokio::test]
async fn a_tunnel_reaches_the_socket_by_fd_forward_over_there() {
    let fake = Fake::new().on("GET /fleet/v2/machines", Answer::ok(json!({})));
    let mut command =
        fake.command(&["--tunnel=bastion:2200", "--known-hosts-file=known/hosts", "list-machines"]);
    command.env("PATH", fake_ssh(&fake));
    let output = super::fake::finish(command).await;
    assert_eq!((output.out.as_str(), output.code), ("MACHINE\tIP\tMETADATA\n", Some(0)), "{}", output.err);
    let words = std::fs::read_to_string(fake.dir.path().join("ssh.args")).unwrap();
    let socket = fake.dir.path().join("fleet.sock");
    assert!(
        words.ends_with(&format!("-p\n2200\n--\nbastion\nfleetctl fd-forward {}\n", socket.display())),
        "{words}"
    );
}

#[tokio::test]
async fn ssh_finds_machines_and_units_and_passes_the_exit_status() {
    let machines = json!({ "machines": [
        { "id": "1111111111111111", "ip": "10.0.0.1", "state": "present" },
        { "id": "1222222222222222", "ip": "10.0.0.2", "state": "present" },
    ] });
    let fake = Fake::new()
        .on("GET /fleet/v2/machines", Answer::ok(machines))
        .on("GET /fleet/v2/units/a.service", placed("launched"));
    let path = fake_ssh(&fake);
    let run = async |arguments: &[&str]| {
        let mut command = fake.command(arguments);
        command.env("PATH", &path).env("HOME", fake.dir.path());
        super::fake::finish(command).await
    };
    let output = run(&["ssh", "a", "echo", "$((1+1));", "exit", "3"]).await;
    assert_eq!((output.out.as_str(), output.code), ("2\n", Some(3)), "{}", output.err);
    assert_eq!(run(&["ssh", "--machine=12", "--", "exit", "4"]).await.code, Some(4));
    let words = std::fs::read_to_string(fake.dir.path().join("ssh.args")).unwrap();
    assert!(words.ends_with("\n--\n10.0.0.2\nexit 4\n"), "{words}");
    for (arguments, message) in [
        (&["ssh"][..], "Unable to proceed: one machine or unit must be provided\n"),
        (&["ssh", "b"], "Unable to proceed: could not find matching unit or machine\n"),
        (&["ssh", "--machine", "1"], "Unable to proceed: found more than one machine\n"),
        (&["ssh", "--machine", "3"], "Unable to proceed: machine does not exist\n"),
        (&["ssh", "--unit", "b"], "Unable to proceed: unit does not exist\n"),
        (
            &["ssh", "--unit", "a", "--machine", "1"],
            "Both machine and unit flags provided, please specify only one.\n",
        ),
    ] {
        let output = run(arguments).await;
        assert_eq!((output.err.as_str(), output.code), (message, Some(1)), "{arguments:?}");
    }
}

#[tokio::test]
async fn ssh_is_not_run_for_an_address_that_is_no_ip_address() {
    for published in ["-oProxyCommand=touch${IFS}x", "bastion", "10.0.0.1 -A"] {
        let machines =
            json!({ "machines": [{ "id": "1111111111111111", "ip": published, "state": "present" }] });
        let unit = json!({ "name": "a.service", "desired": "launched",
            "placement": { "machine": { "id": "1111111111111111", "ip": published } } });
        let fake = Fake::new()
            .on("GET /fleet/v2/machines", Answer::ok(machines))
            .on("GET /fleet/v2/units/a.service", Answer::ok(unit));
        let path = fake_ssh(&fake);
        for arguments in [["ssh", "a"], ["ssh", "--machine=11"]] {
            let mut command = fake.command(&arguments);
            command.env("PATH", &path).env("HOME", fake.dir.path());
            let output = super::fake::finish(command).await;
            assert_eq!(
                (output.err, output.code),
                (
                    format!(
                        "The machine publishes {published:?}, which is no IP address; correct its public_ip.\n"
                    ),
                    Some(1)
                )
            );
        }
        assert!(!fake.dir.path().join("ssh.args").exists());
    }
}

#[tokio::test]
async fn debug_shows_the_requests_that_are_sent() {
    let states = json!({ "states": [] });
    let fake = Fake::new().on("GET /fleet/v2/states", Answer::ok(states));
    for flags in [&["--debug", "list-units"][..], &["list-units", "--debug=true"]] {
        let output = fake.run(flags).await;
        assert!(output.err.contains("DEBUG") && output.err.contains("GET "), "{}", output.err);
        assert!(output.err.contains("/fleet/v2/states took"), "{}", output.err);
    }
    assert_eq!(fake.run(&["list-units"]).await.err, "");
}
