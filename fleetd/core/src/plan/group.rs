//! What a plan consists of: groups of writes, each atomic, each with the compares that make it safe.
//!
//! The registry turns a group into compares and operations on keys; it adds to every transaction that the leader key
//! is still this leader's, that `hold` is absent and that `cluster` is unchanged.

use unit_files::UnitName;

use crate::ids::{MachineId, Revision, Term};
use crate::records::{BrakeRecord, EventNote, LostRecord, Order, Placement};
use crate::time::{Span, Timestamp};

/// A condition on one key. Revision 0 means that the key is absent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compare {
    Unit(UnitName, Revision),
    Placement(UnitName, Revision),
    Machine(MachineId, Revision),
    Presence(MachineId, Revision),
    Lost(MachineId, Revision),
    Order(MachineId, UnitName, Revision),
    Brake(Revision),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    PutOrder(MachineId, UnitName, Box<Order>),
    PutPlacement(UnitName, Box<Placement>),
    DeletePlacement(UnitName),
    DeleteUnit(UnitName),
    PutLost(MachineId, LostRecord),
    PutBrake(BrakeRecord),
    DeleteBrake,
}

/// Writes that happen together or not at all. Every prefix of a plan's groups is a legal state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub compares: Vec<Compare>,
    pub writes: Vec<Write>,
    /// For the event log; a group that only refreshes a decision has none.
    pub note: Option<EventNote>,
}

/// What one pass of the engine wants done, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub groups: Vec<Group>,
    /// Units to look at again in the next pass: held back by the brake, or waiting for another machine's turn.
    pub again: Vec<UnitName>,
    /// Units that no machine can take now, where they stand or nowhere; with the end of the first refusal that stands in
    /// their way.
    pub waiting: Vec<(UnitName, Option<Timestamp>)>,
    /// Lost machines whose units have been looked at.
    pub evicting: Vec<MachineId>,
    /// Orders whose unit record is missing: frozen, reported, never taken as gone.
    pub frozen: Vec<(MachineId, UnitName)>,
    /// When time alone makes another pass worthwhile.
    pub next_look: Option<Timestamp>,
    /// First sequence number that this plan has not used.
    pub next_sequence: u64,
}

impl Plan {
    pub(super) fn look_at(&mut self, at: Timestamp) {
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }
}

/// What a plan needs to know besides the world.
#[derive(Clone, Debug)]
pub struct Policy {
    /// This leader's term; with the epoch and the sequence it numbers the orders.
    pub term: Term,
    pub first_sequence: u64,
    /// Between lost marker and first eviction for a machine whose own presence, which says what it has configured, was
    /// never seen by this engine.
    pub default_grace: Span,
}
