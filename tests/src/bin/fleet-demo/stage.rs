//! What the chapters are told with: headings, commands with their output, checks, measured times.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fleet_tests::lab::{ExecOutput, Lab, wait_for};

/// Which run of which unit on which machine: what has to stay the same when nothing may be disturbed.
pub type Runs = BTreeMap<(String, String), String>;

/// One row of `fleetctl list-units`.
#[derive(Clone, Debug)]
pub struct Row {
    pub unit: String,
    /// Name of the machine, such as m1.
    pub machine: String,
    pub active: String,
}

/// A measured time, and the most it may be.
#[derive(Debug)]
struct Measured {
    what: String,
    taken: Duration,
    limit: Option<Duration>,
}

#[derive(Debug)]
pub struct Stage<'lab> {
    pub lab: &'lab Lab,
    began: Instant,
    chapter: usize,
    measured: Vec<Measured>,
    /// The checkout: commands are run here, so that `examples/...` is what they name.
    root: PathBuf,
    bold: bool,
}

impl<'lab> Stage<'lab> {
    pub fn new(lab: &'lab Lab, began: Instant) -> anyhow::Result<Stage<'lab>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let root = root.canonicalize().with_context(|| format!("find the checkout at {}", root.display()))?;
        let bold = std::io::stdout().is_terminal();
        Ok(Stage { lab, began, chapter: 0, measured: Vec::new(), root, bold })
    }

    /// A heading and what it is about.
    pub fn chapter(&mut self, title: &str, about: &str) {
        self.chapter += 1;
        let (on, off) = if self.bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        println!("\n{on}== {}. {title}{off}  [{:.1} s]", self.chapter, self.began.elapsed().as_secs_f64());
        self.say(about);
    }

    pub fn say(&self, text: &str) {
        if !text.is_empty() {
            println!("   {text}");
        }
    }

    /// Runs fleetctl against the fleetd of `machine` and shows command and output. Its exit code has to be `code`.
    pub fn fleetctl(&self, machine: &str, code: i32, words: &[&str]) -> anyhow::Result<ExecOutput> {
        self.fleetctl_in(&self.root, machine, code, words)
    }

    /// The same with unit files of another directory than the checkout.
    pub fn fleetctl_in(
        &self,
        directory: &Path,
        machine: &str,
        code: i32,
        words: &[&str],
    ) -> anyhow::Result<ExecOutput> {
        println!("   ({machine}) $ fleetctl {}", words.join(" "));
        let output = self.run(directory, machine, words)?;
        for line in output.stdout.lines().chain(output.stderr.lines()) {
            println!("   | {line}");
        }
        let ended = output.status.code();
        if code != 0 {
            println!("   (exit code {})", ended.map_or_else(|| "none".to_owned(), |code| code.to_string()));
        }
        ensure!(ended == Some(code), "fleetctl {} ended with {ended:?}, expected {code}", words.join(" "));
        Ok(output)
    }

    /// Runs fleetctl and shows nothing.
    pub fn quietly(&self, machine: &str, words: &[&str]) -> anyhow::Result<ExecOutput> {
        self.run(&self.root, machine, words)
    }

    fn run(&self, directory: &Path, machine: &str, words: &[&str]) -> anyhow::Result<ExecOutput> {
        let mut command = self.lab.try_machine(machine)?.fleetctl_command()?;
        let output = command.args(words).current_dir(directory).output().context("run fleetctl")?;
        Ok(ExecOutput {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What `machine` says of all units.
    pub fn rows(&self, machine: &str) -> anyhow::Result<Vec<Row>> {
        let words = ["list-units", "--no-legend", "--full", "--fields", "unit,active,machine"];
        let output = self.quietly(machine, &words)?;
        ensure!(output.status.success(), "list-units failed: {}", output.stderr.trim_end());
        let names: BTreeMap<String, String> = self
            .lab
            .machines()
            .iter()
            .map(|machine| (machine.machine_id(), machine.name().to_owned()))
            .collect();
        let rows = output.stdout.lines().map(|line| {
            let mut cells = line.split('\t').filter(|cell| !cell.is_empty());
            let (unit, active) = (cells.next(), cells.next());
            let id = cells.next().and_then(|cell| cell.split('/').next()).unwrap_or_default();
            Some(Row {
                unit: unit?.to_owned(),
                active: active?.to_owned(),
                machine: names.get(id).cloned().unwrap_or_else(|| id.to_owned()),
            })
        });
        rows.collect::<Option<Vec<_>>>().context("list-units prints rows with a unit and its state")
    }

    /// Waits until the rows are as `is_so` wants them, and gives the time it took.
    pub fn wait_for_rows(
        &self,
        machine: &str,
        deadline: Duration,
        what: &str,
        is_so: impl Fn(&[Row]) -> bool,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let seen = wait_for(deadline, what, || self.rows(machine).ok().filter(|rows| is_so(rows)));
        if let Err(error) = seen {
            let rows = self.quietly(machine, &["list-units"])?;
            return Err(error).context(format!("list-units says:\n{}{}", rows.stdout, rows.stderr));
        }
        Ok(began.elapsed())
    }

    /// The present run of every unit of the story, on the machines named.
    pub fn runs(&self, machines: &[&str]) -> anyhow::Result<Runs> {
        let mut runs = Runs::new();
        for name in machines {
            let machine = self.lab.try_machine(name)?;
            let ours = machine.running_units().into_iter().filter(|unit| is_of_story(unit));
            let ours: Vec<String> = ours.collect();
            if ours.is_empty() {
                continue;
            }
            let mut words = vec!["show", "--property=Id,InvocationID", "--"];
            words.extend(ours.iter().map(String::as_str));
            let shown = machine.systemctl(&words)?;
            for block in shown.split("\n\n") {
                let value = |key: &str| block.lines().find_map(|line| line.strip_prefix(key));
                if let (Some(unit), Some(run)) = (value("Id="), value("InvocationID=")) {
                    runs.insert(((*name).to_owned(), unit.to_owned()), run.to_owned());
                }
            }
        }
        Ok(runs)
    }

    /// Checks that every run of `before` still goes on, and says so.
    pub fn undisturbed(&self, before: &Runs, machines: &[&str]) -> anyhow::Result<()> {
        let now = self.runs(machines)?;
        for (place, run) in before {
            let (machine, unit) = place;
            ensure!(
                now.get(place) == Some(run),
                "{unit} on {machine} was disturbed: its run was {run}, now it is {}",
                now.get(place).map_or("none", String::as_str)
            );
        }
        self.say(&format!(
            "Checked: {} units run on, each with the InvocationID it had before.",
            before.len()
        ));
        Ok(())
    }

    /// Notes a time for the closing table and says it.
    pub fn measured(&mut self, what: &str, taken: Duration, limit: Option<Duration>) {
        self.say(&format!("Measured: {what}: {}.", seconds(taken)));
        self.measured.push(Measured { what: what.to_owned(), taken, limit });
    }

    /// As [`Stage::measured`], for a time that ends the demo when it is too long.
    pub fn bounded(&mut self, what: &str, taken: Duration, limit: Duration) -> anyhow::Result<()> {
        self.measured(what, taken, Some(limit));
        ensure!(taken <= limit, "{what} took {}, at most {} are promised", seconds(taken), seconds(limit));
        Ok(())
    }

    /// The closing table.
    pub fn table(&self) -> String {
        let width = self.measured.iter().map(|measured| measured.what.len()).max().unwrap_or(0);
        let mut out = format!("{:width$}  {:>8}  {:>8}\n", "MEASURED", "TIME", "AT MOST");
        for Measured { what, taken, limit } in &self.measured {
            let limit = limit.map_or_else(|| "-".to_owned(), seconds);
            out.push_str(&format!("{what:width$}  {:>8}  {limit:>8}\n", seconds(*taken)));
        }
        out
    }
}

/// Whether the demo started it.
pub fn is_of_story(unit: &str) -> bool {
    ["hello@", "worker@", "everywhere.", "ssd.", "moon."].iter().any(|prefix| unit.starts_with(prefix))
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
