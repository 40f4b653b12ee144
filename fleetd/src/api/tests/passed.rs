//! Taking sockets from the environment, in a process that gets them as systemd hands them over.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

use super::super::passed::{Socket, take};
use super::child;

const TEST: &str =
    "api::tests::passed::sockets_are_taken_from_descriptor_three_on_and_only_from_who_is_meant";
/// Descriptors 3 and 4 are standard input, which is the socket.
const HAND_OVER: &str =
    "exec 3<&0 4<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=one:two exec \"$@\"";

#[tokio::test]
async fn sockets_are_taken_from_descriptor_three_on_and_only_from_who_is_meant() {
    match child::role().as_deref() {
        Some("takes") => {
            let taken = take().unwrap();
            let names: Vec<&str> = taken.iter().map(|passed| passed.name.as_str()).collect();
            assert_eq!(names, ["one", "two"]);
            let own = std::env::var("SOCKET").unwrap();
            for passed in &taken {
                let Socket::Unix(socket) = &passed.socket else { panic!("{passed:?}") };
                assert_eq!(socket.local_addr().unwrap().as_pathname().unwrap().to_str(), Some(own.as_str()));
            }
            assert!(std::env::var("LISTEN_FDS").is_err(), "a child would take it for its own");
            assert!(take().unwrap().is_empty());
        }
        Some("refuses") => {
            let error = take().unwrap_err().to_string();
            assert!(
                error.starts_with("descriptor 3 (one), which systemd passed, cannot be used: "),
                "{error}"
            );
            assert!(error.contains("it is no stream socket"), "{error}");
        }
        Some(_) => assert!(take().unwrap().is_empty()),
        None => {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("s");
            let socket = UnixListener::bind(&path).unwrap();
            let hand_over = |role: &str, script: &str, socket: OwnedFd| {
                let mut command = child::command(TEST, role, script);
                command.env("SOCKET", &path).stdin(socket).spawn().unwrap()
            };
            let again = || OwnedFd::from(socket.try_clone().unwrap());
            child::succeeds(hand_over("takes", HAND_OVER, again())).await;
            let to_another = HAND_OVER.replace("LISTEN_PID=$$", "LISTEN_PID=1");
            child::succeeds(hand_over("another's", &to_another, again())).await;
            let datagram = UnixDatagram::bind(directory.path().join("d")).unwrap();
            child::succeeds(hand_over("refuses", HAND_OVER, datagram.into())).await;
            assert!(path.exists());
        }
    }
}
