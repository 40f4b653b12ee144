//! `pss_idle_*`: fleetd's memory on one machine that has no units and nothing to do, with each kind of store.
//!
//! The two machines are of two labs, each with its own copy of the binary: nothing of fleetd is shared. libc is, with
//! the other processes of the machines, as it is everywhere.

use std::time::Duration;

use super::Say;
use super::cluster::{Cluster, alone, on_lab, pass_time};
use super::figure::{Figure, Samples, Target};
use super::process::memory_mib;
use crate::lab::{LabOptions, Release};

/// Twice what fleetd takes to give back the memory of its start.
const SETTLED: Duration = Duration::from_secs(65);
/// From the first to the last it gives back once more, and leases and the watchdog had their turns.
const SAMPLES: usize = 7;
const BETWEEN: Duration = Duration::from_secs(5);
const MIB: f64 = 8.0;

/// # Errors
/// When a lab does not boot.
pub fn run(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    let with_etcd = LabOptions::for_test("bench-idle-etcd").machines(1);
    on_lab(alone("bench-idle", Release::Bookworm), |embedded| {
        on_lab(with_etcd, |etcd| {
            say(&format!("two machines are up; nothing is touched for {} s", SETTLED.as_secs()));
            pass_time(SETTLED);
            Ok(vec![measure("pss_idle_embedded", embedded)?, measure("pss_idle_etcd", etcd)?])
        })
    })
}

fn measure(name: &'static str, cluster: &Cluster) -> anyhow::Result<Figure> {
    let machine = cluster.lab.try_machine("m1")?;
    let mut pss = Vec::new();
    for n in 0..SAMPLES {
        if n > 0 {
            pass_time(BETWEEN);
        }
        pss.push(memory_mib(&machine, "Pss:")?);
    }
    let pss = Samples::new(pss);
    let target = Target { limit: Some(MIB), ..Target::default() };
    Ok(Figure::new(name, "MiB PSS", &pss, pss.max(), target)
        .part("own_mib", memory_mib(&machine, "Pss_Anon:")?)
        .part("of_files_mib", memory_mib(&machine, "Pss_File:")?)
        .part("resident_mib", memory_mib(&machine, "Rss:")?))
}
