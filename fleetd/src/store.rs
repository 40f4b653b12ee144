//! Which store a machine's registry lies in: etcd where the configuration names one, else a store of its own in the
//! state directory.
//!
//! `main` opens it and hands it to `wire`. The member file has a word in it: a configuration that lost its
//! `etcd_servers` would make a second cluster out of a member of the first.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleet_registry::embedded::{EmbeddedStore, OpenError};
use fleet_registry::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use fleet_registry::keys::{DEFAULT_PREFIX, Keys};
use fleet_registry::lease::{LeaseKeeper, LeaseOptions, StartLeaseError};
use fleet_registry::store::{LeaseId, Range, Select, Store, StoreError, StoreKind};

use tracing::warn;

use crate::config::Config;
use crate::member::{MemberError, MemberFile};

/// Below the state directory.
const EMBEDDED: &str = "registry";

/// Makes a lease that nothing delays, of this name and time to live: on a thread of its own, or on a task in a
/// simulation.
pub type LeaseMaker = Arc<dyn Fn(&str, Duration) -> Result<LeaseKeeper, StartLeaseError> + Send + Sync>;

/// A store, and how leases are held in it that nothing delays: each on a thread of its own.
pub struct Opened {
    pub store: Arc<dyn Store>,
    pub lease: LeaseMaker,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error("the etcd client cannot be made: {0}")]
    Etcd(StoreError),
    #[error(transparent)]
    Embedded(#[from] OpenError),
    #[error("cannot make the state directory {}; mount it writable", path.display())]
    StateDirectory { path: PathBuf, source: std::io::Error },
    #[error(
        "this machine belongs to cluster {cluster}, which is kept in etcd, but etcd_servers is not set: put it back \
         into the configuration. Units that run keep running. If this machine is to leave that cluster for good, \
         `fleetctl machine forget` it on another one, and remove {} here before fleetd is started again", member.display()
    )]
    LostEtcd { cluster: String, member: PathBuf },
}

/// Opens the store that the configuration asks for. Blocks for as long as reading an embedded one takes.
///
/// # Errors
/// See [`OpenStoreError`]; each says what to do. etcd's absence is none: its clients go on trying.
pub async fn open(config: &Config) -> Result<Opened, OpenStoreError> {
    if config.etcd_servers.is_empty() { embedded(config).await } else { etcd(config) }
}

/// Where the store of a machine without etcd is.
#[must_use]
pub fn embedded_directory(state_directory: &Path) -> PathBuf {
    state_directory.join(EMBEDDED)
}

async fn embedded(config: &Config) -> Result<Opened, OpenStoreError> {
    let path = config.state_directory.clone();
    std::fs::create_dir_all(&path)
        .map_err(|source| OpenStoreError::StateDirectory { path: path.clone(), source })?;
    if let Some(member) = MemberFile::open(&path)?.get()
        && member.store == StoreKind::Etcd.to_string()
    {
        let cluster = member.cluster.to_string();
        return Err(OpenStoreError::LostEtcd { cluster, member: MemberFile::path_in(&path) });
    }
    let store = EmbeddedStore::open(&embedded_directory(&path))?;
    if let Err(error) = end_leases(&store).await {
        // A full disk, say. They run out by themselves.
        warn!(%error, "the leases of the last fleetd were not ended");
    }
    let of_leases = store.clone();
    Ok(Opened { store: Arc::new(store), lease: leases(move || Ok(of_leases.clone())) })
}

/// Who held a lease in a store that one process opens at a time is dead. With etcd one has to wait for that to be sure; here
/// a machine is present and leads as soon as fleetd runs.
async fn end_leases(store: &EmbeddedStore) -> Result<(), StoreError> {
    let keys = Keys::new(DEFAULT_PREFIX).expect("the default is a prefix");
    let held = store.range(Range::new(keys.whole()).select(Select::KeysOnly)).await?;
    let leases: BTreeSet<LeaseId> = held.kvs.iter().filter_map(|kv| kv.lease).collect();
    for lease in leases {
        store.lease_revoke(lease).await?;
    }
    Ok(())
}

fn etcd(config: &Config) -> Result<Opened, OpenStoreError> {
    let options = etcd_options(config);
    let store = EtcdStore::new(&options).map_err(OpenStoreError::Etcd)?;
    Ok(Opened { store: Arc::new(store), lease: leases(move || EtcdStore::new(&options)) })
}

/// `connect` gives each lease a connection of its own.
fn leases<S: Store>(
    connect: impl Fn() -> Result<S, StoreError> + Clone + Send + Sync + 'static,
) -> LeaseMaker {
    Arc::new(move |name, ttl| {
        let options = LeaseOptions::new(name, ttl, u64::from(std::process::id()));
        LeaseKeeper::on_thread(options, connect.clone())
    })
}

fn etcd_options(config: &Config) -> EtcdOptions {
    let is_tls = config.etcd_servers.iter().any(|url| url.starts_with("https://"));
    let identity = config.etcd_certfile.clone().zip(config.etcd_keyfile.clone());
    EtcdOptions {
        request_timeout: config.etcd_request_timeout,
        user: (!config.etcd_username.is_empty())
            .then(|| (config.etcd_username.clone(), config.etcd_password.expose().to_owned())),
        tls: is_tls.then(|| EtcdTls { ca: config.etcd_cafile.clone(), identity }),
        ..EtcdOptions::new(config.etcd_servers.clone())
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("store", &self.store.kind()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use fleet_core::{ClusterId, Epoch, Revision};
    use fleet_registry::store::{Op, Txn};

    use super::*;

    fn config(directory: &Path) -> Config {
        Config { state_directory: directory.to_owned(), ..Config::default() }
    }

    #[tokio::test]
    async fn without_etcd_the_store_is_the_machines_own_and_leases_end_with_their_process() {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(&config(directory.path())).await.unwrap();
        assert_eq!(opened.store.kind(), StoreKind::Embedded);
        assert!(embedded_directory(directory.path()).exists());
        let lease = opened.store.lease_grant(Duration::from_secs(60)).await.unwrap().id;
        let held = Op::Put { key: "/fleet/presence/m1".into(), value: "{}".into(), lease: Some(lease) };
        let kept = Op::put("/fleet/machines/m1", "{}");
        assert!(opened.store.txn(Txn::of(vec![held, kept])).await.unwrap().succeeded);
        drop(opened);
        let again = open(&config(directory.path())).await.unwrap();
        let left = again.store.range(Range::new(Keys::new(DEFAULT_PREFIX).unwrap().whole())).await.unwrap();
        let left: Vec<&[u8]> = left.kvs.iter().map(|kv| &kv.key[..]).collect();
        assert_eq!(left, [b"/fleet/machines/m1"]);
    }

    #[tokio::test]
    async fn a_configuration_that_lost_its_etcd_is_refused_and_nothing_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let member = MemberFile::open(directory.path()).unwrap();
        member.anchor(StoreKind::Etcd, ClusterId::parse("c").unwrap(), Epoch(1), 0, Revision(0)).unwrap();
        let refused = open(&config(directory.path())).await.unwrap_err().to_string();
        assert!(refused.contains("etcd_servers") && refused.contains("member.json"), "{refused}");
        assert!(!embedded_directory(directory.path()).exists());
    }
}
