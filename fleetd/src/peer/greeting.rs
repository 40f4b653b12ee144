//! The two lines between the handshake and the first request: who calls, and whether it is answered.
//!
//! They come before HTTP, so that nothing of a caller's request is read until its certificate was compared.

use std::io;

use fleet_core::MachineId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Says the protocol's version, so that a later one can be told from it.
const HELLO: &str = "fleet-peer/1 ";
const WELCOME: &str = "welcome";
/// More than any of these lines has.
const MAX_LINE: usize = 512;

/// The caller's side: says who it is and reads the answer.
///
/// # Errors
/// A broken connection; `PermissionDenied` with what the other side says.
pub(super) async fn introduce<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    own: &MachineId,
) -> io::Result<()> {
    stream.write_all(format!("{HELLO}{own}\n").as_bytes()).await?;
    stream.flush().await?;
    match read_line(stream).await?.as_str() {
        WELCOME => Ok(()),
        refusal => Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal.to_owned())),
    }
}

/// The listener's side: who calls, as they say.
///
/// # Errors
/// A broken connection; `InvalidData` for anything but the greeting of this version.
pub(super) async fn hear<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<MachineId> {
    let line = read_line(stream).await?;
    let machine = line.strip_prefix(HELLO).and_then(|id| MachineId::parse(id).ok());
    machine.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not the greeting of a fleetd"))
}

/// # Errors
/// A broken connection.
pub(super) async fn welcome<S: AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.write_all(format!("{WELCOME}\n").as_bytes()).await?;
    stream.flush().await
}

/// # Errors
/// A broken connection.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, why: &str) -> io::Result<()> {
    let line: String = why.chars().filter(|c| !c.is_control()).take(MAX_LINE / 4).collect();
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    stream.shutdown().await
}

/// Byte by byte, so that nothing behind the line is taken.
async fn read_line<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            _ if line.len() == MAX_LINE => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
            }
            byte => line.push(byte),
        }
    }
    String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the line is not UTF-8"))
}
