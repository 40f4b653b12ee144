//! A registry made from a document: how a cluster moves from one store to another. Machines go on without a restart of
//! any unit, because records and orders arrive as they were; the higher epoch makes each of them anchor anew.
//!
//! Called by the API and by the shell's `join`. An import claims the store before it writes anything else, and compares
//! that claim in every transaction: two of them never mix, and no cluster is created around half of one.

use std::collections::BTreeSet;

use bytes::Bytes;
use fleet_core::records::{ClusterRecord, Extra, ImportRecord, MachineRecord, SCHEMA, Stamp, Versioned};
use fleet_core::{ClusterId, Epoch, Revision};

use super::batch::Asked;
use super::document::Export;
use super::export::{batches, contended, next, note, portable};
use super::{Registry, RegistryError, typed};
use crate::codec::{decode, encode};
use crate::keys::Key;
use crate::store::{Compare, Op, Select, Txn};

/// How an import ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    Done {
        epoch: Epoch,
        revision: Revision,
    },
    /// The registry has a cluster already.
    Exists {
        found: ClusterId,
    },
    /// The registry holds something that is not of this document. Names one of the keys.
    NotEmpty {
        sample: String,
    },
    /// The document of another cluster is being imported, or was when that broke off. Nothing was written.
    Underway {
        by: Box<ImportRecord>,
    },
}

impl Registry {
    /// Makes the cluster of a document in a registry that has none, under the next epoch. Nobody acts on any of it
    /// before the last transaction, which writes the cluster record. What an earlier attempt left is written over;
    /// should that attempt still be under way, it ends without another write.
    ///
    /// # Errors
    /// `Store`; `Codec`; `Contended`: another import of the same cluster, or whoever made a cluster, was faster.
    /// Repeat the call; nothing that it wrote is in the way.
    pub async fn import(&self, export: &Export, asked: &Asked) -> Result<Imported, RegistryError> {
        const DOING: &str = "importing the cluster";
        let (_, found) = self.look(DOING, &[Key::Cluster, Key::Import]).await?;
        let at = |index: usize| found.get(index).and_then(Option::as_ref);
        let cluster: Option<Versioned<ClusterRecord>> = self.decoded(DOING, &Key::Cluster, at(0))?;
        if let Some(found) = cluster {
            return Ok(Imported::Exists { found: found.value.id });
        }
        let before: Option<Versioned<ImportRecord>> = self.decoded(DOING, &Key::Import, at(1))?;
        if let Some(by) = before.as_ref().filter(|before| before.value.cluster != export.cluster.id) {
            return Ok(Imported::Underway { by: Box::new(by.value.clone()) });
        }
        if let Some(sample) = self.foreign_key(DOING, export).await? {
            return Ok(Imported::NotEmpty { sample });
        }
        // Claimed as it was found: what came up since then was written by whoever has the claim now, or is a cluster.
        let absent = Compare::absent(self.key(&Key::Cluster));
        let as_found = before.map_or(Revision(0), |before| before.modified);
        let begun = Stamp { at: asked.at, by: asked.by.clone(), why: "imported".to_owned() };
        let record = ImportRecord {
            v: SCHEMA,
            cluster: export.cluster.id.clone(),
            begun: begun.clone(),
            extra: Extra::new(),
        };
        let put = Op::put(self.key(&Key::Import), encode(&record));
        let compares = vec![absent.clone(), self.compare_modified(&Key::Import, as_found)];
        let claimed = self.txn(DOING, Txn::of(vec![put]).when(compares)).await?;
        if !claimed.succeeded {
            return Err(contended(DOING));
        }
        let claim = vec![absent, Compare::mod_revision(self.key(&Key::Import), claimed.header.revision)];

        let puts =
            export.entries.iter().map(|(key, value)| Op::put(self.key(key), imported(key, value, &begun)));
        for batch in batches(puts.map(|op| vec![op]).collect()) {
            let reply = self.txn(DOING, Txn::of(batch).when(claim.clone())).await?;
            if !reply.succeeded {
                return Err(contended(DOING));
            }
        }
        let record = ClusterRecord { epoch: next(export.cluster.epoch), ..export.cluster.clone() };
        let mut ops =
            vec![Op::put(self.key(&Key::Cluster), encode(&record)), Op::delete(self.key(&Key::Import))];
        let why = format!("from an export of epoch {}, now epoch {}", export.cluster.epoch, record.epoch);
        ops.extend(self.log(asked, vec![note("cluster-imported", why)]));
        let reply = self.txn(DOING, Txn::of(ops).when(claim)).await?;
        if !reply.succeeded {
            return Err(contended(DOING));
        }
        Ok(Imported::Done { epoch: record.epoch, revision: typed(reply.header.revision) })
    }

    /// A key that is there and neither the document's nor a claim.
    async fn foreign_key(
        &self,
        doing: &'static str,
        export: &Export,
    ) -> Result<Option<String>, RegistryError> {
        let (_, there) = self.list(doing, &[self.keys.whole()], Select::KeysOnly).await?;
        let mut ours: BTreeSet<Bytes> = export.entries.keys().map(|key| self.key(key)).collect();
        ours.insert(self.key(&Key::Import));
        let other = there.iter().find(|kv| !ours.contains(&kv.key));
        Ok(other.map(|kv| String::from_utf8_lossy(&kv.key).into_owned()))
    }
}

/// Machines come one after the other, each when it is told of the new store: until then they are not lost.
fn imported(key: &Key, value: &Bytes, begun: &Stamp) -> Bytes {
    let Key::Machine(_) = key else { return portable(key, value) };
    match decode::<MachineRecord>(key, value) {
        Ok(record) if record.forgotten.is_none() => {
            Bytes::from(encode(&MachineRecord { expected: Some(begun.clone()), ..record }))
        }
        _ => value.clone(),
    }
}
