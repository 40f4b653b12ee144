//! `submit_alone_*`: one new unit after the other on one machine with its own embedded store, from the request to active,
//! on the systemd of each Debian release.
//!
//! The peer is what no fleet can do without: the unit's file written and linked, and systemd asked to start it. Both take
//! turns, so that what else the host does hits both alike.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fleet_api::v2::Verb;

use super::Say;
use super::cluster::{Cluster, active_since, alone, millis, monotonic, on_lab, unit_text};
use super::figure::{Figure, Ratio, Samples, Target};
use crate::lab::{Machine, Release};

const UNITS: usize = 50;
/// Connections, caches and the first pass of each part are not what is measured.
const WARM_UP: usize = 5;
/// On Debian 12's systemd; that of Debian 13 is judged by its peer alone.
const MILLIS: f64 = 25.0;

/// # Errors
/// When a lab does not boot or a unit does not start.
pub fn run(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    let on = |release, name, limit, say: Say<'_>| {
        on_lab(alone("bench-alone", release), |cluster| {
            say(&format!("one machine with {} is up", release.name()));
            measure(cluster, name, limit)
        })
    };
    let bookworm = on(Release::Bookworm, "submit_alone_252", Some(MILLIS), say)?;
    let trixie = on(Release::Trixie, "submit_alone_257", None, say)?;
    Ok(vec![bookworm, trixie])
}

fn measure(cluster: &Cluster, name: &'static str, limit: Option<f64>) -> anyhow::Result<Figure> {
    let machine = cluster.lab.try_machine("m1")?;
    let (mut sent, mut begun, mut accepted, mut told) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    std::fs::create_dir_all(machine.live_path(BARE)?)?;
    for n in 0..UNITS {
        let unit = [(format!("submit-{n}.service"), Some(unit_text(&format!("unit {n} of the bench"))))];
        let client = cluster.client()?;
        sent.push(monotonic()?);
        let began = Instant::now();
        let results = cluster.request(&client, Verb::Start, &unit)?;
        let answered = began.elapsed();
        cluster.wait(&client, &results)?;
        if n >= WARM_UP {
            accepted.push(millis(answered));
            told.push(millis(began.elapsed()));
        }
        begun.push(bare(&machine, n)?);
    }
    let ours = taken(&machine, "submit", &sent)?;
    let peer = taken(&machine, "bare", &begun)?;
    let target = Target { limit, peer: Some((peer.median(), Ratio::AtMost(2.5))), ..Target::default() };
    Ok(Figure::new(name, "ms", &ours, ours.median(), target)
        .part("accepted_ms", Samples::new(accepted).median())
        .part("told_done_ms", Samples::new(told).median())
        .part("fastest_ms", ours.min())
        .part("fastest_peer_ms", peer.min()))
}

/// From each time to when its unit was active, without those that warm up.
fn taken(machine: &Machine<'_>, prefix: &str, begun: &[Duration]) -> anyhow::Result<Samples> {
    let active = active_since(machine, &format!("{prefix}-*.service"))?;
    let mut taken = Vec::new();
    for (n, began) in begun.iter().enumerate().skip(WARM_UP) {
        let name = format!("{prefix}-{n}.service");
        let active = active.get(&name).with_context(|| format!("{name} is not active"))?;
        taken.push(millis(active.saturating_sub(*began)));
    }
    Ok(Samples::new(taken))
}

/// Where the files of the units are that fleet does not know.
const BARE: &str = "/run/bare";

/// Writes a unit, links it and starts it with `systemctl`, which waits in a shell until then: it takes the time of its
/// exec, and none of the shell's. Gives the time it began at.
fn bare(machine: &Machine<'_>, n: usize) -> anyhow::Result<Duration> {
    let name = format!("bare-{n}.service");
    let mut command = machine.command("sh")?;
    command.args(["-c", r#"echo; read -r go; exec systemctl start "$1""#, "sh", &name]);
    let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = shell.stdin.take().context("the shell has an input")?;
    let output = shell.stdout.take().context("the shell has an output")?;
    BufReader::new(output).read_line(&mut String::new())?;
    let (file, link) = (format!("{BARE}/{name}"), format!("/run/systemd/system/{name}"));
    let (file_here, link_here) = (machine.live_path(&file)?, machine.live_path(&link)?);
    let text = unit_text(&format!("unit {n} of the bench"));

    let began = monotonic()?;
    std::fs::write(&file_here, text)?;
    std::os::unix::fs::symlink(&file, &link_here)?;
    input.write_all(b"go\n")?;
    ensure!(shell.wait()?.success(), "systemctl start {name} failed");
    Ok(began)
}
