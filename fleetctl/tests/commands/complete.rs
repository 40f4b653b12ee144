//! Completions, as a shell asks for them: of the grammar, of the names that an API has, and without one.

use super::fake::{Answer, Fake, Output, finish};
use serde_json::json;

/// What a TAB behind the last of `words` offers, one a line.
async fn tab(fake: &Fake, words: &[&str]) -> Output {
    let mut command = fake.command(&["--", "fleetctl"]);
    command.args(words).env("FLEETCTL_COMPLETE", "bash").env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    finish(command).await
}

fn fake() -> Fake {
    Fake::new()
        .on(
            "GET /fleet/v2/units",
            Answer::ok(json!({ "units": [
                { "name": "hello.service", "description": "Says hello" }, { "name": "help@1.timer" },
                { "name": "web.service" },
            ] })),
        )
        .on(
            "GET /fleet/v2/machines",
            Answer::ok(json!({ "machines": [
                { "id": "1f0c44d2", "state": "present" }, { "id": "1eee0000", "state": "forgotten" },
            ] })),
        )
}

#[tokio::test]
async fn units_and_machines_are_those_of_the_moment() {
    let fake = fake();
    for (words, offered) in [
        (&["stop", "he"][..], "hello.service\nhelp@1.timer"),
        (&["status", "web.service", "hell"], "hello.service"),
        (&["events", "--unit", "w"], "web.service"),
        (&["machine", "forget", "1"], "1f0c44d2"),
        (&["ssh", "--machine", "1f"], "1f0c44d2"),
        (&["list-units", "--sort=-act"], "--sort=-active"),
        (&["list-machines", "--fields", "machine,host"], "machine,hostname"),
        (&["list-unit-f"], "list-unit-files"),
        (&["list-units", "-o", "w"], "wide"),
    ] {
        let output = tab(&fake, words).await;
        assert_eq!((output.out.as_str(), output.err.as_str()), (offered, ""), "{words:?}");
    }
    fake.file("hexa.service", "[Service]\n");
    assert_eq!(tab(&fake, &["start", "he"]).await.out, "hello.service\nhelp@1.timer\nhexa.service");
}

#[tokio::test]
async fn the_endpoint_is_the_one_on_the_line() {
    let fake = fake();
    let elsewhere = ["--endpoint", "unix:///nowhere/fleet.sock", "stop", "he"];
    assert_eq!(tab(&fake, &elsewhere).await.out, "");
    let endpoint = format!("--endpoint=unix://{}", fake.dir.path().join("fleet.sock").display());
    assert_eq!(tab(&Fake::new(), &[&endpoint, "stop", "hello"]).await.out, "hello.service");
}

/// That the wait is bounded is shown by its ending; how long it is, by a test beside the code, on a paused clock.
#[tokio::test]
async fn an_api_that_is_not_there_or_does_not_answer_offers_nothing_and_is_silent() {
    let silent = Fake::new().on("GET /fleet/v2/units", Answer::Silence);
    let broken = Fake::new().on("GET /fleet/v2/units", Answer::error(503, "no registry"));
    let absent = Fake::new();
    std::fs::remove_file(absent.dir.path().join("fleet.sock")).unwrap();
    for fake in [silent, broken, absent] {
        let output = tab(&fake, &["stop", "he"]).await;
        assert_eq!((output.out.as_str(), output.err.as_str(), output.code), ("", "", Some(0)));
    }
}

#[tokio::test]
async fn through_a_tunnel_nothing_is_asked() {
    let output = tab(&fake(), &["--tunnel=bastion", "stop", "he"]).await;
    assert_eq!((output.out.as_str(), output.err.as_str()), ("", ""));
}

#[tokio::test]
async fn bash_completes_a_line_with_what_is_printed_for_it() {
    let fake = fake();
    let line = "source <(FLEETCTL_COMPLETE=bash fleetctl) && COMP_WORDS=(fleetctl stop hell) COMP_CWORD=2 COMP_TYPE=9 && \
                _clap_complete_fleetctl fleetctl hell stop && echo \"${COMPREPLY[@]}\"";
    let mut bash = tokio::process::Command::new("bash");
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_fleetctl")).parent().unwrap();
    bash.args(["--norc", "-c", line]).env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
    bash.env("FLEETCTL_ENDPOINT", format!("unix://{}", fake.dir.path().join("fleet.sock").display()));
    let output = finish(bash).await;
    assert_eq!((output.out.as_str(), output.err.as_str()), ("hello.service\n", ""));
}

#[tokio::test]
async fn a_shell_that_is_none_is_refused() {
    let fake = fake();
    let mut command = fake.command(&[]);
    command.env("FLEETCTL_COMPLETE", "dos");
    let output = finish(command).await;
    assert_eq!(output.code, Some(2));
    assert!(output.err.starts_with("FLEETCTL_COMPLETE: "), "{}", output.err);
}
