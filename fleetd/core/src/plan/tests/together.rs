//! Changes that meet in one pass, and rules that meet in one unit.

use super::kit::{GRACE, Kit, name};
use crate::plan::explain;
use crate::records::DesiredState;

#[test]
fn a_new_conflict_keeps_out_what_comes_in_the_same_pass() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.launch("a.service", "Conflicts=b.service");
    kit.launch("b.service", "");
    kit.pass();
    assert!(kit.at("b.service").is_empty(), "it would be started and stopped again");
    assert_eq!(kit.at("a.service"), ["m1"]);
}

#[test]
fn a_unit_that_becomes_global_and_inactive_at_once_stands_nowhere() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.submit("a.service", "Global=true", DesiredState::Inactive);
    kit.converge();
    assert!(kit.at("a.service").is_empty());
    assert!(!kit.placements.contains_key(&name("a.service")));
}

#[test]
fn a_follower_whose_target_went_where_it_cannot_go_stays_with_the_lost_machine() {
    let mut kit = Kit::new(&["m1"]);
    kit.join("m2", &[("disk", "ssd")]);
    kit.launch("target.service", "");
    kit.launch("follower.service", "MachineOf=target.service\nMachineMetadata=disk=ssd");
    kit.converge();
    kit.vanish("m2");
    kit.converge();
    kit.wait(GRACE);
    kit.converge();
    assert_eq!((kit.at("target.service"), kit.at("follower.service")), (vec!["m1"], vec!["m2"]));
    assert!(kit.reason("follower.service").starts_with("target Machine(m2) went away"));
}

#[test]
fn a_unit_stays_whose_new_peer_comes_to_it_in_the_same_pass() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.launch("a.service", "MachineOf=b.service");
    kit.launch("b.service", "");
    kit.pass();
    assert_eq!((kit.at("a.service"), kit.at("b.service")), (vec!["m1"], vec!["m1"]));
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

#[test]
fn a_chain_of_followers_is_placed_in_one_pass_whatever_their_names() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "MachineOf=b.service");
    kit.launch("b.service", "MachineOf=c.service");
    kit.converge();
    kit.launch("c.service", "Global=true");
    kit.world.mark_everything();
    kit.pass();
    assert_eq!((kit.at("a.service"), kit.at("b.service")), (vec!["m1"], vec!["m1"]));
}

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
