//! fleetd's process as the host's `/proc` shows it: for the benches of memory and processor time.

use anyhow::{Context, anyhow};

use crate::lab::Machine;

/// `USER_HZ`: what `/proc/PID/stat` counts in, 100 on every architecture that Debian supports.
const TICKS_PER_SECOND: f64 = 100.0;

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
///
/// # Errors
/// When no fleetd runs there.
pub fn cpu_seconds(machine: &Machine<'_>) -> anyhow::Result<f64> {
    let path = format!("/proc/{}/stat", fleetd_pid(machine)?);
    let text = std::fs::read_to_string(&path)?;
    // proc(5): the name in parentheses may hold anything; utime and stime are the 12th and 13th field behind it.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
    let fields = fields.with_context(|| format!("{path} has no name"))?;
    let ticks = |at: usize| -> anyhow::Result<f64> {
        Ok(fields.get(at).with_context(|| format!("{path} is too short"))?.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// Begins the count of the peak anew, and gives what fleetd has now, in MiB.
///
/// # Errors
/// When no fleetd runs there.
pub fn reset_peak(machine: &Machine<'_>) -> anyhow::Result<f64> {
    let pid = fleetd_pid(machine)?;
    // proc(5): 5 resets the peak resident set size to the present one.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")
        .with_context(|| format!("reset the peak of process {pid}"))?;
    process_peak_mib(pid)
}

/// How much more than `before` fleetd had at its peak, in MiB.
///
/// # Errors
/// When no fleetd runs there.
pub fn peak_mib_since(machine: &Machine<'_>, before: f64) -> anyhow::Result<f64> {
    Ok((process_peak_mib(fleetd_pid(machine)?)? - before).max(0.0))
}

/// The largest resident set that a process has had, in MiB.
///
/// # Errors
/// When there is no such process.
pub fn process_peak_mib(pid: u32) -> anyhow::Result<f64> {
    mib_of(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// A line of `smaps_rollup` in MiB. Pages that several processes use are divided by them in `Pss:`: the binary's between
/// the machines of one lab, libc's between all processes of all machines.
///
/// # Errors
/// When no fleetd runs there, or the kernel has no such line.
pub fn memory_mib(machine: &Machine<'_>, key: &str) -> anyhow::Result<f64> {
    mib_of(&format!("/proc/{}/smaps_rollup", fleetd_pid(machine)?), key)
}

fn mib_of(path: &str, key: &str) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.with_context(|| format!("{path} has no {key}"))?.trim_end_matches("kB").trim();
    let kib: f64 = value.parse()?;
    Ok(kib / 1024.0)
}
