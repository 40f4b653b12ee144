//! `systemctl status` and `journalctl` on this machine, as child processes with bounded output and time.
//!
//! Used for units of this machine by the API and, for other machines' clients, by the peer listener. Reads only. Each of
//! the two has its own bound on how many run, so that clients here take none from those elsewhere.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use fleet_api::ApiError;
use fleet_api::v2::{JournalLine, MachineRef, StatusReport};
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use unit_files::UnitName;

use super::Failure;
use super::query::Query;

/// How many run at once. A client that stops reading keeps its `journalctl` until it is dropped; twice this, for clients
/// here and elsewhere, is half of `TasksMax=` in `fleetd.service`.
const CHILDREN: usize = 64;
/// What one `systemctl status` may print; it shows ten lines of the journal.
const STATUS_BYTES: u64 = 1 << 20;
const STATUS_TIME: Duration = Duration::from_secs(6);
/// One piece of a journal's text.
const PIECE_BYTES: usize = 64 * 1024;
/// How much of what a child says on its error output is shown.
const ERROR_BYTES: u64 = 16 * 1024;
/// Formats of `journalctl --output=`.
const OUTPUTS: [&str; 16] = [
    "short",
    "short-full",
    "short-iso",
    "short-iso-precise",
    "short-precise",
    "short-monotonic",
    "short-delta",
    "short-unix",
    "verbose",
    "export",
    "json",
    "json-pretty",
    "json-sse",
    "json-seq",
    "cat",
    "with-unit",
];

/// The programs of this machine.
#[derive(Clone, Debug)]
pub struct LocalTools {
    pub systemctl: PathBuf,
    pub journalctl: PathBuf,
    /// How many more may run. Clones share it.
    pub children: Arc<Semaphore>,
}

impl Default for LocalTools {
    fn default() -> LocalTools {
        LocalTools {
            systemctl: "systemctl".into(),
            journalctl: "journalctl".into(),
            children: Arc::new(Semaphore::new(CHILDREN)),
        }
    }
}

/// What of a journal is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// `None`: all.
    pub lines: Option<u64>,
    pub follow: bool,
    pub output: String,
}

impl JournalOptions {
    pub(crate) fn of_query(query: &Query) -> Result<JournalOptions, Failure> {
        let lines = match query.first("lines") {
            Some("all") => None,
            _ => Some(query.number("lines")?.unwrap_or(10)),
        };
        let output = query.first("output").unwrap_or("short").to_owned();
        if !OUTPUTS.contains(&output.as_str()) {
            let known = OUTPUTS.join(", ");
            return Err(Failure::bad_request(format!("output={output}: expected one of {known}")));
        }
        Ok(JournalOptions { lines, follow: query.is_set("follow"), output })
    }

    /// As a query, in the order of the API's description.
    #[must_use]
    pub fn to_pairs(&self) -> [(&'static str, String); 3] {
        let lines = self.lines.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        [("lines", lines), ("follow", self.follow.to_string()), ("output", self.output.clone())]
    }
}

impl LocalTools {
    /// What `systemctl status` prints of a unit, and its exit code.
    ///
    /// # Errors
    /// Too many run already, the program cannot be run, or does not end in time.
    pub async fn status(&self, machine: MachineRef, unit: &UnitName) -> Result<StatusReport, Failure> {
        let mut command = Command::new(&self.systemctl);
        command.args(["status", "-l", "--no-pager", "--", unit.as_str()]);
        let mut running = self.spawn(&mut command, "systemctl")?;
        let output = async {
            let child = &mut running.child;
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            let (out, err) =
                tokio::join!(read_bounded(stdout, STATUS_BYTES), read_bounded(stderr, ERROR_BYTES));
            (child.wait().await, out, err)
        };
        let Ok((ended, out, err)) = tokio::time::timeout(STATUS_TIME, output).await else {
            return Err(failed("systemctl status", format!("no end within {STATUS_TIME:?}")));
        };
        let ended = ended.map_err(|error| failed("systemctl status", error))?;
        Ok(StatusReport { machine, exit_code: ended.code().unwrap_or(1), text: out + &err })
    }

    /// The journal of a unit as lines of [`JournalLine`]. Dropping the body ends `journalctl`.
    ///
    /// # Errors
    /// Too many run already, or the program cannot be run.
    pub fn journal(
        &self,
        unit: &UnitName,
        options: &JournalOptions,
        heartbeat: Duration,
        shutdown: CancellationToken,
    ) -> Result<Body, Failure> {
        let lines = options.lines.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let mut command = Command::new(&self.journalctl);
        command.arg(format!("--unit={unit}")).args(["--no-pager", "-n", &lines, "-o", &options.output]);
        if options.follow {
            command.arg("-f");
        }
        let mut running = self.spawn(&mut command, "journalctl")?;
        let stdout = running.child.stdout.take();
        let reading = Reading { running, stdout, heartbeat, shutdown, pending: Vec::new() };
        Ok(Body::from_stream(stream::unfold(Some(reading), |reading| async {
            let (line, rest) = reading?.next().await;
            let mut line = serde_json::to_vec(&line).unwrap_or_default();
            line.push(b'\n');
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), rest))
        })))
    }

    /// Starts a program, unless as many run as may.
    fn spawn(&self, command: &mut Command, program: &str) -> Result<Running, Failure> {
        let Ok(_counted) = Arc::clone(&self.children).try_acquire_owned() else { return Err(busy(program)) };
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        match spawned {
            Ok(child) => Ok(Running { child, _counted }),
            // The machine, or fleetd's part of it, has no process to spare.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(busy(program)),
            Err(error) => Err(failed(program, error)),
        }
    }
}

/// A program that is killed, if it has not ended, before another one may take its place.
struct Running {
    child: Child,
    _counted: OwnedSemaphorePermit,
}

struct Reading {
    running: Running,
    stdout: Option<ChildStdout>,
    heartbeat: Duration,
    shutdown: CancellationToken,
    /// The beginning of a line, or of a character, whose end has not been read.
    pending: Vec<u8>,
}

impl Reading {
    /// The next line, and what is left to read after it.
    async fn next(mut self) -> (JournalLine, Option<Reading>) {
        let deadline = Instant::now() + self.heartbeat;
        while let Some(stdout) = &mut self.stdout {
            let mut piece = vec![0; PIECE_BYTES];
            let read = tokio::select! {
                () = self.shutdown.cancelled() => {
                    let error = ApiError::new(503, "fleetd on this machine is stopping").with_remedy("try again");
                    return (JournalLine { error: Some(error), ..JournalLine::default() }, None);
                }
                // Nothing is lost if the heartbeat is first: a read that was not finished took nothing.
                () = tokio::time::sleep_until(deadline) => return (JournalLine::default(), Some(self)),
                read = stdout.read(&mut piece) => read,
            };
            match read {
                Ok(0) | Err(_) => self.stdout = None,
                Ok(count) => {
                    self.pending.extend_from_slice(&piece[..count]);
                    if let Some(text) = self.take_lines() {
                        return (JournalLine { text: Some(text), ..JournalLine::default() }, Some(self));
                    }
                }
            }
        }
        if !self.pending.is_empty() {
            let rest = std::mem::take(&mut self.pending);
            let text = Some(String::from_utf8_lossy(&rest).into_owned());
            return (JournalLine { text, ..JournalLine::default() }, Some(self));
        }
        let errors = read_bounded(self.running.child.stderr.take(), ERROR_BYTES).await;
        let ended = self.running.child.wait().await;
        let code = ended.ok().and_then(|ended| ended.code()).unwrap_or(1);
        let text = Some(errors).filter(|text| !text.is_empty());
        (JournalLine { text, exit_code: Some(code), error: None }, None)
    }

    /// Whole lines, so that no character is cut; a line longer than a piece goes as it is.
    fn take_lines(&mut self) -> Option<String> {
        let end = match self.pending.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if self.pending.len() >= PIECE_BYTES => self.pending.len(),
            None => return None,
        };
        let rest = self.pending.split_off(end);
        let whole = std::mem::replace(&mut self.pending, rest);
        Some(String::from_utf8_lossy(&whole).into_owned())
    }
}

fn busy(program: &str) -> Failure {
    let message =
        format!("this machine runs as many programs for clients as it may, {program} would be one more");
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, message).with_remedy(
        "try again; end a `fleetctl journal` that nobody reads, or ask on the machine with journalctl",
    )
}

fn failed(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{what} on this machine: {why}"))
}

async fn read_bounded<R: AsyncRead + Unpin>(source: Option<R>, limit: u64) -> String {
    let mut bytes = Vec::new();
    if let Some(mut source) = source {
        // What was read before a failure is shown; the rest is read and dropped, so that the child can end.
        let _ = (&mut source).take(limit).read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(&mut source, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
