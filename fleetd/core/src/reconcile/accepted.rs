//! The latest order that a machine has accepted, and whether a store that it is about to join knows of it.
//!
//! Made by the agent from what it keeps on its disk, asked by the session of a machine that belongs to no cluster: what
//! such a machine is ordered from now on has to be later than this, or it is refused as outdated.

use std::collections::BTreeMap;

use unit_files::UnitName;

use super::DiskRecord;
use crate::ids::{Epoch, OrderNumber, UnitUid};
use crate::records::Order;

/// Nothing, by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The latest. It may be known of no unit any more.
    number: OrderNumber,
    /// The latest of each unit that the machine still has a record of.
    units: BTreeMap<UnitName, (UnitUid, OrderNumber)>,
}

/// What a store has to do with the orders that a machine has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// It gave them, and numbers all that follow above them.
    Known,
    /// It gave them and has forgotten some: it was put back from an earlier state. Why, as a sentence without an end.
    RolledBack { why: String },
    /// Nothing says that it gave them.
    Unknown,
}

impl Accepted {
    #[must_use]
    pub fn of(records: &BTreeMap<UnitName, DiskRecord>, floor: OrderNumber) -> Accepted {
        let of = |record: &DiskRecord| (record.order.uid.clone(), record.order.number);
        let units = records.iter().map(|(unit, record)| (unit.clone(), of(record))).collect();
        let number = records.values().map(|record| record.order.number).fold(floor, OrderNumber::max);
        Accepted { number, units }
    }

    /// 0 if the machine has accepted nothing.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.number.epoch
    }

    /// What a store knows that has `found` for this machine and is of `epoch`. A unit's uid is in no store that did not
    /// come from the same one, and numbers of one store only grow, from unit to unit too.
    #[must_use]
    pub fn known_to<'a>(
        &self,
        epoch: Epoch,
        found: impl IntoIterator<Item = (&'a UnitName, &'a Order)>,
    ) -> Knowledge {
        let mut knowledge = Knowledge::Unknown;
        for (unit, order) in found {
            let Some((uid, accepted)) = self.units.get(unit) else { continue };
            if order.uid != *uid {
                continue;
            }
            if order.number < *accepted {
                return Knowledge::RolledBack {
                    why: format!(
                        "its order for {unit} is {}, this machine has accepted {accepted}",
                        order.number
                    ),
                };
            }
            if epoch == self.epoch() && order.number >= self.number {
                knowledge = Knowledge::Known;
            }
        }
        knowledge
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{name, number, order};
    use super::*;
    use crate::records::Wanted;

    fn accepted(orders: &[(&str, u64)], floor: u64) -> Accepted {
        let record = |sequence| DiskRecord::new(order(sequence, Wanted::Launched));
        let records = orders.iter().map(|(unit, sequence)| (name(unit), record(*sequence))).collect();
        Accepted::of(&records, number(floor))
    }

    fn asked(accepted: &Accepted, found: &[(&str, Order)]) -> Knowledge {
        let found: Vec<_> = found.iter().map(|(unit, order)| (name(unit), order.clone())).collect();
        accepted.known_to(accepted.epoch(), found.iter().map(|(unit, order)| (unit, order)))
    }

    #[test]
    fn a_store_with_an_order_of_a_known_unit_at_or_above_the_latest_accepted_one_knows_of_it() {
        let accepted = accepted(&[("a.service", 3), ("b.service", 7), ("c.service", 5)], 6);
        assert_eq!(asked(&accepted, &[("b.service", order(7, Wanted::Launched))]), Knowledge::Known);
        assert_eq!(asked(&accepted, &[("b.service", order(9, Wanted::Gone))]), Knowledge::Known);
        assert_eq!(asked(&accepted, &[("a.service", order(8, Wanted::Launched))]), Knowledge::Known);
        assert_eq!(asked(&accepted, &[("a.service", order(4, Wanted::Launched))]), Knowledge::Unknown);
        assert_eq!(asked(&accepted, &[]), Knowledge::Unknown);
        let strange = Order { uid: UnitUid::parse("u2").unwrap(), ..order(9, Wanted::Launched) };
        assert_eq!(
            asked(&accepted, &[("b.service", strange)]),
            Knowledge::Unknown,
            "another cluster's unit of the same name"
        );
        let later = [(name("b.service"), order(9, Wanted::Launched))];
        let later = later.iter().map(|(unit, order)| (unit, order));
        assert_eq!(accepted.known_to(Epoch(1), later), Knowledge::Unknown, "the cluster is of another epoch");
    }

    #[test]
    fn p1_a_store_with_an_earlier_order_of_the_same_unit_was_rolled_back() {
        let accepted = accepted(&[("a.service", 3), ("b.service", 7)], 0);
        let found = [("a.service", order(2, Wanted::Launched)), ("b.service", order(9, Wanted::Launched))];
        let Knowledge::RolledBack { why } = asked(&accepted, &found) else { panic!("it is not told") };
        assert!(why.contains("a.service"), "{why}");
        let found = [(name("b.service"), order(6, Wanted::Launched))];
        let earlier = accepted.known_to(Epoch(1), found.iter().map(|(unit, order)| (unit, order)));
        assert!(matches!(earlier, Knowledge::RolledBack { .. }), "whatever the epoch: {earlier:?}");
    }

    #[test]
    fn a_number_alone_is_known_to_no_store() {
        let nothing = accepted(&[], 3);
        assert_eq!(asked(&nothing, &[("a.service", order(9, Wanted::Launched))]), Knowledge::Unknown);
        assert_eq!(Accepted::default().epoch(), Epoch(0));
    }
}
