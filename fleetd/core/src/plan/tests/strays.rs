//! Orders and copies that do not fit the units as they are: of an earlier epoch, without a record, without an order.

use super::kit::{GRACE, Kit, machine, name};
use crate::plan::{Write, plan};
use crate::records::{DesiredState, Wanted};

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
fn orders_of_an_earlier_epoch_are_issued_anew_with_the_same_counters() {
    let mut kit = Kit::new(&["m1"]);
    kit.launch("a.service", "");
    kit.converge();
    let before = kit.orders[&(machine("m1"), name("a.service"))].value.clone();
    let mut cluster = kit.world.cluster().unwrap().clone();
    cluster.value.epoch.0 += 1;
    kit.world.apply(crate::world::Event::Cluster(Some(cluster)));
    let plan = plan(&kit.world, &kit.policy(), kit.now);
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
