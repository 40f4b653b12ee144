//! Sessions against a store in memory, on a paused clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleet_core::reconcile::{Accepted, DiskRecord};
use fleet_core::records::{
    Counters, EngineRole, Extra, HoldRecord, Order, PresenceRecord, Reason, RunKind, SCHEMA, Wanted,
};
use fleet_core::store_trust::Trust;
use fleet_core::{BootId, Epoch, Generation, MachineId, Nonce, OrderNumber, Span, Term, Timestamp, UnitUid};
use fleet_registry::Registry;
use fleet_registry::keys::{Area, Key, Keys};
use fleet_registry::lease::{LeaseKeeper, LeaseOptions};
use fleet_registry::memory::{Fault, Injection, MemoryStore};
use fleet_registry::store::{
    Lease, LeaseId, LeaseTtl, Op, Operation, Range, RangeReply, Store, StoreError, StoreKind, StoreStatus,
    Txn, TxnReply, WatchRequest, WatchStream,
};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use unit_files::{ContentHash, UnitFile, UnitName};

use super::{SessionHandle, SessionOptions, SessionState, start};
use crate::clock::Clock;
use crate::member::MemberFile;

struct Machine {
    handle: SessionHandle,
    doubt: Arc<Notify>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn registry(store: &MemoryStore, client: &str) -> Registry {
    Registry::new(Arc::new(store.client(client)), Keys::new("/fleet/").unwrap(), 1)
}

fn presence(id: &str, boot: &str, nonce: &str) -> PresenceRecord {
    PresenceRecord {
        v: SCHEMA,
        machine: MachineId::parse(id).unwrap(),
        primary_ip: "10.0.0.1".into(),
        peer_address: String::new(),
        fingerprint: String::new(),
        metadata: std::collections::BTreeMap::new(),
        hostname: format!("host-of-{nonce}"),
        version: String::new(),
        systemd: String::new(),
        features: std::collections::BTreeSet::new(),
        boot: BootId::parse(boot).unwrap(),
        nonce: Nonce::parse(nonce).unwrap(),
        engine: EngineRole::Auto,
        agent_ttl: Span::from_secs(15),
        since: Timestamp(0),
        extra: Extra::new(),
    }
}

fn run(store: &MemoryStore, disk: &tempfile::TempDir, client: &str, presence: PresenceRecord) -> Machine {
    let member = MemberFile::open(disk.path()).unwrap();
    run_on(registry(store, client), member, Accepted::default(), store, client, presence)
}

fn run_on(
    registry: Registry,
    member: MemberFile,
    accepted: Accepted,
    store: &MemoryStore,
    client: &str,
    presence: PresenceRecord,
) -> Machine {
    let shutdown = CancellationToken::new();
    let doubt = Arc::new(Notify::new());
    let lease = LeaseKeeper::on_task(
        LeaseOptions::new("presence", Duration::from_secs(10), 1),
        Arc::new(store.client(client)),
    );
    let (handle, serve) = start(SessionOptions {
        registry,
        member,
        accepted,
        clock: Clock::simulated(Timestamp(1_000_000)),
        presence,
        lease,
        doubt: Arc::clone(&doubt),
        seed: 7,
        shutdown: shutdown.clone(),
    });
    Machine { handle, doubt, shutdown, task: tokio::spawn(serve) }
}

fn operator() -> fleet_registry::Asked {
    fleet_registry::Asked { at: Timestamp(0), by: "operator".into(), request: None }
}

impl Machine {
    async fn until(&mut self, what: &str, fits: impl FnMut(&SessionState) -> bool) -> SessionState {
        let state = timeout(Duration::from_secs(120), self.handle.state.wait_for(fits)).await;
        state.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_machine_creates_the_cluster_and_the_second_joins_it() {
    let store = MemoryStore::new(1);
    let (disk1, disk2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut m1 = run(&store, &disk1, "m1", presence("m1", "b1", "n1"));
    let first = m1.until("m1 is present", SessionState::may_act).await;
    let mut m2 = run(&store, &disk2, "m2", presence("m2", "b2", "n2"));
    let second = m2.until("m2 is present", SessionState::may_act).await;
    assert_eq!(first.cluster, second.cluster);
}

/// A machine that lost its member file and has orders of epoch `accepted`.
fn with_orders_of(store: &MemoryStore, disk: &tempfile::TempDir, id: &str, accepted: u64) -> Machine {
    let member = MemberFile::open(disk.path()).unwrap();
    let floor = OrderNumber { epoch: Epoch(accepted), ..OrderNumber::default() };
    let accepted = Accepted::of(&BTreeMap::new(), floor);
    run_on(registry(store, id), member, accepted, store, id, presence(id, "b1", "n1"))
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_made_above_every_order_that_its_machine_has_accepted() {
    let store = MemoryStore::new(1);
    let disk = tempfile::tempdir().unwrap();
    let mut m1 = with_orders_of(&store, &disk, "m1", 2);
    let state = m1.until("m1 is present", SessionState::may_act).await;
    assert_eq!(state.cluster.unwrap().1, Epoch(3));
    assert_eq!(MemberFile::open(disk.path()).unwrap().get().unwrap().epoch, Epoch(3));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_raised_above_the_orders_of_a_machine_that_joins_it_and_only_then() {
    let store = MemoryStore::new(1);
    let disks = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut m1 = run(&store, &disks[0], "m1", presence("m1", "b1", "n1"));
    m1.until("m1 is present", SessionState::may_act).await;
    let mut m2 = with_orders_of(&store, &disks[1], "m2", 4);
    let joined = m2.until("m2 is present", SessionState::may_act).await;
    assert_eq!(joined.cluster.as_ref().unwrap().1, Epoch(5));
    // The agent follows `cluster` and tells.
    m1.doubt.notify_one();
    let anchored = m1.until("m1 has anchored anew", |state| {
        state.may_act() && state.cluster.as_ref().is_some_and(|(_, epoch)| *epoch == Epoch(5))
    });
    assert_eq!(anchored.await.cluster, joined.cluster);
    let mut m3 = with_orders_of(&store, &disks[2], "m3", 4);
    assert_eq!(m3.until("m3 is present", SessionState::may_act).await.cluster, joined.cluster);
}

fn order(term: i64, sequence: u64) -> Order {
    let text = "[Service]\nExecStart=/usr/bin/work\n";
    let file = UnitFile::parse(text).unwrap();
    Order {
        v: SCHEMA,
        number: OrderNumber { epoch: Epoch(1), term: Term(term), sequence },
        uid: UnitUid::parse("u1").unwrap(),
        generation: Generation(1),
        content: ContentHash::of(text.as_bytes()),
        unit_hash: file.unit_hash(),
        run_hash: file.run_hash(&[]),
        wanted: Wanted::Launched,
        counters: Counters::default(),
        run: RunKind::Continuous,
        conflicts: Vec::new(),
        global: false,
        features: std::collections::BTreeSet::new(),
        reason: Reason::new("test", ""),
        at: Timestamp(0),
        extra: Extra::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_lost_its_member_file_rejoins_the_cluster_of_its_orders_without_a_new_epoch() {
    let store = MemoryStore::new(1);
    let disks = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut m1 = run(&store, &disks[0], "m1", presence("m1", "b1", "n1"));
    let before = m1.until("m1 is present", SessionState::may_act).await.cluster;
    let unit: UnitName = "a.service".parse().unwrap();
    let with_order_of = |disk: &tempfile::TempDir, id: &str| {
        let records = BTreeMap::from([(unit.clone(), DiskRecord::new(order(5, 3)))]);
        let accepted = Accepted::of(&records, OrderNumber::default());
        let member = MemberFile::open(disk.path()).unwrap();
        run_on(registry(&store, id), member, accepted, &store, id, presence(id, "b1", "n1"))
    };
    let give = |id: &str, order: Order| {
        let machine = MachineId::parse(id).unwrap();
        let key = registry(&store, "looker").keys().key(&Key::Order(machine, unit.clone()));
        let put = Op::put(key, serde_json::to_vec(&order).unwrap());
        let store = store.client("looker");
        async move { drop(store.txn(Txn::of(vec![put])).await.unwrap()) }
    };
    give("m2", order(5, 3)).await;
    let mut m2 = with_order_of(&disks[1], "m2");
    assert_eq!(m2.until("m2 is present", SessionState::may_act).await.cluster, before);
    // A store that was put back from before that order: nobody acts on it until the operator says so.
    give("m3", order(5, 2)).await;
    let mut m3 = with_order_of(&disks[2], "m3");
    let refused = m3.until("m3 is told", |state| state.refused.is_some()).await.refused.unwrap();
    assert!(refused.contains("cluster adopt"), "{refused}");
    let looker = registry(&store, "looker");
    let there = looker.read(&Area::all()).await.unwrap();
    assert_eq!((there.cluster.unwrap().value.epoch, there.hold.unwrap().value.by.as_str()), (Epoch(1), "m3"));
    looker.adopt(Epoch(1), &operator()).await.unwrap();
    assert_eq!(m3.until("m3 is present", SessionState::may_act).await.cluster.unwrap().1, Epoch(2));
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_user_may_not_raise_the_cluster_says_what_to_do_until_it_may() {
    let store = MemoryStore::new(1);
    let disks = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut m1 = run(&store, &disks[0], "m1", presence("m1", "b1", "n1"));
    m1.until("m1 is present", SessionState::may_act).await;
    let (operation, detail) = (Operation::Txn, "no role".to_owned());
    let denied = Fault::Fail(StoreError::PermissionDenied { operation, detail });
    // After the reads of the session and of the raising.
    store.inject(Injection::next(denied).of_client("m2").on(operation).after(2));
    let mut m2 = with_orders_of(&store, &disks[1], "m2", 4);
    let refused = m2.until("m2 is told", |state| state.refused.is_some()).await.summary();
    assert!(refused.contains("/fleet/cluster") && refused.contains("etcd_username"), "{refused}");
    let joined = m2.until("m2 is present", SessionState::may_act).await;
    assert_eq!((joined.cluster.unwrap().1, joined.refused), (Epoch(5), None));
}

#[tokio::test(start_paused = true)]
async fn a_machine_with_later_orders_waits_for_the_end_of_a_hold_before_it_joins() {
    let store = MemoryStore::new(1);
    let disks = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut m1 = run(&store, &disks[0], "m1", presence("m1", "b1", "n1"));
    m1.until("m1 is present", SessionState::may_act).await;
    let looker = registry(&store, "looker");
    let cluster = looker.read(&Area::all()).await.unwrap().cluster.unwrap();
    let by = MachineId::parse("m1").unwrap();
    let hold = HoldRecord { v: SCHEMA, by, since: Timestamp(0), why: "a test".into(), extra: Extra::new() };
    looker.put_hold(&hold, cluster.modified).await.unwrap();
    let mut m2 = with_orders_of(&store, &disks[1], "m2", 4);
    let refused = m2.until("m2 is told", |state| state.refused.is_some()).await;
    assert!(refused.refused.unwrap().contains("cluster adopt"));
    assert_eq!(MemberFile::open(disks[1].path()).unwrap().get(), None);
    looker.adopt(Epoch(1), &operator()).await.unwrap();
    let joined = m2.until("m2 is present", SessionState::may_act).await;
    assert_eq!(joined.cluster.unwrap().1, Epoch(5));
}

#[tokio::test(start_paused = true)]
async fn p3_a_restarted_fleetd_takes_its_own_presence_over_at_once() {
    let store = MemoryStore::new(1);
    let disk = tempfile::tempdir().unwrap();
    let mut m1 = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    m1.until("present", SessionState::may_act).await;
    m1.task.abort();
    let before = tokio::time::Instant::now();
    let mut again = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    again.until("present again", SessionState::may_act).await;
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cloned_machine_is_refused_and_named_and_the_first_one_stays() {
    let store = MemoryStore::new(1);
    let (disk, clone) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut m1 = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    m1.until("present", SessionState::may_act).await;
    let mut other = run(&store, &clone, "clone", presence("m1", "b9", "n9"));
    let refused = other.until("refused", |state| state.refused.is_some()).await;
    let why = refused.refused.unwrap();
    assert!(why.contains("host-of-n1") && why.contains("systemd-machine-id-setup"), "{why}");
    assert!(refused.presence.is_none());
    assert!(m1.handle.state.borrow().may_act());
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_boot_waits_for_its_old_presence_to_run_out() {
    let store = MemoryStore::new(1);
    let disk = tempfile::tempdir().unwrap();
    let mut m1 = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    m1.until("present", SessionState::may_act).await;
    m1.stop().await;
    let mut next = run(&store, &disk, "m1", presence("m1", "b2", "n2"));
    next.until("present after the reboot", SessionState::may_act).await;
    assert!(next.handle.state.borrow().refused.is_none());
}

#[tokio::test(start_paused = true)]
async fn p1_an_emptied_store_is_told_and_nothing_is_written_into_it() {
    let store = MemoryStore::new(1);
    let disk = tempfile::tempdir().unwrap();
    let mut m1 = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    m1.until("present", SessionState::may_act).await;
    store.wipe();
    // The agent follows `cluster` and tells.
    m1.doubt.notify_one();
    let state = m1.until("distrusted", |state| state.trust == Some(Trust::Empty)).await;
    assert!(state.summary().contains("restore a backup"), "{}", state.summary());
    let left = registry(&store, "looker").read(&Area::all()).await.unwrap();
    assert!(left.cluster.is_none() && left.presence.is_empty() && left.machines.is_empty());
}

#[tokio::test(start_paused = true)]
async fn p1_a_store_restored_from_an_older_snapshot_is_put_on_hold_until_it_is_adopted() {
    let store = MemoryStore::new(1);
    let disk = tempfile::tempdir().unwrap();
    let mut m1 = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    m1.until("present", SessionState::may_act).await;
    let old = store.snapshot();
    let member = MemberFile::open(disk.path()).unwrap();
    member.advance(3, fleet_core::Revision(1000)).unwrap();
    m1.stop().await;
    store.restore(&old);
    let mut m1 = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    let state = m1.until("held", |state| matches!(state.trust, Some(Trust::Held { .. }))).await;
    assert!(state.summary().contains("fleetctl cluster adopt"), "{}", state.summary());
    let looker = registry(&store, "looker");
    looker.adopt(fleet_core::Epoch(1), &operator()).await.unwrap();
    m1.doubt.notify_one();
    let state = m1.until("adopted", SessionState::may_act).await;
    assert_eq!(state.cluster.map(|(_, epoch)| epoch.0), Some(2));
    // Restored from before that adoption: what is adopted next is told to be above it.
    m1.stop().await;
    store.restore(&old);
    let mut m1 = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    let state = m1.until("held again", |state| matches!(state.trust, Some(Trust::Held { .. }))).await;
    let (_, seen) = state.cluster.clone().unwrap();
    assert_eq!(seen.0, 2);
    looker.adopt(seen, &operator()).await.unwrap();
    m1.doubt.notify_one();
    let state = m1.until("adopted again", SessionState::may_act).await;
    assert_eq!(state.cluster.map(|(_, epoch)| epoch.0), Some(3));
}

#[tokio::test(start_paused = true)]
async fn p4_a_session_without_an_answer_says_since_when() {
    let store = MemoryStore::new(1);
    let disk = tempfile::tempdir().unwrap();
    let mut m1 = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    m1.until("present", SessionState::may_act).await;
    store.set_all_links(fleet_registry::memory::Link::Silent);
    let lost = |state: &SessionState| matches!(state.connection, super::Connection::Disconnected { .. });
    let state = m1.until("disconnected", lost).await;
    let line = state.summary();
    assert!(line.starts_with("disconnected, holding since"), "{line}");
    store.set_all_links(fleet_registry::memory::Link::Open);
    m1.until("present again", SessionState::may_act).await;
}

/// Answers to reads take a second to arrive.
#[derive(Debug, Clone)]
struct LateAnswers(MemoryStore);

#[async_trait::async_trait]
impl Store for LateAnswers {
    async fn range(&self, range: Range) -> Result<RangeReply, StoreError> {
        self.0.range(range).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        let is_read = txn.is_read_only();
        let reply = self.0.txn(txn).await;
        if is_read {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        reply
    }
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError> {
        self.0.watch(request).await
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.0.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        self.0.lease_keep_alive(id).await
    }
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.0.lease_revoke(id).await
    }
    async fn lease_ttl(&self, id: LeaseId) -> Result<Option<LeaseTtl>, StoreError> {
        self.0.lease_ttl(id).await
    }
    async fn compact(&self, revision: fleet_registry::store::Revision) -> Result<(), StoreError> {
        self.0.compact(revision).await
    }
    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.0.status().await
    }
    fn kind(&self) -> StoreKind {
        self.0.kind()
    }
}

#[tokio::test(start_paused = true)]
async fn p1_a_commit_that_overtakes_the_judgement_is_no_reason_for_a_hold() {
    let store = MemoryStore::new(1);
    let disk = tempfile::tempdir().unwrap();
    let member = MemberFile::open(disk.path()).unwrap();
    let late = Registry::new(Arc::new(LateAnswers(store.client("m1"))), Keys::new("/fleet/").unwrap(), 1);
    let mut m1 = run_on(late, member.clone(), Accepted::default(), &store, "m1", presence("m1", "b1", "n1"));
    m1.until("present", SessionState::may_act).await;
    m1.doubt.notify_one();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The session has read, and its answer is on its way; the agent commits, and keeps the reply's revision.
    let looker = registry(&store, "looker");
    let key = looker.keys().key(&fleet_registry::keys::Key::Machine(MachineId::parse("m2").unwrap()));
    let written = looker.store().txn(Txn::of(vec![Op::put(key, "{}")])).await.unwrap();
    let revision = fleet_core::Revision(i64::try_from(written.header.revision.0).unwrap());
    member.advance(0, revision).unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(m1.handle.state.borrow().may_act());
    assert!(looker.read(&Area::all()).await.unwrap().hold.is_none());
}

#[tokio::test(start_paused = true)]
async fn p8_a_machine_writes_nothing_while_the_store_is_held() {
    let store = MemoryStore::new(1);
    let disk = tempfile::tempdir().unwrap();
    let mut m1 = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    m1.until("present", SessionState::may_act).await;
    let looker = registry(&store, "looker");
    let cluster = looker.read(&Area::all()).await.unwrap().cluster.unwrap().modified;
    let hold = HoldRecord {
        v: SCHEMA,
        by: MachineId::parse("m9").unwrap(),
        since: Timestamp(0),
        why: "a test".into(),
        extra: Extra::new(),
    };
    looker.put_hold(&hold, cluster).await.unwrap();
    m1.doubt.notify_one();
    m1.until("held", |state| matches!(state.trust, Some(Trust::Held { .. }))).await;
    let before = looker.read(&Area::all()).await.unwrap().revision;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(looker.read(&Area::all()).await.unwrap().revision, before);
    assert!(m1.handle.state.borrow().presence.is_some(), "it stays present");
}

#[tokio::test(start_paused = true)]
async fn an_announcement_is_remembered_as_seen() {
    let store = MemoryStore::new(1);
    let disk = tempfile::tempdir().unwrap();
    let member = MemberFile::open(disk.path()).unwrap();
    let mut m1 = run_on(
        registry(&store, "m1"),
        member.clone(),
        Accepted::default(),
        &store,
        "m1",
        presence("m1", "b1", "n1"),
    );
    let state = m1.until("present", SessionState::may_act).await;
    assert_eq!(member.get().unwrap().seen, state.presence.unwrap().created);
}

#[tokio::test(start_paused = true)]
async fn what_a_machine_says_of_itself_can_change_while_it_is_present() {
    let store = MemoryStore::new(1);
    let disk = tempfile::tempdir().unwrap();
    let mut m1 = run(&store, &disk, "m1", presence("m1", "b1", "n1"));
    let before = m1.until("m1 is present", SessionState::may_act).await.presence.unwrap();
    let registry = registry(&store, "reader");
    let said = async || {
        let key = registry.keys().key(&fleet_registry::keys::Key::Presence(MachineId::parse("m1").unwrap()));
        let reply = store.client("reader").range(Range::key(key)).await.unwrap();
        serde_json::from_slice::<PresenceRecord>(&reply.kvs[0].value).unwrap()
    };
    assert!(said().await.metadata.is_empty());
    m1.handle.describe(|presence| {
        presence.metadata.insert("disk".into(), "ssd".into());
        presence.primary_ip = "10.0.0.9".into();
    });
    timeout(Duration::from_secs(5), async {
        while said().await.primary_ip != "10.0.0.9" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(said().await.metadata["disk"], "ssd");
    let after = m1.until("m1 is present", SessionState::may_act).await.presence.unwrap();
    assert_eq!((after.created, after.lease), (before.created, before.lease), "it never was away");
    m1.stop().await;
}
