//! A machine moves from its own store to the cluster's etcd: with its units, or without them.
//!
//! Called by the API on the operator's word, on a machine whose configuration names an etcd already. The order of the
//! steps is such that a crash after any of them leaves units that run and are nobody else's to place: the machine
//! belongs to the new cluster before its units do. Until its own store is put aside, the request can be repeated.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::v2::{JoinMode, JoinReport, JoinRequest};
use fleet_core::records::{ClusterRecord, Extra, ImportRecord, SCHEMA, Settings, Stamp};
use fleet_core::{ClusterId, Epoch, MachineId, Revision};
use fleet_registry::Registry;
use fleet_registry::embedded::{EmbeddedStore, OpenError};
use fleet_registry::keys::{Area, DEFAULT_PREFIX, Key, Keys};
use fleet_registry::registry::arrival::{Coming, Merged};
use fleet_registry::registry::cluster::Created;
use fleet_registry::registry::document::Export;
use fleet_registry::registry::import::{Imported, Importer};
use fleet_registry::registry::{Asked, RegistryError};
use fleet_registry::store::StoreKind;
use tokio::sync::{Notify, watch};
use tracing::info;
use unit_files::UnitName;

use crate::claim;
use crate::member::{MemberError, MemberFile};
use crate::session::SessionState;
use crate::store::embedded_directory;

/// How long the session may take to join what it has been told.
const JOINS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "this machine's registry is its own store; set etcd_servers in its configuration and restart fleetd first"
    )]
    NoEtcd,
    #[error("units that this machine's own store does not have: {}; without --yes the join prints what it has",
        names.join(", ")
    )]
    NotHere { names: Vec<String> },
    #[error("this machine has no store of its own to come from; it is what `fleetctl cluster status` says")]
    NothingToMove,
    #[error(
        "the cluster has units of the same names: {}; destroy or rename them there, or use --abandon",
        names.join(", ")
    )]
    Taken { names: Vec<String> },
    #[error(
        "the cluster has other units of the names of these: {}; leave them out of --bring, and stop the old ones by hand",
        names.join(", ")
    )]
    Replaced { names: Vec<String> },
    #[error(
        "units of this machine's own store that the cluster does not have: {}; they would belong to nobody. Name those \
         that shall come with --bring, and give the rest up with --leave-missing",
        names.join(", ")
    )]
    Missing { names: Vec<String> },
    #[error(
        "the cluster has these units of this machine's own store on other machines: {}; they have moved since, or the \
         store is a copy of another machine's. The cluster's word counts: stop fleetd, move {} away and start it",
        names.join(", "), store.display()
    )]
    Elsewhere { names: Vec<String>, store: PathBuf },
    #[error(
        "the store holds this machine's own cluster {cluster} with its units, made from an export: a join cannot give \
         them up. Use --adopt: of what the cluster does not have only that comes which --bring names. Destroy what is not \
         wanted"
    )]
    NotAbandoned { cluster: ClusterId },
    #[error(
        "{path} holds something else already ({sample}); choose another etcd_key_prefix, or remove what is there"
    )]
    NotEmpty { path: String, sample: String },
    #[error("{text}; send the same request again when that is done. Until then {remedy}")]
    Underway { cluster: ClusterId, text: String, remedy: String },
    #[error(
        "the session did not join cluster {cluster} within {JOINS_WITHIN:?}; send the same request again"
    )]
    NotJoined { cluster: ClusterId },
    #[error("this machine's own store: {0}")]
    Open(#[from] OpenError),
    #[error(
        "reading this machine's own store broke off ({what}); nothing was changed. See `journalctl -u fleetd`, then send \
         the same request again"
    )]
    BrokeOff { what: String },
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error("{} cannot be put aside; rename it by hand", path.display())]
    PutAside { path: PathBuf, source: std::io::Error },
}

pub struct Join {
    /// The configured one.
    pub registry: Registry,
    pub member: MemberFile,
    pub machine: MachineId,
    pub state_directory: PathBuf,
    pub session: watch::Receiver<SessionState>,
    pub doubt: Arc<Notify>,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Join {
    /// Says what would happen, and with `yes` does it. Idempotent until it is done.
    ///
    /// # Errors
    /// See [`JoinError`]; each says what to do.
    pub async fn join(&self, request: &JoinRequest, asked: &Asked) -> Result<JoinReport, JoinError> {
        if self.registry.store().kind() == StoreKind::Embedded {
            return Err(JoinError::NoEtcd);
        }
        let export = self.own().await?.ok_or(JoinError::NothingToMove)?;
        let found = self.registry.read(&[Area::One(Key::Cluster)]).await?.cluster;
        let to = match (&found, request.mode) {
            (Some(cluster), _) => cluster.value.id.to_string(),
            (None, JoinMode::Adopt) => export.cluster.id.to_string(),
            (None, JoinMode::Abandon) => String::new(),
        };
        let is_ours = found.as_ref().is_some_and(|cluster| cluster.value.id == export.cluster.id);
        let bring = named(&request.bring, &export)?;
        // Made from an export of it: what the cluster does not have may have been destroyed there since.
        let missing = if is_ours { self.registry.missing(&export).await? } else { Vec::new() };
        let (coming, missing) = if is_ours {
            (Coming::Named(&bring), missing.into_iter().filter(|name| !bring.contains(name)).collect())
        } else {
            (Coming::All, BTreeSet::new())
        };
        let taken = if found.is_some() { self.registry.taken(&export).await? } else { Vec::new() };
        let store = embedded_directory(&self.state_directory).display().to_string();
        let mut report = JoinReport {
            machine: self.machine.to_string(),
            from: export.cluster.id.to_string(),
            to,
            units: export.units().filter(|name| !missing.contains(*name)).map(ToString::to_string).collect(),
            missing: missing.iter().map(ToString::to_string).collect(),
            taken: taken.iter().filter(|name| missing.contains(*name)).map(ToString::to_string).collect(),
            store: store.clone(),
            store_before: store,
            done: false,
        };
        match request.mode {
            JoinMode::Abandon if is_ours => {
                return Err(JoinError::NotAbandoned { cluster: export.cluster.id });
            }
            JoinMode::Adopt if is_ours => {
                refuse_replaced(&taken, &missing)?;
                // Who names what it brings has seen the cluster's units, and some of them have moved since.
                if bring.is_empty() {
                    self.refuse_elsewhere(&export).await?;
                }
            }
            JoinMode::Adopt if !taken.is_empty() => return Err(JoinError::Taken { names: texts(&taken) }),
            JoinMode::Adopt if found.is_some() => self.refuse_elsewhere(&export).await?,
            JoinMode::Abandon | JoinMode::Adopt => {}
        }
        if !request.yes {
            return Ok(report);
        }
        if !missing.is_empty() && !request.leave_missing {
            return Err(JoinError::Missing { names: report.missing });
        }
        report.to = match (request.mode, found) {
            (JoinMode::Adopt, None) => self.move_all(&export, asked).await?,
            (JoinMode::Adopt, Some(cluster)) => {
                // Somebody imported an export of it: this machine anchors anew by itself, and what was asked of its
                // own store since then comes after it.
                let cluster = if is_ours {
                    self.joined(&cluster.value.id).await?
                } else {
                    self.enter(&cluster.value.id, &export, asked).await?
                };
                match self.registry.take_in(&export, &self.machine, coming, asked).await? {
                    Merged::Done { units } => info!(units, %cluster, "taken in"),
                    Merged::Taken { names } if is_ours => {
                        return Err(JoinError::Replaced { names: texts(&names) });
                    }
                    Merged::Taken { names } => return Err(JoinError::Taken { names: texts(&names) }),
                    Merged::NoCluster => return Err(JoinError::NotJoined { cluster }),
                }
                cluster
            }
            (JoinMode::Abandon, Some(cluster)) => self.enter(&cluster.value.id, &export, asked).await?,
            (JoinMode::Abandon, None) => self.begin_anew(&export, asked).await?,
        }
        .to_string();
        report.store = self.put_aside().await?.display().to_string();
        report.done = true;
        Ok(report)
    }

    /// What this machine's own store holds. The store is closed again before the answer.
    async fn own(&self) -> Result<Option<Export>, JoinError> {
        let directory = embedded_directory(&self.state_directory);
        if !directory.exists() {
            return Ok(None);
        }
        let store = apart(move || EmbeddedStore::open(&directory)).await?;
        let keys = Keys::new(DEFAULT_PREFIX).expect("the default is a prefix");
        Ok(Registry::new(Arc::new(store), keys, 0).export().await?)
    }

    async fn refuse_elsewhere(&self, export: &Export) -> Result<(), JoinError> {
        let names = self.registry.elsewhere(export, &self.machine).await?;
        if names.is_empty() {
            return Ok(());
        }
        Err(JoinError::Elsewhere { names: texts(&names), store: embedded_directory(&self.state_directory) })
    }

    /// The store is empty: the whole cluster moves, and keeps its id.
    async fn move_all(&self, export: &Export, asked: &Asked) -> Result<ClusterId, JoinError> {
        match self.registry.import(export, &self.importer(asked)).await? {
            Imported::Done { .. } => self.joined(&export.cluster.id).await,
            Imported::Exists { found } => Err(JoinError::NotJoined { cluster: found }),
            Imported::NotEmpty { sample } => {
                Err(JoinError::NotEmpty { path: self.registry.keys().prefix().to_owned(), sample })
            }
            Imported::OtherMember { cluster } => Err(JoinError::NotJoined { cluster }),
            Imported::Underway { by, sample } => Err(self.underway(&by, sample.as_deref())),
        }
    }

    fn underway(&self, by: &ImportRecord, sample: Option<&str>) -> JoinError {
        JoinError::Underway {
            cluster: by.cluster.clone(),
            text: claim::text(by, sample),
            remedy: claim::remedy(&self.registry),
        }
    }

    fn importer<'a>(&'a self, asked: &'a Asked) -> Importer<'a> {
        let member = self.member.get().map(|member| (member.cluster, member.epoch));
        Importer { machine: &self.machine, member, asked }
    }

    /// Belongs to the store's cluster from here on, under an epoch above every order that this machine has seen.
    async fn enter(
        &self,
        cluster: &ClusterId,
        export: &Export,
        asked: &Asked,
    ) -> Result<ClusterId, JoinError> {
        let member = self.member.get();
        if member.is_some_and(|member| member.cluster == *cluster) {
            // An earlier attempt came as far as that.
            return self.joined(cluster).await;
        }
        let raised = self.registry.raise_epoch(self.seen(export), asked).await?;
        match raised.map(|raised| raised.value) {
            Some(record) if record.id == *cluster => {
                self.anchor(export, record.id, record.epoch, asked).await
            }
            Some(_) | None => Err(JoinError::NotJoined { cluster: cluster.clone() }),
        }
    }

    /// The highest epoch of any order that this machine may have.
    fn seen(&self, export: &Export) -> Epoch {
        self.member.get().map_or(export.cluster.epoch, |member| member.epoch.max(export.cluster.epoch))
    }

    /// The store is empty and the units are given up: a new cluster, above what this machine has seen.
    async fn begin_anew(&self, export: &Export, asked: &Asked) -> Result<ClusterId, JoinError> {
        let id = ClusterId::parse(&uuid::Uuid::new_v4().to_string()).expect("a uuid is an id");
        let record = ClusterRecord {
            v: SCHEMA,
            id: id.clone(),
            epoch: Epoch(self.seen(export).0 + 1),
            features: BTreeSet::new(),
            settings: Settings::default(),
            created: Stamp { at: asked.at, by: asked.by.clone(), why: "units were abandoned".to_owned() },
            extra: Extra::new(),
        };
        match self.registry.create_cluster(&record).await? {
            Created::Done(_) => self.anchor(export, id, record.epoch, asked).await,
            Created::Exists(found) => self.enter(&found.value.id, export, asked).await,
            Created::Importing(by) => Err(self.underway(&by, None)),
            Created::NotEmpty { sample, .. } => {
                Err(JoinError::NotEmpty { path: self.registry.keys().prefix().to_owned(), sample })
            }
        }
    }

    /// Belongs to that cluster from here on, whatever is in the store now; for an import that is about to fill it.
    ///
    /// # Errors
    /// `Member`; then nothing has changed.
    pub async fn belong(&self, cluster: ClusterId, epoch: Epoch) -> Result<(), JoinError> {
        let kind = self.registry.store().kind();
        self.member.anchor(kind, cluster, epoch, 0, Revision(0))?;
        self.doubt.notify_one();
        Ok(())
    }

    /// The operator's word on the machine goes ahead of it.
    async fn anchor(
        &self,
        export: &Export,
        cluster: ClusterId,
        epoch: Epoch,
        asked: &Asked,
    ) -> Result<ClusterId, JoinError> {
        self.registry.announce_arrival(export, &self.machine, asked).await?;
        self.member.anchor(StoreKind::Etcd, cluster.clone(), epoch, 0, Revision(0))?;
        self.joined(&cluster).await
    }

    /// Waits until this machine is present in the cluster.
    async fn joined(&self, cluster: &ClusterId) -> Result<ClusterId, JoinError> {
        self.doubt.notify_one();
        let mut session = self.session.clone();
        let is_there = |state: &SessionState| {
            state.may_act() && state.cluster.as_ref().is_some_and(|(id, _)| id == cluster)
        };
        match tokio::time::timeout(JOINS_WITHIN, session.wait_for(is_there)).await {
            Ok(Ok(_)) => Ok(cluster.clone()),
            Ok(Err(_)) | Err(_) => Err(JoinError::NotJoined { cluster: cluster.clone() }),
        }
    }

    /// Kept beside the state, under a name that nothing opens, also after a power cut. Where.
    async fn put_aside(&self) -> Result<PathBuf, JoinError> {
        let (path, directory) = (embedded_directory(&self.state_directory), self.state_directory.clone());
        let from = path.clone();
        let moved = tokio::task::spawn_blocking(move || {
            let name = (1..).map(|number| directory.join(format!("registry.moved.{number}")));
            let aside = name.into_iter().find(|path| !path.exists()).unwrap_or_else(|| from.clone());
            std::fs::rename(&from, &aside)?;
            std::fs::File::open(&directory)?.sync_all()?;
            Ok(aside)
        });
        let moved = moved.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let aside = moved.map_err(|source| JoinError::PutAside { path, source })?;
        info!(to = %aside.display(), "this machine's own store was put aside");
        Ok(aside)
    }
}

/// Opens a store on a thread that may block.
async fn apart<S: Send + 'static>(
    open: impl FnOnce() -> Result<S, OpenError> + Send + 'static,
) -> Result<S, JoinError> {
    match tokio::task::spawn_blocking(open).await {
        Ok(opened) => Ok(opened?),
        Err(error) => Err(JoinError::BrokeOff { what: error.to_string() }),
    }
}

/// # Errors
/// `NotHere`.
fn named(bring: &[String], export: &Export) -> Result<BTreeSet<UnitName>, JoinError> {
    let known: BTreeSet<&UnitName> = export.units().collect();
    let (mut names, mut unknown) = (BTreeSet::new(), Vec::new());
    for text in bring {
        match UnitName::parse(text) {
            Ok(name) if known.contains(&name) => drop(names.insert(name)),
            _ => unknown.push(text.clone()),
        }
    }
    if unknown.is_empty() { Ok(names) } else { Err(JoinError::NotHere { names: unknown }) }
}

/// Units that do not come may have the name of another.
///
/// # Errors
/// `Replaced`.
fn refuse_replaced(taken: &[UnitName], missing: &BTreeSet<UnitName>) -> Result<(), JoinError> {
    let names: Vec<_> = taken.iter().filter(|name| !missing.contains(*name)).cloned().collect();
    if names.is_empty() { Ok(()) } else { Err(JoinError::Replaced { names: texts(&names) }) }
}

fn texts(names: &[UnitName]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
