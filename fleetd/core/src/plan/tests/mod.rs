//! Plans over small worlds: each test is one rule.

mod faults;
mod history;
mod kit;
mod losses;
mod reference;
mod strays;
mod together;

use super::{Write, explain};
use crate::records::{BrakeCause, BrakeState, DesiredState, Wanted};
use crate::time::Span;
use kit::{GRACE, Kit, machine, name};

#[test]
fn units_spread_to_the_least_loaded_machine_and_ties_end_in_the_id() {
    let mut kit = Kit::new(&["m1", "m2", "m3"]);
    for n in 1..=6 {
        kit.launch(&format!("u{n}.service"), "");
    }
    kit.converge();
    let at: Vec<_> = (1..=6).flat_map(|n| kit.at(&format!("u{n}.service"))).collect();
    assert_eq!(at, ["m1", "m2", "m3", "m1", "m2", "m3"]);
}

#[test]
fn instances_that_conflict_with_each_other_share_no_machine_and_the_fourth_of_three_waits_with_reasons() {
    let mut kit = Kit::new(&["m1", "m2", "m3"]);
    for n in 1..=4 {
        kit.launch(&format!("hello@{n}.service"), "Conflicts=hello@*.service");
    }
    kit.converge();
    assert_eq!(kit.at("hello@1.service"), ["m1"]);
    assert_eq!(kit.at("hello@3.service"), ["m3"]);
    assert!(kit.at("hello@4.service").is_empty());
    let decision = &kit.placements[&name("hello@4.service")].value.decision;
    assert_eq!(decision.reason.text, "none of 3 machines can run it");
    assert_eq!((decision.refused[0].code.as_str(), decision.refused[0].machines), ("conflict", 3));
    assert_eq!(decision.judged, kit.units[&name("hello@4.service")].modified);

    kit.join("m4", &[]);
    kit.converge();
    assert_eq!(kit.at("hello@4.service"), ["m4"]);
}

#[test]
fn conflicts_are_symmetric() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "Conflicts=b*");
    kit.converge();
    kit.launch("b1.service", "");
    kit.converge();
    assert!(kit.at("b1.service").is_empty());
    let why = explain(&kit.world, &name("b1.service"), kit.now).unwrap();
    let against = why.machines[0].against.as_ref().unwrap();
    assert_eq!(
        against.to_string(),
        "found conflict with locally-scheduled Unit(a.service) (its Conflicts=b*)"
    );
    assert_eq!(against.would_fit_without(), Some(&name("a.service")));
}

#[test]
fn a_tombstone_occupies_until_the_machine_has_acknowledged_it() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "Conflicts=b.service");
    kit.converge();
    kit.desire("a.service", DesiredState::Inactive);
    kit.launch("b.service", "");
    kit.converge();
    assert!(kit.at("b.service").is_empty(), "a is still stopping");
    kit.obey("m1");
    kit.converge();
    assert_eq!(kit.at("b.service"), ["m1"]);
}

#[test]
fn metadata_pins_and_the_short_machine_id_are_obeyed() {
    let mut kit = Kit::new(&["aaaaaaaa1111", "bbbbbbbb2222"]);
    kit.join("cccccccc3333", &[("role", "db"), ("disk", "ssd")]);
    kit.launch("db.service", "MachineMetadata=role=db\nMachineMetadata=role=cache\nMachineMetadata=disk=ssd");
    kit.launch("pin.service", "MachineID=bbbbbbbb");
    kit.launch("nowhere.service", "MachineMetadata=role=web");
    kit.converge();
    assert_eq!(kit.at("db.service"), ["cccccccc3333"]);
    assert_eq!(kit.at("pin.service"), ["bbbbbbbb2222"]);
    assert!(kit.at("nowhere.service").is_empty());
    kit.set_metadata("aaaaaaaa1111", "role", "web");
    kit.converge();
    assert_eq!(kit.at("nowhere.service"), ["aaaaaaaa1111"]);
}

#[test]
fn changed_metadata_moves_a_running_unit_and_takes_one_off_that_fits_nowhere() {
    let mut kit = Kit::new(&[]);
    kit.join("m1", &[("role", "web")]);
    kit.join("m2", &[("role", "web")]);
    kit.launch("web.service", "MachineMetadata=role=web");
    kit.converge();
    kit.set_metadata("m1", "role", "db");
    let plan = kit.pass();
    assert_eq!(plan.groups.len(), 1, "removal, placement and order are one group");
    assert_eq!(kit.at("web.service"), ["m2"]);
    kit.set_metadata("m2", "role", "");
    kit.converge();
    assert!(kit.at("web.service").is_empty());
    assert_eq!(kit.reason("web.service"), "none of 2 machines can run it");
    assert_eq!(kit.against("web.service"), "metadata role=db, required role=web");
}

#[test]
fn followers_are_in_the_group_of_their_target() {
    let mut kit = Kit::new(&["m1", "m2", "m3"]);
    kit.launch("c.service", "MachineOf=b.service");
    kit.launch("b.service", "MachineOf=a.service");
    kit.launch("a.service", "");
    kit.converge();
    assert_eq!(
        (kit.at("a.service"), kit.at("b.service"), kit.at("c.service")),
        (vec!["m1"], vec!["m1"], vec!["m1"])
    );
    kit.vanish("m1");
    kit.converge();
    kit.wait(GRACE);
    let plan = kit.pass();
    assert_eq!(plan.groups.len(), 1);
    let orders = plan.groups[0].writes.iter().filter(|w| matches!(w, Write::PutOrder(..))).count();
    assert_eq!(orders, 6, "three tombstones, three orders");
    assert_eq!(
        (kit.at("a.service"), kit.at("b.service"), kit.at("c.service")),
        (vec!["m2"], vec!["m2"], vec!["m2"])
    );
}

#[test]
fn a_target_goes_where_its_followers_can_go_too() {
    let mut kit = Kit::new(&["m1"]);
    kit.join("m2", &[("disk", "ssd")]);
    kit.launch("follower.service", "MachineOf=target.service\nMachineMetadata=disk=ssd");
    kit.launch("target.service", "");
    kit.converge();
    assert_eq!((kit.at("target.service"), kit.at("follower.service")), (vec!["m2"], vec!["m2"]));
}

#[test]
fn followers_leave_with_a_target_that_is_unloaded() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "");
    kit.launch("b.service", "MachineOf=a.service");
    kit.launch("c.service", "MachineOf=b.service");
    kit.converge();
    kit.desire("a.service", DesiredState::Inactive);
    kit.converge();
    assert!(kit.at("b.service").is_empty() && kit.at("c.service").is_empty());
    assert_eq!(kit.against("b.service"), "required peer Unit(a.service) is not scheduled");
}

#[test]
fn the_replaced_unit_moves_only_if_it_has_a_place() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("old.service", "");
    kit.converge();
    kit.launch("new.service", "Replaces=old.service");
    kit.converge();
    assert_eq!((kit.at("old.service"), kit.at("new.service")), (vec!["m1"], vec!["m1"]));
    assert!(kit.reason("old.service").contains("found replace with locally-scheduled Unit(new.service)"));
    kit.join("m2", &[]);
    kit.converge();
    assert_eq!((kit.at("old.service"), kit.at("new.service")), (vec!["m2"], vec!["m1"]));
}

#[test]
fn a_refusal_moves_the_unit_and_keeps_it_away_for_a_while() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.refuse("m1", "a.service", "the host provides it");
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m2"]);
    kit.refuse("m2", "a.service", "the host provides it");
    kit.converge();
    assert!(kit.at("a.service").is_empty());
    kit.obey("m1");
    kit.obey("m2");
    let next = kit.pass();
    assert!(next.groups.is_empty() && kit.at("a.service").is_empty());
    kit.wait(Span::from_secs(30));
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m1"], "after 30 s it is tried again");
}

#[test]
fn a_global_unit_runs_on_every_machine_that_fits_and_a_lost_one_keeps_its_order() {
    let mut kit = Kit::new(&["m2"]);
    kit.join("m1", &[("role", "web")]);
    kit.join("m3", &[("role", "web")]);
    kit.launch("agent.service", "Global=true\nMachineMetadata=role=web");
    kit.converge();
    assert_eq!(kit.at("agent.service"), ["m1", "m3"]);
    kit.vanish("m3");
    kit.converge();
    kit.wait(Span::from_secs(3600));
    kit.converge();
    assert_eq!(kit.at("agent.service"), ["m1", "m3"], "eligibility of an absent machine is unknown");
    kit.set_metadata("m2", "role", "web");
    kit.set_metadata("m1", "role", "db");
    kit.converge();
    assert_eq!(kit.at("agent.service"), ["m2", "m3"]);
    kit.desire("agent.service", DesiredState::Destroyed);
    kit.converge();
    assert!(kit.at("agent.service").is_empty());
    kit.obey("m1");
    kit.obey("m2");
    kit.converge();
    assert!(kit.units.contains_key(&name("agent.service")), "the absent machine has not acknowledged");
    kit.join("m3", &[("role", "web")]);
    kit.obey("m3");
    kit.converge();
    assert!(kit.units.is_empty());
}

#[test]
fn new_content_of_a_global_unit_reaches_one_machine_at_a_time() {
    let mut kit = Kit::new(&["m1", "m2", "m3"]);
    kit.launch("agent.service", "Global=true");
    kit.converge();
    for id in ["m1", "m2", "m3"] {
        kit.obey(id);
    }
    kit.converge();
    kit.change("agent.service", |unit| unit.counters.restart += 1);
    let restarted = |kit: &Kit| {
        let orders = kit.orders.iter().filter(|(_, o)| o.value.counters.restart == 1);
        orders.map(|((id, _), _)| id.to_string()).collect::<Vec<_>>()
    };
    kit.converge();
    assert_eq!(restarted(&kit), ["m1"]);
    kit.converge();
    assert_eq!(restarted(&kit), ["m1"], "m1 has not come back yet");
    kit.obey("m1");
    kit.converge();
    assert_eq!(restarted(&kit), ["m1", "m2"]);
    kit.change("agent.service", |unit| unit.all_at_once = true);
    kit.converge();
    assert_eq!(restarted(&kit), ["m1", "m2", "m3"]);
}

#[test]
fn a_recreated_name_is_a_new_life_and_replaces_the_old_order() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.desire("a.service", DesiredState::Destroyed);
    kit.converge();
    kit.launch("b.service", "");
    kit.launch("a.service", "MachineID=m2");
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m2"]);
    assert_eq!(kit.orders[&(machine("m1"), name("a.service"))].value.wanted, Wanted::Gone);
    kit.obey("m1");
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m2"]);
}

#[test]
fn losing_too_many_machines_closes_the_brake_until_they_return_or_the_operator_goes_on() {
    let mut kit = Kit::new(&["m1", "m2", "m3", "m4", "m5"]);
    for n in 1..=5 {
        kit.launch(&format!("u{n}.service"), "");
    }
    kit.converge();
    for id in ["m1", "m2", "m3"] {
        kit.vanish(id);
    }
    kit.converge();
    kit.wait(Span::from_secs(3600));
    kit.converge();
    assert_eq!(kit.at("u1.service"), ["m1"], "held back");
    let brake = kit.brake().unwrap();
    assert_eq!(
        (brake.cause, brake.state, brake.machines.len()),
        (BrakeCause::MassLoss, BrakeState::Engaged, 3)
    );
    kit.join("m1", &[]);
    kit.join("m2", &[]);
    kit.converge();
    assert!(kit.brake().is_none());
    assert_ne!(kit.at("u3.service"), ["m3"], "one machine of five may go");
    kit.vanish("m1");
    kit.vanish("m2");
    kit.converge();
    kit.wait(GRACE);
    kit.converge();
    assert_eq!(kit.at("u1.service"), ["m1"]);
    kit.release_brake();
    kit.converge();
    assert_ne!(kit.at("u1.service"), ["m1"]);
}

#[test]
fn a_bad_push_of_metadata_is_held_back() {
    let mut kit = Kit::new(&[]);
    for id in ["m1", "m2"] {
        kit.join(id, &[("role", "web")]);
    }
    for n in 0..24 {
        kit.launch(&format!("u{n}.service"), "MachineMetadata=role=web");
    }
    kit.converge();
    kit.set_metadata("m1", "role", "wbe");
    kit.converge();
    assert_eq!(kit.brake().map(|b| (b.cause, b.held)), Some((BrakeCause::MassChange, 12)));
    assert_eq!(kit.at("u0.service"), ["m1"]);
    kit.desire("u0.service", DesiredState::Inactive);
    kit.converge();
    assert!(kit.at("u0.service").is_empty(), "what a desired state asks for goes on");
    kit.release_brake();
    kit.converge();
    assert_eq!(kit.at("u2.service"), ["m2"]);
}
