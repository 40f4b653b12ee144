//! What a cluster does when nothing happens.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_api::v2::Verb;
use fleet_tests::sim::tap::Kind;
use fleet_tests::sim::{Cluster, simulate};

/// Calls of all machines since the taps were reset, by kind and by what was called.
fn calls(cluster: &Cluster) -> BTreeMap<(Kind, String), u64> {
    let mut sum = BTreeMap::new();
    for machine in cluster.machines.values() {
        for (call, count) in machine.tap.calls() {
            *sum.entry(call).or_default() += count;
        }
    }
    sum
}

fn reset(cluster: &Cluster) {
    cluster.machines.values().for_each(|machine| machine.tap.reset());
}

fn of(calls: &BTreeMap<(Kind, String), u64>, kinds: &[Kind]) -> u64 {
    calls.iter().filter(|((kind, _), _)| kinds.contains(kind)).map(|(_, count)| count).sum()
}

#[test]
fn p8_an_hour_at_rest_costs_keep_alives_and_audits() {
    simulate(async {
        let mut cluster = Cluster::of(3).await?;
        cluster.operator.texts.insert("work@.service".into(), "[Service]\nExecStart=/usr/bin/work\n".into());
        let names: Vec<String> = (1..=60).map(|n| format!("work@{n}.service")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        anyhow::ensure!(cluster.change(Verb::Start, &names, false).await?.is_empty());
        cluster.settle().await;
        cluster.tick(Duration::from_secs(60)).await;

        // No audit falls into the first ten minutes.
        reset(&cluster);
        cluster.tick(Duration::from_secs(500)).await;
        let between = calls(&cluster);
        let silent = [Kind::Read, Kind::Write, Kind::Watch, Kind::Systemd];
        anyhow::ensure!(of(&between, &silent) == 0, "between audits: {between:?}");
        anyhow::ensure!(of(&between, &[Kind::KeepAlive]) > 100, "{between:?}");

        cluster.tick(Duration::from_secs(3_600 - 500)).await;
        let hour = calls(&cluster);
        anyhow::ensure!(of(&hour, &[Kind::Write, Kind::Watch]) == 0, "{hour:?}");
        // Four audits an hour on each machine, and the leader's.
        anyhow::ensure!((1..=200).contains(&of(&hour, &[Kind::Read])), "{hour:?}");
        for machine in cluster.machines.values() {
            let daemon = machine.daemon.as_ref().expect("it runs");
            let counters = daemon.agent.status().counters;
            anyhow::ensure!(counters.audits >= 3, "{}: {} audits", machine.name, counters.audits);
            anyhow::ensure!(counters.audit_differences == 0, "{}", machine.name);
            anyhow::ensure!(daemon.engine.status.borrow().audit_differences == 0);
        }
        Ok(())
    });
}

#[test]
fn p8_a_change_of_one_unit_costs_a_few_writes() {
    simulate(async {
        let mut cluster = Cluster::of(3).await?;
        cluster.operator.texts.insert("work.service".into(), "[Service]\nExecStart=/usr/bin/work\n".into());
        reset(&cluster);
        anyhow::ensure!(cluster.change(Verb::Start, &["work.service"], false).await?.is_empty());
        cluster.settle().await;
        let calls = calls(&cluster);
        // The request, the order, and the machine's reports, one a second at most.
        anyhow::ensure!(of(&calls, &[Kind::Write]) <= 5, "{calls:?}");
        Ok(())
    });
}
