//! fleetd: one machine of the cluster.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory as _, Parser as _};
use fleet_core::BootId;
use fleet_systemd::{DbusSystemd, Systemd as _};
use fleetd::api::{Passed, passed};
use fleetd::arguments::{Arguments, Command, Output};
use fleetd::clock::Clock;
use fleetd::config::reload::{self, Reloader};
use fleetd::config::{self, Config, Format, Sources};
use fleetd::dump;
use fleetd::identity::Identity;
use fleetd::memory;
use fleetd::notify;
use fleetd::runtime;
use fleetd::store::{self, Opened};
use fleetd::wire::{Daemon, DaemonOptions, VERSION};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

pub fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(ended) => return ended,
    };
    let Arguments { config: file, version, command } = arguments;
    match command {
        _ if version => show(&format!("fleetd version {VERSION}\n")),
        Some(Command::Version) => show(&format!("fleetd version {VERSION}\n")),
        Some(Command::ConfigTemplate) => show(&config::template()),
        Some(Command::CheckConfig { output, root }) => {
            return check_config(&Sources { file, root, environment: Sources::environment() }, output);
        }
        None => {
            if let Err(error) = start(Sources { file, root: None, environment: Sources::environment() }) {
                let why = format!("{error:#}");
                complain(&format!("fleetd: {why}\n"));
                notify::cannot_start(&why);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// The command line. An error is the end: help was printed, or what is wrong.
fn arguments() -> Result<Arguments, ExitCode> {
    let error = match Arguments::try_parse_from(std::env::args_os().map(with_two_dashes)) {
        Ok(arguments) => return Ok(arguments),
        Err(error) => error,
    };
    let is_argument = match error.kind() {
        ErrorKind::InvalidSubcommand => true,
        ErrorKind::UnknownArgument => {
            error.get(ContextKind::InvalidArg).is_some_and(|argument| !argument.to_string().starts_with('-'))
        }
        _ => false,
    };
    if is_argument {
        let usage = Arguments::command().render_usage();
        complain(&format!(
            "{} takes no arguments. Did you mean to invoke fleetctl instead?\n{usage}\n",
            std::env::args().next().unwrap_or_default()
        ));
        return Err(ExitCode::FAILURE);
    }
    // Nobody may read it.
    let _ = error.print();
    Err(if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// `-config` is as good as `--config`, as it was for fleet 1.0.
fn with_two_dashes(argument: OsString) -> OsString {
    let text = argument.to_str().unwrap_or_default();
    let is_long = ["-config", "-version", "-help"]
        .iter()
        .any(|flag| text.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')));
    if is_long { format!("-{text}").into() } else { argument }
}

/// The answer of this invocation. Whoever asked may have gone away.
fn show(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Where logging may not be set up yet.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn check_config(sources: &Sources, output: Output) -> ExitCode {
    let loaded = config::read(sources);
    let format = match output {
        Output::Toml => Format::Text,
        Output::Json => Format::Json,
    };
    let (answer, remarks) = config::report(&loaded, format);
    show(&answer);
    complain(&remarks);
    if loaded.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start(sources: Sources) -> anyhow::Result<()> {
    let loaded = config::read(&sources).usable()?;
    let set_verbosity = log(loaded.config.verbosity);
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let reloader =
        Reloader::new(sources, loaded.config.clone(), move |config| set_verbosity(config.verbosity));
    // It changes the environment, which threads would see.
    let passed = passed::take()?;
    // One thread serves everything that may wait; leases renew on threads of their own.
    let runtime = runtime::build().context("cannot start fleetd's threads; see TasksMax= of its service")?;
    runtime.block_on(run(loaded.config, reloader, passed))
}

/// Starts logging. What it returns changes the verbosity, unless `RUST_LOG` decides.
fn log(verbosity: u8) -> impl Fn(u8) + Send {
    let given = tracing_subscriber::EnvFilter::try_from_env("RUST_LOG").ok();
    let is_given = given.is_some();
    // The journal stamps every line itself.
    let builder = tracing_subscriber::fmt()
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_env_filter(given.unwrap_or_else(|| filter(verbosity)))
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.init();
    move |verbosity| {
        if !is_given && let Err(error) = handle.reload(filter(verbosity)) {
            warn!(%error, "the verbosity stays as it was");
        }
    }
}

fn filter(verbosity: u8) -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::new(match verbosity {
        0 => "info",
        1 => "info,fleetd=debug,fleet_core=debug,fleet_registry=debug,fleet_systemd=debug",
        _ => "debug",
    })
}

async fn run(config: Config, reloader: Reloader, passed: Vec<Passed>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    // From here on: until now it would have ended fleetd.
    let asked = signal(SignalKind::user_defined1()).context("cannot wait for SIGUSR1")?;
    let Opened { store, lease } = store::open(&config).await?;
    let systemd = DbusSystemd::connect(fleet_systemd::Options {
        units_directory: config.units_directory.clone(),
        ..fleet_systemd::Options::default()
    })
    .await
    .context("cannot reach systemd over D-Bus; fleetd needs systemd as PID 1 and a system bus")?;
    let environment = systemd.environment().await.context("systemd does not say which boot this is")?;
    let boot = BootId::parse(&environment.boot_id).context("systemd names no boot")?;
    let identity = Identity::of_this_machine(&config.runtime_directory, boot)?;
    let machine = identity.machine.clone();
    let mut daemon = Daemon::start(DaemonOptions {
        config,
        identity,
        store,
        lease,
        systemd: Arc::new(systemd),
        clock: Clock::Wall,
        passed,
    })
    .await?;
    daemon.serves().await;
    notify::ready();
    let tell = notify::run(daemon.status.clone(), daemon.shutdown.clone());
    daemon.supervise(tell);
    let reload = reload::run(reloader.with(daemon.describer()), hangup, daemon.shutdown.clone());
    daemon.supervise(reload);
    let agent = daemon.agent.clone();
    let dump = dump::run(machine, move || agent.status().units.clone(), asked, daemon.shutdown.clone());
    daemon.supervise(dump);
    let memory = memory::give_back(daemon.shutdown.clone());
    daemon.supervise(memory);
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: ending, units keep running"),
        _ = interrupt.recv() => info!("SIGINT: ending, units keep running"),
        () = daemon.ended() => error!("ending because a task ended"),
    }
    notify::stopping();
    daemon.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn parsed(words: &[&str]) -> Arguments {
        Arguments::try_parse_from(std::iter::once(&"fleetd").chain(words)).unwrap()
    }

    #[test]
    fn the_file_may_be_named_before_or_after_the_command() {
        for words in [["--config", "f.toml", "check-config"], ["check-config", "--config", "f.toml"]] {
            let arguments = parsed(&words);
            assert_eq!(arguments.config, Some(PathBuf::from("f.toml")), "{words:?}");
            assert!(matches!(arguments.command, Some(Command::CheckConfig { output: Output::Toml, .. })));
        }
        let json = parsed(&["check-config", "-o", "json", "--root", "/image"]).command;
        assert!(matches!(json, Some(Command::CheckConfig { output: Output::Json, root: Some(_) })));
    }
}
