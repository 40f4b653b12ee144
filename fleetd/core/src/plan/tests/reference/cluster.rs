//! The cluster as the reference sees it: what operators and machines have done to it, and who stands where.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::wishes::Wishes;
use crate::records::DesiredState;

/// By the name of the unit, and by the id of the machine.
pub type Copies = BTreeMap<String, BTreeMap<String, Copy>>;

#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// In milliseconds.
    pub now: u64,
    pub machines: BTreeMap<String, Machine>,
    pub units: BTreeMap<String, Unit>,
    /// The machine of each unit that is not global and has one.
    pub stands: BTreeMap<String, String>,
    pub copies: Copies,
    /// As they were when the pass began.
    pub copies_before: Copies,
    pub changes: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub published: BTreeMap<String, String>,
    /// The operator's word, which wins; an empty value hides the key.
    pub overriding: BTreeMap<String, String>,
    pub is_cordoned: bool,
    pub is_vouched_dead: bool,
    pub presence: Presence,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    #[default]
    Here,
    /// Nobody has written down yet that it is away.
    Silent,
    Lost {
        since: u64,
    },
}

#[derive(Clone, Debug)]
pub struct Unit {
    pub wishes: Rc<Wishes>,
    pub desired: DesiredState,
    /// Grows with each change of any unit.
    pub changed: u64,
    /// A name that is submitted again after a destroy is another unit.
    pub life: u64,
}

/// One unit on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// It was told to go, and the machine has not said that it did.
    pub is_stopping: bool,
    pub life: u64,
    /// The text that the machine has.
    pub wishes: Rc<Wishes>,
}

impl Unit {
    pub fn is_wanted(&self) -> bool {
        matches!(self.desired, DesiredState::Loaded | DesiredState::Launched)
    }
}

/// What happens to a cluster.
impl Cluster {
    pub fn submit(&mut self, name: &str, wishes: Wishes, desired: DesiredState) {
        self.changes += 1;
        let changed = self.changes;
        let old = self.units.get(name).filter(|old| old.desired != DesiredState::Destroyed);
        let life = old.map_or(changed, |old| old.life);
        let wishes = Rc::new(wishes);
        self.units.insert(name.to_owned(), Unit { wishes, desired, changed, life });
    }

    pub fn desire(&mut self, name: &str, desired: DesiredState) {
        self.changes += 1;
        let Some(unit) = self.units.get_mut(name) else { return };
        unit.desired = desired;
        unit.changed = self.changes;
    }

    /// A machine joins, or comes back.
    pub fn arrive(&mut self, id: &str, published: BTreeMap<String, String>) {
        let machine = self.machines.entry(id.to_owned()).or_default();
        machine.published = published;
        machine.presence = Presence::Here;
    }

    pub fn vanish(&mut self, id: &str) {
        let Some(machine) = self.machines.get_mut(id) else { return };
        if machine.presence == Presence::Here {
            machine.presence = Presence::Silent;
        }
    }

    /// The machine has carried out what it was told.
    pub fn acknowledge(&mut self, id: &str) {
        if !self.is_here(id) {
            return;
        }
        for on in self.copies.values_mut() {
            if on.get(id).is_some_and(|copy| copy.is_stopping) {
                on.remove(id);
            }
        }
        self.copies.retain(|_, on| !on.is_empty());
    }
}

/// What can be asked about it.
impl Cluster {
    pub fn is_here(&self, id: &str) -> bool {
        self.machines.get(id).is_some_and(|machine| machine.presence == Presence::Here)
    }

    pub fn metadata(&self, id: &str, key: &str) -> Option<&str> {
        let machine = self.machines.get(id)?;
        let value = machine.overriding.get(key).or_else(|| machine.published.get(key))?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    pub fn copy(&self, unit: &str, id: &str) -> Option<&Copy> {
        self.copies.get(unit)?.get(id)
    }

    /// Whether the unit is to be on the machine: it has it, and is not to stop it.
    pub fn is_on(&self, unit: &str, id: &str) -> bool {
        self.copy(unit, id).is_some_and(|copy| !copy.is_stopping)
    }

    pub fn on(&self, id: &str) -> impl Iterator<Item = (&String, &Copy)> {
        self.copies.iter().filter_map(move |(unit, on)| Some((unit, on.get(id)?)))
    }

    pub fn load(&self, id: &str) -> usize {
        self.on(id).filter(|(_, copy)| !copy.is_stopping).count()
    }

    /// Units that want a machine, are not global, and name this one in `MachineOf=`.
    pub fn followers(&self, target: &str) -> Vec<String> {
        let follow = |unit: &Unit| {
            unit.is_wanted() && !unit.wishes.global && unit.wishes.peers.iter().any(|peer| peer == target)
        };
        self.units.iter().filter(|(_, unit)| follow(unit)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether `MachineOf=` of this unit would lead back to it.
    pub fn would_circle(&self, name: &str, wishes: &Wishes) -> bool {
        wishes.peers.iter().any(|peer| peer == name || self.leads_to(peer, name))
    }

    /// Whether the unit has to be where the target is, because of `MachineOf=`, its own or of others.
    pub fn leads_to(&self, name: &str, target: &str) -> bool {
        let mut reached = vec![name];
        let mut next = 0;
        while let Some(unit) = reached.get(next).copied() {
            next += 1;
            for peer in self.units.get(unit).into_iter().flat_map(|unit| &unit.wishes.peers) {
                if peer == target {
                    return true;
                }
                if !reached.contains(&peer.as_str()) {
                    reached.push(peer);
                }
            }
        }
        false
    }
}
