//! Waiting until the cluster has done what was asked.
//!
//! [`Waiter`] is the judgement, without I/O; [`wait`] feeds it the server's stream and the time, and opens the stream
//! again when it breaks, until the time is over.

mod waiter;

use std::time::Duration;

use fleet_api::client::{ClientError, NdjsonStream};
use fleet_api::v2::{WaitFor, WaitLine, WaitRequest, WaitUnit};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::output::progress::Live;
use crate::report;
use waiter::Waiter;
pub use waiter::{Goal, Outcome};

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
    Wait { connection, units, waiter, live, settled, trouble: None }.run().await
}

/// The I/O around a [`Waiter`].
struct Wait<'a, S> {
    connection: &'a Connection,
    units: Vec<WaitUnit>,
    waiter: Waiter,
    live: &'a mut Live,
    settled: S,
    /// Why there is no stream now.
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
                Some(Ok(stream)) => self.follow(stream).await?,
                Some(Err(error)) if error.api().is_some_and(|(status, _)| status < 500) => {
                    // The server understood and refuses: asking again would get the same answer.
                    let refused = self.waiter.end(&Outcome::Unreachable(error.to_string()));
                    return self.report(refused);
                }
                Some(Err(error)) => self.without_stream(&error),
                None => {}
            }
            if self.waiter.is_over() {
                break;
            }
            // Not in a tight loop: a server that is being restarted needs a moment.
            tokio::time::sleep_until(deadline.min(Instant::now() + BETWEEN_STREAMS)).await;
            let now = Instant::now();
            let ended = match self.trouble.take() {
                Some(trouble) if now >= deadline => self.waiter.end(&Outcome::Unreachable(trouble)),
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

    fn without_stream(&mut self, error: &ClientError) {
        // 503: fleetd is there and cannot reach the registry.
        let no_registry = error.api().is_some_and(|(status, _)| status == 503);
        self.waiter.line(WaitLine::NoRegistry { no_registry, since: 0 }, Instant::now());
        self.trouble = (!no_registry).then(|| error.to_string());
    }

    /// Until everything is settled, the stream ends, or the time is over.
    async fn follow(&mut self, mut stream: NdjsonStream) -> Result<(), E> {
        self.waiter.forget_silence();
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
                    self.trouble = Some(error.to_string());
                    return Ok(());
                }
                Some(Ok(Some(line))) => {
                    self.show(&line);
                    self.waiter.line(line, Instant::now()).into_iter().collect()
                }
                Some(Ok(None)) => return Ok(()),
                Some(Err(error)) => {
                    self.trouble = Some(error.to_string());
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
