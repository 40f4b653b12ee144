//! Machines that are silent, return or are declared dead, and what becomes of their units.

use super::kit::{GRACE, Kit, machine, name};
use crate::plan::{Compare, explain};
use crate::records::{ConfirmedDead, MachineRecord, Stamp, Wanted};
use crate::time::Span;

#[test]
fn a_lost_machine_keeps_its_units_for_the_grace_and_then_loses_them_in_fenced_groups() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.vanish("m1");
    kit.pass();
    assert_eq!(kit.at("a.service"), ["m1"]);
    assert!(kit.lost.contains_key(&machine("m1")));
    kit.wait(Span(GRACE.0 - 1));
    assert!(kit.pass().groups.is_empty());
    kit.wait(Span(1));
    let plan = kit.pass();
    assert_eq!(kit.at("a.service"), ["m2"]);
    let compares = &plan.groups[0].compares;
    assert!(
        compares.iter().any(|c| matches!(c, Compare::Presence(id, rev) if id.as_str() == "m1" && rev.0 == 0))
    );
    assert!(compares.iter().any(|c| matches!(c, Compare::Lost(id, rev) if id.as_str() == "m1" && rev.0 > 0)));
    let tombstone = &kit.orders[&(machine("m1"), name("a.service"))].value;
    assert_eq!(tombstone.wanted, Wanted::Gone, "the machine learns on return that it lost the unit");
}

#[test]
fn p1_a_machine_that_has_not_come_since_an_import_is_not_lost_and_keeps_its_units() {
    let mut kit = Kit::new(&["m1", "m2", "m3"]);
    kit.launch("a.service", "");
    kit.converge();
    let mut record = kit.machines[&machine("m1")].value.clone();
    record.expected = Some(Stamp::default());
    kit.set_machine(&machine("m1"), record.clone());
    kit.vanish("m1");
    for _ in 0..10 {
        kit.converge();
        kit.wait(GRACE);
    }
    assert!(kit.lost.is_empty());
    assert_eq!(kit.at("a.service"), ["m1"]);
    let why = explain(&kit.world, &name("a.service"), kit.now).unwrap();
    let against =
        why.machines.iter().find(|verdict| verdict.machine.as_str() == "m1").unwrap().against.clone();
    let against = against.expect("it is not there");
    assert_eq!(against.code(), "machine-expected");
    assert!(against.to_string().contains("fleetctl machine confirm-dead m1"), "{against}");
    // Nothing new comes to it.
    kit.launch("b.service", "");
    kit.converge();
    assert_ne!(kit.at("b.service"), ["m1"]);
    // Unless somebody says that it is off, or it comes and goes.
    record.confirmed_dead = Some(ConfirmedDead { stamp: Stamp::default() });
    kit.set_machine(&machine("m1"), record);
    kit.converge();
    assert_ne!(kit.at("a.service"), ["m1"]);
}

#[test]
fn a_machine_that_returns_within_the_grace_keeps_its_units() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.vanish("m1");
    kit.converge();
    kit.join("m1", &[]);
    kit.wait(Span::from_secs(60));
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m1"]);
}

#[test]
fn an_election_of_the_store_makes_the_eviction_wait_once_more_and_only_once() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.world.apply(crate::world::Event::RaftTerm { term: 3, read_at: kit.now });
    kit.vanish("m1");
    kit.converge();
    for (term, waits) in [(4, true), (5, false)] {
        kit.wait(GRACE);
        kit.world.apply(crate::world::Event::RaftTerm { term, read_at: kit.now });
        kit.pass();
        assert_eq!(kit.at("a.service") == ["m1"], waits, "term {term}");
    }
}

#[test]
fn a_unit_that_no_other_machine_can_take_stays_where_it_is_and_says_so() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("pin.service", "MachineID=m1");
    kit.converge();
    kit.vanish("m1");
    kit.converge();
    kit.wait(GRACE);
    kit.converge();
    assert_eq!(kit.at("pin.service"), ["m1"]);
    assert!(kit.reason("pin.service").contains("target Machine(m1) went away"));
    let number = kit.orders[&(machine("m1"), name("pin.service"))].value.number;
    kit.join("m1", &[]);
    kit.converge();
    assert_eq!(
        kit.orders[&(machine("m1"), name("pin.service"))].value.number,
        number,
        "nothing new is asked of it"
    );
}

#[test]
fn confirm_dead_needs_no_grace() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.vanish("m1");
    kit.set_machine(
        &machine("m1"),
        MachineRecord {
            confirmed_dead: Some(ConfirmedDead { stamp: Stamp::default() }),
            ..MachineRecord::default()
        },
    );
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m2"]);
}
