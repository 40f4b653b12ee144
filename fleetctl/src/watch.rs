//! Following a list: what `--watch` shows, kept up to date from the API's events.
//!
//! Called by the commands that list. Nothing here asks at intervals: the server says when something has changed. A
//! connection that ends is opened again and goes on where it ended.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use fleet_api::client::{ClientError, EventStream, Received};
use fleet_api::v2::{
    Deleted, MachineList, MachineView, StateList, StateView, UnitList, UnitView, WatchEvent, WatchKind,
};
use tokio::time::{Instant, sleep_until};

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::output;
use crate::output::watch::Screen;

/// Before the stream is opened again, after it was read; longer at each attempt that fails, up to the second.
const BETWEEN_ATTEMPTS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// From one print to the next: changes that come close together are printed together.
const BETWEEN_PRINTS: Duration = Duration::from_millis(100);

/// The rows that are in the list now, by what names them.
#[derive(Debug, Default)]
pub struct Rows {
    units: BTreeMap<String, UnitView>,
    states: BTreeMap<(String, String), StateView>,
    machines: BTreeMap<String, MachineView>,
    revision: i64,
}

impl Rows {
    pub fn units(&self) -> UnitList {
        let units = self.units.values().cloned().collect();
        UnitList { revision: self.revision, units, ..UnitList::default() }
    }

    pub fn states(&self) -> StateList {
        StateList { revision: self.revision, states: self.states.values().cloned().collect() }
    }

    pub fn machines(&self) -> MachineList {
        MachineList { revision: self.revision, machines: self.machines.values().cloned().collect() }
    }

    /// Whether a row has changed.
    fn take(&mut self, event: WatchEvent) -> bool {
        match event {
            WatchEvent::Unit(view) => drop(self.units.insert(view.name.clone(), *view)),
            WatchEvent::State(view) => {
                drop(self.states.insert((view.unit.clone(), view.machine.clone()), *view));
            }
            WatchEvent::Machine(view) => drop(self.machines.insert(view.id.clone(), *view)),
            WatchEvent::Deleted(Deleted { kind, name, machine }) => match kind {
                WatchKind::Unit => drop(self.units.remove(&name)),
                WatchKind::State => drop(self.states.remove(&(name, machine.unwrap_or_default()))),
                WatchKind::Machine => drop(self.machines.remove(&name)),
            },
            WatchEvent::Reset(_) => *self = Rows::default(),
            WatchEvent::Synced(_) | WatchEvent::Registry(_) | WatchEvent::Other(_) => return false,
        }
        true
    }
}

/// Shows the list of one kind until Ctrl-C. `text` is what is shown of the rows; `has_documents` says that it is for
/// programs.
///
/// # Errors
/// An output that cannot be written.
pub async fn follow(
    connection: &Connection,
    kind: WatchKind,
    has_documents: bool,
    text: impl FnMut(&Rows) -> anyhow::Result<String>,
) -> anyhow::Result<Exit> {
    let screen = Screen::new(has_documents);
    let mut list = Following { connection, kind, text, screen, told: Told::default(), is_lost: false };
    // Dropping what is under way loses nothing that anybody waits for.
    tokio::select! {
        ended = list.run() => ended,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(Exit::DONE)
        }
    }
}

/// What was told, and from where a stream that breaks goes on.
#[derive(Debug, Default)]
struct Told {
    rows: Rows,
    /// The last id that was received.
    since: Option<String>,
    /// Some of what follows that id was told: the rest is told by no stream that begins there.
    is_within: bool,
}

impl Told {
    /// Whether a row has changed.
    fn take(&mut self, received: Received) -> bool {
        let has_changed = self.rows.take(received.event);
        self.is_within |= has_changed;
        if let Some(id) = received.id {
            let revision = id.rsplit('-').next().and_then(|revision| revision.parse().ok());
            self.rows.revision = revision.unwrap_or(self.rows.revision);
            self.since = Some(id);
            self.is_within = false;
        }
        has_changed
    }

    /// The id for the next stream; without one, everything comes anew.
    fn goes_on(&mut self) -> Option<&str> {
        if self.is_within || self.since.is_none() {
            *self = Told::default();
        }
        self.since.as_deref()
    }
}

/// The time before the next attempt, of which a part is chance: streams that broke together do not come back together.
fn before(attempt: u32) -> Duration {
    let (first, most) = BETWEEN_ATTEMPTS;
    let longest = first.saturating_mul(1 << attempt.min(10)).min(most);
    let chance = RandomState::new().build_hasher().finish() % 1_000;
    longest.mul_f64(0.5 + chance as f64 / 2_000.0)
}

struct Following<'c, F> {
    connection: &'c Connection,
    kind: WatchKind,
    text: F,
    screen: Screen,
    told: Told,
    /// The user was told that what is shown may be old.
    is_lost: bool,
}

impl<F: FnMut(&Rows) -> anyhow::Result<String>> Following<'_, F> {
    async fn run(&mut self) -> anyhow::Result<Exit> {
        let mut attempt = 0;
        loop {
            let why = match self.connection.watch(self.kind, self.told.goes_on()).await {
                Ok(stream) => {
                    let why = self.read(stream).await?;
                    // Otherwise it broke before it brought anything.
                    attempt = if self.is_lost { attempt + 1 } else { 0 };
                    why
                }
                Err(error) if self.is_over(&error) => {
                    output::note(format!("Error following the list: {error}"));
                    return Ok(change::exit_of(&error));
                }
                Err(error) => {
                    attempt += 1;
                    error.to_string()
                }
            };
            self.lost(&format!("The connection is lost ({why})"));
            tokio::time::sleep(before(attempt)).await;
        }
    }

    /// At first every error is for the user. Later only those that do not pass by themselves.
    fn is_over(&self, error: &ClientError) -> bool {
        let is_refused = error.api().is_some_and(|(status, _)| status < 500);
        self.screen.is_empty() || is_refused
    }

    /// Why the stream ended.
    async fn read(&mut self, mut stream: EventStream) -> anyhow::Result<String> {
        let mut has_changed = self.is_lost || self.screen.is_empty();
        let mut print_at = Instant::now();
        loop {
            // Within a revision the rows do not fit together, and before the first id there is no list.
            let is_due = has_changed && !self.told.is_within && self.told.since.is_some() && !self.is_lost;
            if is_due && print_at <= Instant::now() {
                has_changed = false;
                self.screen.show((self.text)(&self.told.rows)?)?;
                print_at = Instant::now() + BETWEEN_PRINTS;
                continue;
            }
            // All arms are cancel safe.
            let received = tokio::select! {
                () = sleep_until(print_at), if is_due => continue,
                received = stream.next() => received,
            };
            let why = match received {
                Ok(Some(received)) => {
                    has_changed |= self.take(received);
                    continue;
                }
                Ok(None) => "it was closed".to_owned(),
                Err(error) => error.to_string(),
            };
            if is_due {
                self.screen.show((self.text)(&self.told.rows)?)?;
            }
            return Ok(why);
        }
    }

    /// Whether something else is to be shown.
    fn take(&mut self, received: Received) -> bool {
        let mut has_changed = false;
        if let WatchEvent::Registry(registry) = &received.event {
            if registry.answers {
                has_changed |= std::mem::take(&mut self.is_lost);
            } else {
                self.lost(&format!("The registry does not answer ({})", registry.text));
            }
        }
        if received.id.is_some() {
            self.is_lost = false;
        }
        self.told.take(received) || has_changed
    }

    fn lost(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_lost, true) {
            self.screen.note(&format!("{why}; what is shown may be old. Trying again"));
        }
    }
}

#[cfg(test)]
mod tests {
    use fleet_api::v2::Synced;

    use super::*;

    fn unit(name: &str, id: Option<&str>) -> Received {
        let view = UnitView { name: name.into(), ..UnitView::default() };
        Received { event: WatchEvent::Unit(Box::new(view)), id: id.map(str::to_owned) }
    }

    #[test]
    fn a_stream_that_breaks_within_a_revision_begins_anew_and_another_goes_on() {
        let mut told = Told::default();
        assert_eq!(told.goes_on(), None);
        told.take(unit("a.service", None));
        told.take(Received { event: WatchEvent::Synced(Synced { revision: 7 }), id: Some("c.1-u-7".into()) });
        assert_eq!(told.goes_on(), Some("c.1-u-7"));
        assert_eq!(told.rows.units().revision, 7);
        told.take(unit("b.service", Some("c.1-u-9")));
        assert_eq!(told.goes_on(), Some("c.1-u-9"));
        assert_eq!(told.rows.units().revision, 9);
        told.take(unit("a.service", None));
        assert_eq!(told.goes_on(), None);
        assert!(told.rows.units().units.is_empty());
    }

    #[test]
    fn attempts_that_fail_become_rarer() {
        for (attempt, most) in [(0, 200), (1, 400), (3, 1_600), (5, 5_000), (99, 5_000)] {
            let wait = before(attempt).as_millis();
            assert!((most / 2..=most).contains(&wait), "{attempt}: {wait}");
        }
    }
}
