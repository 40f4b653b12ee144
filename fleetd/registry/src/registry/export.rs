//! The registry as one document, and how a machine takes its units into another cluster. Units go on without a restart,
//! because records and orders arrive as they were, uids and order numbers included.
//!
//! Called by the API and by the shell's `join`. A registry is made from a document in [`import`](super::import).

use std::collections::BTreeMap;

use bytes::Bytes;
use fleet_core::records::{ClusterRecord, EventNote, Placement, Versioned};
use fleet_core::{Epoch, MachineId, Revision};
use unit_files::UnitName;

use super::batch::Asked;
use super::document::{Export, is_exported};
use super::{Registry, RegistryError, entry};
use crate::codec::{decode, encode};
use crate::keys::{Area, Key};
use crate::store::{Compare, MAX_TXN_OPS, Op, Select, Txn};

/// Of one transaction, well below the 1.5 MiB that etcd accepts.
const MAX_BYTES: usize = 1 << 20;

/// How taking units in ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    Done {
        units: usize,
    },
    /// Units of these names are there, with another uid. Nothing was written.
    Taken {
        names: Vec<UnitName>,
    },
    /// The registry holds no cluster.
    NoCluster,
}

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
    /// `Store`; `Codec`; `Contended`.
    pub async fn raise_epoch(
        &self,
        seen: Epoch,
        asked: &Asked,
    ) -> Result<Option<Versioned<ClusterRecord>>, RegistryError> {
        const DOING: &str = "raising the cluster's epoch";
        for _ in 0..super::ATTEMPTS {
            let Some(found) = self.read_record::<ClusterRecord>(DOING, &Key::Cluster).await? else {
                return Ok(None);
            };
            if found.value.epoch > seen {
                return Ok(Some(found));
            }
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
        Err(contended(DOING))
    }

    /// Names of units in the document that this registry has as well, with another uid.
    ///
    /// # Errors
    /// `Store`.
    pub async fn taken(&self, export: &Export) -> Result<Vec<UnitName>, RegistryError> {
        let known = self.read(&[Area::Units]).await?;
        let ours = |name: &UnitName| {
            let value = export.entries.get(&Key::Unit(name.clone()))?;
            decode::<fleet_core::records::UnitRecord>(&Key::Unit(name.clone()), value).ok()
        };
        let is_other = |name: &UnitName| match known.units.get(name) {
            Some(unit) => ours(name).is_none_or(|ours| ours.uid != unit.value.uid),
            None => known.undecodable.iter().any(|unreadable| unreadable.key == Key::Unit(name.clone())),
        };
        Ok(export.units().filter(|name| is_other(name)).cloned().collect())
    }

    /// Takes the units of a document in, with what `machine` has of them: orders and state rows. That machine has to be
    /// present, so that its units are nobody else's to place. Idempotent: what is there with the same uid stays.
    ///
    /// # Errors
    /// `Store`; some units may have been taken in; repeat the call.
    pub async fn take_in(
        &self,
        export: &Export,
        machine: &MachineId,
        asked: &Asked,
    ) -> Result<Merged, RegistryError> {
        const DOING: &str = "taking in a machine's units";
        let names = self.taken(export).await?;
        if !names.is_empty() {
            return Ok(Merged::Taken { names });
        }
        if self.read_record::<ClusterRecord>(DOING, &Key::Cluster).await?.is_none() {
            return Ok(Merged::NoCluster);
        }
        // Texts first: a record never names one that is not there.
        let texts = export.entries.iter().filter(|(key, _)| matches!(key, Key::Content(_)));
        let texts = texts.map(|(key, value)| vec![Op::put(self.key(key), value.clone())]).collect();
        for batch in batches(texts) {
            self.txn(DOING, Txn::of(batch)).await?;
        }
        let mut units = 0;
        for name in export.units() {
            let keys = [
                Key::Unit(name.clone()),
                Key::Placement(name.clone()),
                Key::Order(machine.clone(), name.clone()),
                Key::State(machine.clone(), name.clone()),
            ];
            let found = keys.iter().filter_map(|key| Some((key, export.entries.get(key)?)));
            let mut ops: Vec<Op> =
                found.map(|(key, value)| Op::put(self.key(key), portable(key, value))).collect();
            let why = format!("came with machine {machine}");
            ops.extend(self.log(
                asked,
                vec![EventNote {
                    kind: "unit-taken-in".to_owned(),
                    unit: Some(name.clone()),
                    machine: Some(machine.clone()),
                    why,
                }],
            ));
            let absent = vec![
                Compare::absent(self.key(&keys[0])),
                Compare::absent(self.key(&Key::Hold)),
                Compare::present(self.key(&Key::Cluster)),
            ];
            let reply = self.txn(DOING, Txn::of(ops).when(absent)).await?;
            units += usize::from(reply.succeeded);
        }
        // What came up meanwhile under one of the names.
        let names = self.taken(export).await?;
        if names.is_empty() { Ok(Merged::Done { units }) } else { Ok(Merged::Taken { names }) }
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

pub(super) fn contended(doing: &'static str) -> RegistryError {
    RegistryError::Contended { doing, key: Key::Cluster, attempts: super::ATTEMPTS }
}

pub(super) fn note(kind: &str, why: String) -> EventNote {
    EventNote { kind: kind.to_owned(), unit: None, machine: None, why }
}
