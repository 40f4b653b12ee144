//! `--watch`: what is printed again and when, and what becomes of a connection that ends.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::fake::{Answer, Fake};

const DEADLINE: Duration = Duration::from_secs(30);

fn event(name: &str, id: Option<u64>, data: &Value) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n{id}\n")
}

fn state(unit: &str, active: &str) -> Value {
    json!({ "unit": unit, "machine": "1111111111111111", "ip": "10.0.0.1", "active": active, "sub": "running" })
}

struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    fn start(fake: &Fake, arguments: &[&str]) -> Watching {
        let mut command = fake.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Watching { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(DEADLINE, self.lines.next_line()).await;
        line.expect("nothing is printed").expect("the output can be read").expect("the command has ended")
    }

    /// Ctrl-C; the exit code, and what was said beside.
    async fn interrupt(mut self) -> (Option<i32>, String) {
        let id = self.child.id().expect("it has not ended");
        let killed = tokio::process::Command::new("kill").args(["-INT", &id.to_string()]).status().await;
        assert!(killed.expect("kill runs").success());
        let status =
            tokio::time::timeout(DEADLINE, self.child.wait()).await.expect("it goes on").expect("it ends");
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().expect("it is piped");
        stderr.read_to_string(&mut said).await.expect("what is said is text");
        (status.code(), said)
    }
}

#[tokio::test]
async fn a_list_is_printed_again_behind_an_empty_line_when_something_in_it_has_changed() {
    let stream = [
        event("state", None, &state("b.service", "active")),
        event("state", None, &state("a.service", "active")),
        event("synced", Some(5), &json!({ "revision": 5 })),
        // Nothing that the columns show.
        event("state", Some(6), &state("a.service", "active")),
        event("state", None, &state("a.service", "failed")),
        event(
            "deleted",
            Some(7),
            &json!({ "kind": "state", "name": "b.service", "machine": "1111111111111111" }),
        ),
    ];
    let fake = Fake::new().on("GET /fleet/v2/watch", Answer::TextThenSilence(stream.concat()));
    let mut watching = Watching::start(&fake, &["list-units", "--watch", "--fields", "unit,active"]);
    let expected = [
        "UNIT\t\tACTIVE",
        "a.service\tactive",
        "b.service\tactive",
        "",
        "UNIT\t\tACTIVE",
        "a.service\tfailed",
    ];
    for line in expected {
        assert_eq!(watching.line().await, line);
    }
    assert_eq!(watching.interrupt().await, (Some(0), String::new()));
    assert_eq!(fake.seen("GET /fleet/v2/watch")[0].query, "kind=state");
}

#[tokio::test]
async fn programs_get_one_document_a_line_for_each_change() {
    let unit = |desired: &str| json!({ "name": "a.service", "desired": desired });
    let stream = [
        event("unit", None, &unit("loaded")),
        event("synced", Some(5), &json!({ "revision": 5 })),
        event("unit", Some(6), &unit("launched")),
    ];
    let fake = Fake::new().on("GET /fleet/v2/watch", Answer::TextThenSilence(stream.concat()));
    let mut watching = Watching::start(&fake, &["list-unit-files", "--watch", "-o", "json"]);
    for desired in ["loaded", "launched"] {
        let document: Value = serde_json::from_str(&watching.line().await).expect("a document");
        assert_eq!(document["units"][0]["desired"], desired);
    }
    assert_eq!(watching.interrupt().await.0, Some(0));
}

#[tokio::test]
async fn a_connection_that_ends_is_opened_again_where_it_ended() {
    let machine = |id: &str| json!({ "id": id, "ip": "10.0.0.1", "state": "present" });
    let first = [event("machine", None, &machine("1111")), event("synced", Some(5), &json!({}))].concat();
    let second = [event("machine", None, &machine("2222")), event("synced", Some(9), &json!({}))].concat();
    let fake = Fake::new()
        .on("GET /fleet/v2/watch", Answer::TextThenBreak(first))
        .on("GET /fleet/v2/watch", Answer::error(503, "not yet"))
        .on("GET /fleet/v2/watch", Answer::TextThenSilence(second));
    let mut watching =
        Watching::start(&fake, &["list-machines", "--watch", "--no-legend", "--fields", "machine"]);
    for line in ["1111...", "", "1111...", "2222..."] {
        assert_eq!(watching.line().await, line);
    }
    let (code, said) = watching.interrupt().await;
    assert_eq!((code, said.matches("what is shown may be old").count()), (Some(0), 1), "{said}");
    let queries: Vec<String> = fake.seen("GET /fleet/v2/watch").into_iter().map(|seen| seen.query).collect();
    assert_eq!(queries, ["kind=machine", "kind=machine&since=5", "kind=machine&since=5"]);
}

#[tokio::test]
async fn a_connection_that_ends_within_a_revision_is_opened_again_from_the_beginning() {
    let machine = |id: &str| json!({ "id": id, "ip": "10.0.0.1", "state": "present" });
    let cut = [
        event("machine", None, &machine("1111")),
        event("synced", Some(5), &json!({})),
        // Comes without the end of its revision, and is gone again before the next connection.
        event("machine", None, &machine("2222")),
    ];
    let anew = [event("machine", None, &machine("1111")), event("synced", Some(9), &json!({}))].concat();
    let rest = event("machine", Some(10), &machine("3333"));
    let fake = Fake::new()
        .on("GET /fleet/v2/watch", Answer::TextThenBreak(cut.concat()))
        .on("GET /fleet/v2/watch", Answer::TextThenSilence(anew + &rest));
    let mut watching =
        Watching::start(&fake, &["list-machines", "--watch", "--no-legend", "--fields", "machine"]);
    for line in ["1111...", "", "1111...", "3333..."] {
        assert_eq!(watching.line().await, line);
    }
    let queries: Vec<String> = fake.seen("GET /fleet/v2/watch").into_iter().map(|seen| seen.query).collect();
    assert_eq!(queries, ["kind=machine", "kind=machine"]);
    drop(watching);
}

#[tokio::test]
async fn after_a_reset_only_what_is_told_again_is_in_the_list() {
    let machine = |id: &str| json!({ "id": id, "ip": "10.0.0.1", "state": "present" });
    let stream = [
        event("machine", None, &machine("1111")),
        event("synced", Some(5), &json!({})),
        event("reset", None, &json!({ "why": "compacted" })),
        event("machine", None, &machine("2222")),
        event("synced", Some(9), &json!({})),
    ];
    let fake = Fake::new().on("GET /fleet/v2/watch", Answer::TextThenSilence(stream.concat()));
    let mut watching =
        Watching::start(&fake, &["list-machines", "--watch", "--no-legend", "--fields", "machine"]);
    for line in ["1111...", "", "2222..."] {
        assert_eq!(watching.line().await, line);
    }
    drop(watching);
}

#[tokio::test]
async fn a_registry_that_is_silent_is_told_once() {
    let stream = [
        event("synced", Some(5), &json!({})),
        event("registry", None, &json!({ "answers": false, "text": "timed out" })),
        event("registry", None, &json!({ "answers": true })),
        event("state", Some(6), &state("a.service", "active")),
    ];
    let fake = Fake::new().on("GET /fleet/v2/watch", Answer::TextThenSilence(stream.concat()));
    let mut watching = Watching::start(&fake, &["list-units", "--watch", "--no-legend", "--fields", "unit"]);
    // The list was empty at first.
    for line in ["", "a.service"] {
        assert_eq!(watching.line().await, line);
    }
    let (code, said) = watching.interrupt().await;
    assert_eq!(code, Some(0));
    assert_eq!(said, "The registry does not answer (timed out); what is shown may be old. Trying again\n");
}

#[tokio::test]
async fn a_list_that_cannot_be_followed_is_an_error() {
    let fake = Fake::new().on("GET /fleet/v2/watch", Answer::error(503, "no registry"));
    let output = fake.run(&["list-units", "--watch"]).await;
    assert_eq!((output.code, output.out.as_str()), (Some(6), ""));
    assert!(output.err.contains("no registry"), "{}", output.err);
    let wrong = fake.run(&["list-units", "--watch", "--fields", "nothing"]).await;
    assert_eq!(wrong.code, Some(1));
}
