//! Random histories of operators and faults; after every step nothing has stopped that nobody asked to stop, and in the
//! end the cluster is as it was asked to be.
//!
//! `FLEET_SIM_CASES` asks for more histories than the few that every run makes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fleet_api::v2::Verb;
use fleet_core::records::DesiredState;
use fleet_registry::memory::{Fault, Injection, Link};
use fleet_registry::store::Operation;
use fleet_systemd::fake::What;
use fleet_tests::sim::ledger::Mark;
use fleet_tests::sim::{Cluster, operator, simulate};
use proptest::prelude::*;
use unit_files::UnitName;

const MACHINES: [&str; 3] = ["m1", "m2", "m3"];
const UNITS: [&str; 5] = ["a.service", "b.service", "c@1.service", "c@2.service", "pinned.service"];
const CASES: u32 = 12;

fn text(unit: &str) -> &'static str {
    match unit {
        "c@1.service" | "c@2.service" => {
            "[Service]\nExecStart=/usr/bin/c\n[X-Fleet]\nConflicts=c@*.service\n"
        }
        "pinned.service" => "[Service]\nExecStart=/usr/bin/pinned\n[X-Fleet]\nMachineID=m2\n",
        _ => "[Service]\nExecStart=/usr/bin/work\n",
    }
}

#[derive(Clone, Debug)]
enum Act {
    Ask(Verb, usize),
    KillFleetd(usize),
    StartFleetd(usize),
    KillMachine(usize),
    Boot(usize),
    Partition(usize, bool),
    Heal(usize),
    StopStore(bool),
    StartStore,
    Compact,
    Snapshot,
    Restore,
    Elect,
    LoseReplies(usize, usize),
    Wait(u64),
    Settle,
}

fn act() -> impl Strategy<Value = Act> {
    let verb = prop_oneof![
        4 => Just(Verb::Start),
        1 => Just(Verb::Stop),
        1 => Just(Verb::Restart),
        1 => Just(Verb::Unload),
        1 => Just(Verb::Destroy),
    ];
    let machine = 0..MACHINES.len();
    prop_oneof![
        8 => (verb, 0..UNITS.len()).prop_map(|(verb, unit)| Act::Ask(verb, unit)),
        2 => machine.clone().prop_map(Act::KillFleetd),
        3 => machine.clone().prop_map(Act::StartFleetd),
        1 => machine.clone().prop_map(Act::KillMachine),
        2 => machine.clone().prop_map(Act::Boot),
        1 => (machine.clone(), any::<bool>()).prop_map(|(m, silent)| Act::Partition(m, silent)),
        2 => machine.clone().prop_map(Act::Heal),
        1 => any::<bool>().prop_map(Act::StopStore),
        2 => Just(Act::StartStore),
        1 => Just(Act::Compact),
        1 => Just(Act::Snapshot),
        1 => Just(Act::Restore),
        1 => Just(Act::Elect),
        1 => (machine, 1..4_usize).prop_map(|(m, times)| Act::LoseReplies(m, times)),
        4 => (1..25_u64).prop_map(Act::Wait),
        2 => Just(Act::Settle),
    ]
}

struct History {
    cluster: Cluster,
    marks: BTreeMap<String, Mark>,
    /// Units that somebody asked to stop, restart or leave since they were last all at rest.
    asked: BTreeSet<UnitName>,
    /// Machines that were out of sight since then: their units may have moved.
    disturbed: BTreeSet<String>,
    has_snapshot: bool,
    /// The store was rolled back: what it has forgotten runs on without an order.
    is_rolled_back: bool,
}

fn link(is_silent: bool) -> Link {
    if is_silent { Link::Silent } else { Link::Refused }
}

impl History {
    async fn new() -> anyhow::Result<History> {
        let mut cluster = Cluster::of(MACHINES.len()).await?;
        for unit in UNITS {
            cluster.operator.texts.insert(unit.into(), text(unit).into());
        }
        Ok(History {
            cluster,
            marks: BTreeMap::new(),
            asked: BTreeSet::new(),
            disturbed: BTreeSet::new(),
            has_snapshot: false,
            is_rolled_back: false,
        })
    }

    async fn act(&mut self, act: &Act) -> anyhow::Result<()> {
        let cluster = &mut self.cluster;
        match act {
            Act::Ask(verb, unit) => {
                if *verb != Verb::Start {
                    self.asked.insert(UnitName::parse(UNITS[*unit])?);
                }
                // Refused, or without an answer: either way its effect counts, if it has one.
                let _ = cluster.change(*verb, &[UNITS[*unit]], false).await;
            }
            Act::KillFleetd(machine) => {
                self.disturbed.insert(MACHINES[*machine].into());
                cluster.machine(MACHINES[*machine])?.kill_fleetd().await;
            }
            Act::StartFleetd(machine) => {
                let name = MACHINES[*machine];
                let machine = cluster.machine(name)?;
                if machine.is_on && machine.daemon.is_none() {
                    cluster.start_fleetd(name).await?;
                }
            }
            Act::KillMachine(machine) => {
                self.disturbed.insert(MACHINES[*machine].into());
                cluster.machine(MACHINES[*machine])?.kill().await;
            }
            Act::Boot(machine) => {
                if !cluster.machine(MACHINES[*machine])?.is_on {
                    cluster.boot(MACHINES[*machine]).await?;
                }
            }
            Act::Partition(machine, is_silent) => {
                self.disturbed.insert(MACHINES[*machine].into());
                cluster.partition(MACHINES[*machine], link(*is_silent))?;
            }
            Act::Heal(machine) => cluster.heal(MACHINES[*machine])?,
            Act::StopStore(is_silent) => {
                // Leases run out while nobody can renew them.
                self.disturbed.extend(MACHINES.map(str::to_owned));
                cluster.stop_store(link(*is_silent));
            }
            Act::StartStore => cluster.start_store(),
            Act::Compact => cluster.compact().await?,
            Act::Snapshot => {
                self.has_snapshot = true;
                cluster.snapshot("past");
            }
            Act::Restore if self.has_snapshot => {
                // What the store says after it is what it once was told: stops included.
                self.is_rolled_back = true;
                self.disturbed.extend(MACHINES.map(str::to_owned));
                cluster.restore("past")?;
            }
            Act::Restore => {}
            Act::Elect => cluster.store.elect(),
            Act::LoseReplies(machine, times) => {
                let fault = Injection::next(Fault::DropReply).on(Operation::Txn).times(*times);
                cluster.store.inject(fault.of_client(MACHINES[*machine]));
            }
            Act::Wait(seconds) => cluster.tick(Duration::from_secs(*seconds)).await,
            Act::Settle => drop(cluster.settle().await),
        }
        Ok(())
    }

    /// What must hold after every step.
    fn check(&mut self) -> anyhow::Result<()> {
        for machine in self.cluster.machines.values() {
            let mark = self.marks.entry(machine.name.clone()).or_default();
            let (log, next) = mark.read(machine);
            *mark = next;
            for execution in log.iter().filter(|execution| execution.what == What::Stopped) {
                anyhow::ensure!(
                    self.asked.contains(&execution.unit) || self.disturbed.contains(&machine.name),
                    "{} stopped {} although nobody asked for it",
                    machine.name,
                    execution.unit
                );
            }
        }
        for (unit, on) in self.cluster.running() {
            let is_excused = self.is_rolled_back || on.iter().any(|machine| self.disturbed.contains(machine));
            anyhow::ensure!(on.len() <= 1 || is_excused, "{unit} runs on {on:?}");
        }
        Ok(())
    }

    /// Takes back every fault, lets the cluster come to rest, and compares it with what is wanted.
    async fn heal(&mut self) -> anyhow::Result<()> {
        let cluster = &mut self.cluster;
        cluster.store.clear_faults();
        cluster.start_store();
        for name in MACHINES {
            cluster.heal(name)?;
            let machine = cluster.machine(name)?;
            match (machine.is_on, machine.daemon.is_some()) {
                (false, _) => cluster.boot(name).await?,
                (true, false) => cluster.start_fleetd(name).await?,
                (true, true) => {}
            }
        }
        cluster.tick(Duration::from_secs(30)).await;
        if cluster.registry.read_all().await?.hold.is_some() {
            let log = |cluster: &Cluster| {
                cluster.machines.values().map(|machine| machine.systemd.executions()).collect::<Vec<_>>()
            };
            let before = log(cluster);
            cluster.tick(Duration::from_secs(60)).await;
            anyhow::ensure!(log(cluster) == before, "something started or stopped under a hold");
            operator::adopt(&cluster.door()?).await;
        }
        // Longer than any lease, any retry and the longest wait after a refusal.
        for _ in 0..4 {
            cluster.tick(Duration::from_secs(30)).await;
            cluster.settle().await;
        }
        self.check()?;
        self.converged().await?;
        self.asked.clear();
        self.disturbed.clear();
        Ok(())
    }

    async fn converged(&self) -> anyhow::Result<()> {
        let snapshot = self.cluster.registry.read_all().await?;
        let running = self.cluster.running();
        anyhow::ensure!(snapshot.hold.is_none(), "{:?}", snapshot.hold);
        anyhow::ensure!(snapshot.presence.len() == MACHINES.len(), "{:?}", snapshot.presence.keys());
        anyhow::ensure!(snapshot.lost.is_empty(), "{:?}", snapshot.lost.keys());
        for unit in UNITS {
            let name = UnitName::parse(unit)?;
            let desired = snapshot.units.get(&name).map(|record| record.value.desired);
            let on = running.get(&name).map_or(0, BTreeSet::len);
            let wanted = usize::from(desired == Some(DesiredState::Launched));
            anyhow::ensure!(desired != Some(DesiredState::Destroyed), "{unit} is still to be destroyed");
            // A copy that the store has forgotten, or that it places elsewhere now, is left alone.
            let is_as_wanted = if self.is_rolled_back { on >= wanted } else { on == wanted };
            anyhow::ensure!(is_as_wanted, "{unit}: {desired:?}, runs on {:?}", running.get(&name));
        }
        Ok(())
    }
}

async fn play(acts: &[Act]) -> anyhow::Result<()> {
    let mut history = History::new().await?;
    for act in acts {
        history.act(act).await?;
        history.check()?;
    }
    history.heal().await?;
    // A second life after the first: what is at rest stays so.
    history.cluster.tick(Duration::from_secs(120)).await;
    history.check()?;
    history.converged().await
}

fn cases() -> u32 {
    std::env::var("FLEET_SIM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_stops_unasked_and_the_cluster_converges(
        acts in prop::collection::vec(act(), 1..25)
    ) {
        let outcome = simulate(async { Ok(play(&acts).await) });
        prop_assert!(outcome.is_ok(), "{:#}", outcome.unwrap_err());
    }
}
