//! SIGHUP: everything is read again, what can change in place does, and the rest is named. A configuration that cannot be
//! used changes nothing. No unit is touched either way.

use std::fmt;

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Config;
use super::keys::{Applies, KEYS};
use super::problem::{Problems, Warning};
use super::source::{Loaded, Sources, read, shown};
use crate::notify;

/// A key whose value differs from the one in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: &'static str,
    /// As TOML; secrets are hidden.
    pub from: String,
    pub to: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} to {}", self.key, self.from, self.to)
    }
}

/// What came of reading again.
#[derive(Debug)]
pub enum Reloaded {
    /// The configuration in effect stays as it was.
    Refused(Problems),
    Done {
        in_effect: Vec<Change>,
        /// Take effect when fleetd starts anew; named again at each reload until then.
        at_restart: Vec<Change>,
        warnings: Vec<Warning>,
    },
}

type Apply = Box<dyn Fn(&Config) + Send>;

/// Knows the configuration in effect, and how to put another in its place.
pub struct Reloader {
    sources: Sources,
    config: Config,
    apply: Vec<Apply>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").field("sources", &self.sources.file).finish_non_exhaustive()
    }
}

impl Reloader {
    /// `config` is what `sources` gave at start; `apply` as in [`with`](Self::with).
    #[must_use]
    pub fn new(sources: Sources, config: Config, apply: impl Fn(&Config) + Send + 'static) -> Reloader {
        Reloader { sources, config, apply: Vec::new() }.with(apply)
    }

    /// `apply` is called with the configuration in effect whenever a key that applies in place has changed in it.
    #[must_use]
    pub fn with(mut self, apply: impl Fn(&Config) + Send + 'static) -> Reloader {
        self.apply.push(Box::new(apply));
        self
    }

    /// Reads everything again. The environment is the one that fleetd was started with.
    pub fn again(&mut self) -> Reloaded {
        let Loaded { config, warnings, .. } = match read(&self.sources).usable() {
            Ok(loaded) => loaded,
            Err(problems) => return Reloaded::Refused(problems),
        };
        let mut in_effect = Vec::new();
        let mut at_restart = Vec::new();
        for key in KEYS {
            let Some(show) = key.show else { continue };
            let (old, new) = (show(&self.config), show(&config));
            if old == new {
                continue;
            }
            let change = Change { key: key.name, from: shown(key, &old), to: shown(key, &new) };
            // What is shown is taken, so the second half cannot fail.
            if key.applies == Applies::InPlace && (key.set)(&mut self.config, &new).is_ok() {
                in_effect.push(change);
            } else {
                at_restart.push(change);
            }
        }
        if !in_effect.is_empty() {
            self.apply.iter().for_each(|apply| apply(&self.config));
        }
        Reloaded::Done { in_effect, at_restart, warnings }
    }
}

/// Reloads at each SIGHUP, and tells systemd before and after, `sd_notify(3)`.
pub async fn run(mut reloader: Reloader, mut hangup: Signal, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            received = hangup.recv() => if received.is_none() { return },
        }
        notify::reloading();
        tell(&reloader.again());
        notify::ready();
    }
}

fn tell(reloaded: &Reloaded) {
    match reloaded {
        Reloaded::Refused(problems) => {
            error!("SIGHUP: {problems}; the configuration in effect stays as it was");
        }
        Reloaded::Done { in_effect, at_restart, warnings } => {
            for warning in warnings {
                warn!("{warning}");
            }
            let list =
                |changes: &[Change]| changes.iter().map(Change::to_string).collect::<Vec<_>>().join(", ");
            if in_effect.is_empty() && at_restart.is_empty() {
                info!("SIGHUP: read the configuration again, nothing has changed");
            }
            if !in_effect.is_empty() {
                info!("SIGHUP: changed {}", list(in_effect));
            }
            if !at_restart.is_empty() {
                warn!(
                    "SIGHUP: these changes need a restart of fleetd, which no unit notices: {}",
                    list(at_restart)
                );
            }
        }
    }
}
