//! Worlds of any size for the engine's benches: records as the API and the agents would have written them, and the
//! registry's part in carrying a plan out.

use std::collections::BTreeSet;

use fleet_core::ids::{BootId, ClusterId, Epoch, Generation, MachineId, Nonce, Revision, Term, UnitUid};
use fleet_core::plan::{Plan, Policy, Write};
use fleet_core::records::{
    ClusterRecord, Counters, DesiredState, EngineRole, Extra, GenerationRecord, MachineRecord, Order,
    PresenceRecord, RowPhase, RunKind, SCHEMA, Settings, Stamp, StateRow, UnitRecord, Versioned, Wanted,
};
use fleet_core::time::{Span, Timestamp};
use fleet_core::world::{Event, World};
use unit_files::{ContentHash, Requirements, UnitFile, UnitName};

pub const NOW: Timestamp = Timestamp(1_000_000);

/// Makes events, numbered as a store would.
#[derive(Debug, Default)]
pub struct Synthetic {
    revision: i64,
}

impl Synthetic {
    fn versioned<T>(&mut self, value: T) -> Versioned<T> {
        self.revision += 1;
        Versioned { value, created: Revision(self.revision), modified: Revision(self.revision) }
    }

    pub fn cluster(&mut self) -> anyhow::Result<Event> {
        let record = ClusterRecord {
            v: SCHEMA,
            id: ClusterId::parse("bench")?,
            epoch: Epoch(1),
            features: BTreeSet::new(),
            settings: Settings::default(),
            created: Stamp::default(),
            extra: Extra::new(),
        };
        Ok(Event::Cluster(Some(self.versioned(record))))
    }

    /// The two records of a present machine.
    pub fn machine(&mut self, id: &str, metadata: &[(&str, String)]) -> anyhow::Result<[Event; 2]> {
        let id = MachineId::parse(id)?;
        let presence = PresenceRecord {
            v: SCHEMA,
            machine: id.clone(),
            primary_ip: String::new(),
            peer_address: String::new(),
            fingerprint: String::new(),
            metadata: metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            hostname: String::new(),
            version: String::new(),
            systemd: String::new(),
            features: BTreeSet::new(),
            boot: BootId::parse("boot")?,
            nonce: Nonce::parse("nonce")?,
            engine: EngineRole::Auto,
            agent_ttl: Span::from_secs(15),
            since: NOW,
            extra: Extra::new(),
        };
        let record = Event::Machine(id.clone(), Some(self.versioned(MachineRecord::default())));
        Ok([record, Event::Presence(id, Some(self.versioned(presence)))])
    }

    /// A unit that is to be started, with this `[X-Fleet]` section.
    pub fn unit(&mut self, name: &str, section: &str) -> anyhow::Result<Event> {
        let name = UnitName::parse(name)?;
        let text = format!("[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\n{section}\n");
        let file = UnitFile::parse(&text)?;
        let generation = GenerationRecord {
            generation: Generation(1),
            content: ContentHash::of(text.as_bytes()),
            unit_hash: file.unit_hash(),
            run_hash: file.run_hash(&[]),
            requirements: Requirements::of(&file, &name)?.0,
            run: RunKind::Continuous,
            description: String::new(),
        };
        let record = UnitRecord {
            v: SCHEMA,
            uid: UnitUid::parse(&format!("u{}", self.revision))?,
            current: generation.clone(),
            last_good: generation,
            template: None,
            previous: Vec::new(),
            desired: DesiredState::Launched,
            counters: Counters { start: 1, ..Counters::default() },
            recent_requests: Vec::new(),
            all_at_once: false,
            features: BTreeSet::new(),
            created: Stamp::default(),
            changed: Stamp { by: "bench".to_owned(), ..Stamp::default() },
            extra: Extra::new(),
        };
        Ok(Event::Unit(name, Some(self.versioned(record))))
    }

    pub fn policy(&self) -> Policy {
        let first_sequence = u64::try_from(self.revision).unwrap_or_default();
        Policy { term: Term(1), first_sequence, default_grace: Span::from_secs(5) }
    }

    /// Writes what the plan asks for into the world, and lets every machine report its orders as carried out.
    pub fn carry_out(&mut self, world: &mut World, plan: &Plan) {
        world.settle(plan);
        for write in plan.groups.iter().flat_map(|group| &group.writes) {
            match write {
                Write::PutOrder(machine, unit, order) => {
                    let row = self.versioned(carried_out(order));
                    let order = self.versioned((**order).clone());
                    world.apply(Event::Order(machine.clone(), unit.clone(), Some(order)));
                    world.apply(Event::State(machine.clone(), unit.clone(), Some(row)));
                }
                Write::PutPlacement(unit, placement) => {
                    let placement = self.versioned((**placement).clone());
                    world.apply(Event::Placement(unit.clone(), Some(placement)));
                }
                Write::DeletePlacement(unit) => world.apply(Event::Placement(unit.clone(), None)),
                Write::DeleteUnit(unit) => world.apply(Event::Unit(unit.clone(), None)),
                // No machine is ever lost here, so there is nothing to mark and nothing to hold back.
                Write::PutLost(..) | Write::PutBrake(_) | Write::DeleteBrake => {}
            }
        }
    }
}

/// The row of a machine that has done what it was told.
pub fn carried_out(order: &Order) -> StateRow {
    StateRow {
        v: SCHEMA,
        uid: order.uid.clone(),
        applied: Some(order.number),
        wanted: Some(order.wanted),
        counters: order.counters,
        phase: RowPhase::Settled,
        phase_since: NOW,
        load: "loaded".to_owned(),
        active: if order.wanted == Wanted::Launched { "active" } else { "inactive" }.to_owned(),
        sub: "running".to_owned(),
        result: String::new(),
        exit_status: None,
        generation: order.generation,
        unit_hash: None,
        on_disk: None,
        running: None,
        invocation: String::new(),
        restarts: 0,
        since: NOW,
        last_error: None,
        refused: None,
        boot: None,
        at: NOW,
        extra: Extra::new(),
    }
}
