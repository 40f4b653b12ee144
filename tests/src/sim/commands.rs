//! The commands of scenario files. Each acts on the cluster and answers with lines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail};
use fleet_api::paths;
use fleet_api::v2::Verb;
use fleet_core::MachineId;
use fleet_core::records::EngineRole;
use fleet_registry::memory::{Fault, Injection, Link};
use fleet_registry::store::{Operation, StoreError};
use fleet_systemd::SystemdError;
use fleet_systemd::fake::{Behaviour, Call, What};
use unit_files::UnitName;

use super::cluster::Cluster;
use super::ledger::Mark;
use super::machine::Setup;
use super::{operator, show};

type Lines = anyhow::Result<Vec<String>>;

/// What a scenario has seen so far.
#[derive(Debug, Default)]
pub struct Session {
    shown: BTreeMap<String, Mark>,
    guarded: BTreeMap<String, Mark>,
    /// Ids of the events that were shown.
    events: BTreeSet<String>,
}

const NOTHING: Vec<String> = Vec::new();

impl Session {
    pub async fn run(&mut self, cluster: &mut Cluster, line: &str, text: Option<String>) -> Lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["unit", name, _end] => {
                let text = text.context("unit NAME <<END")?;
                cluster.operator.texts.insert((*name).to_owned(), text);
                Ok(NOTHING)
            }
            [
                verb @ ("submit" | "load" | "start" | "stop" | "unload" | "destroy" | "restart" | "replace"),
                units @ ..,
            ] => change(cluster, verb, units).await,
            ["tick", time] => {
                cluster.tick(duration(time)?).await;
                Ok(NOTHING)
            }
            ["settle"] => {
                Ok(if cluster.settle().await { NOTHING } else { vec!["does not settle".to_owned()] })
            }
            ["machine", rest @ ..] => machine(cluster, rest).await,
            ["fleetd", rest @ ..] => fleetd(cluster, rest).await,
            ["partition", name] => cluster.partition(name, Link::Refused).map(|()| NOTHING),
            ["partition", name, "silent"] => cluster.partition(name, Link::Silent).map(|()| NOTHING),
            ["heal", name] => cluster.heal(name).map(|()| NOTHING),
            ["disk", name, what] => disk(cluster, name, what),
            ["store", rest @ ..] => store(cluster, rest).await,
            ["fault", rest @ ..] => fault(cluster, rest),
            ["systemd", name, rest @ ..] => systemd(cluster, name, rest),
            ["admin", name, verb, unit] => admin(cluster, name, verb, unit),
            ["leader", "freeze"] => cluster.freeze_leader().map(|name| vec![format!("{name} is frozen")]),
            ["cluster", "adopt"] => Ok(operator::adopt(&cluster.door()?).await),
            ["cluster", "resume"] => Ok(operator::say(&cluster.door()?, paths::CLUSTER_RESUME).await),
            ["why", unit] => show::why(cluster, unit).await,
            ["changes"] => Ok(self.changes(cluster)),
            ["expect-no-stops"] => Ok(self.stops(cluster)),
            ["show", rest @ ..] => self.show(cluster, rest).await,
            _ => bail!("unknown command"),
        }
    }

    async fn show(&mut self, cluster: &mut Cluster, words: &[&str]) -> Lines {
        match words {
            ["units"] => show::units(cluster).await,
            ["states"] => show::states(cluster).await,
            ["strays"] => show::strays(cluster).await,
            ["machines"] => show::machines(cluster).await,
            ["orders", name] => show::orders(cluster, &MachineId::parse(name)?).await,
            ["brake"] => show::brake(cluster).await,
            ["frozen"] => {
                let leaders: Vec<&str> = cluster.leaders();
                let daemon = leaders.first().and_then(|name| cluster.machines[*name].daemon.as_ref());
                let daemon = daemon.context("nobody leads")?;
                let frozen = daemon.engine.status.borrow().frozen.clone();
                Ok(frozen.into_iter().map(|(machine, unit)| format!("{unit} on {machine}")).collect())
            }
            ["hold"] => show::hold(cluster).await,
            ["status", name] => Ok(vec![show::status(cluster.machine(name)?)]),
            ["calls", name] => Ok(show::calls(cluster.machine(name)?)),
            ["audits", name] => {
                let machine = cluster.machine(name)?;
                let daemon = machine.daemon.as_ref().context("fleetd does not run")?;
                let counters = daemon.agent.status().counters;
                Ok(vec![format!("{} differences", counters.audit_differences)])
            }
            ["running"] => {
                let running = cluster.running().into_iter();
                Ok(running.map(|(unit, on)| format!("{unit}: {}", Vec::from_iter(on).join(" "))).collect())
            }
            ["executions", name, unit @ ..] => {
                cluster.machine(name)?;
                let machine = &cluster.machines[*name];
                let log = machine.systemd.executions().into_iter();
                let log = log.filter(|e| unit.first().is_none_or(|unit| e.unit.as_str() == *unit));
                Ok(log.map(|execution| show::execution(cluster, machine, &execution)).collect())
            }
            ["events"] => show::events(cluster, &mut self.events).await,
            _ => bail!("unknown thing to show"),
        }
    }

    /// What ran since the last look, in the order in which it happened.
    fn changes(&mut self, cluster: &Cluster) -> Vec<String> {
        let mut lines = Vec::new();
        for machine in cluster.machines.values() {
            let mark = self.shown.entry(machine.name.clone()).or_default();
            let (log, next) = mark.read(machine);
            *mark = next;
            let line =
                |e: &_| (show::when(cluster, machine, e) / 500_000, show::execution(cluster, machine, e));
            lines.extend(log.iter().map(line));
        }
        // Machines in the order of their names, and what happened on one machine in the order in which it did.
        lines.sort_by_key(|(at, _)| *at);
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// Stops since the last time this was asked; there should be none.
    fn stops(&mut self, cluster: &Cluster) -> Vec<String> {
        let mut lines = Vec::new();
        for machine in cluster.machines.values() {
            let mark = self.guarded.entry(machine.name.clone()).or_default();
            let (log, next) = mark.read(machine);
            *mark = next;
            let stops = log.iter().filter(|execution| execution.what == What::Stopped);
            lines.extend(stops.map(|execution| show::execution(cluster, machine, execution)));
        }
        if lines.is_empty() { vec!["none".to_owned()] } else { lines }
    }
}

/// `hello@1..3.service` stands for three units.
fn expanded(words: &[&str]) -> Vec<String> {
    let range = |word: &str| {
        let (head, rest) = word.split_once("..")?;
        let at = head.rfind(|c: char| !c.is_ascii_digit())? + 1;
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (first, last): (u32, u32) = (head[at..].parse().ok()?, rest[..end].parse().ok()?);
        Some((first..=last).map(|n| format!("{}{n}{}", &head[..at], &rest[end..])).collect::<Vec<_>>())
    };
    words.iter().flat_map(|word| range(word).unwrap_or_else(|| vec![(*word).to_owned()])).collect()
}

async fn change(cluster: &mut Cluster, verb: &str, units: &[&str]) -> Lines {
    let (verb, replaces) = match verb {
        "submit" => (Verb::Submit, false),
        "replace" => (Verb::Submit, true),
        "load" => (Verb::Load, false),
        "start" => (Verb::Start, false),
        "stop" => (Verb::Stop, false),
        "unload" => (Verb::Unload, false),
        "destroy" => (Verb::Destroy, false),
        _ => (Verb::Restart, false),
    };
    let units = expanded(units);
    let units: Vec<&str> = units.iter().map(String::as_str).collect();
    cluster.change(verb, &units, replaces).await
}

async fn machine(cluster: &mut Cluster, words: &[&str]) -> Lines {
    match words {
        ["add", name, options @ ..] => {
            let mut setup = Setup::default();
            for option in options {
                match option.split_once('=').context("key=value")? {
                    ("engine", role) => {
                        setup.engine = if role == "never" { EngineRole::Never } else { EngineRole::Auto };
                    }
                    ("agent_ttl", time) => setup.agent_ttl = duration(time)?,
                    (key, value) => drop(setup.metadata.insert(key.to_owned(), value.to_owned())),
                }
            }
            cluster.add(name, setup).await?;
            Ok(NOTHING)
        }
        ["kill", name] => {
            cluster.machine(name)?.kill().await;
            Ok(NOTHING)
        }
        ["boot", name] => cluster.boot(name).await.map(|()| NOTHING),
        ["clone", of, name] => cluster.clone_machine(of, name).await.map(|()| NOTHING),
        ["forget", name] => {
            let path = paths::fill(paths::MACHINE_FORGET, name);
            Ok(operator::say(&cluster.door()?, &path).await)
        }
        ["confirm-dead", name] => {
            let path = paths::fill(paths::MACHINE_CONFIRM_DEAD, name);
            Ok(operator::say(&cluster.door()?, &path).await)
        }
        ["cordon", name] => {
            cluster.edit_machine(name, |record| record.cordon = true).await?;
            Ok(NOTHING)
        }
        ["metadata", name, pair] => {
            let (key, value) = pair.split_once('=').context("key=value")?;
            let set = |record: &mut fleet_core::records::MachineRecord| {
                record.metadata.insert(key.to_owned(), value.to_owned());
            };
            cluster.edit_machine(name, set).await?;
            Ok(NOTHING)
        }
        _ => bail!("machine add|kill|boot|clone|forget|confirm-dead|cordon|metadata"),
    }
}

async fn fleetd(cluster: &mut Cluster, words: &[&str]) -> Lines {
    match words {
        ["kill", name] => cluster.machine(name)?.kill_fleetd().await,
        ["stop", name] => cluster.machine(name)?.stop_fleetd().await,
        ["start", name] => cluster.start_fleetd(name).await?,
        ["restart", name] => {
            cluster.machine(name)?.kill_fleetd().await;
            cluster.start_fleetd(name).await?;
        }
        ["reset-calls"] => {
            for machine in cluster.machines.values() {
                machine.tap.reset();
            }
        }
        _ => bail!("fleetd kill|stop|start|restart NAME, fleetd reset-calls"),
    }
    Ok(NOTHING)
}

async fn store(cluster: &mut Cluster, words: &[&str]) -> Lines {
    match words {
        ["stop"] => cluster.stop_store(Link::Refused),
        ["stop", "silent"] => cluster.stop_store(Link::Silent),
        ["start"] => cluster.start_store(),
        ["wipe"] => cluster.store.wipe(),
        ["snapshot", name] => cluster.snapshot(name),
        ["restore", name] => cluster.restore(name)?,
        ["replay", name, key] => cluster.replay(name, key).await?,
        ["compact"] => cluster.compact().await?,
        ["mute"] => cluster.store.set_mute(true),
        ["unmute"] => cluster.store.set_mute(false),
        ["foreign"] => cluster.make_foreign().await?,
        ["elect"] => {
            // Watches ask for a leader, so that an election ends them.
            cluster.store.elect();
            cluster.store.cancel_watches();
        }
        ["cancel-watches"] => cluster.store.cancel_watches(),
        ["delete", key] => {
            let key = format!("/fleet/{key}");
            let txn = fleet_registry::store::Txn::of(vec![fleet_registry::store::Op::delete(key)]);
            cluster.registry.store().txn(txn).await?;
        }
        ["put", key, value @ ..] => {
            let op = fleet_registry::store::Op::put(format!("/fleet/{key}"), value.join(" "));
            cluster.registry.store().txn(fleet_registry::store::Txn::of(vec![op])).await?;
        }
        _ => bail!(
            "store stop|start|wipe|snapshot|restore|replay|compact|mute|unmute|foreign|elect|delete|put"
        ),
    }
    Ok(NOTHING)
}

fn operation(word: &str) -> anyhow::Result<Operation> {
    Ok(match word {
        "range" => Operation::Range,
        "txn" => Operation::Txn,
        "watch" => Operation::Watch,
        "grant" => Operation::LeaseGrant,
        "keep-alive" => Operation::LeaseKeepAlive,
        "ttl" => Operation::LeaseTtl,
        _ => bail!("range, txn, watch, grant, keep-alive or ttl"),
    })
}

/// `fault m1 txn fail|drop-reply|delay=5s [after=N] [times=N]`
fn fault(cluster: &mut Cluster, words: &[&str]) -> Lines {
    if words == ["clear"] {
        cluster.store.clear_faults();
        return Ok(NOTHING);
    }
    let [name, on, what, rest @ ..] = words else { bail!("fault MACHINE OPERATION WHAT, or fault clear") };
    let operation = operation(on)?;
    let fault = match what.split_once('=') {
        Some(("delay", time)) => Fault::Delay(duration(time)?),
        None if *what == "drop-reply" => Fault::DropReply,
        None if *what == "fail" => {
            Fault::Fail(StoreError::Unavailable { operation, detail: "arranged".to_owned() })
        }
        _ => bail!("fail, drop-reply or delay=TIME"),
    };
    let mut injection = Injection::next(fault).on(operation).of_client(*name);
    for option in rest {
        injection = match option.split_once('=').context("after=N or times=N")? {
            ("after", count) => injection.after(count.parse()?),
            ("times", count) => injection.times(count.parse()?),
            _ => bail!("after=N or times=N"),
        };
    }
    cluster.store.inject(injection);
    Ok(NOTHING)
}

/// How a unit behaves on one machine.
fn systemd(cluster: &mut Cluster, name: &str, words: &[&str]) -> Lines {
    let systemd = cluster.machine(name)?.systemd.clone();
    match words {
        ["disconnect"] => systemd.set_connected(false),
        ["connect"] => systemd.set_connected(true),
        ["slow-reload", time] => systemd.delay(Call::Reload, duration(time)?),
        ["host", unit] => {
            let path = format!("/usr/lib/systemd/system/{unit}");
            systemd.add_host_unit(&UnitName::parse(unit)?, &path, "[Service]\nExecStart=/usr/bin/host\n");
        }
        [what, unit] => {
            let unit = UnitName::parse(unit)?;
            let mut behaviour = Behaviour::default();
            match what.split_once('=') {
                Some(("start-takes", time)) => behaviour.start_takes = duration(time)?,
                Some(("stop-takes", time)) => behaviour.stop_takes = duration(time)?,
                Some(("exits", status)) => behaviour.exits = Some((Duration::ZERO, status.parse()?)),
                None => match *what {
                    "start-hangs" => behaviour.start_hangs = true,
                    "stop-hangs" => behaviour.stop_hangs = true,
                    "normal" => {}
                    "start-fails" => {
                        let message = "arranged".to_owned();
                        let error = SystemdError::BadSetting { unit: unit.clone(), message };
                        systemd.fail(Call::Start, Some(&unit), None, error);
                    }
                    "start-works" => systemd.clear_failures(),
                    _ => bail!("unknown behaviour"),
                },
                Some(_) => bail!("unknown behaviour"),
            }
            systemd.behave(&unit, behaviour);
        }
        _ => bail!("systemd MACHINE WHAT UNIT"),
    }
    Ok(NOTHING)
}

/// What a fleetd finds of its state directory when it starts.
fn disk(cluster: &mut Cluster, name: &str, what: &str) -> Lines {
    let directory = cluster.machine(name)?.state_directory();
    // Where the log is rewritten: a directory there, and nobody can write it, not even root.
    let in_the_way = directory.join("records.log.new");
    match what {
        "broken" => std::fs::create_dir(&in_the_way)?,
        "mended" => std::fs::remove_dir(&in_the_way)?,
        "lost" => {
            std::fs::remove_dir_all(&directory)?;
            std::fs::create_dir(&directory)?;
        }
        _ => bail!("disk MACHINE broken|mended|lost"),
    }
    Ok(NOTHING)
}

fn admin(cluster: &mut Cluster, name: &str, verb: &str, unit: &str) -> Lines {
    let (systemd, unit) = (cluster.machine(name)?.systemd.clone(), UnitName::parse(unit)?);
    match verb {
        "start" => drop(systemd.admin_start(&unit)?),
        "stop" => drop(systemd.admin_stop(&unit)),
        "crash" => systemd.exit_main(&unit, 1),
        _ => bail!("admin MACHINE start|stop|crash UNIT"),
    }
    Ok(NOTHING)
}

fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).context("a time with its unit")?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse()?;
    Ok(match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3600),
        _ => bail!("unknown unit of time {unit:?}"),
    })
}
