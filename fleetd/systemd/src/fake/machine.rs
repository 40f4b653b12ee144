//! The fake's machine without any clock or task: units, jobs, files, pins. Time is an argument, what is to
//! happen later is returned as effects. `jobs` holds the state machine of starts and stops.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::{
    error::SystemdError,
    fake::{
        control::{Behaviour, Counters, Execution},
        text::Spec,
        unit::{Job, JobKind, Loaded, Source, Unit},
    },
    shadow::template_of,
    types::{
        ActiveState, ContentHash, Install, InstalledUnit, InvocationId, JobId, JobResult, LoadState, Shadow,
        ShadowKind, SystemdEvent, UnitDetail, UnitName, UnitState, UnitStatus,
    },
};

/// A step of a unit that happens by itself after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    RunJob(JobId),
    StartDone,
    StartTimedOut,
    MainExited(i32),
    StopDone { killed: bool },
    AutoRestart,
}

#[derive(Debug)]
pub(super) enum Effect {
    After { delay: Duration, unit: UnitName, token: u64, step: Step },
    Event(SystemdEvent),
}

/// A unit of the host, not of fleet.
#[derive(Debug, Clone)]
pub(super) struct HostUnit {
    pub path: String,
    pub text: String,
    pub masked: bool,
    pub alias_of: Option<UnitName>,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub label: String,
    pub boots: u64,
    pub files: BTreeMap<UnitName, Install>,
    pub host: BTreeMap<UnitName, HostUnit>,
    pub units: BTreeMap<UnitName, Unit>,
    pub pins: BTreeSet<UnitName>,
    /// Units that some unit of the host refers to, and that therefore stay loaded.
    pub referenced: BTreeSet<UnitName>,
    /// Loaded targets of the host -> links (`wants` or `requires`, unit) that they have read.
    pub targets: BTreeMap<String, BTreeSet<(&'static str, UnitName)>>,
    pub behaviours: BTreeMap<UnitName, Behaviour>,
    pub counters: Counters,
    pub executions: Vec<Execution>,
    pub effects: Vec<Effect>,
    pub next_job: u32,
    pub next_invocation: u64,
    pub next_pid: u32,
}

impl Machine {
    pub(super) fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            boots: 1,
            files: BTreeMap::new(),
            host: BTreeMap::new(),
            units: BTreeMap::new(),
            pins: BTreeSet::new(),
            referenced: BTreeSet::new(),
            targets: BTreeMap::new(),
            behaviours: BTreeMap::new(),
            counters: Counters::default(),
            executions: Vec::new(),
            effects: Vec::new(),
            next_job: 1,
            next_invocation: 1,
            next_pid: 100,
        }
    }

    /// 32 hex digits that differ between machines and boots, the same in every run of a test.
    pub(super) fn boot_id(&self) -> String {
        hex::encode(&Sha256::digest(format!("{}/{}", self.label, self.boots))[..16])
    }

    pub(super) fn new_invocation(&mut self) -> InvocationId {
        let digest = Sha256::digest(format!("{}/{}/{}", self.label, self.boots, self.next_invocation));
        self.next_invocation += 1;
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        InvocationId(id)
    }

    /// What loading the name would read now. A file of `/etc` wins over ours, ours over `/usr`.
    pub(super) fn source(&self, name: &UnitName) -> Option<Source> {
        let host = self.host.get(name).filter(|host| !host.masked && host.alias_of.is_none());
        match (self.files.get(name), host) {
            (Some(install), Some(host)) if !host.path.starts_with("/etc/") => {
                Some(Source::Ours(install.clone()))
            }
            (_, Some(host)) => Some(Source::Host { path: host.path.clone(), text: host.text.clone() }),
            (Some(install), None) => Some(Source::Ours(install.clone())),
            (None, None) => None,
        }
    }

    fn read(&self, name: &UnitName) -> Loaded {
        let masked = self.host.get(name).is_some_and(|host| host.masked);
        let nothing = |state| Loaded { state, source: None, spec: None, message: String::new() };
        if masked {
            return nothing(LoadState::Masked);
        }
        let Some(source) = self.source(name) else { return nothing(LoadState::NotFound) };
        match Spec::read(name, &source.text()) {
            Ok(spec) => Loaded {
                state: LoadState::Loaded,
                source: Some(source),
                spec: Some(spec),
                message: String::new(),
            },
            Err(message) => {
                Loaded { state: LoadState::BadSetting, source: Some(source), spec: None, message }
            }
        }
    }

    /// Loads the name if it is not loaded. A stub of a name that was not found is read again each time; any
    /// other text is read once and kept, whatever happens to the file.
    pub(super) fn load(&mut self, name: &UnitName) {
        match self.units.get(name) {
            Some(unit) if unit.loaded.state != LoadState::NotFound => {}
            Some(unit) if !unit.active.is_at_rest() => {}
            Some(_) => {
                let loaded = self.read(name);
                if let Some(unit) = self.units.get_mut(name) {
                    unit.loaded = loaded;
                }
            }
            None => {
                let unit = Unit::new(self.read(name));
                self.units.insert(name.clone(), unit);
            }
        }
    }

    /// `daemon-reload`: every loaded unit is read again; running processes go on.
    pub(super) fn reload(&mut self) {
        self.counters.reloads += 1;
        self.read_links();
        let names: Vec<UnitName> = self.units.keys().cloned().collect();
        for name in names {
            let loaded = self.read(&name);
            if let Some(unit) = self.units.get_mut(&name) {
                unit.loaded = loaded;
            }
            self.collect(&name);
        }
        self.effects.push(Effect::Event(SystemdEvent::Resync));
    }

    /// Links toward a target that lie on disk.
    fn links_to(&self, target: &str) -> BTreeSet<(&'static str, UnitName)> {
        let is_asked = |list: &[String]| list.iter().any(|by| by == target);
        let of = |unit: &Install| {
            let wants = is_asked(&unit.wanted_by).then(|| ("wants", unit.name.clone()));
            wants.into_iter().chain(is_asked(&unit.required_by).then(|| ("requires", unit.name.clone())))
        };
        self.files.values().flat_map(of).collect()
    }

    /// Loaded targets read their links; what a loaded target names is loaded.
    pub(super) fn read_links(&mut self) {
        let targets: Vec<String> = self.targets.keys().cloned().collect();
        for target in targets {
            let links = self.links_to(&target);
            for (_, name) in &links {
                self.load(name);
            }
            self.targets.insert(target, links);
        }
    }

    pub(super) fn unread_links(&self) -> Vec<String> {
        let unread = self.targets.iter().flat_map(|(target, read)| {
            let links: Vec<_> = self.links_to(target).difference(read).cloned().collect();
            links.into_iter().map(move |(kind, unit)| format!("{target}.{kind}/{unit}"))
        });
        unread.collect()
    }

    /// Unloads the unit if nothing keeps it.
    pub(super) fn collect(&mut self, name: &UnitName) {
        let Some(unit) = self.units.get(name) else { return };
        let collects_failed = unit.loaded.spec.as_ref().is_some_and(|spec| spec.collects_failed);
        let is_over =
            unit.active == ActiveState::Inactive || (unit.active == ActiveState::Failed && collects_failed);
        let is_pulled = self.targets.values().flatten().any(|(_, unit)| unit == name);
        let is_kept = self.pins.contains(name) || self.referenced.contains(name) || is_pulled;
        if unit.job.is_none() && is_over && !is_kept {
            self.units.remove(name);
            self.changed(name);
        }
    }

    pub(super) fn changed(&mut self, name: &UnitName) {
        let unit = self.units.get(name).filter(|unit| unit.job.is_none());
        let state = unit.map(|unit| UnitState {
            active: unit.active.clone(),
            sub: unit.sub.to_owned(),
            state_change: unit.state_change,
        });
        self.effects.push(Effect::Event(SystemdEvent::UnitChanged { unit: name.to_string(), state }));
    }

    pub(super) fn finish_job(&mut self, name: &UnitName, result: JobResult) {
        if let Some(job) = self.units.get_mut(name).and_then(|unit| unit.job.take()) {
            let event = SystemdEvent::JobRemoved { job: job.id, unit: name.to_string(), result };
            self.effects.push(Effect::Event(event));
            // That there is no job any more is a change as well.
            self.changed(name);
        }
    }

    pub(super) fn enqueue(&mut self, name: &UnitName, kind: JobKind) -> JobId {
        let id = JobId(self.next_job);
        self.next_job += 1;
        if let Some(unit) = self.units.get_mut(name) {
            unit.job = Some(Job { id, kind });
        }
        let step = Step::RunJob(id);
        self.effects.push(Effect::After { delay: Duration::ZERO, unit: name.clone(), token: 0, step });
        id
    }

    pub(super) fn list(&self, names: &[UnitName]) -> Vec<UnitStatus> {
        names.iter().filter_map(|name| self.units.get(name).map(|unit| unit.status(name))).collect()
    }

    pub(super) fn inspect(&self, name: &UnitName) -> Option<UnitDetail> {
        let target = self.host.get(name).and_then(|host| host.alias_of.as_ref()).unwrap_or(name);
        let on_disk = self.source(target);
        self.units.get(target).map(|unit| unit.detail(target, on_disk.as_ref()))
    }

    pub(super) fn reset_failed(&mut self, name: &UnitName) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.result = "success";
            unit.recent_starts.clear();
            if unit.active == ActiveState::Failed {
                unit.active = ActiveState::Inactive;
                unit.sub = "dead";
                self.changed(name);
            }
        }
        self.collect(name);
    }

    pub(super) fn pin(&mut self, names: &[UnitName]) {
        for name in names {
            self.pins.insert(name.clone());
            if !self.units.contains_key(name) {
                self.load(name);
            }
        }
    }

    pub(super) fn unpin(&mut self, names: &[UnitName]) {
        for name in names {
            self.pins.remove(name);
            self.collect(name);
        }
    }

    pub(super) fn install(&mut self, unit: &Install) -> Result<(), SystemdError> {
        let path = format!("/run/systemd/system/{}", unit.name);
        if self.host.get(&unit.name).is_some_and(|host| host.path == path) {
            return Err(SystemdError::NotOurs { path: path.into() });
        }
        self.files.insert(unit.name.clone(), unit.clone());
        Ok(())
    }

    pub(super) fn installed(&self) -> Vec<InstalledUnit> {
        let row = |install: &Install| InstalledUnit {
            name: install.name.clone(),
            content: ContentHash::of(&install.text),
            is_linked: true,
            run_hash: Some(install.run_hash),
        };
        self.files.values().map(row).collect()
    }

    pub(super) fn shadowed(&self, name: &UnitName, aliases: &[String]) -> Option<Shadow> {
        for name in std::iter::once(name.as_str()).chain(aliases.iter().map(String::as_str)) {
            if let Some(host) = self.host.get(name) {
                let kind = match host {
                    HostUnit { masked: true, .. } => ShadowKind::Masked,
                    HostUnit { alias_of: Some(_), .. } => ShadowKind::Alias,
                    HostUnit { .. } => ShadowKind::HostUnit,
                };
                return Some(Shadow { kind, name: name.to_owned(), path: host.path.clone().into() });
            }
            if let Some(template) = template_of(name)
                && let Some(host) = self.host.get(template.as_str())
            {
                let kind = ShadowKind::Template;
                return Some(Shadow { kind, name: template, path: host.path.clone().into() });
            }
        }
        None
    }

    /// The machine restarts: everything in `/run` and everything that ran is gone; the host's files stay.
    pub(super) fn boot(&mut self) {
        self.boots += 1;
        self.files.clear();
        self.units.clear();
        self.pins.clear();
        self.read_links();
        self.next_job = 1;
    }
}
