//! fleetd dies at every single call that it makes, before it and after it.

use std::time::Duration;

use fleet_api::v2::Verb;
use fleet_core::records::EngineRole;
use fleet_systemd::fake::What;
use fleet_tests::sim::machine::Setup;
use fleet_tests::sim::tap::Moment;
use fleet_tests::sim::{Cluster, simulate};
use unit_files::UnitName;

const SERVICE: &str = "[Service]\nExecStart=/usr/bin/work\n[X-Fleet]\nMachineID=m1\n";
const QUICK: &str = "[Service]\nType=oneshot\nExecStart=/usr/bin/true\n[X-Fleet]\nMachineID=m1\n";
const LONG: &str = "[Service]\nType=oneshot\nExecStart=/usr/bin/sleep 2\n[X-Fleet]\nMachineID=m1\n";
/// More calls than any of these steps makes.
const ENDLESS: u64 = 500;

/// `a` leads and serves the API, so that all that `m1` calls is the agent's and the session's.
async fn two_machines() -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::new()?;
    cluster.add("a", Setup::default()).await?;
    cluster.add("m1", Setup { engine: EngineRole::Never, ..Setup::default() }).await?;
    cluster.settle().await;
    Ok(cluster)
}

async fn ask(cluster: &mut Cluster, verb: Verb, units: &[&str]) -> anyhow::Result<()> {
    let refused = cluster.change(verb, units, false).await?;
    anyhow::ensure!(refused.is_empty(), "{refused:?}");
    Ok(())
}

/// Lets a oneshot start while fleetd dies at call `calls`, and again at call `again` of its recovery. None: it does not
/// make so many calls. Else how often the unit ran.
async fn oneshot(
    text: &str,
    calls: u64,
    moment: Moment,
    again: Option<u64>,
) -> anyhow::Result<Option<usize>> {
    let mut cluster = two_machines().await?;
    cluster.operator.texts.insert("job.service".into(), text.into());
    cluster.machine("m1")?.tap.die_at(calls, moment);
    ask(&mut cluster, Verb::Start, &["job.service"]).await?;
    if !cluster.machine("m1")?.bury_fleetd(Duration::from_secs(9)).await {
        return Ok(None);
    }
    cluster.tick(Duration::from_millis(calls % 3 * 1_100)).await;
    if let Some(again) = again {
        cluster.machine("m1")?.tap.die_at(again, moment);
        cluster.start_fleetd("m1").await?;
        cluster.machine("m1")?.bury_fleetd(Duration::from_secs(4)).await;
        cluster.machine("m1")?.tap.revive();
    }
    cluster.start_fleetd("m1").await?;
    cluster.settle().await;
    cluster.tick(Duration::from_secs(30)).await;
    Ok(Some(cluster.machine("m1")?.systemd.runs(&UnitName::parse("job.service")?)))
}

fn oneshot_runs_once(text: &str, moment: Moment, again: &[Option<u64>]) {
    let mut points = 0;
    for calls in 0..ENDLESS {
        for again in again {
            match simulate(oneshot(text, calls, moment, *again)) {
                Some(runs) => assert_eq!(runs, 1, "died {moment:?} call {calls}, then at {again:?}"),
                None => {
                    assert!(points > 5, "a start takes more calls than {points}");
                    return;
                }
            }
            points += 1;
        }
    }
    panic!("a start makes more than {ENDLESS} calls");
}

#[test]
fn p3_a_quick_oneshot_runs_once_whenever_fleetd_dies_before_a_call() {
    oneshot_runs_once(QUICK, Moment::Before, &[None]);
}

#[test]
fn p3_a_quick_oneshot_runs_once_whenever_fleetd_dies_after_a_call() {
    oneshot_runs_once(QUICK, Moment::After, &[None]);
}

#[test]
fn p3_a_long_oneshot_runs_once_whenever_fleetd_dies_before_a_call() {
    oneshot_runs_once(LONG, Moment::Before, &[None]);
}

#[test]
fn p3_a_long_oneshot_runs_once_whenever_fleetd_dies_after_a_call() {
    oneshot_runs_once(LONG, Moment::After, &[None]);
}

#[test]
fn p3_a_oneshot_runs_once_when_fleetd_dies_in_its_recovery_too() {
    oneshot_runs_once(QUICK, Moment::After, &[Some(2), Some(5), Some(8), Some(11)]);
}

/// fleetd dies at call `calls` of its own start under 50 running units. None: it does not make so many calls.
async fn restart_under_load(cluster: &mut Cluster, calls: u64, moment: Moment) -> anyhow::Result<bool> {
    cluster.machine("m1")?.kill_fleetd().await;
    cluster.machine("m1")?.tap.die_at(calls, moment);
    cluster.start_fleetd("m1").await?;
    let has_died = cluster.machine("m1")?.bury_fleetd(Duration::from_secs(5)).await;
    cluster.machine("m1")?.tap.revive();
    Ok(has_died)
}

#[test]
fn p3_fleetd_killed_at_every_call_of_its_start_changes_nothing_in_fifty_units() {
    simulate(async {
        let mut cluster = two_machines().await?;
        let names: Vec<String> = (1..=50).map(|n| format!("work@{n}.service")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        cluster.operator.texts.insert("work@.service".into(), SERVICE.into());
        ask(&mut cluster, Verb::Start, &names).await?;
        cluster.settle().await;
        let before = cluster.machine("m1")?.systemd.executions();
        anyhow::ensure!(before.len() == 50, "{} units run", before.len());
        let reloads = cluster.machine("m1")?.systemd.counters().reloads;
        for moment in [Moment::Before, Moment::After] {
            for calls in 0..ENDLESS {
                if !restart_under_load(&mut cluster, calls, moment).await? {
                    anyhow::ensure!(calls > 5, "a start makes only {calls} calls");
                    break;
                }
                let after = cluster.machine("m1")?.systemd.executions();
                anyhow::ensure!(after == before, "died {moment:?} call {calls}");
            }
        }
        cluster.start_fleetd("m1").await?;
        cluster.settle().await;
        let systemd = cluster.machine("m1")?.systemd.clone();
        anyhow::ensure!(systemd.executions() == before);
        anyhow::ensure!(systemd.counters().reloads == reloads);
        Ok(())
    });
}

/// A unit that runs is asked to stop while fleetd dies at every call: it stops once, and it does stop.
#[test]
fn p3_a_stop_is_carried_out_once_whenever_fleetd_dies() {
    for moment in [Moment::Before, Moment::After] {
        for calls in 0..ENDLESS {
            let stops = simulate(async {
                let mut cluster = two_machines().await?;
                cluster.operator.texts.insert("work.service".into(), SERVICE.into());
                ask(&mut cluster, Verb::Start, &["work.service"]).await?;
                cluster.settle().await;
                cluster.machine("m1")?.tap.die_at(calls, moment);
                ask(&mut cluster, Verb::Restart, &["work.service"]).await?;
                if !cluster.machine("m1")?.bury_fleetd(Duration::from_secs(9)).await {
                    return Ok(None);
                }
                cluster.start_fleetd("m1").await?;
                cluster.settle().await;
                let log = cluster.machine("m1")?.systemd.executions();
                let count = |what| log.iter().filter(|e| e.what == what).count();
                Ok(Some((count(What::Started), count(What::Stopped))))
            });
            match stops {
                Some(counts) => assert_eq!(counts, (2, 1), "died {moment:?} call {calls}"),
                None => break,
            }
        }
    }
}
