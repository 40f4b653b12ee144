//! Waiting until the cluster has done what was asked.
//!
//! [`Waiter`] is the judgement, without I/O; [`wait`] feeds it the server's stream and the time, and opens the stream
//! again when it breaks, until the time is over.

mod waiter;

use std::fmt::Display;
use std::time::Duration;

use fleet_api::client::{ClientError, NdjsonStream};
use fleet_api::v2::{WaitFor, WaitLine, WaitRequest, WaitUnit};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::output::progress::Live;
use crate::report;
use waiter::Waiter;
pub use waiter::{Goal, Outcome};

/// Said when not even one attempt came to an end.
const NEVER_HEARD: &str = "no answer from the API before the time was over; check that fleetd runs there";
/// Between two attempts to open the stream again.
const BETWEEN_STREAMS: Duration = Duration::from_millis(500);

/// Waits for `units` and reports each as it settles. Bounded by `limit`.
///
/// # Errors
/// Only what `settled` returns: everything else is an outcome.
pub async fn wait<E>(
    connection: &Connection,
    goal: Goal,
    units: Vec<WaitUnit>,
    limit: Duration,
    live: &mut Live,
    settled: impl FnMut(&mut Live, &str, &Outcome) -> Result<(), E>,
) -> Result<(), E> {
    let deadline = Instant::now() + limit;
    let waiter = Waiter::new(goal, units.iter().map(|unit| unit.unit.clone()), deadline);
    Wait { connection, units, waiter, live, settled, trouble: Some(NEVER_HEARD.to_owned()) }.run().await
}

/// The I/O around a [`Waiter`].
struct Wait<'a, S> {
    connection: &'a Connection,
    units: Vec<WaitUnit>,
    waiter: Waiter,
    live: &'a mut Live,
    settled: S,
    /// Why the API counts as unreachable: what the last attempt to open the stream ended with. That an open stream breaks
    /// is none yet; the next attempt shows.
    trouble: Option<String>,
}

impl<E, S: FnMut(&mut Live, &str, &Outcome) -> Result<(), E>> Wait<'_, S> {
    async fn run(mut self) -> Result<(), E> {
        let deadline = self.waiter.deadline;
        while !self.waiter.is_over() {
            let opened = tokio::select! {
                opened = self.open() => Some(opened),
                () = tokio::time::sleep_until(deadline) => None,
            };
            match opened {
                Some(Ok(stream)) => {
                    self.trouble = None;
                    self.follow(stream).await?;
                }
                Some(Err(error)) if error.api().is_some_and(|(status, _)| status < 500) => {
                    // The server understood and refuses: asking again would get the same answer.
                    let refused = self.waiter.end(&Outcome::Unreachable(error.to_string()));
                    return self.report(refused);
                }
                Some(Err(error)) => self.failed(error.api().map(|(status, _)| status), &error),
                None => {}
            }
            if self.waiter.is_over() {
                break;
            }
            // Not in a tight loop: a server that is being restarted needs a moment.
            tokio::time::sleep_until(deadline.min(Instant::now() + BETWEEN_STREAMS)).await;
            let now = Instant::now();
            let ended = match &self.trouble {
                Some(trouble) if now >= deadline => self.waiter.end(&Outcome::Unreachable(trouble.clone())),
                _ => self.waiter.tick(now),
            };
            self.report(ended)?;
        }
        Ok(())
    }

    async fn open(&self) -> Result<NdjsonStream, ClientError> {
        let left = self.units.iter().filter(|unit| self.waiter.is_pending(&unit.unit)).cloned().collect();
        self.connection.wait(&WaitRequest { units: left, until: WaitFor::Done }).await
    }

    /// There is an answer, or none at all, that is no stream.
    fn failed(&mut self, status: Option<u16>, error: &dyn Display) {
        // 503: fleetd is there and cannot reach the registry.
        if status == Some(503) {
            self.waiter.line(WaitLine::NoRegistry { no_registry: true, since: 0 }, Instant::now());
            self.trouble = None;
        } else {
            self.waiter.forget_silence();
            self.trouble = Some(error.to_string());
        }
    }

    /// Until everything is settled, the stream ends, or the time is over.
    async fn follow(&mut self, mut stream: NdjsonStream) -> Result<(), E> {
        let mut is_new = true;
        while !self.waiter.is_over() {
            self.live.draw();
            let next = tokio::select! {
                next = stream.next::<WaitLine>() => Some(next),
                () = tokio::time::sleep_until(self.waiter.next_tick()) => None,
            };
            let ended = match next {
                None => self.waiter.tick(Instant::now()),
                Some(Ok(Some(WaitLine::Error { error }))) if (400..500).contains(&error.code) => {
                    self.waiter.end(&Outcome::Unreachable(error.to_string()))
                }
                Some(Ok(Some(WaitLine::Error { error }))) => {
                    self.failed(Some(error.code), &error);
                    return Ok(());
                }
                Some(Ok(Some(line))) => {
                    if std::mem::take(&mut is_new) {
                        self.waiter.forget_silence();
                    }
                    self.show(&line);
                    self.waiter.line(line, Instant::now()).into_iter().collect()
                }
                Some(Ok(None) | Err(ClientError::Transport { .. } | ClientError::Body { .. })) => {
                    return Ok(());
                }
                // A server that is silent, or speaks otherwise than this program, is no better than none.
                Some(Err(error)) => {
                    self.failed(None, &error);
                    return Ok(());
                }
            };
            self.report(ended)?;
        }
        Ok(())
    }

    fn show(&mut self, line: &WaitLine) {
        if let WaitLine::Progress(progress) = line
            && self.waiter.is_pending(&progress.unit)
        {
            self.live.set(&progress.unit, report::waits_for(progress));
        }
    }

    fn report(&mut self, ended: Vec<(String, Outcome)>) -> Result<(), E> {
        for (unit, outcome) in ended {
            self.live.remove(&unit);
            (self.settled)(self.live, &unit, &outcome)?;
        }
        Ok(())
    }
}
