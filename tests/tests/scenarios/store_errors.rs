//! Each call to the store fails once, is answered late, or loses its answer: nothing stops, nothing runs twice, and
//! what is asked for happens.

use std::time::Duration;

use fleet_api::v2::Verb;
use fleet_registry::memory::{Fault, Injection};
use fleet_registry::store::{Operation, StoreError};
use fleet_systemd::fake::What;
use fleet_tests::sim::machine::Setup;
use fleet_tests::sim::{Cluster, simulate};

const SERVICE: &str = "[Service]\nExecStart=/usr/bin/work\n[X-Fleet]\nMachineID=m1\n";
/// Calls of one kind that a machine makes within these steps, and some.
const CALLS: usize = 14;

fn faults(operation: Operation) -> Vec<Fault> {
    let detail = "etcdserver: request timed out".to_owned();
    vec![
        Fault::Fail(StoreError::Unavailable { operation, detail }),
        Fault::Delay(Duration::from_secs(3)),
        Fault::DropReply,
    ]
}

/// One machine at work, which leads and serves too; the fault strikes its n-th call while it restarts and while units
/// start and stop.
async fn history(operation: Operation, fault: Fault, skipped: usize) -> anyhow::Result<()> {
    let mut cluster = Cluster::new()?;
    cluster.add("m1", Setup::default()).await?;
    cluster.operator.texts.insert("work@.service".into(), SERVICE.into());
    cluster.settle().await;
    let start = ["work@1.service", "work@2.service"];
    cluster.change(Verb::Start, &start, false).await?;
    cluster.settle().await;
    let injection = Injection::next(fault).on(operation).after(skipped);
    let machine = cluster.machine("m1")?;
    let client =
        if operation == Operation::LeaseKeepAlive { machine.lease_client() } else { "m1".to_owned() };
    machine.kill_fleetd().await;
    cluster.store.inject(injection.of_client(client));
    cluster.start_fleetd("m1").await?;
    cluster.tick(Duration::from_secs(12)).await;
    // The same request until it is taken, as a client does.
    let stop = cluster.operator.request(Verb::Stop, &["work@1.service".parse()?], false);
    let more = cluster.operator.request(Verb::Start, &["work@3.service".parse()?], false);
    for request in [stop, more] {
        let door = cluster.door()?;
        for _ in 0..5 {
            if fleet_tests::sim::operator::send(&door, &request).await.is_empty() {
                break;
            }
            cluster.tick(Duration::from_secs(2)).await;
        }
    }
    cluster.settle().await;
    cluster.tick(Duration::from_secs(40)).await;
    let log = cluster.machine("m1")?.systemd.executions();
    let of = |unit: &str, what| log.iter().filter(|e| e.unit.as_str() == unit && e.what == what).count();
    let counts = ["work@1.service", "work@2.service", "work@3.service"]
        .map(|unit| (of(unit, What::Started), of(unit, What::Stopped)));
    anyhow::ensure!(counts == [(1, 1), (1, 0), (1, 0)], "{counts:?}");
    Ok(())
}

fn each_call(operation: Operation) {
    for fault in faults(operation) {
        for skipped in 0..CALLS {
            let outcome = simulate(async { Ok(history(operation, fault.clone(), skipped).await) });
            outcome.unwrap_or_else(|error| panic!("{operation} {skipped}: {fault:?}: {error:#}"));
        }
    }
}

#[test]
fn p1_no_read_that_fails_stops_a_unit() {
    each_call(Operation::Range);
}

#[test]
fn p1_no_transaction_that_fails_stops_a_unit() {
    each_call(Operation::Txn);
}

#[test]
fn p1_no_watch_that_fails_stops_a_unit() {
    each_call(Operation::Watch);
}

#[test]
fn p1_no_renewal_that_fails_stops_a_unit() {
    each_call(Operation::LeaseKeepAlive);
}
