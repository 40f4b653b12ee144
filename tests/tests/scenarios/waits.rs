//! Every wait says what it waits for, in bounded time, whatever is in the way.

use std::time::Duration;

use fleet_api::client::{Client, Endpoint, Timeouts};
use fleet_api::paths;
use fleet_api::v2::{Phase, Verb, WaitFor, WaitLine, WaitRequest, WaitUnit};
use fleet_core::records::EngineRole;
use fleet_registry::memory::Link;
use fleet_tests::sim::machine::Setup;
use fleet_tests::sim::{Cluster, simulate};
use tokio::time::Instant;

/// Reads what the API tells somebody who waits for the unit until a line is the one; how long that took.
async fn wait(
    cluster: &mut Cluster,
    unit: &str,
    mut is_it: impl FnMut(&WaitLine) -> bool,
) -> anyhow::Result<Duration> {
    let machine = cluster.machines.values().find(|machine| machine.daemon.is_some()).expect("one runs");
    let client = Client::new(Endpoint::Unix { path: machine.socket() }, Timeouts::default());
    let waited = WaitUnit { unit: unit.to_owned(), ..WaitUnit::default() };
    let request = WaitRequest { units: vec![waited], until: WaitFor::Done };
    let began = Instant::now();
    let mut lines = client.post_stream(paths::WAIT, &request).await?;
    loop {
        let line: WaitLine = lines.next().await?.ok_or_else(|| anyhow::anyhow!("the stream ended"))?;
        if is_it(&line) {
            return Ok(began.elapsed());
        }
        anyhow::ensure!(began.elapsed() < Duration::from_secs(60), "last: {line:?}");
    }
}

fn is_in(phase: Phase) -> impl FnMut(&WaitLine) -> bool {
    move |line| matches!(line, WaitLine::Progress(progress) if progress.phase == phase)
}

async fn start(cluster: &mut Cluster, unit: &str, text: &str) -> anyhow::Result<()> {
    cluster.operator.texts.insert(unit.to_owned(), text.to_owned());
    let refused = cluster.change(Verb::Start, &[unit], false).await?;
    anyhow::ensure!(refused.is_empty(), "{refused:?}");
    Ok(())
}

const SERVICE: &str = "[Service]\nExecStart=/usr/bin/work\n";
/// Within which an operator is told what is in the way.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn p9_a_wait_for_a_unit_ends_when_it_is_active() {
    simulate(async {
        let mut cluster = Cluster::of(2).await?;
        start(&mut cluster, "work.service", SERVICE).await?;
        let took = wait(&mut cluster, "work.service", is_in(Phase::Done)).await?;
        anyhow::ensure!(took < SOON, "{took:?}");
        Ok(())
    });
}

#[test]
fn p9_a_wait_for_a_unit_that_fits_nowhere_says_so_with_reasons() {
    simulate(async {
        let mut cluster = Cluster::of(2).await?;
        let text = format!("{SERVICE}[X-Fleet]\nMachineMetadata=disk=tape\n");
        start(&mut cluster, "tape.service", &text).await?;
        let told = |line: &WaitLine| {
            matches!(line, WaitLine::Progress(progress)
                if progress.phase == Phase::Unplaceable && progress.refused[0].machines == 2)
        };
        let took = wait(&mut cluster, "tape.service", told).await?;
        anyhow::ensure!(took < SOON, "{took:?}");
        Ok(())
    });
}

#[test]
fn p9_a_wait_while_nobody_leads_says_so() {
    simulate(async {
        let mut cluster = Cluster::new()?;
        cluster.add("m1", Setup { engine: EngineRole::Never, ..Setup::default() }).await?;
        cluster.settle().await;
        start(&mut cluster, "work.service", SERVICE).await?;
        let told = |line: &WaitLine| matches!(line, WaitLine::NoLeader { no_leader: true, .. });
        let took = wait(&mut cluster, "work.service", told).await?;
        anyhow::ensure!(took < SOON, "{took:?}");
        Ok(())
    });
}

#[test]
fn p9_a_wait_while_the_registry_is_silent_says_so() {
    simulate(async {
        let mut cluster = Cluster::of(1).await?;
        start(&mut cluster, "work.service", SERVICE).await?;
        cluster.settle().await;
        cluster.stop_store(Link::Silent);
        let told = |line: &WaitLine| {
            matches!(line, WaitLine::NoRegistry { no_registry: true, .. } | WaitLine::Error { .. })
        };
        let took = wait(&mut cluster, "work.service", told).await;
        // Either a line of the stream or a refusal of the request, in bounded time.
        anyhow::ensure!(took.as_ref().map_or(true, |took| *took < 2 * SOON), "{took:?}");
        Ok(())
    });
}

#[test]
fn p9_a_wait_for_a_start_that_hangs_is_told_that_it_is_starting() {
    simulate(async {
        let mut cluster = Cluster::of(1).await?;
        let text = "[Service]\nType=notify\nTimeoutStartSec=infinity\nExecStart=/usr/bin/work\n";
        let behaviour =
            fleet_systemd::fake::Behaviour { start_hangs: true, ..fleet_systemd::fake::Behaviour::default() };
        cluster.machine("m1")?.systemd.behave(&"work.service".parse()?, behaviour);
        start(&mut cluster, "work.service", text).await?;
        let took = wait(&mut cluster, "work.service", is_in(Phase::Starting)).await?;
        anyhow::ensure!(took < SOON, "{took:?}");
        Ok(())
    });
}
