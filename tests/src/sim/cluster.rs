//! The simulated cluster: machines, one store, one clock.
//!
//! Scenarios and tests call it; it stands on the runtime's paused clock, so that an hour takes as long as what happens
//! in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fleet_api::v2::Verb;
use fleet_core::records::{ClusterRecord, EventNote, Extra, MachineRecord, SCHEMA, Settings, Stamp};
use fleet_core::{ClusterId, Epoch, MachineId, Revision, Timestamp};
use fleet_registry::keys::Keys;
use fleet_registry::memory::{Fault, Injection, Link, MemorySnapshot, MemoryStore};
use fleet_registry::store::{Op, Operation, Range, Store as _, Txn};
use fleet_registry::{Asked, Registry};
use fleetd::clock::Clock;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use unit_files::UnitName;

use super::ledger;
use super::machine::{Machine, Setup};
use super::operator::{self, Answer, Door, Operator};

/// 2025-01-01, when every fake systemd's clock starts too.
const START: Timestamp = Timestamp(1_735_689_600_000);
/// Nothing is under way that moves by itself within this time, except what waits for a time-out.
const QUIET: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(250);
/// What is not settled after this long does not settle.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than any simulated wait: a call so delayed is one of a process that was stopped.
const FROZEN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Cluster {
    pub store: MemoryStore,
    /// Sees the store also when nobody else does.
    pub registry: Registry,
    pub operator: Operator,
    pub machines: BTreeMap<String, Machine>,
    pub began: Instant,
    clock: Clock,
    snapshots: BTreeMap<String, MemorySnapshot>,
    home: TempDir,
    is_down: bool,
    cut: BTreeSet<String>,
}

impl Cluster {
    /// An empty store and no machine. Call it inside a paused runtime.
    ///
    /// # Errors
    /// No temporary directory.
    pub fn new() -> anyhow::Result<Cluster> {
        let store = MemoryStore::new(1);
        let clock = Clock::simulated(START);
        let keys = Keys::new("/fleet/").context("the default prefix")?;
        Ok(Cluster {
            registry: Registry::new(Arc::new(store.client("observer")), keys, 1),
            operator: Operator::default(),
            machines: BTreeMap::new(),
            began: Instant::now(),
            clock,
            snapshots: BTreeMap::new(),
            home: temporary_directory()?,
            is_down: false,
            cut: BTreeSet::new(),
            store,
        })
    }

    /// A cluster of machines `m1`, `m2`, ... at rest.
    ///
    /// # Errors
    /// A fleetd refuses to start.
    pub async fn of(machines: usize) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::new()?;
        for number in 1..=machines {
            cluster.add(&format!("m{number}"), Setup::default()).await?;
        }
        cluster.settle().await;
        Ok(cluster)
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The temporary directory, whose name differs between runs.
    #[must_use]
    pub fn home_path(&self) -> String {
        self.home.path().display().to_string()
    }

    /// # Errors
    /// No machine has this name.
    pub fn machine(&mut self, name: &str) -> anyhow::Result<&mut Machine> {
        self.machines.get_mut(name).with_context(|| format!("there is no machine {name}"))
    }

    /// Boots a new machine and starts its fleetd.
    ///
    /// # Errors
    /// fleetd refuses to start.
    pub async fn add(&mut self, name: &str, setup: Setup) -> anyhow::Result<()> {
        let id = MachineId::parse(name).context("a machine's name is its id")?;
        self.boot_new(name, id, setup).await
    }

    /// Boots a machine under the id of another one.
    ///
    /// # Errors
    /// There is no such machine, or fleetd refuses to start.
    pub async fn clone_machine(&mut self, of: &str, name: &str) -> anyhow::Result<()> {
        let original = self.machine(of)?;
        let (id, setup) = (original.id.clone(), original.setup.clone());
        self.boot_new(name, id, setup).await
    }

    async fn boot_new(&mut self, name: &str, id: MachineId, setup: Setup) -> anyhow::Result<()> {
        let machine = Machine::new(name, id, setup, self.home.path());
        self.machines.insert(name.to_owned(), machine);
        self.start_fleetd(name).await
    }

    /// # Errors
    /// fleetd refuses to start, or the machine is off.
    pub async fn start_fleetd(&mut self, name: &str) -> anyhow::Result<()> {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        if self.is_down {
            self.machine(name)?.set_link(&store, Link::Refused);
        }
        self.machine(name)?.start_fleetd(&store, clock).await
    }

    /// The machine is switched on again.
    ///
    /// # Errors
    /// As [`start_fleetd`](Self::start_fleetd).
    pub async fn boot(&mut self, name: &str) -> anyhow::Result<()> {
        self.machine(name)?.is_on = true;
        self.start_fleetd(name).await
    }

    /// Cuts one machine off the store.
    ///
    /// # Errors
    /// There is no such machine.
    pub fn partition(&mut self, name: &str, link: Link) -> anyhow::Result<()> {
        self.cut.insert(name.to_owned());
        let store = self.store.clone();
        self.machine(name)?.set_link(&store, link);
        Ok(())
    }

    /// # Errors
    /// There is no such machine.
    pub fn heal(&mut self, name: &str) -> anyhow::Result<()> {
        self.cut.remove(name);
        let store = self.store.clone();
        let link = if self.is_down { Link::Refused } else { Link::Open };
        self.machine(name)?.set_link(&store, link);
        Ok(())
    }

    /// The store stops answering everybody but the observer.
    pub fn stop_store(&mut self, link: Link) {
        self.is_down = true;
        self.set_links(link);
    }

    pub fn start_store(&mut self) {
        self.is_down = false;
        self.set_links(Link::Open);
    }

    fn set_links(&mut self, link: Link) {
        for machine in self.machines.values().filter(|machine| !self.cut.contains(&machine.name)) {
            machine.set_link(&self.store, link);
        }
    }

    pub fn snapshot(&mut self, name: &str) {
        self.snapshots.insert(name.to_owned(), self.store.snapshot());
    }

    /// # Errors
    /// No snapshot has this name.
    pub fn restore(&mut self, name: &str) -> anyhow::Result<()> {
        let snapshot = self.snapshots.get(name).with_context(|| format!("there is no snapshot {name}"))?;
        self.store.restore(snapshot);
        Ok(())
    }

    /// Writes one key as it was at a snapshot, as a leader does that was away for long.
    ///
    /// # Errors
    /// No snapshot has this name, or it does not have the key.
    pub async fn replay(&self, name: &str, key: &str) -> anyhow::Result<()> {
        let snapshot = self.snapshots.get(name).with_context(|| format!("there is no snapshot {name}"))?;
        let past = MemoryStore::new(1);
        past.restore(snapshot);
        let key = format!("/fleet/{key}");
        let found = past.range(Range::key(key.clone())).await?.kvs.pop();
        let value = found.with_context(|| format!("there was no {key}"))?.value;
        self.registry.store().txn(Txn::of(vec![Op::put(key, value)])).await?;
        Ok(())
    }

    /// Puts another cluster's store in the place of this one's.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn make_foreign(&mut self) -> anyhow::Result<()> {
        self.store.wipe();
        let record = ClusterRecord {
            v: SCHEMA,
            id: ClusterId::parse("another-cluster").context("an id")?,
            epoch: Epoch(1),
            features: BTreeSet::new(),
            settings: Settings::default(),
            created: Stamp::default(),
            extra: Extra::new(),
        };
        self.registry.create_cluster(&record).await.context("the observer's link is open")?;
        Ok(())
    }

    /// Forgets all history but the present.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn compact(&self) -> anyhow::Result<()> {
        let store = self.registry.store();
        let revision = store.status().await?.header.revision;
        Ok(store.compact(revision).await?)
    }

    /// The machine that leads, by its own word. Two may believe so at a time.
    #[must_use]
    pub fn leaders(&self) -> Vec<&str> {
        let leads = |machine: &&Machine| {
            machine.daemon.as_ref().is_some_and(|daemon| daemon.engine.status.borrow().leading.is_some())
        };
        self.machines.values().filter(leads).map(|machine| machine.name.as_str()).collect()
    }

    /// Stops the leader between its next decision and the write of it, long enough to lose its lease.
    ///
    /// # Errors
    /// Nobody leads, or more than one does.
    pub fn freeze_leader(&mut self) -> anyhow::Result<String> {
        let leaders = self.leaders();
        anyhow::ensure!(leaders.len() == 1, "leaders: {leaders:?}");
        let name = leaders[0].to_owned();
        let lease = self.machine(&name)?.lease_client();
        self.store.set_link(&lease, Link::Silent);
        self.store.inject(Injection::next(Fault::Delay(FROZEN)).on(Operation::Txn).of_client(&name));
        Ok(name)
    }

    /// The API of a machine that reaches the store, if there is one.
    ///
    /// # Errors
    /// No fleetd runs.
    pub fn door(&self) -> anyhow::Result<Door> {
        let is_open = |machine: &&Machine| machine.daemon.is_some() && !self.cut.contains(&machine.name);
        let any = || self.machines.values().find(|machine| machine.daemon.is_some());
        let machine = self.machines.values().find(is_open).or_else(any).context("no fleetd runs")?;
        Ok(Door::new(machine.socket()))
    }

    /// Asks for a change of some units and answers what was not done.
    ///
    /// # Errors
    /// No fleetd runs, or a name is none.
    pub async fn change(&mut self, verb: Verb, units: &[&str], replace: bool) -> anyhow::Result<Answer> {
        let units = units.iter().map(|unit| UnitName::parse(unit)).collect::<Result<Vec<_>, _>>()?;
        let request = self.operator.request(verb, &units, replace);
        Ok(operator::send(&self.door()?, &request).await)
    }

    /// Writes the operator's record of a machine, which no command reaches yet in full.
    ///
    /// # Errors
    /// The store is on hold or does not answer.
    pub async fn edit_machine(
        &self,
        name: &str,
        edit: impl FnOnce(&mut MachineRecord),
    ) -> anyhow::Result<()> {
        let id = MachineId::parse(name)?;
        let snapshot = self.registry.read_all().await?;
        let fence = snapshot.fence().context("the store is on hold")?;
        let found = snapshot.machines.get(&id).context("no such machine")?;
        let mut record = found.value.clone();
        edit(&mut record);
        let note = EventNote {
            kind: "machine-edited".into(),
            unit: None,
            machine: Some(id.clone()),
            why: String::new(),
        };
        let asked = Asked { at: self.now(), by: "operator".into(), request: None };
        let expected: Revision = found.modified;
        let done = self.registry.set_machine_record(fence, &id, expected, &record, note, &asked).await;
        anyhow::ensure!(done.is_applied(), "{done:?}");
        Ok(())
    }

    pub async fn tick(&self, time: Duration) {
        sleep(time).await;
    }

    /// Runs until nothing has changed for a while; false if that does not come.
    pub async fn settle(&self) -> bool {
        let patience = Instant::now() + PATIENCE;
        let mut last = self.fingerprint().await;
        let mut quiet_since = Instant::now();
        while Instant::now() < patience {
            sleep(STEP).await;
            let now = self.fingerprint().await;
            if now != last {
                last = now;
                quiet_since = Instant::now();
            }
            if quiet_since.elapsed() >= QUIET {
                return true;
            }
        }
        false
    }

    async fn fingerprint(&self) -> (u64, Vec<usize>) {
        let status = self.registry.store().status().await;
        let revision = status.map_or(0, |status| status.header.revision.0);
        (revision, self.machines.values().map(|machine| machine.systemd.executions().len()).collect())
    }

    /// On which machines each unit has a process.
    #[must_use]
    pub fn running(&self) -> BTreeMap<UnitName, BTreeSet<String>> {
        let mut running: BTreeMap<UnitName, BTreeSet<String>> = BTreeMap::new();
        for machine in self.machines.values() {
            for unit in ledger::running(machine) {
                running.entry(unit).or_default().insert(machine.name.clone());
            }
        }
        running
    }
}

/// In memory where there is such a place: a pass waits for each of its writes.
fn temporary_directory() -> anyhow::Result<TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.context("no temporary directory")
}
