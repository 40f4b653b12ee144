//! The engine against a store in memory, on a paused clock: election, fencing, and that it plans what was written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fleet_core::records::{
    ClusterRecord, EngineRole, EventNote, Extra, HoldRecord, PresenceRecord, SCHEMA, Settings, Stamp, Wanted,
    WitnessRecord,
};
use fleet_core::requests::change::{Change, Request, Verb, Verdict};
use fleet_core::requests::content::Content;
use fleet_core::store_trust::Trust;
use fleet_core::{BootId, ClusterId, Epoch, MachineId, Nonce, RequestId, Revision, Span, Timestamp, UnitUid};
use fleet_registry::keys::{Area, Keys};
use fleet_registry::lease::{LeaseKeeper, LeaseOptions};
use fleet_registry::memory::{Fault, Injection, Link, MemoryStore};
use fleet_registry::registry::cluster::Created;
use fleet_registry::registry::presence::{Announced, Announcement};
use fleet_registry::registry::snapshot::Snapshot;
use fleet_registry::registry::units::UnitWrite;
use fleet_registry::store::{Operation, Store as _, StoreError};
use fleet_registry::{ClusterFence, Registry};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use unit_files::UnitName;

use super::tasks::{Task, TaskCounts};
use super::{EngineHandle, EngineOptions, start};
use crate::clock::Clock;
use crate::member::MemberFile;
use crate::session::{Connection, Presence, SessionState};

struct Cluster {
    store: MemoryStore,
    registry: Registry,
    cluster: Revision,
    clock: Clock,
}

struct Candidate {
    handle: EngineHandle,
    shutdown: CancellationToken,
    _session: watch::Sender<SessionState>,
    member: MemberFile,
    doubt: Arc<Notify>,
    _disk: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

fn id(text: &str) -> MachineId {
    MachineId::parse(text).unwrap()
}

impl Cluster {
    async fn new() -> Cluster {
        let store = MemoryStore::new(1);
        let registry = Registry::new(Arc::new(store.client("test")), Keys::new("/fleet/").unwrap(), 1);
        let record = ClusterRecord {
            v: SCHEMA,
            id: ClusterId::parse("c").unwrap(),
            epoch: Epoch(1),
            features: BTreeSet::new(),
            settings: Settings::default(),
            created: Stamp::default(),
            extra: Extra::new(),
        };
        let Created::Done(cluster) = registry.create_cluster(&record).await.unwrap() else {
            panic!("not empty")
        };
        Cluster { store, registry, cluster, clock: Clock::simulated(Timestamp(1_000_000)) }
    }

    async fn machine(&self, name: &str) {
        let lease = self.store.client("test").lease_grant(Duration::from_secs(3600)).await.unwrap();
        let record = PresenceRecord {
            v: SCHEMA,
            machine: id(name),
            primary_ip: String::new(),
            peer_address: String::new(),
            fingerprint: String::new(),
            metadata: std::collections::BTreeMap::new(),
            hostname: String::new(),
            version: String::new(),
            systemd: String::new(),
            features: BTreeSet::new(),
            boot: BootId::parse("b").unwrap(),
            nonce: Nonce::parse("n").unwrap(),
            engine: EngineRole::Auto,
            agent_ttl: Span::from_secs(15),
            since: Timestamp(0),
            extra: Extra::new(),
        };
        let announcement = Announcement {
            record,
            lease: lease.id,
            cluster: self.cluster,
            witness: WitnessRecord::default(),
            now: self.clock.now(),
        };
        let announced = self.registry.announce(&announcement).await.unwrap();
        assert!(matches!(announced, Announced::Present { .. }), "{announced:?}");
    }

    async fn launch(&self, name: &str) {
        let text = format!("[Service]\nExecStart=/bin/true\n# {name}\n");
        let unit = UnitName::parse(name).unwrap();
        let change = Change {
            content: Some(Content::judge(&unit, text.as_bytes()).unwrap()),
            ..Change::new(Verb::Start)
        };
        let request = Request {
            id: RequestId::parse(&format!("request-{}", name.len())).unwrap(),
            stamp: Stamp::default(),
            new_uid: UnitUid::parse(&format!("uid-{}", name.len())).unwrap(),
        };
        let Verdict::Write(written) = change.decide(&unit, None, &request).unwrap() else {
            panic!("nothing new")
        };
        let write = UnitWrite {
            unit,
            expected: Revision(0),
            placement: None,
            record: written.record,
            content: Some(text),
            note: EventNote { kind: "unit-created".into(), unit: None, machine: None, why: String::new() },
        };
        let fence = ClusterFence { cluster: self.cluster };
        let asked = fleet_registry::Asked { at: self.clock.now(), by: "test".into(), request: None };
        let written = self.registry.write_units(fence, &[write], &asked).await;
        assert!(written.iter().all(fleet_registry::Outcome::is_applied), "{written:?}");
    }

    fn candidate(&self, name: &str) -> Candidate {
        let state = SessionState {
            connection: Connection::Connected { since: Timestamp(0) },
            trust: Some(Trust::Own),
            cluster: None,
            presence: Some(Presence {
                created: Revision(1),
                lease: fleet_registry::store::LeaseId(1),
                since: Timestamp(0),
            }),
            refused: None,
        };
        let (session, receiver) = watch::channel(state);
        let shutdown = CancellationToken::new();
        let client = self.store.client(name);
        let leases = client.clone();
        let disk = tempfile::tempdir().unwrap();
        let member = MemberFile::open(disk.path()).unwrap();
        member
            .anchor(
                fleet_registry::store::StoreKind::Memory,
                ClusterId::parse("c").unwrap(),
                Epoch(1),
                0,
                Revision(0),
            )
            .unwrap();
        let doubt = Arc::new(Notify::new());
        let (handle, serve) = start(EngineOptions {
            registry: Registry::new(Arc::new(client), Keys::new("/fleet/").unwrap(), name.len() as u64),
            clock: self.clock.clone(),
            machine: id(name),
            version: "test".into(),
            role: EngineRole::Auto,
            compacts: true,
            grace: Duration::from_secs(5),
            session: receiver,
            member: member.clone(),
            doubt: Arc::clone(&doubt),
            lease: Arc::new(move |name, ttl| {
                Ok(LeaseKeeper::on_task(LeaseOptions::new(name, ttl, 3), Arc::new(leases.clone())))
            }),
            seed: u64::from(name.as_bytes()[name.len() - 1]),
            shutdown: shutdown.clone(),
        });
        let task = tokio::spawn(serve);
        Candidate { handle, shutdown, _session: session, member, doubt, _disk: disk, task }
    }

    async fn until(&self, what: &str, fits: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let look = async {
            loop {
                let snapshot = self.registry.read(&Area::all()).await.unwrap();
                if fits(&snapshot) {
                    return snapshot;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(600), look).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    fn at(snapshot: &Snapshot, unit: &str) -> Option<String> {
        let placement = snapshot.placements.get(&UnitName::parse(unit).unwrap())?;
        placement.value.machine.as_ref().map(ToString::to_string)
    }
}

impl Candidate {
    async fn leads(&mut self) {
        let leading = self.handle.status.wait_for(|status| status.leading.is_some());
        timeout(Duration::from_secs(60), leading).await.expect("never leads").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_leader_places_what_was_submitted_before_and_after_its_election() {
    let cluster = Cluster::new().await;
    cluster.machine("m1").await;
    cluster.machine("m2").await;
    cluster.launch("a.service").await;
    let _leader = cluster.candidate("m1");
    cluster.until("a is placed", |s| Cluster::at(s, "a.service").is_some()).await;
    cluster.launch("bb.service").await;
    let placed = cluster.until("bb is placed", |s| Cluster::at(s, "bb.service").is_some()).await;
    assert_eq!(Cluster::at(&placed, "a.service").as_deref(), Some("m1"));
    assert_eq!(Cluster::at(&placed, "bb.service").as_deref(), Some("m2"));
    let order = &placed.orders[&id("m2")][&UnitName::parse("bb.service").unwrap()].value;
    assert_eq!(order.wanted, Wanted::Launched);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_in_order_is_followed_at_once_and_one_that_dies_within_its_lease() {
    let cluster = Cluster::new().await;
    cluster.machine("m1").await;
    let mut first = cluster.candidate("m1");
    first.leads().await;
    let mut second = cluster.candidate("m2");
    let mut third = cluster.candidate("m3");
    first.shutdown.cancel();
    let began = tokio::time::Instant::now();
    let second_leads = tokio::select! {
        () = second.leads() => true,
        () = third.leads() => false,
    };
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let (dies, mut follows) = if second_leads { (second, third) } else { (third, second) };
    dies.task.abort();
    follows.leads().await;
    cluster.launch("a.service").await;
    cluster.until("a is placed", |s| Cluster::at(s, "a.service").is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_from_the_store_writes_nothing_when_it_comes_back() {
    let cluster = Cluster::new().await;
    cluster.machine("m1").await;
    let mut zombie = cluster.candidate("m1");
    zombie.leads().await;
    let before = cluster.until("leader key", |s| s.leader.is_some()).await.leader.unwrap();
    cluster.store.set_link("m1", Link::Silent);
    let mut next = cluster.candidate("m2");
    next.leads().await;
    cluster.store.set_link("m1", Link::Open);
    cluster.launch("a.service").await;
    let placed = cluster.until("a is placed", |s| Cluster::at(s, "a.service").is_some()).await;
    let order = &placed.orders[&id("m1")][&UnitName::parse("a.service").unwrap()].value;
    assert!(order.number.term.0 > before.created.0, "the order is the new leader's");
    let deposed = zombie.handle.status.wait_for(|status| status.leading.is_none());
    timeout(Duration::from_secs(60), deposed).await.expect("the zombie notices").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_presence_is_gone_is_marked_and_its_units_move_after_the_grace() {
    let cluster = Cluster::new().await;
    cluster.machine("m1").await;
    cluster.machine("m2").await;
    cluster.launch("a.service").await;
    let _leader = cluster.candidate("m3");
    let placed = cluster.until("a is placed", |s| Cluster::at(s, "a.service").is_some()).await;
    assert_eq!(Cluster::at(&placed, "a.service").as_deref(), Some("m1"));
    let presence = cluster.registry.keys().key(&fleet_registry::keys::Key::Presence(id("m1")));
    let gone = fleet_registry::store::Txn::of(vec![fleet_registry::store::Op::delete(presence)]);
    cluster.store.client("test").txn(gone).await.unwrap();
    cluster.until("m1 is marked", |s| s.lost.contains_key(&id("m1"))).await;
    let marked = tokio::time::Instant::now();
    let moved = cluster.until("a has moved", |s| Cluster::at(s, "a.service").as_deref() == Some("m2")).await;
    let waited = marked.elapsed();
    assert!((Duration::from_millis(4_900)..Duration::from_millis(5_500)).contains(&waited), "{waited:?}");
    let tombstone = &moved.orders[&id("m1")][&UnitName::parse("a.service").unwrap()].value;
    assert_eq!(tombstone.wanted, Wanted::Gone);
}

#[tokio::test(start_paused = true)]
async fn what_is_done_to_placements_is_counted_once_each() {
    let cluster = Cluster::new().await;
    let mut leader = cluster.candidate("m3");
    leader.leads().await;
    cluster.launch("a.service").await;
    cluster.until("a is judged", |s| !s.placements.is_empty()).await;
    cluster.machine("m1").await;
    cluster.until("a is placed", |s| Cluster::at(s, "a.service").is_some()).await;
    cluster.machine("m2").await;
    cluster.launch("bb.service").await;
    cluster.until("bb is placed", |s| Cluster::at(s, "bb.service").is_some()).await;
    let presence = cluster.registry.keys().key(&fleet_registry::keys::Key::Presence(id("m1")));
    let gone = fleet_registry::store::Txn::of(vec![fleet_registry::store::Op::delete(presence)]);
    cluster.store.client("test").txn(gone).await.unwrap();
    cluster.until("a has moved", |s| Cluster::at(s, "a.service").as_deref() == Some("m2")).await;
    let expected = TaskCounts {
        scheduled: Task { done: 3, failed: 0 },
        unscheduled: Task { done: 1, failed: 0 },
        machine_away: 1,
        unplaceable: 1,
    };
    let counted = leader.handle.status.wait_for(|status| status.tasks == expected);
    let counted = timeout(Duration::from_secs(60), counted).await.map(|_| ());
    assert!(counted.is_ok(), "{:?}", leader.handle.status.borrow().tasks);
    // Passes that find nothing to do count nothing.
    let passes = leader.handle.status.borrow().passes;
    let later = leader.handle.status.wait_for(|status| status.passes > passes);
    timeout(Duration::from_secs(3_600), later).await.unwrap().unwrap();
    assert_eq!(leader.handle.status.borrow().tasks, expected);
}

#[tokio::test(start_paused = true)]
async fn p1_a_candidate_that_knows_more_than_the_store_does_not_campaign() {
    let cluster = Cluster::new().await;
    let mut candidate = cluster.candidate("m1");
    candidate.member.advance(0, Revision(1_000)).unwrap();
    timeout(Duration::from_secs(60), candidate.doubt.notified()).await.expect("the session is told");
    let abstains = candidate.handle.status.wait_for(|status| status.abstains.is_some());
    let why = timeout(Duration::from_secs(60), abstains).await.unwrap().unwrap().abstains.clone().unwrap();
    assert!(why.contains("rolled back") && why.contains("cluster adopt"), "{why}");
    assert!(cluster.registry.read_leader().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_abstained_leads_when_its_reason_is_gone() {
    let cluster = Cluster::new().await;
    cluster.machine("m1").await;
    let record = HoldRecord {
        v: SCHEMA,
        by: id("m9"),
        since: Timestamp(0),
        why: "a test".into(),
        extra: Extra::new(),
    };
    cluster.registry.put_hold(&record, cluster.cluster).await.unwrap();
    let mut candidate = cluster.candidate("m1");
    let abstains = candidate.handle.status.wait_for(|status| status.abstains.is_some());
    timeout(Duration::from_secs(60), abstains).await.unwrap().unwrap();
    let hold = cluster.registry.keys().key(&fleet_registry::keys::Key::Hold);
    let gone = fleet_registry::store::Txn::of(vec![fleet_registry::store::Op::delete(hold)]);
    cluster.store.client("test").txn(gone).await.unwrap();
    candidate.leads().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_store_was_rolled_back_under_it_starts_over_and_is_not_stuck() {
    let cluster = Cluster::new().await;
    cluster.machine("m1").await;
    let mut leader = cluster.candidate("m1");
    leader.leads().await;
    let old = cluster.store.snapshot();
    for unit in ["a.service", "bb.service", "ccc.service"] {
        cluster.launch(unit).await;
        cluster.until("placed", |s| Cluster::at(s, unit).is_some()).await;
    }
    cluster.store.restore(&old);
    timeout(Duration::from_secs(60), leader.doubt.notified()).await.expect("the session is told");
    cluster.launch("dddd.service").await;
    cluster.until("placed after the restore", |s| Cluster::at(s, "dddd.service").is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn p5_a_store_that_takes_no_writes_is_told() {
    let cluster = Cluster::new().await;
    cluster.machine("m1").await;
    let mut leader = cluster.candidate("m1");
    leader.leads().await;
    cluster.launch("a.service").await;
    cluster.until("placed", |s| Cluster::at(s, "a.service").is_some()).await;
    let full = Fault::Fail(StoreError::NoSpace { operation: Operation::Txn });
    cluster.store.inject(Injection::next(full).on(Operation::Txn).of_client("m1").times(2));
    cluster.launch("bb.service").await;
    let told = leader.handle.status.wait_for(|status| status.last_error.is_some());
    timeout(Duration::from_secs(60), told).await.expect("it is told").unwrap();
    let fine = leader.handle.status.wait_for(|status| status.last_error.is_none());
    timeout(Duration::from_secs(60), fine).await.expect("and that it is over").unwrap();
    cluster.until("placed", |s| Cluster::at(s, "bb.service").is_some()).await;
}
