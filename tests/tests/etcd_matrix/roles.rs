//! The commands of `docs/usage/etcd.md` that give machines no more than they need, and a cluster under them.

use std::process::Command;

use fleet_api::v2::Verb;
use fleet_core::{Epoch, OrderNumber, Term};
use fleet_registry::etcd::{EtcdOptions, EtcdStore};
use fleet_registry::store::{Op, Range, Store, StoreError, Txn};

use super::cluster::{Machine, runs};
use super::etcd::{Etcd, Version};
use super::{PLAIN, until};

const PAGE: &str = include_str!("../../../docs/usage/etcd.md");

/// The shell block below this heading.
fn commands(heading: &str) -> String {
    let section = PAGE.split(&format!("## {heading}\n")).nth(1).expect("the page has this heading");
    let block = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    block.expect("commands follow the heading").to_owned()
}

fn run(etcd: &Etcd, script: &str) {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-euc", script]).envs(etcd.environment("root"));
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn as_user(etcd: &Etcd, name: &str, password: &str) -> EtcdOptions {
    EtcdOptions { user: Some((name.to_owned(), password.to_owned())), ..etcd.options() }
}

async fn put(options: &EtcdOptions, key: &str) -> Result<(), StoreError> {
    let store = EtcdStore::new(options).unwrap();
    store.txn(Txn::of(vec![Op::put(key.to_owned(), "x")])).await.map(drop)
}

fn is_denied(outcome: &Result<(), StoreError>) -> bool {
    matches!(outcome, Err(StoreError::PermissionDenied { .. }))
}

#[tokio::test]
async fn machines_live_under_the_documented_roles_and_reach_nothing_else_3_4() {
    roles(Version::V3_4).await;
}

#[tokio::test]
async fn machines_live_under_the_documented_roles_and_reach_nothing_else_3_5() {
    roles(Version::V3_5).await;
}

/// The third machine, whose user may not write `cluster`, rejoins what gave its last order, and says what to do where
/// that cannot be seen.
async fn a_lost_member_file(
    version: Version,
    machines: &mut [Machine],
    full: &EtcdOptions,
    only_runs: &EtcdOptions,
) {
    let units = ["b1.service", "b2.service", "b3.service"];
    machines[0].ask(Verb::Start, &units).await.unwrap();
    machines[0].active(&units).await;
    let before = (machines[0].epoch().await, runs(machines));
    assert_eq!(before.0, 1);
    machines[2].lose_member_file().await;
    machines[2].start(only_runs).await;
    machines[2].present(3).await;
    machines[0].ask(Verb::Restart, &units).await.unwrap();
    let ran = (before.1.0 + 3, before.1.1 + 3);
    until("orders reach it", async || (runs(machines) == ran).then_some(())).await;
    assert_eq!(machines[0].epoch().await, 1, "{version:?}: nobody had to anchor anew");

    // An order that the cluster cannot have given at this epoch.
    machines[2].lose_member_file().await;
    let floor = OrderNumber { epoch: Epoch(1), term: Term(i64::MAX), sequence: 1 };
    machines[2].accepted_before(floor);
    machines[2].start(only_runs).await;
    until("it says what to do", async || {
        machines[2].health().await.local.text.contains("etcd_username").then_some(())
    })
    .await;
    let health = machines[2].health().await;
    let problem = health.problems.iter().find(|problem| problem.code == "machine");
    assert!(!health.healthy && problem.is_some_and(|problem| problem.text.contains("/fleet/cluster")));
    machines[2].kill_fleetd().await;
    machines[2].start(full).await;
    machines[2].present(3).await;
    machines[2].kill_fleetd().await;
    machines[2].start(only_runs).await;
    machines[2].present(3).await;
    assert_eq!(machines[0].epoch().await, 2, "{version:?}");
    assert_eq!(runs(machines), ran, "{version:?}: no unit noticed");
    machines[0].ask(Verb::Destroy, &units).await.unwrap();
    machines[0].active(&[]).await;
}

async fn roles(version: Version) {
    let home = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(home.path(), version, 1, PLAIN, &[]).await;
    run(&etcd, &commands("A user for the machines"));
    run(&etcd, &commands("A machine that only runs units").replace("$ID", "m3"));
    let full = as_user(&etcd, "fleet-machines", "change-me");
    let only_runs = as_user(&etcd, "fleet-m3", "change-me-too");

    let mut machines = Vec::new();
    for (name, options) in [("m1", &full), ("m2", &full), ("m3", &only_runs)] {
        let mut machine = Machine::new(home.path(), name);
        if name == "m3" {
            machine = machine.never_leads();
        }
        machine.start(options).await;
        machines.push(machine);
    }
    machines[0].present(3).await;
    let units = ["a1.service", "a2.service", "a3.service", "a4.service", "a5.service", "a6.service"];
    machines[0].ask(Verb::Start, &units).await.unwrap();
    machines[0].active(&units).await;
    assert_eq!(runs(&machines[2..]), (2, 0), "{version:?}: the third takes its share");
    machines[0].ask(Verb::Restart, &units).await.unwrap();
    until("each ran twice", async || (runs(&machines) == (12, 6)).then_some(())).await;

    // It shows everything and changes nothing.
    machines[2].active(&units).await;
    let refused = machines[2].ask(Verb::Stop, &units[..1]).await.unwrap_err();
    assert!(refused.contains("permi"), "{version:?}: {refused}");
    for key in [
        "units/a1.service",
        "contents/a1",
        "placements/a1.service",
        "assignments/m1/a1.service",
        "states/m1/a1.service",
        "presence/m1",
        "machines/m1",
        "lost/m1",
        "witness/m1",
        "engine/leader",
        "brake",
        "events/1",
        "cluster",
    ] {
        assert!(is_denied(&put(&only_runs, &format!("/fleet/{key}")).await), "{version:?}: {key}");
    }
    for options in [&full, &only_runs] {
        assert!(is_denied(&put(options, "/other").await), "{version:?}");
        let store = EtcdStore::new(options).unwrap();
        let other = store.range(Range::key("/other")).await;
        assert!(matches!(other, Err(StoreError::PermissionDenied { .. })), "{version:?}: {other:?}");
    }
    let health = machines[2].health().await;
    assert!(health.healthy, "{version:?}: {health:#?}");

    // Both kinds of machine are lost and replaced as ever.
    machines[2].kill_fleetd().await;
    machines[2].systemd.boot();
    until("its units run elsewhere", async || (runs(&machines[..2]).0 == 10).then_some(())).await;
    machines[2].start(&only_runs).await;
    machines[0].present(3).await;
    machines[0].ask(Verb::Destroy, &units).await.unwrap();
    machines[0].active(&[]).await;

    a_lost_member_file(version, &mut machines, &full, &only_runs).await;

    // What the page says of its own keys. Nobody reads them any more.
    for machine in &mut machines {
        machine.kill_fleetd().await;
    }
    for key in
        ["presence/m3", "machines/m3", "lost/m3", "witness/m3", "states/m3/x", "assignments/m3/x", "hold"]
    {
        let written = put(&only_runs, &format!("/fleet/{key}")).await;
        assert!(written.is_ok(), "{version:?}: {key}: {written:?}");
    }
}
