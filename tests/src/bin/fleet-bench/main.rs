//! `fleet-bench`: measures what fleet promises of speed and memory. `make bench` runs it without arguments.
//!
//! Everything it measures is in `fleet_tests::bench`; here are the names, the table and the exit code.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks on its standard streams"
)]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use clap::Parser;
use fleet_tests::bench::{BENCHES, Bench, Figure, table, write_json};

/// Measures fleet's speed and memory and holds the figures against their targets.
///
/// Benches that boot machines need root, and release builds of fleetd and fleetctl beside this program.
#[derive(Debug, Parser)]
#[command(name = "fleet-bench", version)]
struct Arguments {
    /// Benches to run (default: all); see --list
    benches: Vec<String>,
    /// Exit with 1 if a figure misses its target or a bench cannot be run
    #[arg(long)]
    check: bool,
    /// Show the names of all benches
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for bench in BENCHES {
            println!("{:<18}{}", bench.name, bench.what);
        }
        return ExitCode::SUCCESS;
    }
    let chosen = match chosen(&arguments.benches) {
        Ok(chosen) => chosen,
        Err(error) => {
            eprintln!("fleet-bench: {error}");
            return ExitCode::from(2);
        }
    };
    let (figures, failed) = run(&chosen);
    println!("\n{}", table(&figures));
    for name in &failed {
        println!("{name} could not be measured; see above");
    }
    let is_well = failed.is_empty() && figures.iter().all(|figure| figure.ok);
    if arguments.check && !is_well { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Bench>> {
    if names.is_empty() {
        return Ok(BENCHES.to_vec());
    }
    let mut chosen = Vec::new();
    for name in names {
        let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
            let known = BENCHES.map(|bench| bench.name).join(", ");
            bail!("there is no bench {name:?}; there are {known}");
        };
        chosen.push(*bench);
    }
    Ok(chosen)
}

/// Runs all of them: one that cannot be run hides no other. Gives the figures and the names of those that failed.
fn run(chosen: &[Bench]) -> (Vec<Figure>, Vec<&'static str>) {
    let mut figures = Vec::new();
    let mut failed = Vec::new();
    for bench in chosen {
        eprintln!("{}: {}", bench.name, bench.what);
        let began = Instant::now();
        let mut say = |text: &str| eprintln!("  [{:5.1} s] {text}", began.elapsed().as_secs_f64());
        let measured = (bench.run)(&mut say).and_then(|measured| {
            measured.iter().try_for_each(|figure| write_json(figure).map(drop)).map(|()| measured)
        });
        match measured {
            Ok(measured) => figures.extend(measured),
            Err(error) => {
                eprintln!("  {} failed: {error:#}", bench.name);
                failed.push(bench.name);
            }
        }
    }
    (figures, failed)
}
