//! What one client can take from the others: connections, memory, time.

use std::time::Duration;

use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use super::super::Options;
use super::server::{runs_here, script};
use super::{Lab, Limits};
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
