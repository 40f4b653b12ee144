//! `fleetctl fd-forward`: connects standard input and output with a socket. Clients that tunnel through SSH run it on a
//! machine of the cluster, so its name and argument are fixed.

use clap::Args;
use tokio::io::{AsyncWriteExt, copy, stdin, stdout};
use tokio::net::UnixStream;

use crate::exit::Exit;
use crate::output;

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
    let (mut from_server, mut to_server) = stream.into_split();
    let sending = async {
        copy(&mut stdin(), &mut to_server).await?;
        // The client has said all; the answer is still to come.
        to_server.shutdown().await
    };
    let receiving = async {
        let mut out = stdout();
        copy(&mut from_server, &mut out).await?;
        out.flush().await
    };
    // When the server closes there is nobody left to send to.
    tokio::pin!(sending, receiving);
    tokio::select! {
        received = &mut receiving => received?,
        sent = &mut sending => {
            sent?;
            receiving.await?;
        }
    }
    Ok(Exit::DONE)
}
