//! Changes that meet in one pass, and rules that meet in one unit.

use super::kit::{Kit, name};
use crate::plan::explain;
use crate::records::DesiredState;

#[test]
fn of_two_units_in_the_way_the_one_that_is_to_stay_is_named() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a1.service", "");
    kit.launch("a2.service", "");
    kit.converge();
    kit.desire("a1.service", DesiredState::Inactive);
    kit.launch("new.service", "Conflicts=a*");
    kit.converge();
    let why = explain(&kit.world, &name("new.service"), kit.now).unwrap();
    let against = why.machines[0].against.as_ref().unwrap();
    assert_eq!((against.code(), against.would_fit_without()), ("conflict", Some(&name("a2.service"))));
}
#[test]
fn a_unit_is_not_replaced_by_one_that_has_to_follow_it() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("last.service", "MachineOf=middle.service\nReplaces=first.service");
    kit.launch("middle.service", "MachineOf=first.service");
    kit.launch("first.service", "");
    kit.converge();
    for unit in ["first.service", "middle.service", "last.service"] {
        assert_eq!(kit.at(unit), ["m1"], "{unit}");
    }
}
