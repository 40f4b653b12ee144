//! fleetd: one machine of the cluster.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use fleet_core::BootId;
use fleet_registry::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use fleet_registry::lease::{LeaseKeeper, LeaseOptions};
use fleet_systemd::{DbusSystemd, Systemd as _};
use fleetd::clock::Clock;
use fleetd::config::{self, Config, ConfigError, Sources};
use fleetd::engine::LeaseMaker;
use fleetd::identity::Identity;
use fleetd::memory;
use fleetd::notify;
use fleetd::wire::{Daemon, DaemonOptions, VERSION};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// Runs the cluster's units on this machine.
#[derive(Parser, Debug)]
#[command(name = "fleetd", version, disable_version_flag = true, after_help = help())]
struct Arguments {
    /// Configuration file [default: /etc/fleet/fleetd.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the version
    #[arg(long, short = 'v')]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Print the version
    Version,
}

fn help() -> String {
    let mut text =
        String::from("Keys of the configuration file; each is also an environment variable FLEET_<KEY>:\n");
    for key in config::KEYS {
        let default = if key.default.is_empty() { "-" } else { key.default };
        text.push_str(&format!("  {:<26} {} [{default}]\n", key.name, key.help));
    }
    text
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.version || matches!(arguments.command, Some(Command::Version)) {
        #[expect(clippy::print_stdout, reason = "the answer of this invocation")]
        {
            println!("fleetd version {VERSION}");
        }
        return ExitCode::SUCCESS;
    }
    match start(arguments.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "logging may not be set up yet")]
            {
                eprintln!("fleetd: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start(file: Option<PathBuf>) -> anyhow::Result<()> {
    let config = config::load(&Sources { file, environment: std::env::vars().collect() })?;
    log(config.verbosity);
    // One thread serves everything that may wait; leases renew on threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .context("cannot make a runtime")?;
    runtime.block_on(run(config))
}

fn log(verbosity: u8) {
    let level = match verbosity {
        0 => "info",
        1 => "info,fleetd=debug,fleet_core=debug,fleet_registry=debug,fleet_systemd=debug",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("RUST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    // The journal stamps every line itself.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let etcd = etcd(&config)?;
    let store = Arc::new(EtcdStore::new(&etcd).context("the etcd client cannot be made")?);
    let systemd = DbusSystemd::connect(fleet_systemd::Options {
        units_directory: config.units_directory.clone(),
        ..fleet_systemd::Options::default()
    })
    .await
    .context("cannot reach systemd over D-Bus; fleetd needs systemd as PID 1 and a system bus")?;
    let environment = systemd.environment().await.context("systemd does not say which boot this is")?;
    let boot = BootId::parse(&environment.boot_id).context("systemd names no boot")?;
    let identity = Identity::of_this_machine(&config.runtime_directory, boot)?;
    let mut daemon = Daemon::start(DaemonOptions {
        config,
        identity,
        store,
        lease: lease_threads(etcd),
        systemd: Arc::new(systemd),
        clock: Clock::Wall,
    })
    .await?;
    notify::ready();
    let tell = notify::run(daemon.status.clone(), daemon.shutdown.clone());
    daemon.supervise(tell);
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

fn etcd(config: &Config) -> Result<EtcdOptions, ConfigError> {
    let read = |key: &'static str, path: &Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => std::fs::read(path).map(Some).map_err(|source| ConfigError::Credential {
            key,
            path: path.clone(),
            source,
        }),
    };
    let ca = read("etcd_cafile", &config.etcd_cafile)?;
    let certificate = read("etcd_certfile", &config.etcd_certfile)?;
    let key = read("etcd_keyfile", &config.etcd_keyfile)?;
    let identity = certificate.zip(key);
    let is_tls = config.etcd_servers.iter().any(|url| url.starts_with("https://"));
    Ok(EtcdOptions {
        request_timeout: config.etcd_request_timeout,
        user: (!config.etcd_username.is_empty())
            .then(|| (config.etcd_username.clone(), config.etcd_password.clone())),
        tls: is_tls.then_some(EtcdTls { ca, identity }),
        ..EtcdOptions::new(config.etcd_servers.clone())
    })
}

/// Each lease on a thread of its own, with a connection of its own.
fn lease_threads(etcd: EtcdOptions) -> LeaseMaker {
    Arc::new(move |name, ttl| {
        let etcd = etcd.clone();
        let options = LeaseOptions::new(name, ttl, u64::from(std::process::id()));
        LeaseKeeper::on_thread(options, move || EtcdStore::new(&etcd))
    })
}
