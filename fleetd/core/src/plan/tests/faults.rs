//! What goes wrong around a plan: clocks that jump, elections of the store, stores that were re-anchored, machines that
//! were forgotten, records that cannot be read.

use super::kit::{GRACE, Kit, machine, name, orders};
use crate::ids::Epoch;
use crate::plan::{Compare, Write, plan};
use crate::records::{BrakeCause, BrakeState, DesiredState, MachineRecord, Wanted};
use crate::time::{Span, Timestamp};
use crate::world::Event;

/// A unit that runs on m1, whose machine has been marked as lost.
fn lost_with_a_unit() -> Kit {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.election();
    kit.launch("a.service", "");
    kit.converge();
    kit.vanish("m1");
    kit.converge();
    kit
}

#[test]
fn an_election_that_a_relist_tells_of_makes_the_eviction_wait_once_more() {
    let mut kit = lost_with_a_unit();
    kit.wait(Span(GRACE.0 - 1));
    kit.raft_term += 1;
    kit.relist();
    kit.wait(Span(GRACE.0 - 1));
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m1"]);
    kit.wait(Span(1));
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m2"]);
}

#[test]
fn an_election_after_the_time_ran_out_lets_it_run_out_again() {
    let mut kit = Kit::new(&["m1"]);
    kit.election();
    kit.launch("a.service", "");
    kit.converge();
    kit.vanish("m1");
    kit.converge();
    kit.wait(GRACE);
    kit.converge();
    kit.election();
    kit.join("m2", &[]);
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m1"]);
    assert!(kit.pass().next_look.is_some(), "time will bring work");
    kit.wait(GRACE);
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m2"]);
}

#[test]
fn a_step_of_the_clock_neither_hurries_nor_delays_an_eviction() {
    for step in [-3_600_000_i64, 3_600_000] {
        let mut kit = lost_with_a_unit();
        kit.world.clock_stepped(kit.now, Timestamp(10_000_000));
        kit.now = Timestamp(10_000_000);
        let stepped = Timestamp(kit.now.0.saturating_add_signed(step));
        kit.world.clock_stepped(kit.now, stepped);
        kit.now = stepped;
        kit.wait(Span(GRACE.0 - 1));
        kit.converge();
        assert_eq!(kit.at("a.service"), ["m1"], "{step}");
        kit.wait(Span(1));
        kit.converge();
        assert_eq!(kit.at("a.service"), ["m2"], "{step}");
    }
}

#[test]
fn stamps_of_a_leader_whose_clock_ran_ahead_hold_nothing_back_for_ever() {
    let mut kit = Kit::new(&["m1"]);
    kit.now = Timestamp(1_000_000_000);
    kit.launch("a.service", "");
    kit.converge();
    kit.refuse("m1", "a.service", "no");
    kit.converge();
    kit.obey("m1");
    kit.now = Timestamp(1_000_000);
    kit.world.mark_everything();
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m1"]);
}

#[test]
fn a_machine_is_waited_for_as_long_as_it_has_configured() {
    let mut kit = Kit::new(&["m2"]);
    kit.join("m1", &[]);
    let id = machine("m1");
    kit.presence.get_mut(&id).unwrap().value.agent_ttl = Span::from_secs(60);
    kit.world.apply(Event::Presence(id.clone(), Some(kit.presence[&id].clone())));
    kit.relist();
    kit.vanish("m1");
    let marker = plan(&kit.world, &kit.policy(), kit.now).groups.remove(0).writes.remove(0);
    let Write::PutLost(_, record) = marker else { panic!("{marker:?}") };
    assert_eq!(record.grace, Span::from_secs(20));
}

#[test]
fn a_tombstone_from_before_a_re_anchoring_is_issued_anew() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.launch("g.service", "Global=true\nMachineMetadata=role=web");
    kit.set_metadata("m2", "role", "web");
    kit.converge();
    kit.desire("a.service", DesiredState::Inactive);
    kit.set_metadata("m2", "role", "db");
    kit.converge();
    let tombstone = |kit: &Kit, id: &str, unit: &str| kit.orders[&(machine(id), name(unit))].value.clone();
    let before = tombstone(&kit, "m1", "a.service");
    assert_eq!(before.wanted, Wanted::Gone);
    kit.raise_epoch(Epoch(2));
    kit.converge();
    let after = tombstone(&kit, "m1", "a.service");
    assert_eq!((after.wanted, after.number.epoch, after.reason), (Wanted::Gone, Epoch(2), before.reason));
    let global = tombstone(&kit, "m2", "g.service");
    assert_eq!((global.wanted, global.number.epoch), (Wanted::Gone, Epoch(2)));
}

#[test]
fn a_unit_that_was_on_hundreds_of_machines_fits_into_transactions_when_its_name_is_used_anew() {
    let ids: Vec<String> = (0..300).map(|n| format!("m{n:03}")).collect();
    let mut kit = Kit::new(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    kit.launch("a.service", "Global=true");
    kit.converge();
    assert_eq!(kit.at("a.service").len(), 300);
    kit.desire("a.service", DesiredState::Destroyed);
    kit.launch("a.service", "");
    kit.converge();
    assert_eq!(kit.at("a.service").len(), 1);
}

#[test]
fn an_order_for_a_machine_that_is_away_compares_that_it_was_not_forgotten() {
    let mut kit = lost_with_a_unit();
    let revision = kit.machines[&machine("m1")].modified;
    kit.desire("a.service", DesiredState::Destroyed);
    let group = kit.pass().groups.remove(0);
    assert!(group.compares.contains(&Compare::Machine(machine("m1"), revision)), "{group:?}");
}

#[test]
fn a_forgotten_machine_gets_no_order_and_keeps_no_destroyed_unit_alive() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "MachineID=m1");
    kit.converge();
    kit.vanish("m1");
    kit.converge();
    kit.forget(&machine("m1"));
    kit.converge();
    assert!(kit.orders.is_empty(), "{:?}", kit.orders);
    assert_eq!(kit.reason("a.service"), "the only machine cannot run it");
    kit.desire("a.service", DesiredState::Destroyed);
    kit.converge();
    assert!(kit.units.is_empty());
}

#[test]
fn p7_a_machine_whose_record_cannot_be_read_takes_no_unit_and_stands_in_nobodys_way() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.world.apply(Event::Machine(machine("m1"), None));
    kit.launch("b.service", "");
    kit.launch("c.service", "");
    let planned = plan(&kit.world, &kit.policy(), kit.now);
    let compares: Vec<_> = planned.groups.iter().flat_map(|group| &group.compares).collect();
    assert!(!compares.iter().any(|c| matches!(c, Compare::Machine(id, _) if id.as_str() == "m1")));
    let placed = planned.groups.iter().flat_map(|group| &group.writes);
    let placed = placed.filter(|w| matches!(w, Write::PutOrder(id, ..) if id.as_str() == "m2"));
    assert_eq!(placed.count(), 2);
    kit.vanish("m1");
    let marked = plan(&kit.world, &kit.policy(), kit.now);
    assert!(
        !marked.groups[0].compares.iter().any(|c| matches!(c, Compare::Machine(..))),
        "it is marked all the same"
    );
}

#[test]
fn p5_frozen_orders_are_named_by_every_plan() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.units.clear();
    kit.world.apply(Event::Unit(name("a.service"), None));
    kit.pass();
    for _ in 0..2 {
        assert_eq!(kit.pass().frozen, [(machine("m1"), name("a.service"))]);
    }
    kit.launch("b.service", "");
    assert_eq!(kit.pass().frozen, [(machine("m1"), name("a.service"))]);
}

#[test]
fn what_the_operator_let_go_stays_so_when_the_brake_closes_for_another_cause() {
    let mut kit = Kit::new(&["m1", "m2", "m3"]);
    for id in ["w1", "w2"] {
        kit.join(id, &[("role", "web")]);
    }
    for n in 0..24 {
        kit.launch(&format!("w{n}.service"), "MachineMetadata=role=web");
    }
    kit.launch("a.service", "MachineID=m1");
    kit.converge();
    for id in ["m1", "m2", "m3"] {
        kit.vanish(id);
    }
    kit.set_metadata("w1", "role", "wbe");
    kit.converge();
    kit.wait(GRACE);
    kit.converge();
    let brake = |kit: &Kit| kit.brake().map(|b| (b.cause, b.state));
    assert_eq!(brake(&kit), Some((BrakeCause::MassLoss, BrakeState::Engaged)));
    kit.release_brake();
    kit.converge();
    assert_eq!(brake(&kit), Some((BrakeCause::MassChange, BrakeState::Engaged)), "the next one in the way");
    kit.release_brake();
    kit.converge();
    assert_eq!(kit.at("w0.service"), ["w2"]);
    kit.wait(Span::from_secs(300));
    kit.converge();
    assert_eq!(brake(&kit), Some((BrakeCause::MassLoss, BrakeState::Released)), "they are lost still");
    for id in ["m1", "m2", "m3"] {
        kit.join(id, &[]);
    }
    kit.converge();
    assert_eq!(brake(&kit), None);
}

#[test]
fn units_that_replace_each_other_in_a_ring_come_to_rest() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.set_machine(&machine("m2"), MachineRecord { cordon: true, ..MachineRecord::default() });
    for (unit, replaces) in [("a", "b"), ("b", "c"), ("c", "a")] {
        kit.launch(&format!("{unit}.service"), &format!("Replaces={replaces}.service"));
    }
    kit.converge();
    kit.set_machine(&machine("m2"), MachineRecord::default());
    kit.converge();
    for unit in ["a", "b", "c"] {
        assert_eq!(kit.at(&format!("{unit}.service")).len(), 1);
    }
}

#[test]
fn a_unit_beside_an_order_that_comes_back_with_conflicts_leaves() {
    let mut kit = Kit::new(&["m2"]);
    kit.join("m1", &[("k", "1")]);
    kit.launch("b.service", "MachineMetadata=k=1");
    kit.converge();
    kit.launch("b.service", "MachineMetadata=k=1\nConflicts=c@*.service");
    kit.launch("c@1.service", "MachineMetadata=k=1");
    kit.cut(1);
    kit.converge();
    assert!(kit.at("c@1.service").is_empty(), "its record is the younger one");
    assert_eq!(kit.at("b.service"), ["m1"]);
}

#[test]
fn an_order_that_its_machine_refuses_as_overtaken_is_written_anew_where_it_stands() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.launch("g.service", "Global=true");
    kit.converge();
    let on = kit.at("a.service")[0].to_owned();
    let number = |kit: &Kit, unit: &str| kit.orders[&(machine(&on), name(unit))].value.number;
    let before = (number(&kit, "a.service"), number(&kit, "g.service"));
    // The refusal and the re-anchoring reach the engine together.
    kit.refuse_as_stale(&on, "a.service");
    kit.refuse_as_stale(&on, "g.service");
    kit.raise_epoch(Epoch(2));
    kit.converge();
    assert_eq!(kit.at("a.service"), [on.as_str()]);
    assert!(number(&kit, "a.service") > before.0 && number(&kit, "g.service") > before.1);

    // What this leader itself has ordered last is refused: no order of its own can be newer.
    kit.refuse_as_stale(&on, "a.service");
    kit.converge();
    assert_ne!(kit.at("a.service"), [on.as_str()]);
}

#[test]
fn a_copy_without_an_order_on_the_machine_where_its_unit_stands_gets_one_and_is_not_withdrawn() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.converge();
    let on = kit.at("a.service")[0].to_owned();
    kit.lose_order(&on, "a.service");
    let plan = kit.pass();
    assert!(orders(&plan).iter().all(|order| !order.contains("Gone")), "{:?}", orders(&plan));
    assert_eq!(kit.at("a.service"), [on.as_str()]);
}
