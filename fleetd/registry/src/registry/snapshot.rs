//! Reading parts of the registry as of one revision.
//!
//! Used by the API for lists and by tests. The first page of every part comes with one linearizable transaction, which
//! fixes the revision; the rest is read at that revision.

use std::collections::BTreeMap;

use fleet_core::records::{
    BrakeRecord, ClusterRecord, HoldRecord, ImportRecord, LeaderRecord, LostRecord, MachineRecord, Order,
    Placement, PresenceRecord, StateRow, UnitRecord, Versioned,
};
use fleet_core::world::Event;
use fleet_core::{MachineId, Revision, Timestamp};
use unit_files::{ContentHash, UnitName};

use super::entry::{self, Entry};
use super::{ATTEMPTS, ClusterFence, Registry, RegistryError, raw, typed, versioned};
use crate::codec::{Record, Undecodable, decode, decode_content};
use crate::keys::{Area, Key};
use crate::store::{
    self, Header, KeyRange, KeyValue, MAX_TXN_OPS, Op, OpReply, Range, RangeReply, Select, StoreError, Txn,
};

/// Keys of one area in one answer: a state row is about 700 bytes, so that a page stays below 2 MiB.
const PAGE: usize = 2_000;

/// What was asked for, as of `revision`. Parts that were not asked for are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub revision: Revision,
    pub raft_term: u64,
    pub cluster: Option<Versioned<ClusterRecord>>,
    /// Also present, with the reason as its text, when the hold in the registry cannot be read.
    pub hold: Option<Versioned<HoldRecord>>,
    /// Whose import has the store for itself.
    pub import: Option<Versioned<ImportRecord>>,
    pub brake: Option<Versioned<BrakeRecord>>,
    pub leader: Option<Versioned<LeaderRecord>>,
    pub units: BTreeMap<UnitName, Versioned<UnitRecord>>,
    pub placements: BTreeMap<UnitName, Versioned<Placement>>,
    pub machines: BTreeMap<MachineId, Versioned<MachineRecord>>,
    pub presence: BTreeMap<MachineId, Versioned<PresenceRecord>>,
    pub lost: BTreeMap<MachineId, Versioned<LostRecord>>,
    pub orders: BTreeMap<MachineId, BTreeMap<UnitName, Versioned<Order>>>,
    pub states: BTreeMap<MachineId, BTreeMap<UnitName, Versioned<StateRow>>>,
    /// Records that this release cannot read: unknown, not absent.
    pub undecodable: Vec<Undecodable>,
}

/// One unit with everything that is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitSnapshot {
    pub revision: Revision,
    pub unit: Option<Versioned<UnitRecord>>,
    pub placement: Option<Versioned<Placement>>,
    pub orders: BTreeMap<MachineId, Versioned<Order>>,
    pub states: BTreeMap<MachineId, Versioned<StateRow>>,
    pub undecodable: Vec<Undecodable>,
}

impl Snapshot {
    /// Takes in what was put; what a snapshot does not hold is ignored.
    pub fn insert(&mut self, entry: Entry) {
        match entry {
            Entry::Cluster(record) => self.cluster = Some(*record),
            Entry::Hold(record) => self.hold = Some(*record),
            Entry::Import(record) => self.import = Some(*record),
            Entry::Brake(record) => self.brake = Some(*record),
            Entry::Leader(record) => self.leader = Some(*record),
            Entry::Unit(unit, record) => drop(self.units.insert(unit, *record)),
            Entry::Placement(unit, record) => drop(self.placements.insert(unit, *record)),
            Entry::Machine(id, record) => drop(self.machines.insert(id, *record)),
            Entry::Presence(id, record) => drop(self.presence.insert(id, *record)),
            Entry::Lost(id, record) => drop(self.lost.insert(id, *record)),
            Entry::Order(id, unit, order) => drop(self.orders.entry(id).or_default().insert(unit, *order)),
            Entry::State(id, unit, row) => drop(self.states.entry(id).or_default().insert(unit, *row)),
            Entry::Content(..) | Entry::Witness(..) | Entry::Event(..) => {}
        }
    }

    /// Takes out what was deleted.
    pub fn remove(&mut self, key: &Key) {
        match key {
            Key::Cluster => self.cluster = None,
            Key::Hold => self.hold = None,
            Key::Brake => self.brake = None,
            Key::Leader => self.leader = None,
            Key::Unit(unit) => drop(self.units.remove(unit)),
            Key::Placement(unit) => drop(self.placements.remove(unit)),
            Key::Machine(id) => drop(self.machines.remove(id)),
            Key::Presence(id) => drop(self.presence.remove(id)),
            Key::Lost(id) => drop(self.lost.remove(id)),
            Key::Order(id, unit) => take_out(&mut self.orders, id, unit),
            Key::State(id, unit) => take_out(&mut self.states, id, unit),
            Key::Import | Key::Content(_) | Key::Witness(_) | Key::Event(_) => {}
        }
    }

    fn insert_undecodable(&mut self, undecodable: Undecodable) {
        if undecodable.key == Key::Hold {
            self.hold = Some(entry::unreadable_hold(&undecodable));
        }
        self.undecodable.push(undecodable);
    }

    /// What writes made from this snapshot compare; `None` under a hold, or if `cluster` was not read or cannot be.
    #[must_use]
    pub fn fence(&self) -> Option<ClusterFence> {
        let cluster = self.cluster.as_ref().filter(|_| self.hold.is_none())?;
        Some(ClusterFence { cluster: cluster.modified })
    }

    /// As events for an empty [`World`](fleet_core::world::World).
    #[must_use]
    pub fn into_events(self, read_at: Timestamp) -> Vec<Event> {
        let mut events = vec![
            Event::Cluster(self.cluster),
            Event::Hold(self.hold),
            Event::Brake(self.brake),
            Event::RaftTerm { term: self.raft_term, read_at },
        ];
        events.extend(self.units.into_iter().map(|(unit, record)| Event::Unit(unit, Some(record))));
        events.extend(self.placements.into_iter().map(|(unit, record)| Event::Placement(unit, Some(record))));
        events.extend(self.machines.into_iter().map(|(id, record)| Event::Machine(id, Some(record))));
        events.extend(self.presence.into_iter().map(|(id, record)| Event::Presence(id, Some(record))));
        let lost = |(machine, record)| Event::Lost { machine, record: Some(record), read_at };
        events.extend(self.lost.into_iter().map(lost));
        for (id, orders) in self.orders {
            events
                .extend(orders.into_iter().map(|(unit, order)| Event::Order(id.clone(), unit, Some(order))));
        }
        for (id, states) in self.states {
            events.extend(states.into_iter().map(|(unit, row)| Event::State(id.clone(), unit, Some(row))));
        }
        events
    }
}

/// Leaves no machine without entries behind.
fn take_out<T>(all: &mut BTreeMap<MachineId, BTreeMap<UnitName, T>>, id: &MachineId, unit: &UnitName) {
    if let Some(of_machine) = all.get_mut(id) {
        of_machine.remove(unit);
        if of_machine.is_empty() {
            all.remove(id);
        }
    }
}

/// Reads.
impl Registry {
    /// Some areas as of one revision.
    ///
    /// # Errors
    /// `Store`, if the registry does not answer. What cannot be read by this release is in the snapshot.
    pub async fn read(&self, areas: &[Area]) -> Result<Snapshot, RegistryError> {
        let ranges: Vec<KeyRange> = areas.iter().map(|area| self.keys.area(area)).collect();
        let (header, kvs) = self.list("reading the registry", &ranges, Select::All).await?;
        Ok(self.snapshot(typed(header.revision), header.raft_term, &kvs))
    }

    /// Some areas as they were at an earlier revision.
    ///
    /// # Errors
    /// As [`Registry::read`]; also a revision that was compacted, or that this store has not reached. Below 1 there is
    /// none, and etcd would take 0 for the newest.
    pub async fn read_at(&self, areas: &[Area], revision: Revision) -> Result<Snapshot, RegistryError> {
        if revision.0 < 1 {
            let error = StoreError::Compacted { asked: raw(revision) };
            return Err(RegistryError::Store { doing: "reading the registry as it was", error });
        }
        let ranges: Vec<KeyRange> = areas.iter().map(|area| self.keys.area(area)).collect();
        let at = Some(raw(revision));
        let (header, kvs) = self.list_at("reading the registry as it was", &ranges, Select::All, at).await?;
        Ok(self.snapshot(revision, header.raft_term, &kvs))
    }

    fn snapshot(&self, revision: Revision, raft_term: u64, kvs: &[KeyValue]) -> Snapshot {
        let mut snapshot = Snapshot { revision, raft_term, ..Snapshot::default() };
        for read in kvs.iter().filter_map(|kv| entry::read(&self.keys, kv)) {
            match read {
                Ok(entry) => snapshot.insert(entry),
                Err(undecodable) => snapshot.insert_undecodable(undecodable),
            }
        }
        self.counters().add_undecodable(snapshot.undecodable.len());
        snapshot
    }

    /// Everything but contents, events and witnesses.
    ///
    /// # Errors
    /// As [`Registry::read`].
    pub async fn read_all(&self) -> Result<Snapshot, RegistryError> {
        self.read(&Area::all()).await
    }

    /// One unit record, `None` if there is none.
    ///
    /// # Errors
    /// `Store`; `Codec` if the record cannot be read.
    pub async fn read_unit(&self, unit: &UnitName) -> Result<Option<Versioned<UnitRecord>>, RegistryError> {
        self.read_record("reading a unit", &Key::Unit(unit.clone())).await
    }

    /// Some units together with `cluster` and `hold`, so that a write which is made from them has its fence: one
    /// request for up to 126 names.
    ///
    /// # Errors
    /// As [`Registry::read`].
    pub async fn read_units(&self, units: &[UnitName]) -> Result<Snapshot, RegistryError> {
        let asked = vec![Area::One(Key::Cluster), Area::One(Key::Hold)];
        let mut found: Option<Snapshot> = None;
        for names in units.chunks(MAX_TXN_OPS - asked.len()) {
            let mut areas = asked.clone();
            areas.extend(names.iter().map(|unit| Area::One(Key::Unit(unit.clone()))));
            let more = self.read(&areas).await?;
            match &mut found {
                // Each unit's write compares its own revision, and the first answer's fence holds for all.
                Some(found) => {
                    found.units.extend(more.units);
                    let units = more.undecodable.into_iter().filter(|u| matches!(u.key, Key::Unit(_)));
                    found.undecodable.extend(units);
                }
                None => found = Some(more),
            }
        }
        match found {
            Some(found) => Ok(found),
            None => self.read(&asked).await,
        }
    }

    /// One unit with its placement, its orders and its state rows on all machines.
    ///
    /// # Errors
    /// As [`Registry::read`].
    pub async fn read_unit_whole(&self, unit: &UnitName) -> Result<UnitSnapshot, RegistryError> {
        const DOING: &str = "reading a unit";
        let machines = [self.keys.area(&Area::Machines), self.keys.area(&Area::Presence)];
        let (header, known) = self.list(DOING, &machines, Select::KeysOnly).await?;
        let mut ids: Vec<MachineId> = known
            .iter()
            .filter_map(|kv| match self.keys.parse(&kv.key)? {
                Key::Machine(id) | Key::Presence(id) => Some(id),
                _ => None,
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let mut asked = vec![Key::Unit(unit.clone()), Key::Placement(unit.clone())];
        for id in ids {
            asked.push(Key::Order(id.clone(), unit.clone()));
            asked.push(Key::State(id, unit.clone()));
        }
        let mut found = UnitSnapshot { revision: typed(header.revision), ..UnitSnapshot::default() };
        for keys in asked.chunks(MAX_TXN_OPS) {
            let at = |key| Op::Range(Range::key(self.key(key)).at(header.revision));
            let reply = self.txn(DOING, Txn::of(keys.iter().map(at).collect())).await?;
            for kv in values(&reply.replies) {
                match entry::read(&self.keys, kv) {
                    Some(Ok(Entry::Unit(_, record))) => found.unit = Some(*record),
                    Some(Ok(Entry::Placement(_, record))) => found.placement = Some(*record),
                    Some(Ok(Entry::Order(id, _, order))) => drop(found.orders.insert(id, *order)),
                    Some(Ok(Entry::State(id, _, row))) => drop(found.states.insert(id, *row)),
                    Some(Err(undecodable)) => found.undecodable.push(undecodable),
                    Some(Ok(_)) | None => {}
                }
            }
        }
        self.counters().add_undecodable(found.undecodable.len());
        Ok(found)
    }

    /// The text of a unit, checked against its hash.
    ///
    /// # Errors
    /// `ContentMissing`; `Codec` if the text is not what the hash says; `Store`.
    pub async fn get_content(&self, hash: &ContentHash) -> Result<String, RegistryError> {
        const DOING: &str = "fetching a unit's text";
        let key = Key::Content(*hash);
        let reply = self.range(DOING, Range::key(self.key(&key))).await?;
        let Some(kv) = reply.kvs.first() else { return Err(RegistryError::ContentMissing(key)) };
        decode_content(hash, &kv.value).map_err(|error| RegistryError::Codec { doing: DOING, error })
    }

    /// One record.
    pub(super) async fn read_record<R: Record>(
        &self,
        doing: &'static str,
        key: &Key,
    ) -> Result<Option<Versioned<R>>, RegistryError> {
        let reply = self.range(doing, Range::key(self.key(key))).await?;
        self.decoded(doing, key, reply.kvs.first())
    }

    /// The record that one range of a transaction found.
    pub(super) fn decoded<R: Record>(
        &self,
        doing: &'static str,
        key: &Key,
        kv: Option<&KeyValue>,
    ) -> Result<Option<Versioned<R>>, RegistryError> {
        let Some(kv) = kv else { return Ok(None) };
        match decode(key, &kv.value) {
            Ok(record) => Ok(Some(versioned(kv, record))),
            Err(error) => {
                self.counters().add_undecodable(1);
                Err(RegistryError::Codec { doing, error })
            }
        }
    }

    pub(super) async fn range(&self, doing: &'static str, range: Range) -> Result<RangeReply, RegistryError> {
        self.store.range(range).await.map_err(|error| RegistryError::Store { doing, error })
    }

    /// Some keys of one transaction each; the answers are in the order of the keys.
    pub(super) async fn look(
        &self,
        doing: &'static str,
        keys: &[Key],
    ) -> Result<(Header, Vec<Option<KeyValue>>), RegistryError> {
        let ops = keys.iter().map(|key| Op::Range(Range::key(self.key(key)))).collect();
        let reply = self.txn(doing, Txn::of(ops)).await?;
        let found = reply.replies.into_iter().map(|reply| match reply {
            OpReply::Range(found) => found.kvs.into_iter().next(),
            OpReply::Put | OpReply::Deleted { .. } => None,
        });
        Ok((reply.header, found.collect()))
    }

    /// Ranges in pages, all as of the revision of the header.
    pub(super) async fn list(
        &self,
        doing: &'static str,
        ranges: &[KeyRange],
        select: Select,
    ) -> Result<(Header, Vec<KeyValue>), RegistryError> {
        self.list_at(doing, ranges, select, None).await
    }

    async fn list_at(
        &self,
        doing: &'static str,
        ranges: &[KeyRange],
        select: Select,
        at: Option<store::Revision>,
    ) -> Result<(Header, Vec<KeyValue>), RegistryError> {
        let (mut page, mut overtaken) = (PAGE, 0);
        loop {
            match self.list_once(doing, ranges, select, page, at).await {
                Err(RegistryError::Store { error: StoreError::Compacted { .. }, .. })
                    if at.is_none() && overtaken < ATTEMPTS =>
                {
                    overtaken += 1;
                }
                Err(RegistryError::Store { error: StoreError::TooLarge { .. }, .. }) if page > 1 => page /= 8,
                result => return result,
            }
            page = page.max(1);
        }
    }

    async fn list_once(
        &self,
        doing: &'static str,
        ranges: &[KeyRange],
        select: Select,
        page: usize,
        at: Option<store::Revision>,
    ) -> Result<(Header, Vec<KeyValue>), RegistryError> {
        let ask = |keys: KeyRange| {
            let range = Range::new(keys).limit(page).select(select);
            if let Some(at) = at { range.at(at) } else { range }
        };
        let (header, found) = match at {
            // One transaction fixes the revision.
            None => {
                let ops = ranges.iter().cloned().map(ask).map(Op::Range).collect();
                let reply = self.txn(doing, Txn::of(ops)).await?;
                let found = reply.replies.into_iter().filter_map(|reply| match reply {
                    OpReply::Range(found) => Some(found),
                    OpReply::Put | OpReply::Deleted { .. } => None,
                });
                (reply.header, found.collect::<Vec<_>>())
            }
            // It is fixed; of a transaction nobody would say that it is the revision that is not there.
            Some(_) => {
                let (mut header, mut all) = (Header::default(), Vec::new());
                for range in ranges {
                    let found = self.range(doing, ask(range.clone())).await?;
                    header = found.header;
                    all.push(found);
                }
                (header, all)
            }
        };
        let revision = at.unwrap_or(header.revision);
        let mut kvs = Vec::new();
        for (range, mut found) in ranges.iter().zip(found) {
            while let Some(last) = found.kvs.last().filter(|_| found.more) {
                let from = KeyRange::Key(last.key.clone()).end().expect("a key has a next one");
                let to = range.end().expect("the prefix is text, so that some key follows it");
                kvs.append(&mut found.kvs);
                let rest = ask(KeyRange::Span { from, to }).at(revision);
                found = self.range(doing, rest).await?;
            }
            kvs.append(&mut found.kvs);
        }
        Ok((header, kvs))
    }
}

/// All keys that the ranges of a transaction found.
pub(super) fn values(replies: &[OpReply]) -> impl Iterator<Item = &KeyValue> {
    replies.iter().flat_map(|reply| match reply {
        OpReply::Range(found) => found.kvs.as_slice(),
        OpReply::Put | OpReply::Deleted { .. } => &[],
    })
}
