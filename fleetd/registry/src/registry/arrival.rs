//! A machine comes into another cluster: its record goes ahead of it, its units come after it. They go on without a
//! restart, because records and orders arrive as they were, uids and order numbers included.
//!
//! Called by the shell's `join`. Every call may be repeated until all of it is there; what is there and newer stays.

use std::collections::BTreeSet;

use fleet_core::records::{
    Counters, DesiredState, EventNote, MachineRecord, Order, Placement, SCHEMA, Stamp, UnitRecord, Versioned,
    Wanted,
};
use fleet_core::{MachineId, UnitUid};
use unit_files::UnitName;

use super::batch::Asked;
use super::document::Export;
use super::export::{batches, contended, portable};
use super::{ATTEMPTS, Registry, RegistryError};
use crate::codec::{decode, encode};
use crate::keys::{Area, Key};
use crate::store::{Compare, KeyValue, Op, OpReply, Range, Txn};

/// Which units of a document may come that the cluster does not have.
#[derive(Clone, Copy, Debug)]
pub enum Coming<'a> {
    All,
    /// The cluster was made from an earlier document of the same store: what it does not have was destroyed in it, or
    /// submitted to the store after that document. Only these come.
    Named(&'a BTreeSet<UnitName>),
}

impl Coming<'_> {
    fn includes(self, name: &UnitName) -> bool {
        match self {
            Coming::All => true,
            Coming::Named(names) => names.contains(name),
        }
    }
}

/// How taking units in ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Every unit of the document that comes is there, in its newest state. So many were written.
    Done { units: usize },
    /// Units of these names are there, with another uid.
    Taken { names: Vec<UnitName> },
    /// The registry holds no cluster.
    NoCluster,
}

/// What became of one unit.
enum Arrived {
    Written,
    /// As it was, or not there and not to come.
    LeftAlone,
    Taken,
    NoCluster,
}

impl Registry {
    /// Writes what the operator has said of the machine, its cordon and its metadata, into the cluster that it is about
    /// to come into: before it is present, so that nothing is placed on it against its cordon. What the cluster says
    /// already stays.
    ///
    /// # Errors
    /// `Store`; `Codec` if the cluster's record of it cannot be read; `OnHold`; `Contended`.
    pub async fn announce_arrival(
        &self,
        export: &Export,
        machine: &MachineId,
        asked: &Asked,
    ) -> Result<(), RegistryError> {
        const DOING: &str = "bringing a machine's record";
        let key = Key::Machine(machine.clone());
        let own = export.entries.get(&key).and_then(|value| decode::<MachineRecord>(&key, value).ok());
        let Some(own) = own.filter(|own| own.cordon || !own.metadata.is_empty()) else { return Ok(()) };
        for _ in 0..ATTEMPTS {
            let (_, found) = self.look(DOING, &[key.clone(), Key::Cluster, Key::Hold]).await?;
            let at = |index: usize| found.get(index).and_then(Option::as_ref);
            let Some(cluster) = at(1) else { return Ok(()) };
            self.refuse_hold(DOING, at(2))?;
            let there: Option<Versioned<MachineRecord>> = self.decoded(DOING, &key, at(0))?;
            let mut record = there.as_ref().map_or_else(
                // Not present yet, and not lost.
                || MachineRecord {
                    v: SCHEMA,
                    first_seen: asked.at,
                    expected: Some(Stamp { at: asked.at, by: asked.by.clone(), why: "it joins".to_owned() }),
                    ..MachineRecord::default()
                },
                |there| there.value.clone(),
            );
            record.cordon |= own.cordon;
            for (name, value) in &own.metadata {
                record.metadata.entry(name.clone()).or_insert_with(|| value.clone());
            }
            if there.as_ref().is_some_and(|there| there.value == record) {
                return Ok(());
            }
            let compares = vec![
                Compare::mod_revision(
                    self.key(&key),
                    at(0).map_or(crate::store::Revision(0), |kv| kv.mod_revision),
                ),
                Compare::mod_revision(self.key(&Key::Cluster), cluster.mod_revision),
                Compare::absent(self.key(&Key::Hold)),
            ];
            let put = Op::put(self.key(&key), encode(&record));
            if self.txn(DOING, Txn::of(vec![put]).when(compares)).await?.succeeded {
                return Ok(());
            }
        }
        Err(RegistryError::Contended { doing: DOING, key, attempts: ATTEMPTS })
    }

    /// Names of units in the document that this registry does not have: none of that name, or another one.
    ///
    /// # Errors
    /// `Store`.
    pub async fn missing(&self, export: &Export) -> Result<Vec<UnitName>, RegistryError> {
        let known = self.read(&[Area::Units]).await?;
        let is_missing = |name: &UnitName| match known.units.get(name) {
            Some(unit) => unit_of(export, name).is_none_or(|ours| ours.uid != unit.value.uid),
            None => !known.undecodable.iter().any(|unreadable| unreadable.key == Key::Unit(name.clone())),
        };
        Ok(export.units().filter(|name| is_missing(name)).cloned().collect())
    }

    /// Names of units in the document that this registry has as well, with another uid.
    ///
    /// # Errors
    /// `Store`.
    pub async fn taken(&self, export: &Export) -> Result<Vec<UnitName>, RegistryError> {
        let known = self.read(&[Area::Units]).await?;
        let is_other = |name: &UnitName| match known.units.get(name) {
            Some(unit) => unit_of(export, name).is_none_or(|ours| ours.uid != unit.value.uid),
            None => known.undecodable.iter().any(|unreadable| unreadable.key == Key::Unit(name.clone())),
        };
        Ok(export.units().filter(|name| is_other(name)).cloned().collect())
    }

    /// Names of units that the document has on `machine` and this registry on another one, each the same life of the
    /// name: then one of both stores is a copy, or what it says is over.
    ///
    /// # Errors
    /// `Store`.
    pub async fn elsewhere(
        &self,
        export: &Export,
        machine: &MachineId,
    ) -> Result<Vec<UnitName>, RegistryError> {
        let known = self.read(&[Area::Units, Area::Placements]).await?;
        let is_here = |name: &UnitName| {
            let key = Key::Order(machine.clone(), name.clone());
            let order = export.entries.get(&key).and_then(|value| decode::<Order>(&key, value).ok());
            order.is_some_and(|order| order.wanted != Wanted::Gone)
        };
        let is_there = |name: &UnitName| {
            let (unit, at) = (known.units.get(name)?, known.placements.get(name)?);
            let same = |uid: &UnitUid| *uid == unit.value.uid;
            let ours = unit_of(export, name).is_some_and(|ours| same(&ours.uid));
            let at: &Placement = &at.value;
            Some(ours && same(&at.uid) && at.machine.as_ref().is_some_and(|at| at != machine))
        };
        let both = export.units().filter(|name| is_here(name) && is_there(name).unwrap_or_default());
        Ok(both.cloned().collect())
    }

    /// Takes the units of a document in, with what `machine` has of them: orders and state rows. That machine has to be
    /// present, so that its units are nobody else's to place. Of what is there with the same uid the later state counts:
    /// what was asked of the unit here after an earlier export comes too. What is not there comes as `coming` says.
    ///
    /// # Errors
    /// `Store`, `OnHold`, `Contended`: some units may have been taken in; repeat the call.
    pub async fn take_in(
        &self,
        export: &Export,
        machine: &MachineId,
        coming: Coming<'_>,
        asked: &Asked,
    ) -> Result<Merged, RegistryError> {
        const DOING: &str = "taking in a machine's units";
        let mut names = self.taken(export).await?;
        names.retain(|name| coming.includes(name));
        if !names.is_empty() {
            return Ok(Merged::Taken { names });
        }
        // Texts first: a record never names one that is not there.
        let texts = export.entries.iter().filter(|(key, _)| matches!(key, Key::Content(_)));
        let texts = texts.map(|(key, value)| vec![Op::put(self.key(key), value.clone())]).collect();
        for batch in batches(texts) {
            let present = vec![Compare::present(self.key(&Key::Cluster))];
            if !self.txn(DOING, Txn::of(batch).when(present)).await?.succeeded {
                return Ok(Merged::NoCluster);
            }
        }
        let (mut units, mut names) = (0, Vec::new());
        for name in export.units() {
            match self.take_one_in(DOING, export, machine, name, coming.includes(name), asked).await? {
                Arrived::Written => units += 1,
                Arrived::LeftAlone => {}
                Arrived::Taken => names.push(name.clone()),
                Arrived::NoCluster => return Ok(Merged::NoCluster),
            }
        }
        if names.is_empty() { Ok(Merged::Done { units }) } else { Ok(Merged::Taken { names }) }
    }

    async fn take_one_in(
        &self,
        doing: &'static str,
        export: &Export,
        machine: &MachineId,
        name: &UnitName,
        comes: bool,
        asked: &Asked,
    ) -> Result<Arrived, RegistryError> {
        let unit = Key::Unit(name.clone());
        let keys = [
            unit.clone(),
            Key::Placement(name.clone()),
            Key::Order(machine.clone(), name.clone()),
            Key::State(machine.clone(), name.clone()),
        ];
        let found = keys.iter().filter_map(|key| Some((key, export.entries.get(key)?)));
        let whole: Vec<Op> = found.map(|(key, value)| Op::put(self.key(key), portable(key, value))).collect();
        let fence = [Compare::absent(self.key(&Key::Hold)), Compare::present(self.key(&Key::Cluster))];
        // What to write, and for which state of the unit there. One that must not come anew is looked at first.
        let absent = Compare::absent(self.key(&unit));
        let mut step = comes.then(|| (whole, absent, format!("came with machine {machine}")));
        for _ in 0..ATTEMPTS {
            let looks = [&unit, &Key::Hold, &Key::Cluster];
            let looks = looks.map(|key| Op::range(Range::key(self.key(key)))).to_vec();
            let txn = match &step {
                Some((ops, as_found, why)) => {
                    let note = EventNote {
                        kind: "unit-taken-in".to_owned(),
                        unit: Some(name.clone()),
                        machine: Some(machine.clone()),
                        why: why.clone(),
                    };
                    let mut then = ops.clone();
                    then.extend(self.log(asked, vec![note]));
                    let compares = std::iter::once(as_found.clone()).chain(fence.iter().cloned());
                    Txn::of(then).when(compares.collect()).otherwise(looks)
                }
                None => Txn::of(looks),
            };
            let reply = self.txn(doing, txn).await?;
            if reply.succeeded && step.is_some() {
                return Ok(Arrived::Written);
            }
            let mut looked = reply.replies.into_iter().map(first);
            let (there, hold, cluster) =
                (looked.next().flatten(), looked.next().flatten(), looked.next().flatten());
            if cluster.is_none() {
                return Ok(Arrived::NoCluster);
            }
            self.refuse_hold(doing, hold.as_ref())?;
            let (Some(ours), Some(kv)) = (unit_of(export, name), there) else {
                // Destroyed since the last look, perhaps.
                if comes { continue } else { return Ok(Arrived::LeftAlone) }
            };
            match decode::<UnitRecord>(&unit, &kv.value) {
                Ok(theirs) if theirs.uid != ours.uid && !comes => return Ok(Arrived::LeftAlone),
                Ok(theirs) if theirs.uid != ours.uid => return Ok(Arrived::Taken),
                Err(_) => return Ok(Arrived::Taken),
                Ok(theirs) if !follows(&ours, &theirs) => return Ok(Arrived::LeftAlone),
                // The engine orders what has changed; what the machine has done of it already it does not do again.
                Ok(_) => {
                    let put = vec![Op::put(self.key(&unit), encode(&ours))];
                    let as_found = Compare::mod_revision(self.key(&unit), kv.mod_revision);
                    step = Some((put, as_found, format!("asked for before machine {machine} came")));
                }
            }
        }
        Err(contended(doing, ATTEMPTS))
    }
}

fn first(reply: OpReply) -> Option<KeyValue> {
    match reply {
        OpReply::Range(found) => found.kvs.into_iter().next(),
        OpReply::Put | OpReply::Deleted { .. } => None,
    }
}

fn unit_of(export: &Export, name: &UnitName) -> Option<UnitRecord> {
    let key = Key::Unit(name.clone());
    export.entries.get(&key).and_then(|value| decode(&key, value).ok())
}

/// Whether the one is what the other became: requests only ever raise counters and generations.
fn follows(ours: &UnitRecord, theirs: &UnitRecord) -> bool {
    let steps = |unit: &UnitRecord| {
        let Counters { start, stop, restart } = unit.counters;
        [unit.current.generation.0, start, stop, restart]
    };
    let reached = steps(ours).iter().zip(steps(theirs)).all(|(ours, theirs)| *ours >= theirs);
    let is_later = ours.changed.at > theirs.changed.at && theirs.desired != DesiredState::Destroyed;
    reached && is_later
}
