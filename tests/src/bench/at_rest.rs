//! `at_rest_*`: what fleetd costs while nothing changes: 300 units on three machines, over one minute.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context;

use super::Say;
use super::cluster::{Cluster, on_cluster, pass_time, unit_text};
use super::figure::{Figure, Samples, Target};
use super::process::{cpu_seconds, memory_mib};
use crate::lab::{Lab, wait_for};

const UNITS: usize = 300;
const WINDOW: Duration = Duration::from_secs(60);
/// So long without a write, and the cluster counts as settled.
const QUIET: Duration = Duration::from_secs(10);
const SETTLED: Duration = Duration::from_secs(120);

/// # Errors
/// When the lab does not boot or does not come to rest.
pub fn run(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    on_cluster("bench-rest", |cluster| measure(cluster, say))
}

fn measure(cluster: &Cluster, say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    let units: Vec<_> = (0..UNITS)
        .map(|n| (format!("rest-{n}.service"), Some(unit_text(&format!("unit {n} at rest")))))
        .collect();
    cluster.start(&units)?;
    say(&format!("{UNITS} units run on three machines"));
    settle(&cluster.lab)?;
    say(&format!("settled; nothing is touched for {} s", WINDOW.as_secs()));

    let machines = cluster.lab.machines();
    let before = Counters::read(&cluster.lab)?;
    let spent = machines.iter().map(cpu_seconds).collect::<Result<Vec<_>, _>>()?;
    pass_time(WINDOW);
    let after = Counters::read(&cluster.lab)?;
    let spent_after = machines.iter().map(cpu_seconds).collect::<Result<Vec<_>, _>>()?;

    let percents =
        spent_after.iter().zip(&spent).map(|(after, before)| (after - before) / WINDOW.as_secs_f64() * 100.0);
    let percents = Samples::new(percents.collect());
    let mib = |key| machines.iter().map(|machine| memory_mib(machine, key)).collect::<Result<Vec<_>, _>>();
    let memory = Samples::new(mib("Pss:")?);
    let (own, resident) = (Samples::new(mib("Pss_Anon:")?), Samples::new(mib("Rss:")?));
    let grown = |names: &[&str]| names.iter().map(|name| after.get(name) - before.get(name)).sum::<f64>();
    let writes = grown(&["etcd_mvcc_put_total", "etcd_mvcc_delete_total"]);
    let reads = grown(&["etcd_mvcc_range_total"]);
    let keep_alives = grown(&["etcd_debugging_lease_renewed_total"]);
    for (name, growth) in after.requests_since(&before) {
        say(&format!("in the window: {growth:.0} x {name}"));
    }

    // All three machines have to keep the promise: the worst one counts.
    let limit = |limit: f64| Target { limit: Some(limit), ..Target::default() };
    let count = |name: &'static str, value: f64| {
        Figure::new(name, "a minute", &Samples::new(vec![value]), value, limit(0.0))
    };
    Ok(vec![
        count("at_rest_writes", writes).part("keep_alives", keep_alives),
        count("at_rest_reads", reads),
        Figure::new("at_rest_cpu", "% of a core", &percents, percents.max(), limit(0.2)),
        Figure::new("at_rest_memory", "MiB PSS", &memory, memory.max(), limit(12.0))
            .part("own_mib", own.max())
            .part("resident_mib", resident.max()),
    ])
}

/// Waits until nobody has written for a while.
fn settle(lab: &Lab) -> anyhow::Result<()> {
    let mut last = Counters::read(lab)?.get("etcd_mvcc_put_total");
    wait_for(SETTLED, "the cluster to settle", || {
        pass_time(QUIET);
        let now = Counters::read(lab).ok()?.get("etcd_mvcc_put_total");
        let is_quiet = now.to_bits() == last.to_bits();
        last = now;
        is_quiet.then_some(())
    })?;
    Ok(())
}

/// etcd's own counters, by name with labels.
struct Counters(BTreeMap<String, f64>);

impl Counters {
    fn read(lab: &Lab) -> anyhow::Result<Counters> {
        let url = lab.etcd().urls().into_iter().next().context("the lab has an etcd")?;
        let address = url.trim_start_matches("http://").to_owned();
        let text = lab.in_network(move || -> anyhow::Result<String> {
            let mut stream = TcpStream::connect(&address)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })??;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let values = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(Counters(values.collect()))
    }

    fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Requests by gRPC method that came in since `before`.
    fn requests_since(&self, before: &Counters) -> Vec<(String, f64)> {
        let received = self.0.iter().filter(|(name, _)| name.starts_with("grpc_server_msg_received_total"));
        let grown = received.map(|(name, value)| {
            let method = name.split("grpc_method=\"").nth(1).and_then(|rest| rest.split('"').next());
            (method.unwrap_or(name).to_owned(), value - before.get(name))
        });
        grown.filter(|(_, growth)| *growth > 0.0).collect()
    }
}
