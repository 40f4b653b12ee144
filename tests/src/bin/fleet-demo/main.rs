//! `fleet-demo`: the whole story on three real machines, told step by step. `make demo` runs it.
//!
//! Every step shows what an operator would type and what comes back, and checks it: the first thing that is not as
//! told ends the demo with exit code 1 and the place of the kept logs. The lab ends with this program, however it ends.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks on its standard streams"
)]

mod faults;
mod stage;
mod story;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use fleet_tests::lab::{Lab, LabOptions};
use stage::Stage;

/// Boots three machines and an etcd, and shows what fleet does: starts, moves, failures, and that nothing is disturbed.
///
/// Needs root, and fleetd, fleetctl and fleet-lab beside this program.
#[derive(Debug, Parser)]
#[command(name = "fleet-demo", version)]
struct Arguments {
    /// Name of the lab; another one lets two demos run side by side
    #[arg(long, default_value = "demo")]
    name: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let began = Instant::now();
    match run(&arguments.name, began) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed after {:.1} s: {error:#}", began.elapsed().as_secs_f64());
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, began: Instant) -> anyhow::Result<()> {
    println!("fleet: three machines, one cluster. Everything below happens on this computer, for real.");
    let options = LabOptions::new(name).metadata("m2", "disk=ssd");
    let lab = Lab::up_telling(options, &mut |text| println!("  {text}")).context("boot the lab")?;
    let mut stage = Stage::new(&lab, began)?;
    stage.measured("three machines and etcd boot", began.elapsed(), None);
    let told = story::tell(&mut stage)
        .and_then(|()| faults::tell(&mut stage))
        .and_then(|()| story::close(&mut stage));
    if let Err(error) = told {
        return Err(match lab.keep_logs() {
            Ok(place) => error.context(format!("logs are kept in {}", place.display())),
            Err(_) => error,
        });
    }
    let table = stage.table();
    let directory = lab.directory().to_owned();
    let ending = Instant::now();
    drop(lab);
    anyhow::ensure!(!directory.exists(), "{} is still there after the lab has ended", directory.display());
    println!(
        "\nThe machines are switched off and everything they left is removed ({:.1} s).",
        ending.elapsed().as_secs_f64()
    );
    println!("\n{table}\nThe whole story took {:.1} s.", began.elapsed().as_secs_f64());
    Ok(())
}
