//! The client against a server that answers with canned bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fleet_api::client::{Client, ClientError, Endpoint, Timeouts};
use fleet_api::v2::{ChangeReport, WaitLine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Answers each request of a connection with the next text; after the last one the connection is closed.
async fn serve(mut stream: UnixStream, answers: &[&str]) {
    for answer in answers {
        let mut request = Vec::new();
        let mut buffer = [0u8; 4096];
        while !request.windows(4).any(|w| w == b"\r\n\r\n") {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => request.extend_from_slice(&buffer[..read]),
            }
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A client of a server whose n-th connection gets the n-th list of answers.
fn client(connections: Vec<Vec<String>>) -> (Client, Arc<AtomicUsize>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).expect("a socket");
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    tokio::spawn(async move {
        for answers in connections {
            let (stream, _) = listener.accept().await.expect("a connection");
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
                serve(stream, &answers).await;
            });
        }
        std::future::pending::<()>().await;
    });
    let endpoint = Endpoint::parse(&format!("unix://{}", path.display())).expect("an endpoint");
    (Client::new(endpoint, Timeouts::default()), accepted, dir)
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let (client, accepted, _dir) = client(vec![vec![ok("{}"), ok(r#"{"results":[]}"#), ok("text")]]);
    client.get::<ChangeReport>("/a").await.unwrap();
    client.post::<ChangeReport>("/b", &serde_json::json!({"x": 1})).await.unwrap();
    assert_eq!(client.get_bytes("/c").await.unwrap(), "text");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_kept_connection_that_died_is_replaced_without_a_word() {
    let (client, accepted, _dir) = client(vec![vec![ok("{}")], vec![ok("{}")]]);
    client.get::<ChangeReport>("/a").await.unwrap();
    client.get::<ChangeReport>("/a").await.unwrap();
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn errors_carry_the_servers_words() {
    let body = r#"{"error":{"code":404,"message":"unit does not exist"}}"#;
    let not_found = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let bare = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops".to_owned();
    let (client, _, _dir) = client(vec![vec![not_found.clone(), not_found, bare]]);
    let error = client.get::<ChangeReport>("/a").await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "googleapi: Error 404: unit does not exist");
    assert!(client.get_stream("/a").await.unwrap_err().is_not_found());
    let error = client.get::<ChangeReport>("/a").await.unwrap_err();
    assert_eq!(error.to_string(), "googleapi: got HTTP response code 500 with body: oops");
}

#[tokio::test]
async fn lines_of_a_stream_are_read_however_they_are_cut() {
    let chunks = ["{\"heart", "beat\":true}\n\n{\"unit\":\"a.ser", "vice\"}\n{\"noLeader\":true}"];
    let mut answer = String::from("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunk in chunks {
        answer.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    answer.push_str("0\r\n\r\n");
    let (client, _, _dir) = client(vec![vec![answer]]);
    let mut stream = client.get_stream("/a").await.unwrap();
    assert_eq!(stream.next::<WaitLine>().await.unwrap(), Some(WaitLine::Heartbeat { heartbeat: true }));
    assert!(matches!(stream.next().await.unwrap(), Some(WaitLine::Progress(p)) if p.unit == "a.service"));
    assert_eq!(
        stream.next::<WaitLine>().await.unwrap(),
        Some(WaitLine::NoLeader { no_leader: true, since: 0 })
    );
    assert_eq!(stream.next::<WaitLine>().await.unwrap(), None);
}

#[tokio::test]
async fn a_stream_cut_off_in_the_middle_is_an_error() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a\":".to_owned();
    let (client, _, _dir) = client(vec![vec![answer]]);
    let mut stream = client.get_stream("/a").await.unwrap();
    assert!(stream.next::<WaitLine>().await.unwrap_err().is_interrupted());
}

#[tokio::test(start_paused = true)]
async fn every_wait_of_the_client_is_bounded() {
    // The other ends stay open and say nothing.
    let (kept, keep) = std::sync::mpsc::channel();
    let silent = Client::over(
        "a silent server",
        move || {
            let (near, far) = tokio::io::duplex(4096);
            kept.send(far).unwrap();
            async move { Ok(near) }
        },
        Timeouts { response: Duration::from_secs(7), ..Timeouts::default() },
    );
    let error = silent.get_bytes("/a").await.unwrap_err();
    assert!(matches!(error, ClientError::ResponseTimeout { .. }), "{error}");
    drop(keep);

    let unconnectable = Client::over(
        "a far server",
        std::future::pending::<std::io::Result<tokio::io::DuplexStream>>,
        Timeouts::default(),
    );
    let error = unconnectable.get_bytes("/a").await.unwrap_err();
    assert!(matches!(error, ClientError::ConnectTimeout { .. }) && error.is_unreachable(), "{error}");
}

#[tokio::test]
async fn a_missing_socket_is_named_with_what_to_do() {
    let endpoint = Endpoint::parse("unix:///nonexistent/fleet.sock").unwrap();
    let error = Client::new(endpoint, Timeouts::default()).get_bytes("/a").await.unwrap_err();
    assert!(error.is_unreachable());
    assert!(error.to_string().starts_with("cannot connect to unix:///nonexistent/fleet.sock: "), "{error}");
}
