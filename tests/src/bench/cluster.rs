//! A lab for the benches that need one, and fleet's API as `fleetctl` uses it: one request, then one wait.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use fleet_api::client::{Client, Endpoint, Timeouts};
use fleet_api::paths;
use fleet_api::v2::{
    Action, ActionResult, ChangeReport, ChangeRequest, ClusterView, Progress, Verb, WaitFor, WaitLine,
    WaitRequest, WaitUnit,
};
use nix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};

use crate::lab::{Lab, LabOptions, Machine, Release, wait_for};

/// A batch of 300 units on a busy host has been answered long before.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(3),
    response: Duration::from_secs(60),
    silence: Duration::from_secs(15),
};
/// Until every unit of a batch is as wanted.
const SETTLED: Duration = Duration::from_secs(120);
/// Until somebody leads and every machine is present.
const READY: Duration = Duration::from_secs(30);

/// A unit that runs until it is stopped, and starts as fast as a unit can.
#[must_use]
pub fn unit_text(description: &str) -> String {
    format!("[Unit]\nDescription={description}\n\n[Service]\nExecStart=/bin/sleep infinity\n")
}

/// `CLOCK_MONOTONIC`, which machines share with the host: systemd's `...TimestampMonotonic` are of this clock.
///
/// # Errors
/// Never on Linux.
pub fn monotonic() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// A lab and a client: mostly three machines and one etcd.
#[derive(Debug)]
pub struct Cluster {
    pub lab: Lab,
    pub(super) runtime: Runtime,
}

/// Runs `work` on a fresh cluster of three machines and one etcd, as [`on_lab`] does.
///
/// # Errors
/// Those of [`on_lab`].
pub fn on_cluster<T>(subject: &str, work: impl FnOnce(&Cluster) -> anyhow::Result<T>) -> anyhow::Result<T> {
    on_lab(LabOptions::for_test(subject), work)
}

/// One machine of this release, with its own embedded store.
pub fn alone(subject: &str, release: Release) -> LabOptions {
    LabOptions::for_test(subject).machines(1).etcd(0).release(release)
}

/// Runs `work` on a fresh lab, which ends with it. When it fails, the journals are kept.
///
/// # Errors
/// When the lab does not boot, and those of `work` with the place of the logs.
pub fn on_lab<T>(options: LabOptions, work: impl FnOnce(&Cluster) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let cluster = Cluster::up(options)?;
    work(&cluster).map_err(|error| match cluster.lab.keep_logs() {
        Ok(place) => error.context(format!("logs are kept in {}", place.display())),
        Err(_) => error,
    })
}

impl Cluster {
    /// Boots a lab that ends with the value, and waits until it takes units.
    fn up(options: LabOptions) -> anyhow::Result<Cluster> {
        let lab = Lab::up(options)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let cluster = Cluster { lab, runtime };
        let machines = usize::from(cluster.lab.options().machines);
        cluster.await_present(machines)?;
        Ok(cluster)
    }

    /// Waits until somebody leads and `machines` machines are present.
    ///
    /// # Errors
    /// When that is not so after half a minute.
    pub fn await_present(&self, machines: usize) -> anyhow::Result<()> {
        let what = format!("a leader and {machines} present machines");
        wait_for(READY, &what, || {
            let view = self.view().ok()?;
            (view.leader.is_some() && view.machines.present == machines).then_some(())
        })?;
        Ok(())
    }

    /// The cluster as the first machine that runs sees it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn view(&self) -> anyhow::Result<ClusterView> {
        let client = self.client()?;
        Ok(self.runtime.block_on(client.get(paths::CLUSTER))?)
    }

    /// A client of the first machine that runs, with no connection yet: each call of `fleetctl` has its own.
    ///
    /// # Errors
    /// When no machine runs.
    pub fn client(&self) -> anyhow::Result<Client> {
        let running = self.lab.machines().into_iter().find(|machine| machine.leader().is_ok());
        let machine = running.context("no machine of the lab runs")?;
        let endpoint = format!("unix://{}", machine.fleet_socket()?.display());
        Ok(Client::new(Endpoint::parse(&endpoint)?, TIMEOUTS))
    }

    /// Sends one batch with `verb` for all `units` (name and, for new ones, text).
    ///
    /// # Errors
    /// When a unit is refused.
    pub fn request(
        &self,
        client: &Client,
        verb: Verb,
        units: &[(String, Option<String>)],
    ) -> anyhow::Result<Vec<ActionResult>> {
        let actions = units.iter().map(|(name, text)| {
            let mut action = Action::new(name, verb);
            action.text.clone_from(text);
            action
        });
        let request = ChangeRequest {
            request_id: format!("bench-{:032x}", rand::random::<u128>()),
            by: Some("bench".to_owned()),
            actions: actions.collect(),
            ..ChangeRequest::default()
        };
        let report: ChangeReport = self.runtime.block_on(client.post(paths::REQUESTS, &request))?;
        ensure!(report.results.len() == units.len(), "an answer for {} units", report.results.len());
        for result in &report.results {
            if let Some(error) = &result.error {
                bail!("{} was refused: {error}", result.unit);
            }
        }
        Ok(report.results)
    }

    /// Waits until everything that `results` asked for is done, and gives the last word on each unit.
    ///
    /// # Errors
    /// When a unit fails, or not all are done after two minutes.
    pub fn wait(&self, client: &Client, results: &[ActionResult]) -> anyhow::Result<Vec<Progress>> {
        let units = results.iter().map(|result| WaitUnit {
            unit: result.unit.clone(),
            revision: Some(result.revision),
            uid: (!result.uid.is_empty()).then(|| result.uid.clone()),
        });
        let request = WaitRequest { units: units.collect(), until: WaitFor::Done };
        let mut pending: BTreeMap<String, Option<Progress>> =
            results.iter().map(|result| (result.unit.clone(), None)).collect();
        let mut done = Vec::new();
        let waiting = async {
            let mut stream = client.post_stream(paths::WAIT, &request).await?;
            while !pending.is_empty() {
                let line = stream.next::<WaitLine>().await?;
                match line.ok_or_else(|| anyhow!("the wait ended with {} units to go", pending.len()))? {
                    WaitLine::Progress(progress) if progress.failed => {
                        bail!("{} failed: {} {}", progress.unit, progress.result, progress.reason.text);
                    }
                    WaitLine::Progress(progress) if progress.done => {
                        pending.remove(&progress.unit);
                        done.push(*progress);
                    }
                    WaitLine::Progress(progress) => {
                        pending.insert(progress.unit.clone(), Some(*progress));
                    }
                    WaitLine::Error { error } => bail!("the wait broke off: {error}"),
                    _ => {}
                }
            }
            Ok(())
        };
        let outcome = self.runtime.block_on(async { tokio::time::timeout(SETTLED, waiting).await });
        match outcome {
            Ok(outcome) => outcome.map(|()| done),
            Err(_) => {
                let sample = pending.iter().next().map(|(unit, progress)| {
                    let phase = progress.as_ref().map_or("not judged", |progress| progress.phase.as_str());
                    format!("{unit} ({phase})")
                });
                bail!(
                    "after {} s {} units are pending, {}",
                    SETTLED.as_secs(),
                    pending.len(),
                    sample.unwrap_or_default()
                );
            }
        }
    }

    /// Starts new units and waits for them.
    ///
    /// # Errors
    /// When one is refused or fails.
    pub fn start(&self, units: &[(String, Option<String>)]) -> anyhow::Result<()> {
        let client = self.client()?;
        let results = self.request(&client, Verb::Start, units)?;
        self.wait(&client, &results).map(drop)
    }

    /// Destroys units and waits until every present machine has acknowledged.
    ///
    /// # Errors
    /// When one is refused or not gone after two minutes.
    pub fn destroy(&self, units: &[(String, Option<String>)]) -> anyhow::Result<()> {
        let client = self.client()?;
        let names: Vec<_> = units.iter().map(|(name, _)| (name.clone(), None)).collect();
        let results = self.request(&client, Verb::Destroy, &names)?;
        self.wait(&client, &results).map(drop)
    }

    /// When each unit that matches `pattern` became active, by the machines' systemd, as time on [`monotonic`].
    ///
    /// # Errors
    /// When a machine that runs does not answer.
    pub fn active_since(&self, pattern: &str) -> anyhow::Result<BTreeMap<String, Duration>> {
        let mut all = BTreeMap::new();
        for machine in self.lab.machines().iter().filter(|machine| machine.leader().is_ok()) {
            all.extend(active_since(machine, pattern)?);
        }
        Ok(all)
    }
}

/// As [`Cluster::active_since`], of one machine.
///
/// # Errors
/// When it does not answer.
pub fn active_since(machine: &Machine<'_>, pattern: &str) -> anyhow::Result<BTreeMap<String, Duration>> {
    let asked = "--property=Id,ActiveState,ActiveEnterTimestampMonotonic";
    let shown = machine.systemctl(&["show", "--state=active", asked, "--", pattern])?;
    let mut found = BTreeMap::new();
    for block in shown.split("\n\n") {
        let value = |key: &str| block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let (Some(id), Some("active")) = (value("Id"), value("ActiveState")) else { continue };
        let micros = value("ActiveEnterTimestampMonotonic").context("systemctl shows no time")?.parse()?;
        found.insert(id.to_owned(), Duration::from_micros(micros));
    }
    Ok(found)
}

/// Lets `window` pass: what a measurement over time needs.
#[expect(clippy::disallowed_methods, reason = "the length of the window is what is measured over")]
pub fn pass_time(window: Duration) {
    let end = Instant::now() + window;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::sleep(left);
    }
}

pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
