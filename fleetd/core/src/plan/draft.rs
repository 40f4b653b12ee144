//! A plan in the making: the board, the numbers of the orders, and the groups written so far.

use std::collections::BTreeSet;

use unit_files::UnitName;

use super::board::{Board, Slot};
use super::group::{Compare, Group, Plan, Policy, Write};
use crate::ids::{Epoch, MachineId, OrderNumber, Revision};
use crate::records::{
    Decision, DesiredState, EventNote, Extra, Order, Placement, Reason, RefusalHold, SCHEMA, STALE_ORDER,
    UnitRecord, Versioned, Wanted,
};
use crate::time::Timestamp;
use crate::world::World;

/// A group larger than this leaves room in one transaction for the leader's own compares; what does not fit goes into
/// a group of its own behind it.
const GROUP_ROOM: usize = 96;

#[derive(Debug)]
pub struct Draft<'w> {
    pub board: Board<'w>,
    pub world: &'w World,
    pub now: Timestamp,
    pub plan: Plan,
    policy: Policy,
    epoch: Epoch,
    sequence: u64,
    /// Units whose placement this plan has settled.
    pub settled: BTreeSet<UnitName>,
    /// Units that may stay where they stand, unless they go along with a target.
    pub stays: Vec<(UnitName, Slot)>,
    /// Machines whose units may be placed elsewhere now.
    pub evicted: BTreeSet<Slot>,
}

impl<'w> Draft<'w> {
    pub fn new(world: &'w World, policy: &Policy, epoch: Epoch, now: Timestamp) -> Draft<'w> {
        Draft {
            board: Board::new(world),
            world,
            now,
            plan: Plan::default(),
            sequence: policy.first_sequence,
            policy: policy.clone(),
            epoch,
            settled: BTreeSet::new(),
            stays: Vec::new(),
            evicted: BTreeSet::new(),
        }
    }

    pub fn finish(mut self) -> Plan {
        self.plan.next_sequence = self.sequence;
        self.plan
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub fn emit(&mut self, group: Group) {
        if !group.writes.is_empty() {
            self.plan.groups.push(group);
        }
    }

    /// Emits the group and starts an empty one, if the next unit might not fit any more.
    pub fn spill(&mut self, group: &mut Group) {
        if group.compares.len() > GROUP_ROOM || group.writes.len() > GROUP_ROOM {
            self.emit(std::mem::take(group));
        }
    }

    fn number(&mut self) -> OrderNumber {
        let number = OrderNumber { epoch: self.epoch, term: self.policy.term, sequence: self.sequence };
        self.sequence += 1;
        number
    }

    /// Whether the order that stands is not the one the unit record asks for, or comes from before a re-anchoring.
    pub fn is_outdated(&self, order: &Order, unit: &UnitRecord) -> bool {
        order.number.epoch < self.epoch
            || order.uid != unit.uid
            || order.wanted != wanted(unit.desired)
            || order.generation != unit.placed().generation
            || order.counters != unit.counters
    }

    /// Whether the machine refuses the order that stands because it has accepted a later one, and the order is an earlier
    /// leader's or from before a re-anchoring: then it is to be written anew, and the machine is not to blame.
    pub fn is_overtaken(&self, slot: Slot, name: &UnitName) -> bool {
        let view = self.board.view(slot);
        let (Some(order), Some(row)) = (view.orders().get(name), view.states().get(name)) else {
            return false;
        };
        let number = order.value.number;
        let is_stale = row
            .value
            .refused
            .as_ref()
            .is_some_and(|refused| refused.number == number && refused.reason.code == STALE_ORDER);
        is_stale && (number.epoch, number.term) != (self.epoch, self.policy.term)
    }

    /// The order that the unit record asks for, with a number of its own.
    pub fn new_order(&mut self, unit: &UnitRecord, reason: Reason) -> Order {
        let placed = unit.placed();
        Order {
            v: SCHEMA,
            number: self.number(),
            uid: unit.uid.clone(),
            generation: placed.generation,
            content: placed.content,
            unit_hash: placed.unit_hash,
            run_hash: placed.run_hash,
            wanted: wanted(unit.desired),
            counters: unit.counters,
            run: placed.run,
            conflicts: placed.requirements.conflicts.clone(),
            global: placed.requirements.global,
            features: unit.features.clone(),
            reason,
            at: self.now,
            extra: Extra::new(),
        }
    }

    /// Writes the order that the unit record asks for.
    pub fn order(
        &mut self,
        group: &mut Group,
        slot: Slot,
        name: &UnitName,
        unit: &'w UnitRecord,
        reason: Reason,
    ) -> OrderNumber {
        let order = self.new_order(unit, reason);
        let (number, wanted) = (order.number, order.wanted);
        let machine = self.board.id(slot).clone();
        self.compare_not_forgotten(group, slot);
        group.writes.push(Write::PutOrder(machine, name.clone(), Box::new(order)));
        self.board.put(slot, name, wanted, &unit.placed().requirements.conflicts);
        number
    }

    /// Turns the order that stands into a tombstone. Nothing to do if there is none, or it is one already; but one from
    /// before a re-anchoring is issued anew: its machine may have applied a later number and refuse it for ever.
    pub fn gone(&mut self, group: &mut Group, slot: Slot, name: &UnitName, reason: &Reason) {
        let world = self.world;
        let Some(old) = world.order(self.board.id(slot), name) else { return };
        let is_tombstone = self.board.wanted_at(name, slot) == Some(Wanted::Gone);
        if is_tombstone && (old.value.number.epoch >= self.epoch || self.board.is_put(name, slot)) {
            return;
        }
        let reason = if is_tombstone { &old.value.reason } else { reason };
        let order = Order {
            number: self.number(),
            wanted: Wanted::Gone,
            reason: reason.clone(),
            at: self.now,
            ..old.value.clone()
        };
        let machine = self.board.id(slot).clone();
        self.compare_not_forgotten(group, slot);
        group.writes.push(Write::PutOrder(machine, name.clone(), Box::new(order)));
        self.board.put(slot, name, Wanted::Gone, &old.value.conflicts);
    }

    /// Turns every other order of the unit into a tombstone. That of the machine it stands on goes with the group; what
    /// is left over from an earlier life of the name, when it may have been on every machine, goes before it in groups
    /// of its own: together they would not fit into one transaction.
    pub fn gone_elsewhere(
        &mut self,
        group: &mut Group,
        keep: Option<Slot>,
        name: &UnitName,
        reason: &Reason,
    ) {
        let stands_on = self.placement(name).and_then(|placement| placement.value.machine.as_ref());
        let at: Vec<&MachineId> = self.world.orders_of(name).collect();
        for id in at {
            let Some(slot) = self.board.slot(id.as_str()).filter(|slot| Some(*slot) != keep) else {
                continue;
            };
            if stands_on == Some(id) {
                self.gone(group, slot, name, reason);
            } else {
                let mut own = self.group_for(name);
                self.gone(&mut own, slot, name, reason);
                own.note = note("unit-withdrawn", Some(name), Some(id), &reason.text);
                self.emit(own);
            }
        }
    }

    /// A group about one unit, with the compares that every such group has.
    pub fn group_for(&self, name: &UnitName) -> Group {
        let mut group = Group::default();
        self.compare_unit(&mut group, name);
        group
    }

    pub fn compare_unit(&self, group: &mut Group, name: &UnitName) {
        group.compares.push(Compare::Unit(name.clone(), self.world.unit_revision(name)));
        group.compares.push(Compare::Placement(name.clone(), self.world.placement_revision(name)));
    }

    /// The machine that is to run it is there, and what the operator says of it is what was read.
    pub fn compare_present(&self, group: &mut Group, slot: Slot) {
        let (id, view) = (self.board.id(slot), self.board.view(slot));
        let presence = view.presence().map_or(Revision(0), |p| p.modified);
        add(group, Compare::Presence(id.clone(), presence));
        self.compare_record(group, slot);
    }

    /// The machine that loses it is still away, and marked by the marker that was counted from.
    pub fn compare_lost(&self, group: &mut Group, slot: Slot) {
        let (id, view) = (self.board.id(slot), self.board.view(slot));
        let lost = view.lost().map_or(Revision(0), |lost| lost.record.modified);
        add(group, Compare::Presence(id.clone(), Revision(0)));
        add(group, Compare::Lost(id.clone(), lost));
        self.compare_record(group, slot);
    }

    /// An order for a machine that was forgotten meanwhile would never be acknowledged. Only a machine that is away can
    /// be forgotten.
    fn compare_not_forgotten(&self, group: &mut Group, slot: Slot) {
        if self.board.view(slot).presence().is_none() {
            self.compare_record(group, slot);
        }
    }

    /// The operator's record of the machine. One that this release cannot read, or that was deleted by hand, is not
    /// compared: its machine gets no new unit, and what leaves it does not depend on the record.
    pub fn compare_record(&self, group: &mut Group, slot: Slot) {
        if let Some(record) = self.board.view(slot).record() {
            add(group, Compare::Machine(self.board.id(slot).clone(), record.modified));
        }
    }

    pub fn placement(&self, name: &UnitName) -> Option<&'w Versioned<Placement>> {
        self.world.placements().get(name)
    }

    /// Where the unit stands, if what the placement says is about this life of the name.
    pub fn placed_at(&self, name: &UnitName, unit: &UnitRecord) -> Option<Slot> {
        let placement = &self.placement(name)?.value;
        let machine = placement.machine.as_ref().filter(|_| placement.uid == unit.uid)?;
        self.board.slot(machine.as_str())
    }

    /// Writes the placement, unless it would say what it says already.
    pub fn place(
        &mut self,
        group: &mut Group,
        name: &UnitName,
        unit: &UnitRecord,
        at: Option<(&MachineId, OrderNumber)>,
        decision: Decision,
        refusals: Vec<RefusalHold>,
    ) {
        let old = self.placement(name).map(|p| &p.value);
        let number = at.map_or_else(|| old.map(|o| o.number).unwrap_or_default(), |(_, number)| number);
        let new = Placement {
            v: old.map_or(SCHEMA, |old| old.v.max(SCHEMA)),
            uid: unit.uid.clone(),
            machine: at.map(|(machine, _)| machine.clone()),
            number,
            decision: Decision { judged: self.world.unit_revision(name), at: self.now, ..decision },
            refusals,
            extra: old.map(|o| o.extra.clone()).unwrap_or_default(),
        };
        let is_same = old.is_some_and(|old| {
            old.uid == new.uid
                && old.machine == new.machine
                && old.number == new.number
                && old.refusals == new.refusals
                && old.decision.says_the_same_as(&new.decision)
        });
        if !is_same {
            group.writes.push(Write::PutPlacement(name.clone(), Box::new(new)));
        }
    }

    /// Refusals that still count: a change of the unit's record gives every machine another chance.
    pub fn refusals(&self, name: &UnitName) -> Vec<RefusalHold> {
        let Some(placement) = self.placement(name).map(|p| &p.value) else { return Vec::new() };
        if placement.decision.judged == self.world.unit_revision(name) {
            placement.refusals.clone()
        } else {
            Vec::new()
        }
    }
}

fn add(group: &mut Group, compare: Compare) {
    if !group.compares.contains(&compare) {
        group.compares.push(compare);
    }
}

pub fn wanted(desired: DesiredState) -> Wanted {
    match desired {
        DesiredState::Launched => Wanted::Launched,
        DesiredState::Loaded => Wanted::Loaded,
        DesiredState::Inactive | DesiredState::Destroyed => Wanted::Gone,
    }
}

pub fn note(
    kind: &str,
    unit: Option<&UnitName>,
    machine: Option<&MachineId>,
    why: &str,
) -> Option<EventNote> {
    Some(EventNote {
        kind: kind.to_owned(),
        unit: unit.cloned(),
        machine: machine.cloned(),
        why: why.to_owned(),
    })
}
