//! What each command does: one call into the lab, and what a person sees of it.

use std::os::unix::process::CommandExt;
use std::process::{Command as Process, ExitCode};
use std::time::Instant;

use anyhow::{Context, anyhow};
use fleet_tests::lab::{Cut, Lab, LabStatus, Machine, Power, known_labs, supervisor};

use crate::arguments::{Arguments, Command, EtcdAction, Fleetd, Output, Up};

/// Runs one command and gives the exit code of the process.
///
/// # Errors
/// Whatever the lab refused; the text says what to do.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let name = arguments.name.as_str();
    match arguments.command {
        Command::Up(up) => boot(name, &up)?,
        Command::Down => {
            let ran = Lab::down(name)?;
            eprintln!(
                "{}",
                if ran { format!("lab {name} is down") } else { format!("lab {name} was not up") }
            );
        }
        Command::List { output } => list(output)?,
        Command::Supervise { directory, tree } => supervisor::run(&directory, &tree)?,
        Command::Exec { machine, command } => return exec(&Lab::attach(name)?, &machine, &command),
        Command::Ctl { on, arguments } => return ctl(&Lab::attach(name)?, on.as_deref(), &arguments),
        Command::Etcdctl { arguments } => {
            return run_in_place(Lab::attach(name)?.etcd().etcdctl().args(arguments));
        }
        Command::Logs { machine, follow, unit } => {
            let lab = Lab::attach(name)?;
            return run_in_place(&mut lab.try_machine(&machine)?.journal_command(&unit, follow));
        }
        Command::Status { output } => {
            let status = Lab::attach(name)?.status()?;
            match output {
                Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
                Output::Text => print_status(&status),
            }
        }
        Command::Kill(chosen) => each(name, &chosen.machines, "killed", |m| m.kill())?,
        Command::Freeze(chosen) => each(name, &chosen.machines, "frozen", |m| m.freeze())?,
        Command::Thaw(chosen) => each(name, &chosen.machines, "thawed", |m| m.thaw())?,
        Command::Reboot(chosen) => each(name, &chosen.machines, "rebooted", |m| m.reboot())?,
        Command::Start(chosen) => each(name, &chosen.machines, "booted", |m| m.start())?,
        Command::Poweroff(chosen) => each(name, &chosen.machines, "powered off", |m| m.power_off())?,
        Command::Heal(chosen) => each(name, &chosen.machines, "healed", |m| m.heal())?,
        Command::Partition { machine, from, reject } => {
            let lab = Lab::attach(name)?;
            let peers: Vec<_> = from.iter().map(String::as_str).collect();
            lab.try_machine(&machine)?.partition(&peers, if reject { Cut::Reject } else { Cut::Drop })?;
            let what = if peers.is_empty() { "everything".to_owned() } else { peers.join(", ") };
            eprintln!("{machine} is cut from {what}; fleet-lab heal {machine} ends it");
        }
        Command::Fleetd { machine, action } => {
            let lab = Lab::attach(name)?;
            fleetd(&lab.try_machine(&machine)?, &action)?;
        }
        Command::Etcd { action } => etcd(&Lab::attach(name)?, &action)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn boot(name: &str, up: &Up) -> anyhow::Result<()> {
    let began = Instant::now();
    let lab = Lab::up_detached(up.options(name)?, &mut |text| eprintln!("fleet-lab: {text}"))?;
    eprintln!("fleet-lab: lab {name} is up after {:.1} s", began.elapsed().as_secs_f64());
    if up.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&lab.status()?)?);
    }
    Ok(())
}

fn list(output: Output) -> anyhow::Result<()> {
    let labs = known_labs()?;
    if output == Output::Json {
        let labs: Vec<_> =
            labs.iter().map(|(name, up)| serde_json::json!({ "name": name, "up": up })).collect();
        println!("{}", serde_json::to_string_pretty(&labs)?);
        return Ok(());
    }
    for (name, lives) in labs {
        println!("{name}\t{}", if lives { "up" } else { "dead; the next up or down removes it" });
    }
    Ok(())
}

fn each(
    lab: &str,
    machines: &[String],
    done: &str,
    act: impl Fn(&Machine<'_>) -> Result<(), fleet_tests::lab::LabError>,
) -> anyhow::Result<()> {
    let lab = Lab::attach(lab)?;
    // All names are checked before the first machine is touched.
    let machines: Vec<_> = machines.iter().map(|name| lab.try_machine(name)).collect::<Result<_, _>>()?;
    for machine in machines {
        let began = Instant::now();
        act(&machine)?;
        eprintln!("{} {done} ({:.2} s)", machine.name(), began.elapsed().as_secs_f64());
    }
    Ok(())
}

fn exec(lab: &Lab, machine: &str, words: &[String]) -> anyhow::Result<ExitCode> {
    let machine = lab.try_machine(machine)?;
    let (program, arguments) = words.split_first().context("a command is needed after --")?;
    run_in_place(machine.command(program)?.args(arguments))
}

fn ctl(lab: &Lab, on: Option<&str>, arguments: &[String]) -> anyhow::Result<ExitCode> {
    let machine = match on {
        Some(name) => lab.try_machine(name)?,
        // One that has just booted has yet to find the registry, and refuses what another would do at once.
        None => lab
            .machines()
            .into_iter()
            .find(Machine::is_fleetd_ready)
            .or_else(|| lab.machines().into_iter().find(|m| !m.is_frozen() && m.is_fleetd_running()))
            .ok_or_else(|| anyhow!("no machine of lab {} runs fleetd: see fleet-lab status", lab.name()))?,
    };
    run_in_place(machine.fleetctl_command()?.args(arguments))
}

/// Becomes the process: its streams, its signals and its exit code are ours.
fn run_in_place(command: &mut Process) -> anyhow::Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))
}

fn fleetd(machine: &Machine<'_>, action: &Fleetd) -> anyhow::Result<()> {
    match action {
        Fleetd::Kill => machine.fleetd_kill()?,
        Fleetd::Stop => machine.fleetd_stop()?,
        Fleetd::Start => machine.fleetd_start()?,
        Fleetd::Restart => machine.fleetd_restart()?,
        Fleetd::Replace { binary } => machine.fleetd_replace(binary)?,
    }
    Ok(())
}

fn etcd(lab: &Lab, action: &EtcdAction) -> anyhow::Result<()> {
    let etcd = lab.etcd();
    match action {
        EtcdAction::Stop { member } => etcd.stop(*member)?,
        EtcdAction::Start { member } => etcd.start(*member)?,
        EtcdAction::Kill { member } => etcd.kill(*member)?,
        EtcdAction::Freeze { member } => etcd.freeze(*member)?,
        EtcdAction::Thaw { member } => etcd.thaw(*member)?,
        EtcdAction::Wipe => etcd.wipe()?,
        EtcdAction::Snapshot { file } => etcd.snapshot(file)?,
        EtcdAction::Restore { file } => etcd.restore(file)?,
    }
    Ok(())
}

fn print_status(status: &LabStatus) {
    println!("lab {} ({}), {}", status.name, status.release, status.directory.display());
    println!(
        "{:<8}{:<13}{:<10}{:<8}{:<7}{:<10}CUT FROM",
        "MACHINE", "ADDRESS", "POWER", "FLEETD", "BOOTS", "LAST BOOT"
    );
    for machine in &status.machines {
        let power = match (machine.frozen, machine.power) {
            (true, _) => "frozen",
            (false, Power::Off) => "off",
            (false, Power::Booting) => "booting",
            (false, Power::Running) => "running",
        };
        let boot = machine.last_boot_ms.map_or_else(|| "-".to_owned(), |time| format!("{time} ms"));
        println!(
            "{:<8}{:<13}{:<10}{:<8}{:<7}{:<10}{}",
            machine.name,
            machine.address,
            power,
            if machine.fleetd { "running" } else { "-" },
            machine.boots,
            boot,
            machine.partition.as_deref().unwrap_or("-")
        );
    }
    for member in &status.etcd {
        let state = match (member.running, member.frozen) {
            (true, true) => "frozen",
            (true, false) => "running",
            (false, _) => "stopped",
        };
        println!("etcd{:<4}{:<31}{state}", member.member, member.url);
    }
}
