//! The contract of fleet-systemd against a real machine: what its fake promises to every other test is what systemd
//! does.

use fleet_systemd::contract::{contract, survives};
use fleet_systemd::{DbusSystemd, Options};
use fleet_tests::lab::{Lab, LabOptions, Machine};

fn on_machine(subject: &str, test: impl AsyncFnOnce(&Machine<'_>, &DbusSystemd)) {
    let lab =
        Lab::up(LabOptions::for_test(subject).machines(1).etcd(0).systemd_only()).expect("the lab boots");
    let m1 = lab.machine("m1");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime needs nothing");
    runtime.block_on(async {
        let options = Options {
            bus_address: Some(m1.bus_address().expect("m1 runs")),
            root: m1.live_path("/").expect("m1 runs"),
            ..Options::default()
        };
        let systemd = DbusSystemd::connect(options).await.expect("the bus answers");
        test(&m1, &systemd).await;
    });
}

#[test]
fn systemd_keeps_the_contract_that_the_fake_keeps() {
    on_machine("contract", async |_, systemd| contract(systemd).await);
}

#[test]
fn runs_survive_a_systemd_that_is_executed_again_and_a_bus_that_dies() {
    on_machine("survives", async |machine, systemd| {
        survives(systemd, async || {
            machine.systemctl(&["daemon-reexec"]).unwrap();
        })
        .await;
        survives(systemd, async || {
            machine.systemctl(&["kill", "--signal=SIGKILL", "dbus.service"]).unwrap();
        })
        .await;
    });
}
