//! How fast many units are put in place, pinned and started; for benches and for judging a change.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{
    Systemd,
    contract::{Subject, install},
    types::{ActiveState, JobResult, UnitName},
};

/// Wall times of one round.
#[derive(Debug, Clone, Copy)]
pub struct StartFigures {
    /// Looking for units of the host in the way of all units, before and again after the start.
    pub check: Duration,
    /// Texts, drop-ins and links of all units.
    pub install: Duration,
    /// Pins of all units; zero when none were asked for.
    pub pin: Duration,
    /// First start sent until the last job is done.
    pub start: Duration,
    /// One list of all.
    pub list: Duration,
    /// All units read in full.
    pub inspect: Duration,
}

/// Starts `count` services that stay, then removes everything.
///
/// # Panics
/// When a unit does not start.
pub async fn measure_starts(systemd: &dyn Systemd, count: usize, with_pins: bool) -> StartFigures {
    let mut subject = Subject::new(systemd);
    let names: Vec<UnitName> = (0..count).map(|n| subject.name(&format!("bench{n}.service"))).collect();
    let text = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n";

    let check = async || {
        let began = Instant::now();
        for shadow in join_all(names.iter().map(|name| systemd.shadowed(name, &[]))).await {
            assert_eq!(shadow.expect("shadowed"), None);
        }
        began.elapsed()
    };
    let mut checked = check().await;

    let began = Instant::now();
    let units: Vec<_> = names.iter().map(|name| install(name, text)).collect();
    for installed in join_all(units.iter().map(|unit| systemd.install(unit))).await {
        installed.expect("install");
    }
    let installed = began.elapsed();

    let began = Instant::now();
    if with_pins {
        systemd.pin(&names).await.expect("pin");
    }
    let pinned = began.elapsed();

    let began = Instant::now();
    for job in join_all(names.iter().map(|name| systemd.start(name))).await {
        assert_eq!(subject.end_of(job.expect("start")).await, JobResult::Done);
    }
    let started = began.elapsed();

    let began = Instant::now();
    let rows = systemd.list(&names).await.expect("list");
    let listed = began.elapsed();
    assert!(rows.len() == count && rows.iter().all(|row| row.active == ActiveState::Active));

    checked += check().await;

    let began = Instant::now();
    for detail in join_all(names.iter().map(|name| systemd.inspect(name))).await {
        assert!(detail.expect("inspect").is_some());
    }
    let inspected = began.elapsed();

    for stop in join_all(names.iter().map(|name| systemd.stop(name))).await {
        if let Some(job) = stop.expect("stop") {
            subject.end_of(job).await;
        }
    }
    subject.clean().await;
    StartFigures {
        check: checked,
        install: installed,
        pin: pinned,
        start: started,
        list: listed,
        inspect: inspected,
    }
}
