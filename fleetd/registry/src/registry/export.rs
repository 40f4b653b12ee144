//! The registry as one document, and what those who bring one of these to another store have in common.
//!
//! Called by the API and by the shell's `join`. A registry is made from a document in [`import`](super::import), a
//! machine's units come into another cluster in [`arrival`](super::arrival).

use std::collections::BTreeMap;

use bytes::Bytes;
use fleet_core::records::{ClusterRecord, EventNote, HoldRecord, Placement, Versioned};
use fleet_core::{Epoch, Revision};

use super::batch::Asked;
use super::document::{Export, is_exported};
use super::{ATTEMPTS, Registry, RegistryError, entry};
use crate::codec::{decode, encode};
use crate::keys::Key;
use crate::store::{Compare, KeyValue, MAX_TXN_OPS, Op, Select, Txn};

/// Of one transaction, well below the 1.5 MiB that etcd accepts.
const MAX_BYTES: usize = 1 << 20;

impl Registry {
    /// Everything that is exported, as of one revision; `None` if the registry holds no cluster.
    ///
    /// # Errors
    /// `Store`; `Codec` if a record cannot be read: what this release does not understand it must not copy.
    pub async fn export(&self) -> Result<Option<Export>, RegistryError> {
        const DOING: &str = "exporting the cluster";
        let (_, found) = self.list(DOING, &[self.keys.whole()], Select::All).await?;
        let mut cluster = None;
        let mut entries = BTreeMap::new();
        for kv in &found {
            let Some(read) = entry::read(&self.keys, kv) else { continue };
            let key = self.keys.parse(&kv.key).expect("it was read by its key");
            match read {
                Err(undecodable) => {
                    return Err(RegistryError::Codec { doing: DOING, error: undecodable.error });
                }
                Ok(entry::Entry::Cluster(record)) => cluster = Some(record.value),
                Ok(_) if is_exported(&key) => drop(entries.insert(key, kv.value.clone())),
                Ok(_) => {}
            }
        }
        Ok(cluster.map(|cluster| Export { cluster, entries }))
    }

    /// Raises the cluster's epoch above `seen`, if it is not: order numbers of this cluster are then greater than any
    /// that a machine has from another one. Every machine anchors anew; nothing stops. The record as it stands then;
    /// `None` without a cluster. Idempotent.
    ///
    /// # Errors
    /// `Store`; `Codec`; `OnHold`; `Contended`.
    pub async fn raise_epoch(
        &self,
        seen: Epoch,
        asked: &Asked,
    ) -> Result<Option<Versioned<ClusterRecord>>, RegistryError> {
        const DOING: &str = "raising the cluster's epoch";
        for _ in 0..ATTEMPTS {
            let (_, looked) = self.look(DOING, &[Key::Cluster, Key::Hold]).await?;
            let at = |index: usize| looked.get(index).and_then(Option::as_ref);
            let found: Option<Versioned<ClusterRecord>> = self.decoded(DOING, &Key::Cluster, at(0))?;
            let Some(found) = found else { return Ok(None) };
            if found.value.epoch > seen {
                return Ok(Some(found));
            }
            self.refuse_hold(DOING, at(1))?;
            let record = ClusterRecord { epoch: next(seen), ..found.value };
            let mut ops = vec![Op::put(self.key(&Key::Cluster), encode(&record))];
            let why = format!("a machine joins that has seen epoch {seen}; now epoch {}", record.epoch);
            ops.extend(self.log(asked, vec![note("cluster-epoch-raised", why)]));
            let compares = vec![
                self.compare_modified(&Key::Cluster, found.modified),
                Compare::absent(self.key(&Key::Hold)),
            ];
            self.txn(DOING, Txn::of(ops).when(compares)).await?;
        }
        Err(contended(DOING, ATTEMPTS))
    }

    /// # Errors
    /// `OnHold`, if `hold` is one.
    pub(super) fn refuse_hold(
        &self,
        doing: &'static str,
        hold: Option<&KeyValue>,
    ) -> Result<(), RegistryError> {
        let why = match self.decoded::<HoldRecord>(doing, &Key::Hold, hold) {
            Ok(None) => return Ok(()),
            Ok(Some(hold)) => hold.value.why,
            Err(error) => error.to_string(),
        };
        Err(RegistryError::OnHold { doing, why })
    }
}

pub(super) fn next(epoch: Epoch) -> Epoch {
    Epoch(epoch.0 + 1)
}

/// A decision names the revision that it judged, which means nothing in another store: it is judged anew there.
pub(super) fn portable(key: &Key, value: &Bytes) -> Bytes {
    match key {
        Key::Placement(_) => match decode::<Placement>(key, value) {
            Ok(mut placement) => {
                placement.decision.judged = Revision(0);
                Bytes::from(encode(&placement))
            }
            Err(_) => value.clone(),
        },
        _ => value.clone(),
    }
}

/// As many groups of operations as fit into a transaction, whole groups only.
pub(super) fn batches(groups: Vec<Vec<Op>>) -> Vec<Vec<Op>> {
    let mut batches: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for group in groups {
        let size: usize = group.iter().map(size).sum();
        match batches.last_mut() {
            Some(last) if last.len() + group.len() <= MAX_TXN_OPS && bytes + size <= MAX_BYTES => {
                last.extend(group);
                bytes += size;
            }
            _ => {
                batches.push(group);
                bytes = size;
            }
        }
    }
    batches
}

fn size(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        _ => 0,
    }
}

pub(super) fn contended(doing: &'static str, attempts: usize) -> RegistryError {
    RegistryError::Contended { doing, key: Key::Cluster, attempts }
}

pub(super) fn note(kind: &str, why: String) -> EventNote {
    EventNote { kind: kind.to_owned(), unit: None, machine: None, why }
}
