//! Moves with a fault at each call of the store, each repeated until it is done.

use std::path::Path;

use fleet_core::reconcile::Accepted;
use fleet_core::records::{MachineRecord, PresenceRecord};
use fleet_core::{Revision, Timestamp};
use fleet_registry::lease::{LeaseKeeper, LeaseOptions};
use fleet_registry::memory::{Fault, Injection, MemoryStore};
use fleet_registry::registry::snapshot::Snapshot;
use fleet_registry::store::{Op, Operation, Store as _, StoreError, Txn};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use unit_files::{ContentHash, UnitName};

use super::*;
use crate::clock::Clock;
use crate::session::{self, SessionOptions};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const TEXT: &str = "[Service]\nExecStart=/bin/sleep 1d\n";

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn asked() -> Asked {
    Asked { at: NOW, by: "operator".to_owned(), request: None }
}

fn m1() -> MachineId {
    MachineId::parse("m1").unwrap()
}

/// What is written for a unit that runs on m1, below a prefix.
fn unit(name: &str, uid: &str) -> Vec<(String, String)> {
    let content = ContentHash::of(TEXT.as_bytes());
    let generation =
        json!({"generation": 1, "content": content, "unit_hash": "0".repeat(40), "run_hash": content});
    let record = json!({"v": 1, "uid": uid, "current": generation, "last_good": generation,
                        "desired": "launched", "changed": {"at": NOW}});
    let reason = json!({"code": "placed"});
    let placement = json!({"v": 1, "uid": uid, "machine": "m1", "decision": {"judged": 1, "reason": reason}});
    let order = json!({"v": 1, "number": "1-7-3", "uid": uid, "generation": 1, "content": content,
                       "unit_hash": "0".repeat(40), "run_hash": content, "wanted": "launched",
                       "reason": reason, "at": NOW});
    let row = json!({"v": 1, "uid": uid, "load": "loaded", "active": "active", "sub": "running"});
    vec![
        (format!("contents/{content}"), TEXT.to_owned()),
        (format!("units/{name}"), record.to_string()),
        (format!("placements/{name}"), placement.to_string()),
        (format!("assignments/m1/{name}"), order.to_string()),
        (format!("states/m1/{name}"), row.to_string()),
    ]
}

fn moved_to_m2() -> Vec<(String, String)> {
    let moved = unit("a.service", "ua").into_iter().filter(|(key, _)| key.starts_with("placements/"));
    moved.map(|(key, value)| (key, value.replace("m1", "m2"))).collect()
}

async fn write(registry: &Registry, found: Vec<(String, String)>) {
    let prefix = registry.keys().prefix();
    let puts = found.into_iter().map(|(key, value)| Op::put(format!("{prefix}{key}"), value));
    // A text that two units share is written once.
    let mut puts: Vec<Op> = puts.collect();
    let mut seen = std::collections::BTreeSet::new();
    puts.retain(|op| matches!(op, Op::Put { key, .. } if seen.insert(key.clone())));
    assert!(registry.store().txn(Txn::of(puts)).await.unwrap().succeeded);
}

fn cluster(id: &str) -> ClusterRecord {
    of(json!({"v": 1, "id": id, "epoch": 1}))
}

fn registry(store: &MemoryStore, client: &str) -> Registry {
    Registry::new(Arc::new(store.client(client)), Keys::new(DEFAULT_PREFIX).unwrap(), 1)
}

/// A machine of cluster `own` with a.service and b.service in its own store, told of `store`.
struct Machine {
    store: MemoryStore,
    disk: tempfile::TempDir,
    join: Join,
    session: Option<tokio::task::JoinHandle<()>>,
    options: Option<SessionOptions>,
}

fn own_store(disk: &Path) -> Registry {
    let store = EmbeddedStore::open(&embedded_directory(disk)).unwrap();
    Registry::new(Arc::new(store), Keys::new(DEFAULT_PREFIX).unwrap(), 0)
}

impl Machine {
    async fn alone() -> Machine {
        let disk = tempfile::tempdir().unwrap();
        let own = own_store(disk.path());
        // Its disk is real, and so is the time that it takes.
        tokio::time::resume();
        own.create_cluster(&cluster("own")).await.unwrap();
        let record = MachineRecord { v: SCHEMA, cordon: true, first_seen: NOW, ..MachineRecord::default() };
        let mut found = vec![("machines/m1".to_owned(), serde_json::to_string(&record).unwrap())];
        found.extend(unit("a.service", "ua"));
        found.extend(unit("b.service", "ub"));
        write(&own, found).await;
        tokio::time::pause();
        drop(own);
        let member = MemberFile::open(disk.path()).unwrap();
        let id = ClusterId::parse("own").unwrap();
        member.anchor(StoreKind::Embedded, id, Epoch(3), 5, Revision(90)).unwrap();

        let store = MemoryStore::new(1);
        let doubt = Arc::new(Notify::new());
        let presence: PresenceRecord = of(json!({"machine": "m1", "boot": "b", "nonce": "n",
                                                 "agent_ttl": 15_000, "since": 1}));
        let options = SessionOptions {
            registry: registry(&store, "session"),
            member: member.clone(),
            accepted: Accepted::default(),
            clock: Clock::simulated(NOW),
            presence,
            lease: LeaseKeeper::on_task(
                LeaseOptions::new("presence", Duration::from_secs(10), 1),
                Arc::new(store.client("lease")),
            ),
            doubt: Arc::clone(&doubt),
            seed: 7,
            shutdown: CancellationToken::new(),
        };
        let (_, session) = watch::channel(SessionState {
            connection: crate::session::Connection::Connected { since: NOW },
            trust: None,
            cluster: None,
            presence: None,
            refused: None,
        });
        let join = Join {
            registry: registry(&store, "join"),
            member,
            machine: m1(),
            state_directory: disk.path().to_owned(),
            session,
            doubt,
        };
        Machine { store, disk, join, session: None, options: Some(options) }
    }

    fn start(mut self) -> Machine {
        let (handle, serve) = session::start(self.options.take().expect("it is started once"));
        self.join.session = handle.state;
        self.session = Some(tokio::spawn(serve));
        self
    }

    async fn ask(&self, mode: JoinMode) -> Result<JoinReport, JoinError> {
        self.ask_bringing(mode, &[]).await
    }

    async fn ask_bringing(&self, mode: JoinMode, bring: &[&str]) -> Result<JoinReport, JoinError> {
        let bring = bring.iter().map(|name| (*name).to_owned()).collect();
        let request = JoinRequest { mode, bring, leave_missing: true, yes: true, by: "operator".to_owned() };
        self.join.join(&request, &asked()).await
    }

    async fn there(&self) -> Snapshot {
        registry(&self.store, "looker").read(&Area::all()).await.unwrap()
    }

    fn has_own_store(&self) -> bool {
        embedded_directory(self.disk.path()).exists()
    }

    fn was_put_aside(&self) -> bool {
        self.disk.path().join("registry.moved.1").exists()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            session.abort();
        }
    }
}

/// A way to move, and what has to come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    AllMoves,
    IntoAnother,
    AfterAnImport,
    AbandonedForNone,
    AbandonedForAnother,
}

impl Way {
    const ALL: [Way; 5] = [
        Way::AllMoves,
        Way::IntoAnother,
        Way::AfterAnImport,
        Way::AbandonedForNone,
        Way::AbandonedForAnother,
    ];

    async fn machine(self) -> Machine {
        let machine = Machine::alone().await;
        let other = registry(&machine.store, "other");
        match self {
            Way::AllMoves | Way::AbandonedForNone => {}
            Way::IntoAnother | Way::AbandonedForAnother => {
                other.create_cluster(&cluster("theirs")).await.unwrap();
            }
            Way::AfterAnImport => {
                let own = own_store(machine.disk.path());
                let export = own.export().await.unwrap().unwrap();
                let (id, asked) = (m1(), asked());
                let member = Some((export.cluster.id.clone(), Epoch(3)));
                other.import(&export, &Importer { machine: &id, member, asked: &asked }).await.unwrap();
                // Acknowledged after the export.
                tokio::time::resume();
                write(&own, unit("x.service", "ux")).await;
                tokio::time::pause();
            }
        }
        machine.start()
    }

    fn mode(self) -> JoinMode {
        match self {
            Way::AbandonedForNone | Way::AbandonedForAnother => JoinMode::Abandon,
            Way::AllMoves | Way::IntoAnother | Way::AfterAnImport => JoinMode::Adopt,
        }
    }

    fn bring(self) -> &'static [&'static str] {
        if self == Way::AfterAnImport { &["x.service"] } else { &[] }
    }

    fn units(self) -> Vec<(UnitName, &'static str)> {
        let names: &[(&str, &'static str)] = match self {
            Way::AllMoves | Way::IntoAnother => &[("a.service", "ua"), ("b.service", "ub")],
            Way::AfterAnImport => &[("a.service", "ua"), ("b.service", "ub"), ("x.service", "ux")],
            Way::AbandonedForNone | Way::AbandonedForAnother => &[],
        };
        names.iter().map(|(name, uid)| (name.parse().unwrap(), *uid)).collect()
    }
}

/// What holds at every moment: a unit is in the cluster only with the machine that runs it, and only as that one's.
fn no_second_owner(there: &Snapshot, what: &str) {
    if there.cluster.is_none() {
        // Nobody acts on it.
        return;
    }
    let is_known = there.presence.contains_key(&m1())
        || there.machines.get(&m1()).is_some_and(|record| record.value.expected.is_some());
    assert!(there.units.is_empty() || is_known, "{what}: the engine would take the machine for lost");
    for (name, placement) in &there.placements {
        assert_eq!(placement.value.machine, Some(m1()), "{what}: {name}");
    }
    assert!(there.orders.keys().all(|id| *id == m1()), "{what}");
}

#[tokio::test(start_paused = true)]
async fn p1_a_join_that_breaks_off_at_any_call_is_repeated_to_the_end() {
    let refused = StoreError::Unavailable { operation: Operation::Txn, detail: "refused".into() };
    for way in Way::ALL {
        for fault in [Fault::Fail(refused.clone()), Fault::DropReply] {
            for after in 0.. {
                let what = format!("{way:?}, {fault:?} after {after} calls");
                let machine = way.machine().await;
                machine.store.inject(Injection::next(fault.clone()).of_client("join").after(after));
                let mut answer = machine.ask_bringing(way.mode(), way.bring()).await;
                let struck = answer.is_err();
                machine.store.clear_faults();
                for _ in 0..3 {
                    no_second_owner(&machine.there().await, &what);
                    let Err(error) = &answer else { break };
                    assert!(machine.has_own_store(), "{what}: {error}");
                    answer = machine.ask_bringing(way.mode(), way.bring()).await;
                }
                let report = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(report.done && machine.was_put_aside() && !machine.has_own_store(), "{what}");
                let there = machine.there().await;
                no_second_owner(&there, &what);
                let record = &there.cluster.as_ref().unwrap().value;
                assert_eq!(report.to, record.id.as_str(), "{what}");
                let member = machine.join.member.get().unwrap();
                assert_eq!((&member.cluster, member.epoch), (&record.id, record.epoch), "{what}");
                // Above what the machine has accepted, and raised once, however often it was asked.
                assert_eq!(record.epoch, Epoch(4), "{what}");
                assert!(there.presence.contains_key(&m1()), "{what}");
                assert!(there.machines[&m1()].value.cordon, "{what}: the operator's word is lost");
                let units: Vec<_> =
                    there.units.iter().map(|(name, unit)| (name.clone(), unit.value.uid.as_str())).collect();
                assert_eq!(units, way.units(), "{what}");
                let orders = there.orders.get(&m1()).map_or(0, |orders| orders.len());
                assert_eq!(orders, way.units().len(), "{what}");
                if !struck && after > 0 {
                    break;
                }
                assert!(after < 60, "{what}: the fault never ends");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_with_something_else_in_it_is_left_alone() {
    let machine = Machine::alone().await.start();
    write(&registry(&machine.store, "other"), vec![("units/z.service".to_owned(), "{}".to_owned())]).await;
    for mode in [JoinMode::Adopt, JoinMode::Abandon] {
        let refused = machine.ask(mode).await.unwrap_err();
        assert!(matches!(refused, JoinError::NotEmpty { .. }), "{refused}");
    }
    assert!(machine.has_own_store() && machine.there().await.cluster.is_none());
}

#[tokio::test(start_paused = true)]
async fn two_machines_that_move_into_one_empty_store_end_in_one_cluster_with_both_ones_units() {
    let machine = Machine::alone().await.start();
    // Another machine has begun, and takes its time.
    let other = Machine::alone().await;
    let own = own_store(other.disk.path());
    let document = own.export().await.unwrap().unwrap().to_document().replace("\\\"own\\\"", "\\\"their\\\"");
    let document = document.replace("\"own\"", "\"their\"").replace("a.service", "c.service");
    let document = document.replace("b.service", "d.service").replace("m1", "m2");
    let export = Export::from_document(&document).unwrap();
    let (m2, asked) = (MachineId::parse("m2").unwrap(), asked());
    let by = Importer { machine: &m2, member: None, asked: &asked };
    let theirs = registry(&machine.store, "theirs");
    let late = Injection::next(Fault::Delay(Duration::from_secs(1))).of_client("theirs");
    machine.store.inject(late.on(Operation::Txn).after(3));
    let (imported, refused) = tokio::join!(theirs.import(&export, &by), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        machine.ask(JoinMode::Adopt).await
    });
    assert!(matches!(imported, Ok(Imported::Done { .. })), "{imported:?}");
    assert!(
        matches!(&refused, Err(JoinError::Underway { cluster, .. }) if cluster.as_str() == "their"),
        "{refused:?}"
    );
    machine.ask(JoinMode::Adopt).await.unwrap();
    let there = machine.there().await;
    assert_eq!(there.units.len(), 4);
    for (name, on) in [("a.service", "m1"), ("b.service", "m1"), ("c.service", "m2"), ("d.service", "m2")] {
        let placement = &there.placements[&name.parse::<UnitName>().unwrap()].value;
        assert_eq!(placement.machine.as_ref().map(MachineId::as_str), Some(on), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_join_whose_session_does_not_follow_says_so_and_goes_on_when_it_does() {
    let machine = Machine::alone().await;
    registry(&machine.store, "other").create_cluster(&cluster("theirs")).await.unwrap();
    for _ in 0..2 {
        let waits = machine.ask(JoinMode::Adopt).await.unwrap_err();
        assert!(matches!(waits, JoinError::NotJoined { .. }), "{waits}");
        assert!(machine.there().await.units.is_empty(), "its units come after it");
    }
    assert_eq!(machine.there().await.cluster.unwrap().value.epoch, Epoch(4), "raised once");
    let machine = machine.start();
    assert!(machine.ask(JoinMode::Adopt).await.unwrap().done);
}

#[tokio::test(start_paused = true)]
async fn names_that_are_taken_are_told_and_nothing_has_happened() {
    let machine = Machine::alone().await.start();
    let other = registry(&machine.store, "other");
    other.create_cluster(&cluster("theirs")).await.unwrap();
    write(&other, unit("a.service", "another")).await;
    let refused = machine.ask(JoinMode::Adopt).await.unwrap_err();
    assert!(matches!(&refused, JoinError::Taken { names } if names == &["a.service"]), "{refused}");
    assert_eq!(machine.join.member.get().unwrap().cluster.as_str(), "own");
    assert!(machine.has_own_store());
}

#[tokio::test(start_paused = true)]
async fn an_own_cluster_in_the_store_is_not_given_up_and_a_copy_of_it_is_not_taken_for_it() {
    let machine = Way::AfterAnImport.machine().await;
    let refused = machine.ask(JoinMode::Abandon).await.unwrap_err();
    assert!(matches!(refused, JoinError::NotAbandoned { .. }), "{refused}");
    // The store was made from an image, and another machine of it was first.
    write(&registry(&machine.store, "other"), moved_to_m2()).await;
    let refused = machine.ask(JoinMode::Adopt).await.unwrap_err();
    assert!(matches!(&refused, JoinError::Elsewhere { names, .. } if names == &["a.service"]), "{refused}");
    assert!(machine.has_own_store());
}

#[tokio::test]
async fn a_store_whose_opening_breaks_off_is_told_and_not_taken_for_none() {
    let error = apart::<()>(|| panic!("a page out of bounds")).await.unwrap_err();
    assert!(
        matches!(&error, JoinError::BrokeOff { what } if what.contains("a page out of bounds")),
        "{error}"
    );
    assert!(error.to_string().contains("nothing was changed"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn p1_units_destroyed_since_an_import_stay_away_are_told_and_can_be_brought_from_where_the_store_is_kept()
 {
    let machine = Way::AfterAnImport.machine().await;
    let other = registry(&machine.store, "other");
    let gone = unit("b.service", "ub").into_iter().filter(|(key, _)| !key.starts_with("contents/"));
    let gone = gone.map(|(key, _)| Op::delete(format!("{}{key}", other.keys().prefix()))).collect();
    assert!(other.store().txn(Txn::of(gone)).await.unwrap().succeeded);
    let unknown = machine.ask_bringing(JoinMode::Adopt, &["nobody.service"]).await.unwrap_err();
    assert!(matches!(&unknown, JoinError::NotHere { names } if names == &["nobody.service"]), "{unknown}");

    let request = JoinRequest { mode: JoinMode::Adopt, ..JoinRequest::default() };
    let dry = machine.join.join(&request, &asked()).await.unwrap();
    assert_eq!(
        (dry.units, dry.missing),
        (vec!["a.service".to_owned()], vec!["b.service".into(), "x.service".into()])
    );
    let refused = machine.join.join(&JoinRequest { yes: true, ..request }, &asked()).await.unwrap_err();
    assert!(
        matches!(&refused, JoinError::Missing { names } if names == &["b.service", "x.service"]),
        "{refused}"
    );
    assert!(machine.has_own_store());
    let report = machine.ask(JoinMode::Adopt).await.unwrap();
    assert_eq!(report.missing, ["b.service", "x.service"]);
    let names = |there: Snapshot| there.units.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(machine.there().await), ["a.service"]);
    assert!(Path::new(&report.store).ends_with("registry.moved.1") && !machine.has_own_store(), "{report:?}");

    // A unit that came has moved since, and b.service was submitted anew.
    write(&other, moved_to_m2()).await;
    write(&other, unit("b.service", "another")).await;

    // As the report says: put back where it was, it brings what is named.
    tokio::time::resume();
    std::fs::rename(&report.store, &report.store_before).unwrap();
    tokio::time::pause();
    let refused = machine.ask_bringing(JoinMode::Adopt, &["x.service", "b.service"]).await.unwrap_err();
    assert!(matches!(&refused, JoinError::Replaced { names } if names == &["b.service"]), "{refused}");
    let report = machine.ask_bringing(JoinMode::Adopt, &["x.service"]).await.unwrap();
    assert_eq!(
        (report.done, &report.missing, &report.taken),
        (true, &vec!["b.service".to_owned()], &report.missing)
    );
    let there = machine.there().await;
    let a = &there.placements[&"a.service".parse::<UnitName>().unwrap()].value;
    assert_eq!(a.machine.as_ref().map(MachineId::as_str), Some("m2"), "it stays where it is");
    assert_eq!(names(there), ["a.service", "b.service", "x.service"]);
}
