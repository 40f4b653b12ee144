//! Following a list: what `--watch` shows, kept up to date from the API's events.
//!
//! Called by the commands that list. Nothing here asks at intervals: the server says when something has changed. A
//! connection that ends is opened again and goes on where it ended.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_api::client::{ClientError, EventStream};
use fleet_api::v2::{
    Deleted, MachineList, MachineView, StateList, StateView, UnitList, UnitView, WatchEvent, WatchKind,
};

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::output;
use crate::output::watch::Screen;

/// Between two attempts to open the stream again.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);

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
    let mut list =
        Following { connection, kind, text, screen, rows: Rows::default(), since: None, is_lost: false };
    // Dropping what is under way loses nothing that anybody waits for.
    tokio::select! {
        ended = list.run() => ended,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(Exit::DONE)
        }
    }
}

struct Following<'c, F> {
    connection: &'c Connection,
    kind: WatchKind,
    text: F,
    screen: Screen,
    rows: Rows,
    /// The last id that was received.
    since: Option<String>,
    /// The user was told that what is shown may be old.
    is_lost: bool,
}

impl<F: FnMut(&Rows) -> anyhow::Result<String>> Following<'_, F> {
    async fn run(&mut self) -> anyhow::Result<Exit> {
        loop {
            let why = match self.connection.watch(self.kind, self.since.as_deref()).await {
                Ok(stream) => self.read(stream).await?,
                Err(error) if self.is_over(&error) => {
                    output::note(format!("Error following the list: {error}"));
                    return Ok(change::exit_of(&error));
                }
                Err(error) => error.to_string(),
            };
            self.lost(&format!("The connection is lost ({why})"));
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
    }

    /// At first every error is for the user. Later only those that do not pass by themselves.
    fn is_over(&self, error: &ClientError) -> bool {
        let is_refused = error.api().is_some_and(|(status, _)| status < 500);
        self.screen.is_empty() || is_refused
    }

    /// Why the stream ended.
    async fn read(&mut self, mut stream: EventStream) -> anyhow::Result<String> {
        if self.since.is_none() {
            self.rows = Rows::default();
        }
        let mut has_changed = self.is_lost || self.screen.is_empty();
        loop {
            let received = match stream.next().await {
                Ok(Some(received)) => received,
                Ok(None) => return Ok("it was closed".to_owned()),
                Err(error) => return Ok(error.to_string()),
            };
            if let WatchEvent::Registry(registry) = &received.event {
                if registry.answers {
                    has_changed |= std::mem::take(&mut self.is_lost);
                } else {
                    self.lost(&format!("The registry does not answer ({})", registry.text));
                }
            }
            has_changed |= self.rows.take(received.event);
            // Within a revision the rows do not fit together.
            let Some(id) = received.id else { continue };
            self.rows.revision = id.parse().unwrap_or(self.rows.revision);
            self.since = Some(id);
            self.is_lost = false;
            if std::mem::take(&mut has_changed) {
                self.screen.show((self.text)(&self.rows)?)?;
            }
        }
    }

    fn lost(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_lost, true) {
            self.screen.note(&format!("{why}; what is shown may be old. Trying again"));
        }
    }
}
