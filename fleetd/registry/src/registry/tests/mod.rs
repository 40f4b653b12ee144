//! The typed layer over the in-memory store; what only real servers can show is in `etcd`.

use std::sync::Arc;
use std::time::Duration;

use fleet_core::plan::{Compare as Condition, Group, Write};
use fleet_core::records::{
    ClusterRecord, EventNote, LeaderRecord, Order, Placement, PresenceRecord, SCHEMA, Stamp, StateRow,
    UnitRecord, WitnessRecord,
};
use fleet_core::{Epoch, Generation, MachineId, OrderNumber, Revision, Term, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use unit_files::{ContentHash, UnitName};

use super::batch::Asked;
use super::cluster::Created;
use super::leader::{Campaign, LeaderFence};
use super::presence::{Announced, Announcement};
use super::{ClusterFence, Registry};
use crate::keys::{DEFAULT_PREFIX, Key, Keys};
use crate::memory::MemoryStore;
use crate::store::{LeaseId, Op, Store, Txn};

mod agent;
mod arrival;
mod codec;
mod engine;
mod etcd;
mod export;
mod import;
mod operator;
mod reads;
mod upkeep;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

struct Fixture<S> {
    store: S,
    registry: Registry,
    fence: ClusterFence,
}

/// A new cluster in memory.
async fn cluster() -> Fixture<MemoryStore> {
    cluster_in(MemoryStore::new(7)).await
}

async fn cluster_in<S: Store + Clone>(store: S) -> Fixture<S> {
    let registry = Registry::new(Arc::new(store.clone()), Keys::new(DEFAULT_PREFIX).unwrap(), 1);
    let created = registry.create_cluster(&cluster_record("ours")).await.unwrap();
    let Created::Done(revision) = created else { panic!("{created:?}") };
    Fixture { store, registry, fence: ClusterFence { cluster: revision } }
}

impl<S: Store + Clone> Fixture<S> {
    async fn lease(&self, seconds: u64) -> LeaseId {
        self.store.lease_grant(Duration::from_secs(seconds)).await.unwrap().id
    }

    /// `machine` leads, under a lease of five seconds.
    async fn lead(&self, machine: &str) -> LeaderFence {
        let lease = self.lease(5).await;
        let won = self.registry.campaign(&leader_record(machine), lease, self.fence).await.unwrap();
        let Campaign::Won(term) = won else { panic!("{won:?}") };
        LeaderFence { term, cluster: self.fence.cluster }
    }

    fn announcement(&self, machine: &str, nonce: &str, lease: LeaseId) -> Announcement {
        Announcement {
            record: presence(machine, nonce),
            lease,
            cluster: self.fence.cluster,
            witness: witness(0),
            now: NOW,
        }
    }

    /// `machine` is present, under a lease of ten seconds; its presence's create revision.
    async fn present(&self, machine: &str) -> Revision {
        let lease = self.lease(10).await;
        let announced = self.registry.announce(&self.announcement(machine, "n1", lease)).await.unwrap();
        let Announced::Present { created, .. } = announced else { panic!("{announced:?}") };
        created
    }

    /// Somebody else's write.
    async fn write(&self, ops: Vec<Op>) {
        assert!(self.store.txn(Txn::of(ops)).await.unwrap().succeeded);
    }

    async fn put(&self, key: &Key, value: impl Into<Vec<u8>>) {
        self.write(vec![Op::put(self.registry.keys().key(key), value.into())]).await;
    }
}

impl Fixture<MemoryStore> {
    /// The same registry through a link of its own, which tests make slow.
    fn client(&self, name: &str) -> Registry {
        Registry::new(Arc::new(self.store.client(name)), self.registry.keys().clone(), 2)
    }
}

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn machine(name: &str) -> MachineId {
    MachineId::parse(name).unwrap()
}

fn unit(name: &str) -> UnitName {
    UnitName::parse(name).unwrap()
}

fn asked(by: &str) -> Asked {
    Asked { at: NOW, by: by.to_owned(), request: None }
}

fn stamp(why: &str) -> Stamp {
    Stamp { at: NOW, by: "operator".into(), why: why.into() }
}

fn note(kind: &str, name: &UnitName) -> EventNote {
    EventNote { kind: kind.into(), unit: Some(name.clone()), machine: None, why: String::new() }
}

fn cluster_record(id: &str) -> ClusterRecord {
    of(json!({"v": SCHEMA, "id": id, "epoch": 1}))
}

fn leader_record(id: &str) -> LeaderRecord {
    of(json!({"machine": id, "version": "0.1.0", "since": NOW}))
}

fn presence(id: &str, nonce: &str) -> PresenceRecord {
    of(json!({"machine": id, "boot": "boot1", "nonce": nonce, "agent_ttl": 15_000, "since": NOW}))
}

fn witness(passes: u64) -> WitnessRecord {
    WitnessRecord { v: SCHEMA, epoch: Epoch(1), passes, extra: Default::default() }
}

fn generation(text: &str, number: u64) -> Value {
    let content = ContentHash::of(text.as_bytes());
    json!({"generation": number, "content": content, "unit_hash": "0".repeat(40), "run_hash": content})
}

fn unit_record(text: &str) -> UnitRecord {
    let generation = generation(text, 1);
    of(json!({"uid": "u1", "current": generation, "last_good": generation, "desired": "launched"}))
}

fn order(sequence: u64, text: &str, wanted: &str) -> Order {
    let number = OrderNumber { epoch: Epoch(1), term: Term(7), sequence };
    let content = ContentHash::of(text.as_bytes());
    of(json!({
        "number": number, "uid": "u1", "generation": Generation(1), "content": content,
        "unit_hash": "0".repeat(40), "run_hash": content, "wanted": wanted,
        "reason": {"code": "placed"}, "at": NOW,
    }))
}

fn placement(id: &str) -> Placement {
    of(json!({"uid": "u1", "machine": id, "decision": {"judged": 1, "reason": {"code": "placed"}}}))
}

fn row(sub: &str) -> StateRow {
    of(json!({"uid": "u1", "load": "loaded", "active": "active", "sub": sub}))
}

/// What an engine writes to place a unit that stands nowhere.
fn place(name: &UnitName, on: &str, sequence: u64) -> Group {
    Group {
        compares: vec![Condition::Placement(name.clone(), Revision(0))],
        writes: vec![
            Write::PutPlacement(name.clone(), Box::new(placement(on))),
            Write::PutOrder(machine(on), name.clone(), Box::new(order(sequence, "text", "launched"))),
        ],
        note: Some(note("unit-placed", name)),
    }
}
