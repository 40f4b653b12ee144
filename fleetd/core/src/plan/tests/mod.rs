//! Plans over small worlds: each test is one rule.

mod faults;
mod history;
mod kit;
mod reference;
mod together;

use super::{Compare, Write, explain};
use crate::records::{BrakeCause, BrakeState, ConfirmedDead, DesiredState, MachineRecord, Stamp, Wanted};
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
fn an_order_whose_unit_record_is_missing_is_frozen_never_taken_as_gone() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.units.clear();
    kit.world.apply(crate::world::Event::Unit(name("a.service"), None));
    let plan = kit.pass();
    assert!(plan.groups.is_empty());
    assert_eq!(plan.frozen, [(machine("m1"), name("a.service"))]);
    assert_eq!(kit.at("a.service"), ["m1"]);
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

#[test]
fn orders_of_an_earlier_epoch_are_issued_anew_with_the_same_counters() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "");
    kit.converge();
    let before = kit.orders[&(machine("m1"), name("a.service"))].value.clone();
    let mut cluster = kit.world.cluster().unwrap().clone();
    cluster.value.epoch.0 += 1;
    kit.world.apply(crate::world::Event::Cluster(Some(cluster)));
    let plan = super::plan(&kit.world, &kit.policy(), kit.now);
    let Some(Write::PutOrder(_, _, after)) = plan.groups[0].writes.first() else { panic!("{plan:?}") };
    assert!(after.number > before.number);
    assert_eq!((after.counters, after.wanted), (before.counters, before.wanted));
}

#[test]
fn a_copy_without_an_order_is_adopted_where_it_runs_if_its_unit_stands_nowhere() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("other.service", "MachineID=m2");
    kit.launch("a.service", "MachineMetadata=k=1");
    kit.set_metadata("m2", "k", "1");
    kit.converge();
    kit.change("a.service", |unit| unit.last_good.requirements.metadata.clear());
    kit.lose_order("m2", "a.service");
    kit.lose_placement("a.service");
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m2"], "m1 is less loaded, but it runs on m2 already");
}

#[test]
fn a_copy_without_an_order_goes_if_its_unit_stands_elsewhere_or_is_not_wanted() {
    let mut kit = Kit::new(&["m1", "m2"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.vanish("m1");
    kit.converge();
    kit.wait(GRACE);
    kit.converge();
    assert_eq!(kit.at("a.service"), ["m2"]);
    kit.lose_order("m1", "a.service");
    kit.join("m1", &[]);
    kit.converge();
    let tombstone = &kit.orders[&(machine("m1"), name("a.service"))].value;
    assert_eq!((tombstone.wanted, tombstone.reason.code.as_str()), (Wanted::Gone, "elsewhere"));
    kit.obey("m1");
    kit.lose_order("m2", "a.service");
    kit.desire("a.service", DesiredState::Destroyed);
    kit.converge();
    assert!(kit.units.contains_key(&name("a.service")), "the copy has to go first");
    kit.obey("m2");
    kit.converge();
    assert!(kit.units.is_empty());
}

#[test]
fn a_copy_of_a_unit_that_nobody_knows_is_left_alone() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "");
    kit.converge();
    kit.lose_order("m1", "a.service");
    kit.lose_placement("a.service");
    kit.units.clear();
    kit.world.apply(crate::world::Event::Unit(name("a.service"), None));
    assert!(kit.pass().groups.is_empty());
}
