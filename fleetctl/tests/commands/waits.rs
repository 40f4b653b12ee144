//! The commands that wait for what they changed: how a wait ends, what is said of it, and the exit code.

use std::time::{Duration, Instant};

use super::answers::{REQUESTS, UNITS, WAIT, accepted, done, known, results, units};
use super::fake::{Answer, Fake};
use serde_json::json;

#[tokio::test]
async fn a_unit_that_no_machine_can_take_exits_with_5_within_5_seconds_and_hides_no_other() {
    let unplaceable = json!({ "unit": "a.service", "phase": "unplaceable", "desired": "launched",
        "refused": [{ "code": "metadata", "machines": 2,
                      "sample": [["1111111111111111", "has no disk=ssd"], ["2222222222222222", "has no disk=ssd"]] }] });
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive"), known("b.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched"), accepted("b.service", "launched")]))
        .on(WAIT, Answer::LinesThenSilence(vec![unplaceable, done("b.service", "launched")]));
    let started = Instant::now();
    let output = fake.run(&["start", "a", "b"]).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(output.code, Some(5));
    assert_eq!(output.out, "Unit b.service launched on 11111111.../10.0.0.1\n");
    assert!(output.err.contains("no machine can take unit a.service\n  11111111...: has no disk=ssd\n  22222222...: has no disk=ssd\n"), "{}", output.err);
}

#[tokio::test]
async fn a_wait_that_is_over_exits_with_4_and_says_what_the_unit_waits_for() {
    let starting = json!({ "unit": "a.service", "phase": "starting", "desired": "launched", "active": "activating", "sub": "start",
        "machine": { "id": "1111111111111111", "ip": "10.0.0.1" } });
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::LinesThenSilence(vec![starting]));
    let output = fake.run(&["start", "--timeout=0.3", "a"]).await;
    assert_eq!(output.code, Some(4));
    assert_eq!(
        output.err,
        "Error waiting for units: timed out waiting for unit a.service to report state launched (starting on 11111111.../10.0.0.1 (activating/start))\n  it goes on; see fleetctl status a.service and fleetctl journal a.service\n"
    );
}

#[tokio::test]
async fn nobody_leading_exits_with_6() {
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::LinesThenSilence(vec![json!({ "noLeader": true, "since": 1 })]));
    let output = fake.run(&["start", "--timeout", "0.3", "a"]).await;
    assert_eq!(output.code, Some(6));
    assert!(output.err.contains("nobody leads the cluster"), "{}", output.err);
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again_for_what_is_left() {
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive"), known("b.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched"), accepted("b.service", "launched")]))
        .on(WAIT, Answer::Lines(vec![done("a.service", "launched")]))
        .on(WAIT, Answer::Lines(vec![done("b.service", "launched")]));
    let output = fake.run(&["start", "a", "b"]).await;
    assert_eq!((output.out.lines().count(), output.code), (2, Some(0)), "{}", output.err);
    let waits = fake.seen(WAIT);
    assert_eq!(waits[1].body["units"], json!([{ "unit": "b.service", "revision": 7, "uid": "u1" }]));
}

#[tokio::test]
async fn a_wait_without_registry_or_server_ends_with_its_own_code() {
    let fake = || {
        Fake::new()
            .on(UNITS, units(&[known("a.service", "inactive")]))
            .on(REQUESTS, results(&[accepted("a.service", "launched")]))
    };
    let silent = fake().on(WAIT, Answer::error(503, "no registry"));
    let output = silent.run(&["start", "--timeout", "0.3", "a"]).await;
    assert_eq!(output.code, Some(6));
    assert!(output.err.contains("the registry does not answer"), "{}", output.err);

    let broken = fake().on(WAIT, Answer::error(500, "broken"));
    let output = broken.run(&["start", "--timeout", "0.3", "a"]).await;
    assert!(
        output.err.starts_with("Error waiting for units: unit a.service: googleapi: Error 500: broken\n"),
        "{}",
        output.err
    );
    assert_eq!(output.code, Some(1));

    let older = fake();
    let output = older.run(&["start", "a"]).await;
    assert_eq!(output.code, Some(1));
    assert_eq!(older.seen(WAIT).len(), 1);
}

/// The exit codes of a wait in which the API answers `answers`, one after the other, until the time is over.
async fn waited(timeout: &str, answers: &[Answer]) -> super::fake::Output {
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]));
    let fake = answers.iter().fold(fake, |fake, answer| fake.on(WAIT, answer.clone()));
    fake.run(&["start", "--timeout", timeout, "a"]).await
}

#[tokio::test]
async fn an_api_that_does_not_answer_to_the_end_of_a_wait_exits_with_1() {
    let broken = || Answer::error(500, "broken");
    for (timeout, answers, message) in [
        ("0.3", vec![Answer::Silence], "no answer from the API"),
        // Asked again after half a second each time; what went wrong is not forgotten meanwhile.
        ("0.8", vec![broken(), Answer::Silence], "googleapi: Error 500: broken"),
        ("1.2", vec![Answer::Lines(vec![]), broken(), Answer::Silence], "googleapi: Error 500: broken"),
    ] {
        let output = waited(timeout, &answers).await;
        assert_eq!(output.code, Some(1), "{answers:?}: {}", output.err);
        assert!(
            output.err.starts_with(&format!("Error waiting for units: unit a.service: {message}")),
            "{}",
            output.err
        );
        assert!(output.err.contains("the request is stored"), "{}", output.err);
    }
}

#[tokio::test]
async fn a_registry_that_stops_answering_in_the_stream_exits_with_6() {
    let lost = json!({ "error": { "code": 503, "message": "no registry" } });
    for answers in [
        vec![Answer::Lines(vec![lost.clone()])],
        vec![Answer::error(503, "no registry"), Answer::Silence],
        vec![Answer::Lines(vec![json!({ "heartbeat": true }), lost]), Answer::Silence],
    ] {
        let output = waited("0.8", &answers).await;
        assert_eq!(output.code, Some(6), "{answers:?}: {}", output.err);
        assert!(output.err.contains("the registry does not answer"), "{}", output.err);
    }
}

#[tokio::test]
async fn a_stream_that_breaks_just_before_the_end_of_a_wait_leaves_it_pending() {
    let placed = json!({ "unit": "a.service", "phase": "placed", "desired": "launched" });
    for answers in [
        vec![Answer::LinesThenBreak(vec![placed.clone()])],
        vec![Answer::Lines(vec![placed.clone()])],
        vec![Answer::LinesThenBreak(vec![placed]), Answer::Silence],
    ] {
        let output = waited("0.7", &answers).await;
        assert_eq!(output.code, Some(4), "{answers:?}: {}", output.err);
        assert!(
            output.err.contains("timed out waiting for unit a.service to report state launched (placed"),
            "{}",
            output.err
        );
    }
}

#[tokio::test]
async fn a_request_that_another_overtook_fails_visibly() {
    let overtaken = json!({ "unit": "a.service", "phase": "done", "done": true, "desired": "inactive" });
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::Lines(vec![overtaken]));
    let output = fake.run(&["start", "a"]).await;
    assert_eq!(output.code, Some(1));
    assert!(
        output.err.contains("is now wanted inactive: another request came after this one"),
        "{}",
        output.err
    );
}

#[tokio::test]
async fn an_interrupted_wait_says_that_the_request_stands() {
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::LinesThenSilence(vec![json!({ "heartbeat": true })]));
    let child = fake.command(&["start", "a"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let pid = child.id().unwrap().to_string();
    fake.until_seen(WAIT).await;
    let sent = tokio::process::Command::new("kill").args(["-INT", &pid]).status().await.unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("Interrupted. What was asked for stays wanted")
    );
}

#[tokio::test]
async fn a_wait_that_the_server_gives_up_ends_at_once() {
    let error = json!({ "error": { "code": 400, "message": "too many units" } });
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::LinesThenSilence(vec![error]));
    let output = fake.run(&["start", "a"]).await;
    assert!(
        output.err.starts_with("Error waiting for units: unit a.service: too many units\n"),
        "{}",
        output.err
    );
    assert_eq!(output.code, Some(1));
    assert_eq!(fake.seen(WAIT).len(), 1);
}
