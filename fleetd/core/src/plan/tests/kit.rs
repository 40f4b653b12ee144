//! A registry of the smallest kind: carries plans out against their compares, and plays the machines' part.

mod machines;

use std::collections::{BTreeMap, BTreeSet};

use unit_files::{Requirements, UnitFile, UnitName};

use crate::ids::{BootId, ClusterId, Epoch, Generation, MachineId, Nonce, Revision, Term, UnitUid};
use crate::plan::{Compare, Group, Plan, Policy, Write, plan};
use crate::records::{
    BrakeRecord, BrakeState, ClusterRecord, Counters, DesiredState, EngineRole, Extra, GenerationRecord,
    LostRecord, MachineRecord, Order, Placement, PresenceRecord, Reason, Refused, RowPhase, RunKind, SCHEMA,
    STALE_ORDER, Settings, Stamp, StateRow, UnitRecord, Versioned, Wanted,
};
use crate::time::{Span, Timestamp};
use crate::world::{Event, World};

pub fn name(text: &str) -> UnitName {
    UnitName::parse(text).unwrap()
}
pub fn machine(text: &str) -> MachineId {
    MachineId::parse(text).unwrap()
}

/// The writes of a plan that machines act on, without numbers. Decisions in short may be refreshed a pass later.
pub fn orders(plan: &Plan) -> Vec<String> {
    let writes = plan.groups.iter().flat_map(|group| &group.writes);
    let acted = writes.filter_map(|write| match write {
        Write::PutOrder(id, unit, order) => {
            Some(format!("{id} {unit} {:?} {}", order.wanted, order.reason.text))
        }
        Write::PutPlacement(..) => None,
        other => Some(format!("{other:?}")),
    });
    acted.collect()
}

#[derive(Debug, Default)]
pub struct Kit {
    pub world: World,
    pub now: Timestamp,
    revision: i64,
    cluster: Option<Versioned<ClusterRecord>>,
    brake: Option<Versioned<BrakeRecord>>,
    pub units: BTreeMap<UnitName, Versioned<UnitRecord>>,
    pub placements: BTreeMap<UnitName, Versioned<Placement>>,
    pub machines: BTreeMap<MachineId, Versioned<MachineRecord>>,
    pub presence: BTreeMap<MachineId, Versioned<PresenceRecord>>,
    pub lost: BTreeMap<MachineId, Versioned<LostRecord>>,
    pub orders: BTreeMap<(MachineId, UnitName), Versioned<Order>>,
    pub states: BTreeMap<(MachineId, UnitName), Versioned<StateRow>>,
    sequence: u64,
    uids: u64,
    pub raft_term: u64,
    /// Of units submitted from now on: new content reaches every machine at once.
    pub all_at_once: bool,
}

pub const GRACE: Span = Span::from_secs(5);

impl Kit {
    pub fn new(machines: &[&str]) -> Kit {
        let mut kit = Kit { now: Timestamp(1_000_000), ..Kit::default() };
        kit.settings(Settings::default());
        for id in machines {
            kit.join(id, &[]);
        }
        kit
    }

    fn versioned<T>(&mut self, old: Option<Revision>, value: T) -> Versioned<T> {
        self.revision += 1;
        let modified = Revision(self.revision);
        Versioned { value, created: old.unwrap_or(modified), modified }
    }

    pub fn settings(&mut self, settings: Settings) {
        let record = ClusterRecord {
            v: SCHEMA,
            id: ClusterId::parse("c").unwrap(),
            epoch: Epoch(1),
            features: BTreeSet::new(),
            settings,
            created: Stamp::default(),
            extra: Extra::new(),
        };
        self.cluster = Some(self.versioned(None, record));
        self.world.apply(Event::Cluster(self.cluster.clone()));
    }

    /// A machine appears, or comes back: what its agent writes in one transaction.
    pub fn join(&mut self, id: &str, metadata: &[(&str, &str)]) {
        let id = machine(id);
        if !self.machines.contains_key(&id) {
            self.set_machine(&id, MachineRecord::default());
        }
        self.lost.remove(&id);
        self.world.apply(Event::Lost { machine: id.clone(), record: None, read_at: self.now });
        let record = PresenceRecord {
            v: SCHEMA,
            machine: id.clone(),
            primary_ip: String::new(),
            peer_address: String::new(),
            fingerprint: String::new(),
            metadata: metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            hostname: String::new(),
            version: String::new(),
            systemd: String::new(),
            features: BTreeSet::new(),
            boot: BootId::parse("boot").unwrap(),
            nonce: Nonce::parse("nonce").unwrap(),
            engine: EngineRole::Auto,
            agent_ttl: Span::from_secs(15),
            since: self.now,
            extra: Extra::new(),
        };
        let record = self.versioned(None, record);
        self.presence.insert(id.clone(), record.clone());
        self.world.apply(Event::Presence(id, Some(record)));
    }

    pub fn vanish(&mut self, id: &str) {
        let id = machine(id);
        if self.presence.remove(&id).is_some() {
            self.world.apply(Event::Presence(id, None));
        }
    }

    pub fn set_machine(&mut self, id: &MachineId, record: MachineRecord) {
        let created = self.machines.get(id).map(|r| r.created);
        let record = self.versioned(created, record);
        self.machines.insert(id.clone(), record.clone());
        self.world.apply(Event::Machine(id.clone(), Some(record)));
    }

    pub fn set_metadata(&mut self, id: &str, key: &str, value: &str) {
        let id = machine(id);
        let mut record = self.machines[&id].value.clone();
        record.metadata.insert(key.to_owned(), value.to_owned());
        self.set_machine(&id, record);
    }

    /// Submits a unit with this `[X-Fleet]` section, or changes its content.
    pub fn submit(&mut self, unit: &str, section: &str, desired: DesiredState) {
        let unit = name(unit);
        let text = format!("[Service]\nExecStart=/bin/true\n[X-Fleet]\n{section}\n");
        let file = UnitFile::parse(&text).unwrap();
        let requirements = Requirements::of(&file, &unit).unwrap().0;
        let old = self.units.get(&unit).filter(|r| r.value.desired != DesiredState::Destroyed).cloned();
        let uid = match &old {
            Some(old) => old.value.uid.clone(),
            None => {
                self.uids += 1;
                UnitUid::parse(&format!("uid-{}", self.uids)).unwrap()
            }
        };
        let generation = GenerationRecord {
            generation: Generation(old.as_ref().map_or(1, |o| o.value.current.generation.0 + 1)),
            content: unit_files::ContentHash::of(text.as_bytes()),
            unit_hash: file.unit_hash(),
            run_hash: file.run_hash(&[]),
            requirements,
            run: RunKind::Continuous,
            description: String::new(),
        };
        let mut counters = old.as_ref().map(|o| o.value.counters).unwrap_or_default();
        counters.start += u64::from(desired == DesiredState::Launched);
        let record = UnitRecord {
            v: SCHEMA,
            uid,
            current: generation.clone(),
            last_good: generation,
            template: None,
            previous: Vec::new(),
            desired,
            counters,
            recent_requests: Vec::new(),
            all_at_once: self.all_at_once,
            features: BTreeSet::new(),
            created: Stamp::default(),
            changed: Stamp { by: "test".into(), ..Stamp::default() },
            extra: Extra::new(),
        };
        self.put_unit(unit, record);
    }

    pub fn launch(&mut self, unit: &str, section: &str) {
        self.submit(unit, section, DesiredState::Launched);
    }

    pub fn change(&mut self, unit: &str, change: impl FnOnce(&mut UnitRecord)) {
        let unit = name(unit);
        let Some(mut record) = self.units.get(&unit).map(|r| r.value.clone()) else { return };
        change(&mut record);
        self.put_unit(unit, record);
    }

    pub fn desire(&mut self, unit: &str, desired: DesiredState) {
        self.change(unit, |record| record.desired = desired);
    }

    fn put_unit(&mut self, unit: UnitName, record: UnitRecord) {
        let created = self.units.get(&unit).map(|r| r.created);
        let record = self.versioned(created, record);
        self.units.insert(unit.clone(), record.clone());
        self.world.apply(Event::Unit(unit, Some(record)));
    }

    pub fn policy(&self) -> Policy {
        Policy { term: Term(1), first_sequence: self.sequence, default_grace: GRACE }
    }

    /// One pass: plan, check it against a plan over everything, carry it out.
    pub fn pass(&mut self) -> Plan {
        let planned = plan(&self.world, &self.policy(), self.now);
        let rebuilt = plan(&self.rebuilt(), &self.policy(), self.now);
        assert_eq!(orders(&planned), orders(&rebuilt), "dirty and full plan differ");
        self.perform(planned)
    }

    /// One pass over what is dirty, for who holds the outcome against something else.
    pub fn pass_dirty(&mut self) -> Plan {
        let planned = plan(&self.world, &self.policy(), self.now);
        self.perform(planned)
    }

    fn perform(&mut self, planned: Plan) -> Plan {
        self.sequence = planned.next_sequence;
        let groups = planned.groups.clone();
        self.world.settle(&planned);
        for group in &groups {
            self.carry_out(group);
        }
        planned
    }

    /// A pass of which only the first groups are carried out; the engine looks at everything again.
    pub fn cut(&mut self, groups: usize) {
        let planned = plan(&self.world, &self.policy(), self.now);
        self.sequence = planned.next_sequence;
        for group in planned.groups.iter().take(groups) {
            self.carry_out(group);
        }
        self.world.mark_everything();
    }

    /// The engine's stream is cut, and everything read anew.
    pub fn relist(&mut self) {
        let mut events = self.events(|kit, _| kit.now);
        events.push(Event::RaftTerm { term: self.raft_term, read_at: self.now });
        self.world = self.world.rebuilt(events);
    }

    /// The operator's word that a machine will not come back: only a marker is left of it.
    pub fn forget(&mut self, id: &MachineId) {
        let forgotten = Some(Stamp::default());
        self.set_machine(id, MachineRecord { forgotten, ..MachineRecord::default() });
        let units: BTreeSet<_> =
            self.orders.keys().chain(self.states.keys()).filter(|(m, _)| m == id).cloned().collect();
        for (_, unit) in units {
            self.orders.remove(&(id.clone(), unit.clone()));
            self.states.remove(&(id.clone(), unit.clone()));
            self.world.apply(Event::State(id.clone(), unit.clone(), None));
            self.world.apply(Event::Order(id.clone(), unit, None));
        }
        self.lost.remove(id);
        self.world.apply(Event::Lost { machine: id.clone(), record: None, read_at: self.now });
    }

    pub fn election(&mut self) {
        self.raft_term += 1;
        self.world.apply(Event::RaftTerm { term: self.raft_term, read_at: self.now });
    }

    pub fn epoch(&self) -> Epoch {
        self.cluster.as_ref().map(|c| c.value.epoch).unwrap_or_default()
    }

    pub fn raise_epoch(&mut self, epoch: Epoch) {
        let Some(cluster) = &self.cluster else { return };
        let (created, record) = (cluster.created, ClusterRecord { epoch, ..cluster.value.clone() });
        self.cluster = Some(self.versioned(Some(created), record));
        self.world.apply(Event::Cluster(self.cluster.clone()));
    }

    /// Passes until nothing is left to do.
    pub fn converge(&mut self) {
        for _ in 0..50 {
            if self.pass().groups.is_empty() {
                return;
            }
        }
        panic!("the engine does not come to rest: {:#?}", self.pass().groups);
    }

    /// A world read anew, but for the times at which this engine first saw the lost markers.
    fn rebuilt(&self) -> World {
        World::from_events(
            self.events(|kit, id| kit.world.machines()[id].lost().expect("as in the registry").counted_from),
        )
    }

    fn events(&self, read_at: impl Fn(&Kit, &MachineId) -> Timestamp) -> Vec<Event> {
        let mut events = vec![Event::Cluster(self.cluster.clone()), Event::Brake(self.brake.clone())];
        events.extend(self.machines.iter().map(|(id, r)| Event::Machine(id.clone(), Some(r.clone()))));
        events.extend(self.presence.iter().map(|(id, r)| Event::Presence(id.clone(), Some(r.clone()))));
        events.extend(self.lost.iter().map(|(id, r)| Event::Lost {
            machine: id.clone(),
            record: Some(r.clone()),
            read_at: read_at(self, id),
        }));
        events.extend(self.units.iter().map(|(unit, r)| Event::Unit(unit.clone(), Some(r.clone()))));
        events
            .extend(self.placements.iter().map(|(unit, r)| Event::Placement(unit.clone(), Some(r.clone()))));
        let orders = self.orders.iter();
        events.extend(orders.map(|((id, unit), r)| Event::Order(id.clone(), unit.clone(), Some(r.clone()))));
        let states = self.states.iter();
        events.extend(states.map(|((id, unit), r)| Event::State(id.clone(), unit.clone(), Some(r.clone()))));
        events
    }

    fn carry_out(&mut self, group: &Group) {
        assert!(group.compares.len() <= 120 && group.writes.len() <= 120, "does not fit one transaction");
        for compare in &group.compares {
            let modified = |revision: Option<Revision>| revision.unwrap_or(Revision(0));
            let (found, asked) = match compare {
                Compare::Unit(unit, rev) => (modified(self.units.get(unit).map(|r| r.modified)), rev),
                Compare::Placement(unit, rev) => {
                    (modified(self.placements.get(unit).map(|r| r.modified)), rev)
                }
                Compare::Machine(id, rev) => (modified(self.machines.get(id).map(|r| r.modified)), rev),
                Compare::Presence(id, rev) => (modified(self.presence.get(id).map(|r| r.modified)), rev),
                Compare::Lost(id, rev) => (modified(self.lost.get(id).map(|r| r.modified)), rev),
                Compare::Order(id, unit, rev) => {
                    (modified(self.orders.get(&(id.clone(), unit.clone())).map(|r| r.modified)), rev)
                }
                Compare::Brake(rev) => (modified(self.brake.as_ref().map(|r| r.modified)), rev),
            };
            assert_eq!(found, *asked, "a group of a fresh plan fails its own compare {compare:?}");
        }
        for write in &group.writes {
            match write.clone() {
                Write::PutOrder(id, unit, order) => {
                    let key = (id.clone(), unit.clone());
                    let old = self.orders.get(&key).map(|o| o.created);
                    if let Some(old) = self.orders.get(&key) {
                        assert!(order.number > old.value.number, "order numbers grow");
                    }
                    let order = self.versioned(old, *order);
                    self.orders.insert(key, order.clone());
                    self.world.apply(Event::Order(id, unit, Some(order)));
                }
                Write::PutPlacement(unit, placement) => {
                    let old = self.placements.get(&unit).map(|p| p.created);
                    let placement = self.versioned(old, *placement);
                    self.placements.insert(unit.clone(), placement.clone());
                    self.world.apply(Event::Placement(unit, Some(placement)));
                }
                Write::DeletePlacement(unit) => {
                    self.placements.remove(&unit);
                    self.world.apply(Event::Placement(unit, None));
                }
                Write::DeleteUnit(unit) => {
                    self.units.remove(&unit);
                    self.world.apply(Event::Unit(unit, None));
                }
                Write::PutLost(id, record) => {
                    let record = self.versioned(None, record);
                    self.lost.insert(id.clone(), record.clone());
                    self.world.apply(Event::Lost { machine: id, record: Some(record), read_at: self.now });
                }
                Write::PutBrake(record) => {
                    let record = self.versioned(None, record);
                    self.brake = Some(record);
                    self.world.apply(Event::Brake(self.brake.clone()));
                }
                Write::DeleteBrake => {
                    self.brake = None;
                    self.world.apply(Event::Brake(None));
                }
            }
        }
    }

    pub fn release_brake(&mut self) {
        let Some(mut record) = self.brake.as_ref().map(|b| b.value.clone()) else { return };
        record.state = BrakeState::Released;
        record.released = Some(Stamp { at: self.now, ..Stamp::default() });
        self.brake = Some(self.versioned(None, record));
        self.world.apply(Event::Brake(self.brake.clone()));
    }

    pub fn wait(&mut self, span: Span) {
        self.now = self.now.plus(span);
    }

    /// The machine that has a live order for the unit.
    pub fn at(&self, unit: &str) -> Vec<&str> {
        let live =
            self.orders.iter().filter(|((_, u), o)| u.as_str() == unit && o.value.wanted != Wanted::Gone);
        live.map(|((id, _), _)| id.as_str()).collect()
    }

    pub fn reason(&self, unit: &str) -> String {
        self.placements.get(&name(unit)).map(|p| p.value.decision.reason.text.clone()).unwrap_or_default()
    }

    /// The first machine's reason against the unit.
    pub fn against(&self, unit: &str) -> String {
        let decision = &self.placements[&name(unit)].value.decision;
        decision.refused.first().map(|line| line.sample[0].1.clone()).unwrap_or_default()
    }

    pub fn brake(&self) -> Option<&BrakeRecord> {
        self.brake.as_ref().map(|b| &b.value)
    }
}
