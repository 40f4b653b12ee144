//! A thousand connections that ask for nothing, one that does not read what it has asked for, and large bodies: what
//! they take of the memory, measured.

use std::path::Path;
use std::time::Duration;

use fleet_api::client::TlsOptions;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::bounds::with_tcp;
use super::server::{runs_here, script};
use super::tls::{Authority, connector, shake};
use super::{Lab, Limits, child, exchange, send};
use crate::config::ListenTls;

const TEST: &str =
    "api::tests::many::a_thousand_idle_connections_and_a_slow_reader_leave_others_served_and_memory_bounded";
/// Half of them have shaken hands and asked once; the others have not even begun.
const IDLE: usize = 1000;
const ROUNDS: usize = 20;
/// For all of them and the slow reader together: 64 KiB each. Unoptimised it is some 40 MiB, mostly of those with TLS.
const GROWTH_KIB: u64 = 64 * IDLE as u64;
const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_thousand_idle_connections_and_a_slow_reader_leave_others_served_and_memory_bounded() {
    match child::role().as_deref() {
        None => {
            let clients = child::command(TEST, "clients", "ulimit -n 4096; exec \"$@\"").spawn().unwrap();
            let told = child::succeeds(clients).await;
            assert!(told.contains("KiB more"), "{told}");
        }
        Some("clients") => clients().await,
        Some(directory) => serve(Path::new(directory)).await,
    }
}

/// Serves until standard input ends; the files in `directory` say how and where.
async fn serve(directory: &Path) {
    let long = Duration::from_secs(600);
    let limits = Limits { handshake: long, handshakes: IDLE, header: long, stall: long, ..Limits::default() };
    let file = |name: &str| directory.join(name);
    let lab = Lab::with(limits, |options| {
        with_tcp(options);
        let (certfile, keyfile) = (file("server.pem"), file("server.key"));
        options.tls = Some(ListenTls { certfile, keyfile, cafile: Some(file("ca.pem")) });
        options.tools.journalctl = script(directory, "journalctl", "exec yes");
    })
    .await;
    runs_here(&lab);
    let place = format!("{} {}", lab.socket.display(), lab.tcp[0]);
    std::fs::write(file("place.new"), place).unwrap();
    std::fs::rename(file("place.new"), file("place")).unwrap();
    let until_the_end = || std::io::Read::read_to_end(&mut std::io::stdin(), &mut Vec::new());
    tokio::task::spawn_blocking(until_the_end).await.unwrap().unwrap();
}

/// Where the server listens, once it does.
async fn place(directory: &Path) -> String {
    let place = async {
        loop {
            if let Ok(place) = std::fs::read_to_string(directory.join("place")) {
                break place;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, place).await.expect("the server listens")
}

async fn clients() {
    let authority = Authority::new("ours");
    let (_files, options) = (authority.server(true), authority.client(Some("alice")));
    let directory = authority.dir.path();
    let server = child::command(TEST, &directory.display().to_string(), "exec \"$@\"").spawn().unwrap();
    let place = place(directory).await;
    let (socket, address) = place.split_once(' ').unwrap();
    let server_pid = server.id().unwrap();
    ask(Path::new(socket), address, &options).await;
    let before = resident_kib(server_pid);

    let connector = connector(&options);
    let mut secure = Vec::new();
    let mut bare = Vec::new();
    for _ in 0..IDLE / 2 {
        let mut stream = shake(&connector, TcpStream::connect(address).await.unwrap()).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        secure.push(stream);
        bare.push(TcpStream::connect(address).await.unwrap());
    }
    let mut slow = shake(&connector, TcpStream::connect(address).await.unwrap()).await;
    let journal = b"GET /fleet/v2/units/a.service/journal?follow=true HTTP/1.1\r\nhost: x\r\n\r\n";
    slow.write_all(journal).await.unwrap();
    let mut first = [0];
    slow.read_exact(&mut first).await.unwrap();

    for _ in 0..ROUNDS {
        ask(Path::new(socket), address, &options).await;
    }
    let growth = resident_kib(server_pid).saturating_sub(before);
    tell(growth, &format!("{IDLE} connections and a slow reader"));
    assert!(growth < GROWTH_KIB, "{growth} KiB more for {IDLE} connections");
    // All of them are there still, so that the figure is theirs.
    for stream in bare.iter().chain(secure.iter().map(|stream| stream.get_ref().0)) {
        let mut buffer = [0; 4096];
        loop {
            match stream.try_read(&mut buffer) {
                Ok(0) => panic!("the server ended a connection"),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    drop((bare, secure, slow));
    child::succeeds(server).await;
}

#[expect(clippy::print_stdout, reason = "the figure is for whoever reads the test's output")]
fn tell(growth: u64, whose: &str) {
    println!("{growth} KiB more for {whose}");
}

/// Over the unix socket and over TCP.
async fn ask(socket: &Path, address: &str, options: &TlsOptions) {
    let asked = async {
        let (path, host) = ("/fleet/v2/units", [("host", "x")]);
        let reply = send(socket, Method::GET, path, &host, "").await;
        assert_eq!(reply.code(), 200);
        let stream = shake(&connector(options), TcpStream::connect(address).await.unwrap()).await;
        let reply = exchange(stream, Method::GET, path, &host, "").await;
        assert_eq!(reply.code(), 200);
    };
    tokio::time::timeout(DEADLINE, asked).await.expect("others are served");
}

const LARGE_TEST: &str = "api::tests::many::large_bodies_that_stall_leave_others_served_and_memory_bounded";
const LARGE: usize = 8;
/// Of the 32 MiB that a batch may have.
const SENT: usize = 31 << 20;
/// Two of them have room; refused ones leave nothing.
const LARGE_GROWTH_KIB: u64 = 96 << 10;

#[tokio::test]
async fn large_bodies_that_stall_leave_others_served_and_memory_bounded() {
    if let Some(directory) = child::role() {
        return serve(Path::new(&directory)).await;
    }
    let authority = Authority::new("ours");
    let (_files, options) = (authority.server(true), authority.client(Some("alice")));
    let directory = authority.dir.path();
    let server = child::command(LARGE_TEST, &directory.display().to_string(), "exec \"$@\"").spawn().unwrap();
    let place = place(directory).await;
    let (socket, address) = place.split_once(' ').unwrap();
    ask(Path::new(socket), address, &options).await;
    let before = resident_kib(server.id().unwrap());

    let head = format!(
        "POST /fleet/v2/requests HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        SENT + 2
    );
    let mut clients = Vec::new();
    for _ in 0..LARGE {
        let mut client = UnixStream::connect(socket).await.unwrap();
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b' '; SENT]).await.unwrap();
        clients.push(client);
        ask(Path::new(socket), address, &options).await;
    }
    let growth = resident_kib(server.id().unwrap()).saturating_sub(before);
    tell(growth, &format!("{LARGE} large bodies"));
    assert!(growth < LARGE_GROWTH_KIB, "{growth} KiB more for {LARGE} bodies");
    let mut refused = 0;
    for mut client in clients {
        client.write_all(b"{}").await.unwrap();
        let mut line = [0; 13];
        tokio::time::timeout(DEADLINE, client.read_exact(&mut line)).await.expect("it is answered").unwrap();
        refused += usize::from(&line == b"HTTP/1.1 503 ");
    }
    assert_eq!(refused, LARGE - 2);
    child::succeeds(server).await;
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A client may stop in the middle of its head, and that is no reason to keep what it has sent for ever.
#[tokio::test]
async fn a_head_larger_than_its_limit_is_refused() {
    let lab = Lab::with(Limits { head: 16 << 10, ..Limits::default() }, |_| {}).await;
    let mut client = UnixStream::connect(&lab.socket).await.unwrap();
    let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: {}", "x".repeat(64 << 10));
    // It may be refused before all of it is sent.
    let _ = client.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, client.read_to_end(&mut answer)).await.expect("it is refused");
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
}
