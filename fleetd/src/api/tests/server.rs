//! Sockets, limits, health, and the local tools.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::v2::{JournalLine, StatusReport};
use fleet_core::records::StateRow;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::listen::{ListenError, bind};
use super::super::tools::LocalTools;
use super::bounds::with_tcp;
use super::{Lab, Limits, assert_record, name};
use crate::config::Listen;

pub(super) fn script(directory: &Path, file: &str, body: &str) -> std::path::PathBuf {
    let path = directory.join(file);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = bind(&Listen::Unix(path.clone()), false).await.unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o660);
    let second = bind(&Listen::Unix(path), false).await;
    assert!(matches!(second, Err(ListenError::InUse { .. })), "{second:?}");
    drop(listener);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn tcp_without_client_certificates_is_for_loopback_only() {
    let any = Listen::Tcp(([0, 0, 0, 0], 0).into());
    let refused = bind(&any, false).await;
    assert!(matches!(refused, Err(ListenError::NotLoopback { .. })), "{refused:?}");
    assert!(bind(&any, true).await.is_ok());
    assert!(bind(&Listen::Tcp(([127, 0, 0, 1], 0).into()), false).await.is_ok());
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_cut_off() {
    let limits = Limits { header: Duration::from_millis(100), ..Limits::default() };
    let lab = Lab::with(limits, |_| {}).await;
    let mut slow = UnixStream::connect(&lab.socket).await.unwrap();
    slow.write_all(b"GET /healthz HTT").await.unwrap();
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(5), slow.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "the connection was kept");
}

#[tokio::test]
async fn a_slow_body_is_the_clients_fault_and_not_the_registrys() {
    let limits = Limits { body: Duration::from_millis(100), ..Limits::default() };
    let lab = Lab::with(limits, |_| {}).await;
    let mut slow = UnixStream::connect(&lab.socket).await.unwrap();
    let head = "PUT /fleet/v1/units/a.service HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 100\r\nconnection: close\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(5), slow.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn a_web_page_cannot_change_anything() {
    let lab = Lab::start().await;
    let plain = [("content-type", "text/plain"), ("origin", "http://example.org")];
    let reply = lab.send(Method::POST, "/fleet/v2/requests", &plain, "{}").await;
    assert_eq!(reply.code(), 415);
}

#[tokio::test]
async fn over_tcp_only_names_of_this_machine_and_its_own_pages_are_answered() {
    let lab = Lab::with(Limits::default(), with_tcp).await;
    for (headers, code) in [
        (&[("host", "localhost:49153")][..], 200),
        (&[("host", "127.0.0.1:49153")], 200),
        (&[("host", "[::1]:49153")], 200),
        (&[("host", "HOST:49153")], 200),
        (&[("host", "rebound.example.org:49153")], 403),
        (&[("host", "localhost:49153"), ("origin", "http://localhost:49153")], 200),
        (&[("host", "localhost:49153"), ("origin", "http://example.org")], 403),
        (&[("host", "localhost:49153"), ("origin", "null")], 403),
    ] {
        for path in ["/fleet/v1/units", "/fleet/v2/units", "/healthz"] {
            let reply = lab.send_tcp(Method::GET, path, headers, "").await;
            assert_eq!(reply.code(), code, "{path} {headers:?}: {}", reply.body);
            if code == 403 {
                assert!(reply.json()["error"]["remedy"].as_str().is_some(), "{}", reply.body);
            }
        }
    }
    let other = [("host", "anything"), ("origin", "http://example.org")];
    assert_eq!(lab.send(Method::GET, "/fleet/v1/units", &other, "").await.code(), 200);
}

#[tokio::test]
async fn ready_means_presence_and_a_first_pass() {
    let lab = Lab::start().await;
    assert_eq!(lab.get("/healthz").await.body, "ok\n");
    assert_eq!(lab.get("/readyz").await.code(), 200);
    lab.fake.agent.lock().unwrap().has_passed = false;
    lab.fake.session.send_modify(|session| session.has_presence = false);
    let reply = lab.get("/readyz").await;
    assert!(reply.code() == 503 && reply.body.contains("first pass") && reply.body.contains("presence"));
}

#[tokio::test]
async fn metrics_are_in_the_text_format_of_prometheus() {
    let lab = Lab::start().await;
    let reply = lab.get("/metrics").await;
    assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4");
    for line in [
        "fleet_engine_pass_count_total 7",
        "# TYPE fleet_engine_task_count_total counter",
        "fleet_engine_task_count_total{type=\"attemptscheduleunit\"} 3",
        "fleet_engine_task_count_total{type=\"unscheduleunit\"} 1",
        "fleet_engine_reconcile_failure_count_total{type=\"run\"} 2",
        "fleet_presence_held 1",
        "# TYPE fleet_registry_read_count_total counter",
    ] {
        assert!(reply.body.lines().any(|own| own == line), "{line} in {}", reply.body);
    }
    let heads: Vec<&str> = reply.body.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let once: std::collections::BTreeSet<&str> = heads.iter().copied().collect();
    assert_eq!(heads.len(), once.len(), "{heads:#?}");
}

/// This machine runs a.service, as its agent says.
pub(super) fn runs_here(lab: &Lab) {
    let row = json!({"uid": "u", "load": "loaded", "active": "active", "sub": "running"});
    assert_record::<StateRow>(&row);
    let row = serde_json::from_value(row).unwrap();
    lab.fake.agent.lock().unwrap().units = Arc::new([(name("a.service"), row)].into());
}

#[tokio::test]
async fn status_and_journal_of_a_local_unit_need_no_registry() {
    let tools = tempfile::tempdir().unwrap();
    let systemctl = script(tools.path(), "systemctl", "echo \"$@\"; echo oops >&2; exit 3");
    let journalctl = script(tools.path(), "journalctl", "echo \"$@\"; printf 'no newline'; exit 4");
    let lab = Lab::with(Limits::default(), |options| {
        options.tools = LocalTools { systemctl, journalctl, ..LocalTools::default() }
    })
    .await;
    runs_here(&lab);
    lab.store.set_all_links(fleet_registry::memory::Link::Refused);
    let report: StatusReport = lab.client().get("/fleet/v2/units/a.service/status").await.unwrap();
    assert_eq!((report.exit_code, report.text.as_str()), (3, "status -l --no-pager -- a.service\noops\n"));
    let path = "/fleet/v2/units/a.service/journal?lines=5&output=cat&follow=true";
    let mut lines = lab.client().get_stream(path).await.unwrap();
    let (mut text, mut code) = (String::new(), None);
    while let Some(line) = lines.next::<JournalLine>().await.unwrap() {
        text.push_str(&line.text.unwrap_or_default());
        code = line.exit_code.or(code);
    }
    assert_eq!(text, "--unit=a.service --no-pager -n 5 -o cat -f\nno newline");
    assert_eq!(code, Some(4));
    let bad = lab.get("/fleet/v2/units/a.service/journal?output=exotic").await;
    assert_eq!(bad.code(), 400);
    assert_eq!(lab.get("/fleet/v2/units/b.service/status").await.code(), 503);
}

#[tokio::test]
async fn a_followed_journal_beats_and_ends_with_the_client_or_with_fleetd() {
    let tools = tempfile::tempdir().unwrap();
    let journalctl = script(tools.path(), "journalctl", "echo hello; exec sleep 1000");
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    let lab = Lab::with(limits, |options| options.tools.journalctl = journalctl).await;
    runs_here(&lab);
    let mut lines = lab.client().get_stream("/fleet/v2/units/a.service/journal?follow=true").await.unwrap();
    assert_eq!(lines.next::<JournalLine>().await.unwrap().unwrap().text.as_deref(), Some("hello\n"));
    assert_eq!(lines.next::<JournalLine>().await.unwrap(), Some(JournalLine::default()));
    lab.shutdown.cancel();
    loop {
        let line = lines.next::<JournalLine>().await.unwrap().unwrap();
        if let Some(error) = line.error {
            assert_eq!(error.code, 503);
            break;
        }
    }
    assert_eq!(lines.next::<JournalLine>().await.unwrap(), None);
}

#[tokio::test]
async fn a_unit_elsewhere_or_nowhere_is_answered_with_a_reason() {
    let lab = Lab::start().await;
    assert_eq!(lab.get("/fleet/v2/units/a.service/status").await.code(), 404);
    lab.one("r1", fleet_api::v2::Verb::Start, "a.service", Some(super::TEXT)).await;
    let nowhere = lab.get("/fleet/v2/units/a.service/status").await;
    assert_eq!(nowhere.json()["error"]["message"], "Unit a.service does not appear to be loaded.");
    lab.place("a.service", "elsewhere", 1, Some("active")).await;
    let reply = lab.send(Method::GET, "/fleet/v2/units/a.service/status", &[], "").await;
    assert_eq!(reply.code(), 501);
    assert!(lab.directory.path().exists());
}
