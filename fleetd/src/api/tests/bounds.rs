//! What one client can take from the others: connections, memory, time.

use std::sync::Arc;
use std::time::Duration;

use fleet_api::client::{Client, NdjsonStream, Timeouts};
use fleet_api::v2::{MachineRef, StatusReport, Verb};
use fleet_core::MachineId;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use unit_files::UnitName;

use super::super::ports::Peers;
use super::super::tools::{JournalOptions, LocalTools};
use super::super::{Failure, Options};
use super::server::{runs_here, script};
use super::{Lab, Limits, TEXT};
use crate::config::Listen;

const DEADLINE: Duration = Duration::from_secs(10);

/// Also listens on TCP, on a port of the kernel's choice.
pub(super) fn with_tcp(options: &mut Options) {
    options.listen.push(Listen::Tcp(([127, 0, 0, 1], 0).into()));
}

#[tokio::test]
async fn all_connections_of_one_listener_leave_the_other_its_own() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let lab = Lab::with(limits, with_tcp).await;
    let _flood =
        [TcpStream::connect(lab.tcp[0]).await.unwrap(), TcpStream::connect(lab.tcp[0]).await.unwrap()];
    for _ in 0..2 {
        let reply = tokio::time::timeout(DEADLINE, lab.get("/healthz")).await;
        assert_eq!(reply.expect("the unix socket is starved").code(), 200);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_its_stream_is_dropped() {
    let tools = tempfile::tempdir().unwrap();
    let journalctl = script(tools.path(), "journalctl", "exec yes");
    let short = Duration::from_millis(100);
    let limits = Limits { connections: 1, stall: short, patience: short, ..Limits::default() };
    let change = |options: &mut Options| {
        with_tcp(options);
        options.tools.journalctl = journalctl;
    };
    let lab = Lab::with(limits, change).await;
    runs_here(&lab);
    let ask = b"GET /fleet/v2/units/a.service/journal?follow=true HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut over_unix = UnixStream::connect(&lab.socket).await.unwrap();
    over_unix.write_all(ask).await.unwrap();
    let mut over_tcp = TcpStream::connect(lab.tcp[0]).await.unwrap();
    over_tcp.write_all(ask).await.unwrap();
    let next = tokio::time::timeout(DEADLINE, lab.get("/healthz")).await;
    assert_eq!(next.expect("the unix connection was kept").code(), 200);
    let headers = [("host", "localhost")];
    let next = tokio::time::timeout(DEADLINE, lab.send_tcp(Method::GET, "/healthz", &headers, "")).await;
    assert_eq!(next.expect("the TCP connection was kept").code(), 200);
}

#[tokio::test]
async fn a_body_is_cut_off_at_the_limit_of_its_own_path() {
    let limits = Limits { v1_body: 1000, ..Limits::default() };
    let lab = Lab::with(limits, |_| {}).await;
    for request in [
        "PUT /fleet/v1/units/a.service",
        "POST /nothing",
        "POST /fleet/v2/nothing",
        "POST /fleet/v2/cluster/adopt",
        "GET /fleet/v2/requests",
    ] {
        let mut client = UnixStream::connect(&lab.socket).await.unwrap();
        let head = format!(
            "{request} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
        );
        // The rest of the body never comes.
        client.write_all(&[head.as_bytes(), &[b' '; 2000]].concat()).await.unwrap();
        let mut line = [0; 13];
        let answered = tokio::time::timeout(DEADLINE, client.read_exact(&mut line)).await;
        answered.expect("the whole body was waited for").unwrap();
        assert_eq!(&line, b"HTTP/1.1 413 ", "{request}");
    }
    let blank = " ".repeat(2000);
    let json = [("content-type", "application/json")];
    let batch = lab.send(Method::POST, "/fleet/v2/requests", &json, &format!("{blank}{{}}")).await;
    assert_ne!(batch.code(), 413, "{}", batch.body);
}

/// Machines that are asked and say nothing.
struct Mute;

#[async_trait::async_trait]
impl Peers for Mute {
    async fn status(&self, _: &MachineId, _: &UnitName) -> Result<StatusReport, Failure> {
        std::future::pending().await
    }
    async fn journal(
        &self,
        _: &MachineId,
        _: &UnitName,
        _: &JournalOptions,
    ) -> Result<NdjsonStream, Failure> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn an_answer_that_is_late_blames_nobody_and_says_that_a_change_may_have_been_made() {
    let limits = Limits { request: Duration::from_millis(500), ..Limits::default() };
    let lab = Lab::with(limits, |options| options.peers = Some(Arc::new(Mute))).await;
    lab.present("elsewhere", "10.0.0.2").await;
    lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    lab.place("a.service", "elsewhere", 1, Some("active")).await;
    let read = lab.get("/fleet/v2/units/a.service/status").await;
    assert_eq!(read.code(), 503);
    let error = &read.json()["error"];
    assert_eq!(error["message"], "no answer within 500ms");
    let remedy = error["remedy"].as_str().unwrap();
    assert!(remedy.contains("the registry or a machine that was asked is slow"), "{remedy}");

    lab.store.set_all_links(fleet_registry::memory::Link::Silent);
    let json_type = [("content-type", "application/json")];
    let unknown = "no answer within 500ms; the change may have been made";
    for (method, path) in [
        (Method::POST, "/fleet/v2/requests"),
        (Method::POST, "/fleet/v2/cluster/resume"),
        (Method::DELETE, "/fleet/v1/units/a.service"),
    ] {
        let body = r#"{"requestId":"r2","actions":[{"unit":"a.service","verb":"stop"}]}"#;
        let reply = lab.send(method, path, &json_type, body).await;
        let error = &reply.json()["error"];
        assert!(
            reply.code() == 503 && error["message"].as_str().unwrap().starts_with(unknown),
            "{}",
            reply.body
        );
        // API v1 has no remedies, so that its message says what to do.
        let told = error["remedy"].as_str().or(error["message"].as_str()).unwrap();
        assert!(told.contains("read what is wanted now") || told.contains("fleetctl events"), "{told}");
        assert_eq!(error["remedy"].is_string(), path.starts_with("/fleet/v2"), "{}", reply.body);
    }
}

#[tokio::test]
async fn programs_for_clients_are_bounded_and_a_client_that_ends_makes_room() {
    let tools = tempfile::tempdir().unwrap();
    let journalctl = script(tools.path(), "journalctl", "echo hello; exec sleep 1000");
    let systemctl = script(tools.path(), "systemctl", "exit 0");
    let lab = Lab::with(Limits::default(), |options| {
        options.tools = LocalTools { systemctl, journalctl, children: Arc::new(Semaphore::new(2)) };
    })
    .await;
    runs_here(&lab);
    let journal = "/fleet/v2/units/a.service/journal?follow=true";
    let mut unread = Vec::new();
    for _ in 0..2 {
        unread.push(lab.client().get_stream(journal).await.unwrap());
    }
    for path in [journal, "/fleet/v2/units/a.service/status"] {
        let reply = lab.get(path).await;
        assert_eq!(reply.code(), 503, "{}", reply.body);
        assert!(reply.json()["error"]["remedy"].as_str().unwrap().contains("nobody reads"), "{}", reply.body);
    }
    assert_eq!(lab.get("/fleet/v2/units").await.code(), 200, "only what needs a program is refused");
    unread.pop();
    let room = async {
        while lab.get("/fleet/v2/units/a.service/status").await.code() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, room).await.expect("a client that has ended makes room");
}

/// Machines that answer with a journal that goes on and on.
struct Talkative;

#[async_trait::async_trait]
impl Peers for Talkative {
    async fn status(&self, machine: &MachineId, _: &UnitName) -> Result<StatusReport, Failure> {
        let machine = MachineRef { id: machine.to_string(), ip: String::new() };
        Ok(StatusReport { machine, exit_code: 0, text: String::new() })
    }
    async fn journal(
        &self,
        _: &MachineId,
        _: &UnitName,
        _: &JournalOptions,
    ) -> Result<NdjsonStream, Failure> {
        const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n{}\n";
        let dial = || async {
            let (near, mut far) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move {
                let _ = far.read(&mut [0; 4096]).await;
                let _ = far.write_all(ANSWER).await;
                let _ = far.read_to_end(&mut Vec::new()).await;
            });
            Ok(near)
        };
        let client = Client::over("a machine", dial, Timeouts::default());
        client.get_stream("/").await.map_err(|error| Failure::bad_request(error.to_string()))
    }
}

#[tokio::test]
async fn answers_of_other_machines_are_passed_on_to_so_many_at_once() {
    let limits = Limits { relays: 1, ..Limits::default() };
    let lab = Lab::with(limits, |options| options.peers = Some(Arc::new(Talkative))).await;
    lab.present("elsewhere", "10.0.0.2").await;
    lab.one("r1", Verb::Start, "a.service", Some(TEXT)).await;
    lab.place("a.service", "elsewhere", 1, Some("active")).await;
    let status = || lab.get("/fleet/v2/units/a.service/status");
    assert_eq!(status().await.code(), 200);
    let unread = lab.client().get_stream("/fleet/v2/units/a.service/journal?follow=true").await.unwrap();
    let reply = status().await;
    assert_eq!(reply.code(), 503, "{}", reply.body);
    assert!(reply.json()["error"]["remedy"].as_str().unwrap().contains("the unit's machine itself"));
    drop(unread);
    let room = async {
        while status().await.code() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, room).await.expect("a client that has ended makes room");
}

/// Begins a request of this size, and sends so much of its body.
async fn begin(lab: &Lab, size: usize, sent: usize) -> UnixStream {
    let mut client = UnixStream::connect(&lab.socket).await.unwrap();
    let head = format!(
        "POST /fleet/v2/requests HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {size}\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&vec![b' '; sent]).await.unwrap();
    client
}

/// Sends the rest.
async fn end(mut client: UnixStream, rest: usize) -> String {
    client.write_all(&vec![b' '; rest]).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, client.read_to_string(&mut answer))
        .await
        .expect("it is answered")
        .unwrap();
    answer
}

#[tokio::test]
async fn bodies_share_their_room_and_the_smallest_need_none() {
    const KIB: usize = 1 << 10;
    let limits = Limits { v1_body: 64 * KIB, v1_bodies: 90 * KIB, v2_bodies: 300 * KIB, ..Limits::default() };
    let lab = Lab::with(limits, |_| {}).await;
    // Whoever announces much and sends little takes little: all four fit, and no more.
    let mut slow = Vec::new();
    for _ in 0..2 {
        slow.push((begin(&lab, 208 * KIB, 140 * KIB).await, 68 * KIB));
        slow.push((begin(&lab, 64 * KIB, 30 * KIB).await, 34 * KIB));
    }
    let is_taken_in = || async {
        // What would not fit a slow one's rest is refused: then so much of them has been read.
        for size in [32 * KIB, 66 * KIB] {
            let answer = end(begin(&lab, size, 0).await, size).await;
            if !answer.starts_with("HTTP/1.1 503 ") {
                return false;
            }
            assert!(answer.contains("nothing was changed; try again"), "{answer}");
        }
        true
    };
    let taken_in = async {
        while !is_taken_in().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, taken_in).await.expect("bodies that are arriving are counted");
    let small = end(begin(&lab, 16 * KIB, 0).await, 16 * KIB).await;
    assert!(!small.starts_with("HTTP/1.1 503 "), "{small}");
    assert_eq!(lab.get("/fleet/v2/units").await.code(), 200);
    // The first of each kind gets no more room; it is refused, and leaves room for the other.
    let answers: Vec<bool> = {
        let mut answers = Vec::new();
        for (client, rest) in slow {
            answers.push(end(client, rest).await.starts_with("HTTP/1.1 503 "));
        }
        answers
    };
    assert_eq!(answers, [true, true, false, false]);
    let again = end(begin(&lab, 200 * KIB, 0).await, 200 * KIB).await;
    assert!(!again.starts_with("HTTP/1.1 503 "), "{again}");
}
