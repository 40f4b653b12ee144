//! `at_rest_*`: what fleetd costs while nothing changes: 300 units on three machines, over one minute.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::Say;
use super::cluster::{Cluster, on_cluster, pass_time, unit_text};
use super::figure::{Figure, Samples, Target};
use crate::lab::{Lab, Machine, wait_for};

const UNITS: usize = 300;
const WINDOW: Duration = Duration::from_secs(60);
/// So long without a write, and the cluster counts as settled.
const QUIET: Duration = Duration::from_secs(10);
const SETTLED: Duration = Duration::from_secs(120);
/// `USER_HZ`: what `/proc/PID/stat` counts in, 100 on every architecture that Debian supports.
const TICKS_PER_SECOND: f64 = 100.0;

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
    let ticks = machines.iter().map(cpu_ticks).collect::<Result<Vec<_>, _>>()?;
    pass_time(WINDOW);
    let after = Counters::read(&cluster.lab)?;
    let ticks_after = machines.iter().map(cpu_ticks).collect::<Result<Vec<_>, _>>()?;

    let percents = ticks_after
        .iter()
        .zip(&ticks)
        .map(|(after, before)| (after - before) / TICKS_PER_SECOND / WINDOW.as_secs_f64() * 100.0);
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
    let limit = |limit: f64| Target { limit: Some(limit), peer: None };
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

/// The process on the host.
fn fleetd_pid(machine: &Machine<'_>) -> anyhow::Result<u32> {
    let service = machine.cgroup()?.join("payload/system.slice/fleetd.service/cgroup.procs");
    let pids = std::fs::read_to_string(&service).with_context(|| format!("read {}", service.display()))?;
    let is_fleetd = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "fleetd")
    };
    let found = pids.lines().filter_map(|pid| pid.parse().ok()).find(is_fleetd);
    found.ok_or_else(|| anyhow!("no fleetd runs on {}", machine.name()))
}

/// Time in user and system mode, of all threads.
fn cpu_ticks(machine: &Machine<'_>) -> anyhow::Result<f64> {
    let path = format!("/proc/{}/stat", fleetd_pid(machine)?);
    let text = std::fs::read_to_string(&path)?;
    // proc(5): the name in parentheses may hold anything; utime and stime are the 12th and 13th field behind it.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
    let fields = fields.with_context(|| format!("{path} has no name"))?;
    let ticks = |at: usize| -> anyhow::Result<f64> {
        Ok(fields.get(at).with_context(|| format!("{path} is too short"))?.parse()?)
    };
    Ok(ticks(11)? + ticks(12)?)
}

/// A line of `smaps_rollup`. The binary's pages are shared by the machines of the lab, each has its part of them.
fn memory_mib(machine: &Machine<'_>, key: &str) -> anyhow::Result<f64> {
    let path = format!("/proc/{}/smaps_rollup", fleetd_pid(machine)?);
    let text = std::fs::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.with_context(|| format!("{path} has no {key}"))?.trim_end_matches("kB").trim();
    let kib: f64 = value.parse()?;
    Ok(kib / 1024.0)
}
