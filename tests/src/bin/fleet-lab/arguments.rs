//! The command line's grammar and help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use fleet_tests::lab::{LabOptions, Release};

const EXAMPLES: &str = "\
Examples:
  fleet-lab up --machines 3                      boot three machines with fleetd, and an etcd
  fleet-lab ctl list-machines                    fleetctl, through the first machine that is ready
  fleet-lab ctl --on m2 start hello@1.service
  fleet-lab exec m1 -- systemctl status fleetd
  fleet-lab kill m2; fleet-lab start m2          a power cut, and the power back
  fleet-lab partition m3 --from etcd             m3 sees the machines but not the store
  fleet-lab etcd stop; fleet-lab etcd start
  fleet-lab fleetd m1 replace target/release/fleetd
  fleet-lab logs m1 -f
  fleet-lab down

Labs of different --name run side by side. Everything needs root. Environment: FLEET_LAB_NAME (default of --name),
FLEET_LAB_DIR (where labs live, /var/lib/fleet-lab), FLEET_LAB_CACHE (Debian trees, /var/cache/fleet-lab),
FLEET_LAB_MIRROR (Debian mirror), FLEETD_BIN, FLEETCTL_BIN (binaries; default: beside fleet-lab).";

/// Boots clusters of real machines (systemd in nspawn) with a real etcd on this machine.
#[derive(Debug, Parser)]
#[command(name = "fleet-lab", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Arguments {
    /// Which lab
    #[arg(long, global = true, default_value = "default", env = "FLEET_LAB_NAME")]
    pub name: String,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a lab
    Up(Up),
    /// Run a command on a machine; its exit code is passed on
    Exec {
        machine: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Run fleetctl against the cluster; its exit code is passed on
    Ctl {
        /// Talk to the fleetd of this machine (default: the first that is ready, else the first that runs)
        #[arg(long)]
        on: Option<String>,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Take the power from machines, without warning
    Kill(Machines),
    /// Stop every process of machines where it is
    Freeze(Machines),
    /// End a freeze
    Thaw(Machines),
    /// Reboot machines in order
    Reboot(Machines),
    /// Boot machines that are off
    Start(Machines),
    /// Power machines off in order
    Poweroff(Machines),
    /// Cut a machine from the network, or from some peers only
    Partition {
        machine: String,
        /// etcd, a machine or an address; may be repeated (default: everything)
        #[arg(long)]
        from: Vec<String>,
        /// Refuse connections at once instead of letting packets vanish
        #[arg(long)]
        reject: bool,
    },
    /// End a partition
    Heal(Machines),
    /// Kill, stop, start, restart or replace the fleetd of a machine
    Fleetd {
        machine: String,
        #[command(subcommand)]
        action: Fleetd,
    },
    /// Stop, start, kill, freeze, empty, save or restore etcd
    Etcd {
        #[command(subcommand)]
        action: EtcdAction,
    },
    /// Run etcdctl (API version 3) against the lab's etcd
    Etcdctl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Show the journal of a machine's fleetd; works for a machine that is off
    Logs {
        machine: String,
        /// Go on until interrupted
        #[arg(short, long)]
        follow: bool,
        /// Another unit
        #[arg(long, short, default_value = "fleetd.service")]
        unit: String,
    },
    /// Show what runs, what is cut, what is frozen
    Status {
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// End a lab and remove everything it left; dead labs are swept too
    Down,
    /// Show all labs
    List {
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// The background process of a lab
    #[command(hide = true)]
    Supervise { directory: PathBuf, tree: PathBuf },
}

#[derive(Debug, Args)]
pub struct Machines {
    #[arg(required = true)]
    pub machines: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ReleaseArgument {
    Bookworm,
    Trixie,
}

#[derive(Debug, Args)]
pub struct Up {
    /// How many machines: m1, m2, …
    #[arg(long, default_value_t = 3)]
    pub machines: u8,
    /// Members of etcd: 0, 1 or 3
    #[arg(long, default_value_t = 1)]
    pub etcd: u8,
    /// Debian release of the machines
    #[arg(long, value_enum, default_value_t = ReleaseArgument::Bookworm)]
    pub release: ReleaseArgument,
    /// Machines with podman, which can run containers (Debian 13)
    #[arg(long, conflicts_with = "release")]
    pub containers: bool,
    /// Metadata of one machine, such as m1=role=web,disk=ssd; may be repeated
    #[arg(long, value_name = "MACHINE=KEY=VALUE,…")]
    pub metadata: Vec<String>,
    /// How long a machine may be silent before it counts as lost, such as 15s
    #[arg(long)]
    pub agent_ttl: Option<String>,
    /// A key of fleetd.toml on every machine, with its value as TOML, such as 'verbosity=1'; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub config: Vec<String>,
    /// Machines with systemd only
    #[arg(long)]
    pub no_fleetd: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

impl Up {
    /// What the lab shall be.
    ///
    /// # Errors
    /// When an argument has no `=` where one belongs.
    pub fn options(&self, name: &str) -> anyhow::Result<LabOptions> {
        let mut options =
            LabOptions::new(name).machines(self.machines).etcd(self.etcd).release(match self.release {
                ReleaseArgument::Bookworm => Release::Bookworm,
                ReleaseArgument::Trixie => Release::Trixie,
            });
        if self.containers {
            options = options.containers();
        }
        if self.no_fleetd {
            options = options.systemd_only();
        }
        if let Some(ttl) = &self.agent_ttl {
            options = options.agent_ttl(ttl);
        }
        for text in &self.metadata {
            let Some((machine, metadata)) = text.split_once('=') else {
                anyhow::bail!(
                    "--metadata {text:?}: expected MACHINE=KEY=VALUE,… such as m1=role=web,disk=ssd"
                );
            };
            options = options.metadata(machine, metadata);
        }
        for text in &self.config {
            let Some((key, value)) = text.split_once('=') else {
                anyhow::bail!("--config {text:?}: expected KEY=VALUE such as verbosity=1");
            };
            options = options.config_key(key.trim(), value.trim());
        }
        Ok(options)
    }
}

#[derive(Debug, Subcommand)]
pub enum Fleetd {
    /// SIGKILL; systemd starts it again
    Kill,
    Stop,
    Start,
    Restart,
    /// Put another binary in its place and restart
    Replace {
        binary: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum EtcdAction {
    /// Orderly stop
    Stop { member: Option<u8> },
    /// Start what does not run
    Start { member: Option<u8> },
    /// SIGKILL
    Kill { member: Option<u8> },
    /// Connections stay, nothing answers
    Freeze { member: Option<u8> },
    /// End a freeze
    Thaw { member: Option<u8> },
    /// Replace it by an empty one
    Wipe,
    /// Save its contents
    Snapshot { file: PathBuf },
    /// Go back to saved contents
    Restore { file: PathBuf },
}
