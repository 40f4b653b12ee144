//! `submit_to_active`: one new unit after the other, from the request to active.
//!
//! The peer is the chain that no design can shorten: the registry's commits that have to follow one another (the unit's
//! record, then its order) and systemd's start of the same unit.

use std::time::{Duration, Instant};

use anyhow::Context;
use etcd_client::Client as EtcdClient;
use fleet_api::v2::Verb;
use tokio::runtime::Builder;

use super::Say;
use super::cluster::{Cluster, millis, monotonic, on_cluster, unit_text};
use super::figure::{Figure, Ratio, Samples, Target};
use crate::lab::Lab;

const UNITS: usize = 50;
/// Connections, caches and the first pass of each part are not what is measured.
const WARM_UP: usize = 5;
/// The unit's record, and placement with order; the state row comes after the start.
const COMMITS: f64 = 2.0;
const PUTS: usize = 200;
/// About what a unit's record takes.
const VALUE_BYTES: usize = 1024;

/// # Errors
/// When the lab does not boot or a unit does not start.
pub fn run(say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    on_cluster("bench-submit", |cluster| measure(cluster, say))
}

fn measure(cluster: &Cluster, say: Say<'_>) -> anyhow::Result<Vec<Figure>> {
    say("three machines are up");
    let (sent, accepted, told) = one_after_the_other(cluster)?;
    let active = cluster.active_since("submit-*.service")?;
    let mut taken = Vec::new();
    for (n, sent) in sent.iter().enumerate().skip(WARM_UP) {
        let name = name(n);
        let active = active.get(&name).with_context(|| format!("{name} is active nowhere"))?;
        taken.push(millis(active.saturating_sub(*sent)));
    }
    say(&format!("{} units were started", taken.len()));
    let puts = puts(&cluster.lab)?;
    let starts = bare_starts(&cluster.lab)?;
    say("etcd and systemd were measured by themselves");

    let taken = Samples::new(taken);
    let peer = COMMITS * puts.median() + starts.median();
    let target = Target { limit: Some(60.0), peer: Some((peer, Ratio::AtMost(3.0))), ..Target::default() };
    let figure = Figure::new("submit_to_active", "ms", &taken, taken.median(), target)
        .part("accepted_ms", accepted.median())
        .part("told_done_ms", told.median())
        .part("etcd_put_ms", puts.median())
        .part("systemctl_start_ms", starts.median())
        .part("fastest_ms", taken.min());
    Ok(vec![figure])
}

fn name(n: usize) -> String {
    format!("submit-{n}.service")
}

/// When each request was sent, and how long it took until it was accepted and until the client was told "done".
fn one_after_the_other(cluster: &Cluster) -> anyhow::Result<(Vec<Duration>, Samples, Samples)> {
    let (mut sent, mut accepted, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..UNITS {
        let unit = [(name(n), Some(unit_text(&format!("unit {n} of the bench"))))];
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
    }
    Ok((sent, Samples::new(accepted), Samples::new(told)))
}

/// Writes of one key after the other, over one connection from inside the lab's network.
fn puts(lab: &Lab) -> anyhow::Result<Samples> {
    lab.in_network(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut client = EtcdClient::connect(lab.etcd().urls(), None).await?;
            let mut taken = Vec::new();
            for _ in 0..PUTS {
                let began = Instant::now();
                client.put("/bench", vec![b'x'; VALUE_BYTES], None).await?;
                taken.push(millis(began.elapsed()));
            }
            Ok(Samples::new(taken))
        })
    })?
}

/// A machine's own shell writes a unit and starts it, one after the other; the time is that of `systemctl start`.
fn bare_starts(lab: &Lab) -> anyhow::Result<Samples> {
    let script = r#"
        for n in $(seq "$1"); do
            printf '%s' "$2" >"/run/systemd/system/bare-$n.service"
            began=$(date +%s%N)
            systemctl start "bare-$n.service" || exit 1
            ended=$(date +%s%N)
            echo $((ended - began))
        done"#;
    let machine = lab.try_machine("m1")?;
    let text = unit_text("started by hand");
    let printed = machine.run(&["sh", "-c", script, "sh", &UNITS.to_string(), &text])?;
    let nanos: Result<Vec<f64>, _> = printed.lines().map(str::parse).collect();
    Ok(Samples::new(nanos?.into_iter().skip(WARM_UP).map(|nanos| nanos / 1e6).collect()))
}
