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
    number: OrderNumber,
    /// Whose order it was; `None` if nothing but its number is known any more.
    of: Option<(UnitName, UnitUid)>,
}

impl Accepted {
    #[must_use]
    pub fn of(records: &BTreeMap<UnitName, DiskRecord>, floor: OrderNumber) -> Accepted {
        let latest = records.iter().max_by_key(|(_, record)| record.order.number);
        match latest.filter(|(_, record)| record.order.number > floor) {
            Some((unit, record)) => {
                Accepted { number: record.order.number, of: Some((unit.clone(), record.order.uid.clone())) }
            }
            None => Accepted { number: floor, of: None },
        }
    }

    /// 0 if the machine has accepted nothing.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.number.epoch
    }

    /// Whose order in the store [`Accepted::is_known_to`] is to be asked about.
    #[must_use]
    pub fn unit(&self) -> Option<&UnitName> {
        self.of.as_ref().map(|(unit, _)| unit)
    }

    /// Whether a store that has `found` for this machine and [`Accepted::unit`] numbers all its later orders above what
    /// was accepted. It does if it gave that order, or a later one for the same unit: numbers of one store only grow, and
    /// a unit's uid is in no store that did not come from the same one.
    #[must_use]
    pub fn is_known_to(&self, found: Option<&Order>) -> bool {
        let (Some((_, uid)), Some(found)) = (&self.of, found) else { return false };
        found.uid == *uid && found.number >= self.number
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

    #[test]
    fn a_store_with_the_latest_accepted_order_or_a_later_one_of_its_unit_knows_of_it() {
        let accepted = accepted(&[("a.service", 3), ("b.service", 7), ("c.service", 5)], 6);
        assert_eq!(accepted.unit(), Some(&name("b.service")));
        assert!(accepted.is_known_to(Some(&order(7, Wanted::Launched))));
        assert!(accepted.is_known_to(Some(&order(9, Wanted::Gone))));
        assert!(!accepted.is_known_to(Some(&order(6, Wanted::Launched))), "it was rolled back");
        assert!(!accepted.is_known_to(None));
        let strange = Order { uid: UnitUid::parse("u2").unwrap(), ..order(9, Wanted::Launched) };
        assert!(!accepted.is_known_to(Some(&strange)), "another cluster's unit of the same name");
    }

    #[test]
    fn a_number_alone_is_known_to_no_store() {
        let accepted = accepted(&[("a.service", 3)], 3);
        assert_eq!(accepted.unit(), None);
        assert!(!accepted.is_known_to(Some(&order(9, Wanted::Launched))));
        assert_eq!(Accepted::default().epoch(), Epoch(0));
    }
}
