//! A tiny systemd and a machine around [`reconcile`], for the tests of this module.

use std::collections::{BTreeMap, BTreeSet};

use unit_files::{ContentHash, RunHash, UnitFile, UnitHash, UnitName};

use super::*;
use crate::ids::{Epoch, Generation, Term, UnitUid};
use crate::records::{Counters, Extra, Reason, RunKind, SCHEMA, Wanted};

pub(super) fn boot(n: u64) -> BootId {
    BootId::parse(&format!("boot{n}")).unwrap()
}

pub(super) fn name(text: &str) -> UnitName {
    text.parse().unwrap()
}

pub(super) fn number(sequence: u64) -> OrderNumber {
    OrderNumber { epoch: Epoch(0), term: Term(1), sequence }
}

fn file(text: u64) -> UnitFile {
    UnitFile::parse(&format!("[Service]\nExecStart=/bin/work {text}\n")).unwrap()
}

pub(super) fn content(text: u64) -> ContentHash {
    ContentHash::of(format!("text {text}").as_bytes())
}

pub(super) fn run_hash(text: u64) -> RunHash {
    file(text).run_hash(&[])
}

pub(super) fn unit_hash(text: u64) -> UnitHash {
    file(text).unit_hash()
}

/// Of text 1, generation 1.
pub(super) fn order(sequence: u64, wanted: Wanted) -> Order {
    Order {
        v: SCHEMA,
        number: number(sequence),
        uid: UnitUid::parse("u1").unwrap(),
        generation: Generation(1),
        content: content(1),
        unit_hash: unit_hash(1),
        run_hash: run_hash(1),
        wanted,
        counters: Counters::default(),
        run: RunKind::Continuous,
        conflicts: Vec::new(),
        global: false,
        features: BTreeSet::new(),
        reason: Reason::new("test", ""),
        at: Timestamp(0),
        extra: Extra::new(),
    }
}

pub(super) fn oneshot(order: Order) -> Order {
    Order { run: RunKind::Oneshot, ..order }
}

/// With text `text`, whose meaning is its own.
pub(super) fn with_text(order: Order, text: u64) -> Order {
    Order {
        content: content(text),
        run_hash: run_hash(text),
        unit_hash: unit_hash(text),
        generation: Generation(text),
        ..order
    }
}

pub(super) fn unit(active: &str) -> LoadedUnit {
    LoadedUnit {
        load: "loaded".into(),
        active: active.into(),
        sub: if active == "active" { "running" } else { "dead" }.into(),
        result: "success".into(),
        invocation: None,
        condition_timestamp: 0,
        fragment: Fragment::Ours,
        exit_status: None,
        n_restarts: 0,
        state_change: 0,
        run_hash: Some(run_hash(1)),
        has_control_group: false,
    }
}

/// How a unit of the model behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Manner {
    #[default]
    RunsOn,
    /// Type=oneshot that ends well.
    Oneshot,
    /// Its start job fails.
    Fails,
    /// Its start job never ends.
    Hangs,
    /// Its stop job never ends.
    StopHangs,
    /// Its condition is not met.
    Skipped,
}

#[derive(Clone, Debug)]
pub(super) struct ModelUnit {
    pub shown: LoadedUnit,
    pub job: Option<JobKind>,
}

/// One line of what happened to a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    Ran {
        boot: u64,
        run_hash: RunHash,
    },
    /// A stop job was enqueued by the agent.
    Stopped,
}

/// Where the agent dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dies {
    /// Before the records are durable.
    BeforeRecords,
    /// After so many steps.
    AfterSteps(usize),
}

/// A machine: systemd, disk, and the agent's memory of its own jobs.
#[derive(Debug)]
pub(super) struct Model {
    pub boots: u64,
    pub now: u64,
    pub orders: BTreeMap<UnitName, Versioned<Order>>,
    pub revision: i64,
    pub disk: BTreeMap<UnitName, DiskRecord>,
    pub floor: OrderNumber,
    pub files: BTreeMap<UnitName, OnDisk>,
    pub units: BTreeMap<UnitName, ModelUnit>,
    pub pins: BTreeSet<UnitName>,
    pub manners: BTreeMap<UnitName, Manner>,
    pub rows: BTreeMap<UnitName, StateRow>,
    pub contents: BTreeMap<ContentHash, TextFacts>,
    pub problems: BTreeMap<ContentHash, FetchProblem>,
    pub features: BTreeSet<String>,
    pub disk_error: Option<String>,
    pub source: OrderSource,
    pub log: Vec<(UnitName, Happened)>,
    pub acked: Vec<UnitName>,
    pub failures: BTreeMap<UnitName, StepFailure>,
    /// Failures for the next steps of a unit.
    pub inject: BTreeMap<UnitName, StepFailure>,
    pub last: Pass,
    ended: BTreeMap<UnitName, EndedJob>,
    invocations: u64,
}

impl Model {
    pub(super) fn new() -> Model {
        Model {
            boots: 1,
            now: 1_000_000,
            orders: BTreeMap::new(),
            revision: 1,
            disk: BTreeMap::new(),
            floor: OrderNumber::default(),
            files: BTreeMap::new(),
            units: BTreeMap::new(),
            pins: BTreeSet::new(),
            manners: BTreeMap::new(),
            rows: BTreeMap::new(),
            contents: (1..5).map(|text| (content(text), TextFacts::default())).collect(),
            problems: BTreeMap::new(),
            features: BTreeSet::new(),
            disk_error: None,
            source: OrderSource::Registry,
            log: Vec::new(),
            acked: Vec::new(),
            failures: BTreeMap::new(),
            inject: BTreeMap::new(),
            last: Pass::default(),
            ended: BTreeMap::new(),
            invocations: 0,
        }
    }

    pub(super) fn give(&mut self, unit: &str, order: Order) {
        self.revision += 1;
        let modified = Revision(self.revision);
        self.orders.insert(name(unit), Versioned { value: order, created: modified, modified });
    }

    pub(super) fn observed(&self) -> BTreeMap<UnitName, Observed> {
        let names: BTreeSet<&UnitName> =
            self.orders.keys().chain(self.disk.keys()).chain(self.files.keys()).chain(&self.pins).collect();
        names.into_iter().map(|name| (name.clone(), self.observe(name))).collect()
    }

    fn observe(&self, name: &UnitName) -> Observed {
        let unit = self.units.get(name);
        Observed {
            loaded: unit.map(|unit| unit.shown.clone()),
            is_pinned: self.pins.contains(name),
            on_disk: self.files.get(name).copied(),
            job: unit.and_then(|unit| unit.job).map(|kind| Job { kind, since: Timestamp(self.now) }),
            ended: self.ended.get(name).cloned(),
            failure: self.failures.get(name).cloned(),
            is_busy: false,
        }
    }

    pub(super) fn local(&self) -> Local {
        Local {
            records: self.disk.clone(),
            observed: self.observed(),
            rows: self.rows.clone(),
            known_features: self.features.clone(),
            contents: self.contents.clone(),
            fetch_problems: self.problems.clone(),
            state_directory_error: self.disk_error.clone(),
            floor: self.floor,
            ..Local::new(boot(self.boots))
        }
    }

    pub(super) fn orders(&self) -> Orders {
        match self.source {
            OrderSource::Disk => Orders::from_disk(&self.disk),
            _ => Orders { by_unit: self.orders.clone(), ..Orders::none(Revision(self.revision)) },
        }
    }

    /// One pass of the agent; false if it died in it.
    pub(super) fn pass(&mut self, dies: Option<Dies>) -> bool {
        let local = self.local();
        let pass = reconcile(&self.orders(), &local, Timestamp(self.now));
        assert_eq!(pass, reconcile(&self.orders(), &local, Timestamp(self.now)), "not deterministic");
        self.last = pass.clone();
        if dies == Some(Dies::BeforeRecords) {
            self.crash();
            return false;
        }
        self.failures.clear();
        self.ended.clear();
        for (name, record) in pass.records {
            // What is on disk is what can be read back from it.
            let text = serde_json::to_string(&record).unwrap();
            self.disk.insert(name, serde_json::from_str(&text).unwrap());
        }
        self.floor = pass.floor;
        self.disk.retain(|name, _| !pass.forget.contains(name));
        let mut failed = BTreeSet::new();
        for (count, (name, step)) in pass.steps.iter().enumerate() {
            if dies == Some(Dies::AfterSteps(count)) {
                self.crash();
                return false;
            }
            if failed.contains(name) {
                continue;
            }
            if let Some(failure) = self.inject.remove(name) {
                failed.insert(name.clone());
                self.failures.insert(name.clone(), failure);
                continue;
            }
            self.carry_out(name, step);
        }
        if dies.is_some() {
            self.crash();
            return false;
        }
        if self.source == OrderSource::Registry {
            self.rows = pass.rows;
            for ack in pass.acknowledgements {
                if self.orders.get(&ack.unit).is_some_and(|order| order.modified == ack.modified) {
                    self.orders.remove(&ack.unit);
                    self.rows.remove(&ack.unit);
                    self.acked.push(ack.unit);
                }
            }
        }
        true
    }

    /// The agent dies; what it only had in memory is gone.
    pub(super) fn crash(&mut self) {
        self.ended.clear();
        self.failures.clear();
    }

    pub(super) fn reboot(&mut self) {
        self.crash();
        self.boots += 1;
        self.units.clear();
        self.files.clear();
        self.pins.clear();
    }

    /// Passes and jobs until nothing is left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..60 {
            self.pass(None);
            let moved = self.run_jobs();
            let is_quiet = self.last.is_quiet(&self.local()) || self.last.steps.is_empty();
            if !moved && is_quiet && self.ended.is_empty() && self.failures.is_empty() {
                self.pass(None);
                if self.last.steps.is_empty() && self.last.acknowledgements.is_empty() {
                    return;
                }
            }
        }
        panic!("does not come to rest: {:?}", self.last);
    }

    fn carry_out(&mut self, name: &UnitName, step: &Step) {
        match step {
            Step::Stop => {
                self.log.push((name.clone(), Happened::Stopped));
                self.enqueue(name, JobKind::Stop);
            }
            Step::ResetFailed => {
                if let Some(unit) = self.units.get_mut(name)
                    && unit.shown.active == "failed"
                {
                    unit.shown.active = "inactive".into();
                }
                self.collect(name);
            }
            Step::Unpin => {
                self.pins.remove(name);
                self.collect(name);
            }
            Step::Uninstall => {
                self.files.remove(name);
            }
            Step::Install { content, run_hash } => {
                let (content, run_hash) = (*content, Some(*run_hash));
                self.files.insert(name.clone(), OnDisk { content, run_hash, is_linked: true });
            }
            Step::Reload => {
                let files = &self.files;
                for (name, unit) in &mut self.units {
                    unit.shown.run_hash = files.get(name).and_then(|file| file.run_hash);
                }
            }
            Step::Start => {
                self.load(name);
                self.pins.insert(name.clone());
                self.enqueue(name, JobKind::Start);
            }
        }
    }

    fn load(&mut self, name: &UnitName) {
        if !self.units.contains_key(name) {
            let run_hash = self.files.get(name).and_then(|file| file.run_hash);
            let shown = LoadedUnit { run_hash, ..unit("inactive") };
            self.units.insert(name.clone(), ModelUnit { shown, job: None });
        }
    }

    fn collect(&mut self, name: &UnitName) {
        let is_over = self.units.get(name).is_some_and(|u| u.job.is_none() && u.shown.active == "inactive");
        if is_over && !self.pins.contains(name) {
            self.units.remove(name);
        }
    }

    fn enqueue(&mut self, name: &UnitName, kind: JobKind) {
        let Some(unit) = self.units.get_mut(name) else { return };
        if unit.job.is_some_and(|job| job != kind) {
            self.ended.insert(name.clone(), EndedJob { kind: JobKind::Start, result: "canceled".into() });
        }
        unit.job = Some(kind);
    }

    /// What an administrator does by hand.
    pub(super) fn admin(&mut self, unit: &str, kind: JobKind) {
        let name = name(unit);
        if kind == JobKind::Start && self.files.contains_key(&name) {
            self.load(&name);
        }
        if self.units.get(&name).is_some_and(|unit| unit.job.is_none()) {
            self.enqueue(&name, kind);
            self.run_jobs();
            self.ended.remove(&name);
        }
    }

    /// Lets every job end that can; whether one did.
    pub(super) fn run_jobs(&mut self) -> bool {
        let names: Vec<UnitName> = self.units.keys().cloned().collect();
        let mut moved = false;
        for name in names {
            let manner = self.manners.get(&name).copied().unwrap_or_default();
            let (boots, next) = (self.boots, self.invocations + 1);
            let Some(unit) = self.units.get_mut(&name) else { continue };
            let Some(kind) = unit.job else { continue };
            let is_up = unit.shown.active == "active";
            let run_hash = unit.shown.run_hash;
            let mut ran = false;
            let mut start = |shown: &mut LoadedUnit, active: &str, result: &str| {
                shown.active = active.into();
                shown.sub = if active == "active" { "running" } else { "dead" }.into();
                shown.result = result.into();
                shown.invocation = Some(format!("i{next}"));
                shown.condition_timestamp = next;
                ran = true;
            };
            let result = match (kind, manner) {
                (JobKind::Start, Manner::Hangs) if !is_up => {
                    if unit.shown.active == "activating" {
                        continue;
                    }
                    start(&mut unit.shown, "activating", "success");
                    ""
                }
                (JobKind::Stop, Manner::StopHangs) if is_up || unit.shown.active == "deactivating" => {
                    moved |= is_up;
                    unit.shown.active = "deactivating".into();
                    continue;
                }
                (JobKind::Start, _) if is_up => "done",
                (JobKind::Start, Manner::Skipped) => {
                    unit.shown.condition_timestamp = next;
                    "done"
                }
                (JobKind::Start, Manner::Fails) => {
                    start(&mut unit.shown, "failed", "exit-code");
                    "failed"
                }
                (JobKind::Start, Manner::Oneshot) => {
                    start(&mut unit.shown, "inactive", "success");
                    "done"
                }
                (JobKind::Start, _) => {
                    start(&mut unit.shown, "active", "success");
                    "done"
                }
                _ => {
                    unit.shown.active = "inactive".into();
                    unit.shown.sub = "dead".into();
                    "done"
                }
            };
            moved = true;
            if !result.is_empty() {
                unit.job = None;
                self.ended.insert(name.clone(), EndedJob { kind, result: result.into() });
            }
            if ran {
                let happened = Happened::Ran { boot: boots, run_hash: run_hash.expect("ours") };
                self.log.push((name.clone(), happened));
            }
            self.invocations = next;
            self.collect(&name);
        }
        moved
    }

    pub(super) fn runs(&self, unit: &str) -> usize {
        let is_run = |(of, what): &&(UnitName, Happened)| of.as_str() == unit && *what != Happened::Stopped;
        self.log.iter().filter(is_run).count()
    }

    pub(super) fn stops(&self, unit: &str) -> usize {
        let is_stop = |(of, what): &&(UnitName, Happened)| of.as_str() == unit && *what == Happened::Stopped;
        self.log.iter().filter(is_stop).count()
    }

    pub(super) fn is_active(&self, unit: &str) -> bool {
        self.units.get(unit).is_some_and(|unit| unit.shown.active == "active")
    }

    pub(super) fn row(&self, unit: &str) -> &StateRow {
        self.rows.get(unit).unwrap_or_else(|| panic!("no row of {unit}"))
    }
}
