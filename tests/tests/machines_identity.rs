//! Two machines with one id, as after cloning a disk: one of them is refused, and says which other one it is.

use fleet_tests::cluster::{Cluster, SOON, run_of};
use fleet_tests::lab::{LabOptions, wait_for, wait_until};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

#[test]
fn cloned_machine_id_is_refused_and_the_first_holder_is_undisturbed() {
    let id = "00000000000000000000000000c10ed1";
    let options = LabOptions::for_test("cloned").machines(2).agent_ttl("6s");
    let cluster = Cluster::boot(options.machine_id("m1", id).machine_id("m2", id));
    let is_holder =
        |name: &str| cluster.status_on(name).is_ok_and(|view| view.local.connection == "connected");
    wait_until(SOON, "one of the two to be in the cluster", || is_holder("m1") || is_holder("m2"));
    let (holder, clone) = if is_holder("m1") { ("m1", "m2") } else { ("m2", "m1") };
    let said = wait_for(SOON, "the other one to say why it is not", || {
        let local = cluster.status_on(clone).ok()?.local;
        (local.connection != "connected" && local.text.contains("another machine lives"))
            .then_some(local.text)
    });
    let said = said.unwrap();
    let (holder, clone) = (cluster.machine(holder), cluster.machine(clone));
    assert!(said.contains(&holder.address().to_string()), "it names the holder: {said}");

    cluster.start("a.service", SLEEPS);
    let before = run_of(&holder, "a.service");
    assert_eq!(before.active, "active");
    assert!(!clone.is_unit_populated("a.service"));
    // The clone's fleetd coming again changes nothing either.
    clone.fleetd_restart().unwrap();
    wait_until(SOON, "the clone to refuse again", || {
        cluster
            .status_on(clone.name())
            .is_ok_and(|view| view.local.connection != "connected" && !view.local.text.is_empty())
    });
    assert_eq!(run_of(&holder, "a.service"), before);
    assert!(!clone.is_unit_populated("a.service"));

    // With an id of its own it joins.
    clone.fleetd_stop().unwrap();
    clone
        .run(&[
            "sh",
            "-c",
            "echo 00000000000000000000000000c10ed2 > /etc/machine-id; rm -rf /var/lib/fleet/*",
        ])
        .unwrap();
    clone.fleetd_start().unwrap();
    cluster.await_present(2);
    assert_eq!(run_of(&holder, "a.service"), before);
}
