//! What a running fleet 1.0 says of itself: all pages of its units, states and machines, from its API or from a file that
//! an earlier call has saved. Called by `import`; reads and writes nothing else.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fleet_api::client::{Client, ClientError, Endpoint, EndpointError, Timeouts};
use fleet_api::v1::{Machine, MachinePage, Unit, UnitPage, UnitState, UnitStatePage};
use fleet_api::{paths, v1};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::output;

/// fleet 1.0's pages of 100 end after 65,535 of them.
const MOST_PAGES: usize = 65_535;
const VERSION: u32 = 1;

/// A whole fleet. Each list by name or id, each entry once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    pub version: u32,
    /// Where it was read.
    pub from: String,
    pub units: Vec<Unit>,
    pub states: Vec<UnitState>,
    pub machines: Vec<Machine>,
}

/// Why there is nothing to import from.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("--from: {0}")]
    Endpoint(#[from] EndpointError),
    #[error(
        "cannot read {what} of the fleet at {from}: {source}; --from names the socket or address of a fleetd 1.0 that \
         runs (unix:///run/fleet.sock, http://HOST:49153), --file what --save has written"
    )]
    Read { what: &'static str, from: String, source: Box<ClientError> },
    #[error("the fleet at {from} hands out pages of {what} without end; its token_limit may be 0")]
    Endless { what: &'static str, from: String },
    #[error("cannot read {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is not what --save writes: {source}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{} was saved by a later fleetctl (version {version}); use that one", path.display())]
    Later { path: PathBuf, version: u32 },
    #[error("cannot save to {}: {source}; name a file that does not exist", path.display())]
    Save { path: PathBuf, source: io::Error },
}

trait Page: DeserializeOwned {
    type Entry;
    fn split(self) -> (Vec<Self::Entry>, String);
}

macro_rules! page {
    ($page:ty, $entry:ty, $field:ident) => {
        impl Page for $page {
            type Entry = $entry;
            fn split(self) -> (Vec<$entry>, String) {
                (self.$field, self.next_page_token)
            }
        }
    };
}
page!(UnitPage, Unit, units);
page!(UnitStatePage, UnitState, states);
page!(MachinePage, Machine, machines);

impl Fleet {
    /// Reads a fleet that runs. Takes one request for each page.
    ///
    /// # Errors
    /// `from` is no endpoint; nobody answers there, or not as fleet 1.0 does.
    pub async fn of_api(from: &str, timeouts: Timeouts) -> Result<Fleet, SourceError> {
        let client = Client::new(Endpoint::parse(from)?, timeouts);
        let units = pages::<UnitPage>(&client, from, "units", "units").await?;
        output::note(format!("Read {} units from {from}.", units.len()));
        let states = pages::<UnitStatePage>(&client, from, "states", "state").await?;
        let machines = pages::<MachinePage>(&client, from, "machines", "machines").await?;
        output::note(format!("Read {} states and {} machines.", states.len(), machines.len()));
        Ok(Fleet { version: VERSION, from: from.to_owned(), units, states, machines }.sorted())
    }

    /// # Errors
    /// The file cannot be read, or [`Fleet::save`] has not written it.
    pub fn of_file(path: &Path) -> Result<Fleet, SourceError> {
        let bytes =
            std::fs::read(path).map_err(|source| SourceError::Open { path: path.to_owned(), source })?;
        let fleet: Fleet = serde_json::from_slice(&bytes)
            .map_err(|source| SourceError::Parse { path: path.to_owned(), source })?;
        if fleet.version > VERSION {
            return Err(SourceError::Later { path: path.to_owned(), version: fleet.version });
        }
        Ok(fleet.sorted())
    }

    /// Writes a new file, readable by its owner alone: unit files may hold secrets.
    ///
    /// # Errors
    /// It is there already, or cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), SourceError> {
        let fail = |source| SourceError::Save { path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| fail(error.into()))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(fail)
    }

    /// Pages are read one after the other, so that what moved between two of them is in both.
    fn sorted(mut self) -> Fleet {
        let mut names = BTreeSet::new();
        self.units.retain(|unit| names.insert(unit.name.clone()));
        self.units.sort_by(|a, b| a.name.cmp(&b.name));
        let mut ids = BTreeSet::new();
        self.machines.retain(|machine| ids.insert(machine.id.clone()));
        self.machines.sort_by(|a, b| a.id.cmp(&b.id));
        self
    }
}

async fn pages<P: Page>(
    client: &Client,
    from: &str,
    what: &'static str,
    path: &str,
) -> Result<Vec<P::Entry>, SourceError> {
    let path = format!("{}/{path}", paths::V1);
    let (mut entries, mut token, mut seen) = (Vec::new(), String::new(), BTreeSet::new());
    for _ in 0..MOST_PAGES {
        let query = (!token.is_empty()).then_some(("nextPageToken", token.as_str()));
        let asked = paths::with_query(&path, query);
        let page: P = client.get(&asked).await.map_err(|source| SourceError::Read {
            what,
            from: from.to_owned(),
            source: source.into(),
        })?;
        let (more, next) = page.split();
        entries.extend(more);
        if next.is_empty() {
            return Ok(entries);
        }
        if !seen.insert(next.clone()) {
            break;
        }
        token = next;
    }
    Err(SourceError::Endless { what, from: from.to_owned() })
}

/// The options of a unit of fleet 1.0 as this project reads them.
pub fn options(unit: &Unit) -> Vec<unit_files::UnitOption> {
    unit.options.iter().cloned().map(|option: v1::UnitOption| option.into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_back_and_never_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.json");
        let unit = |name: &str| Unit { name: name.into(), ..Unit::default() };
        let fleet = Fleet {
            version: VERSION,
            from: "unix:///run/fleet.sock".into(),
            units: vec![unit("b.service"), unit("a.service"), unit("b.service")],
            ..Fleet::default()
        };
        fleet.save(&path).unwrap();
        let names = Fleet::of_file(&path).unwrap().units.into_iter().map(|unit| unit.name);
        assert_eq!(names.collect::<Vec<_>>(), ["a.service", "b.service"]);
        let again = fleet.save(&path).unwrap_err().to_string();
        assert!(again.contains("name a file that does not exist"), "{again}");
    }

    #[test]
    fn another_file_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        std::fs::write(&path, "{}").unwrap();
        assert!(Fleet::of_file(&path).unwrap_err().to_string().contains("is not what --save writes"));
        std::fs::write(&path, r#"{"version":9,"from":"","units":[],"states":[],"machines":[]}"#).unwrap();
        assert!(Fleet::of_file(&path).unwrap_err().to_string().contains("later fleetctl"));
    }
}
