//! `fleetctl fd-forward`: connects standard input and output with a socket. Clients that tunnel through SSH run it on a
//! machine of the cluster, so its name and argument are fixed.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, stdin, stdout};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

use crate::exit::Exit;
use crate::output;

/// How long the answer to a client that has said all may be silent before the server is told so. fleetd takes a client
/// that has ended for one that is gone and gives its answer up, and other servers keep the connection until they are
/// told: nothing is lost of an answer that comes within this time, and nobody stays longer than it.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Forward standard input and output to a socket
#[derive(Args, Debug)]
pub struct FdForward {
    #[arg(value_name = "SOCKET")]
    pub sockets: Vec<String>,
}

pub async fn run(command: FdForward) -> anyhow::Result<Exit> {
    let [path] = command.sockets.as_slice() else {
        output::note("Provide a single argument");
        return Ok(Exit::FAILED);
    };
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            output::note(format!("Failed dialing remote address: {error}"));
            return Ok(Exit::FAILED);
        }
    };
    tokio::select! {
        forwarded = forward(stream, stdin(), stdout()) => forwarded?,
        () = nobody_reads() => {}
    }
    Ok(Exit::DONE)
}

/// Until whoever reads standard output has gone, as a client that is killed. What cannot be watched, such as a file, is
/// always read.
async fn nobody_reads() {
    // Unchecked: it is only watched, and stays a blocking one for whoever writes.
    let watched = io::stdout().as_fd().try_clone_to_owned().and_then(pipe::Sender::from_owned_fd_unchecked);
    let Ok(out) = watched else { return std::future::pending().await };
    let _gone = out.ready(Interest::ERROR).await;
}

/// Both ways until the server has ended: who has said all still gets its answer, and when the server closes there is
/// nobody left to send to.
async fn forward(
    stream: UnixStream,
    client: impl AsyncRead + Unpin,
    mut out: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut from_server, mut to_server) = stream.into_split();
    let (heard, is_passing_on) = (Notify::new(), Cell::new(false));
    let sending = async {
        let mut client = client;
        match tokio::io::copy(&mut client, &mut to_server).await {
            // A server that reads no further may still answer.
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return Err(error);
            }
            _ => {}
        }
        // An answer that waits for the client to read it is not silent.
        while tokio::time::timeout(ANSWER_WITHIN, heard.notified()).await.is_ok() || is_passing_on.get() {}
        // The server has no use for it if it does not listen any more.
        let _ended = to_server.shutdown().await;
        std::future::pending().await
    };
    let receiving = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            is_passing_on.set(true);
            out.write_all(&buffer[..read]).await?;
            out.flush().await?;
            is_passing_on.set(false);
            heard.notify_one();
        }
    };
    // Each goes on while the other waits; that of the server decides.
    tokio::select! {
        received = receiving => received,
        failed = sending => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client that says `ask` and ends gets from `server`.
    async fn answered<S: Future<Output = io::Result<()>>>(server: impl FnOnce(UnixStream) -> S) -> String {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut out = Vec::new();
        let (forwarded, served) = tokio::join!(forward(ours, &b"ask"[..], &mut out), server(theirs));
        forwarded.unwrap();
        served.unwrap();
        String::from_utf8(out).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_said_all_gets_the_answer_of_a_server_that_would_give_it_up() {
        let answer = answered(async |mut stream: UnixStream| {
            let mut asked = [0; 3];
            stream.read_exact(&mut asked).await?;
            let mut rest = [0; 1];
            tokio::select! {
                ended = stream.read(&mut rest) => assert_ne!(ended?, 0, "the client is taken for gone"),
                () = tokio::time::sleep(ANSWER_WITHIN / 2) => stream.write_all(b"answer").await?,
            }
            Ok(())
        });
        assert_eq!(answer.await, "answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_waits_for_the_end_of_the_client_is_told() {
        let answer = answered(async |mut stream: UnixStream| {
            let mut asked = String::new();
            stream.read_to_string(&mut asked).await?;
            stream.write_all(format!("{asked}ed").as_bytes()).await
        });
        assert_eq!(answer.await, "asked");
    }
}
