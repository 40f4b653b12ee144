//! Pins: targets that refer to a unit and thereby keep it loaded after it ended. They live in systemd and
//! `/run`, so they survive a crash of fleetd. `PropagatesReloadTo=` is the reference that neither orders nor
//! starts anything. A few names get an instance of a template each; many names share one generated target,
//! which is a twentieth of the cost.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::{join_all, try_join_all};
use sha2::{Digest, Sha256};
use zbus::OwnedObjectPath;

use crate::{
    dbus::{
        bus::{About, Bus, TO_MANAGER, UNIT},
        inspect,
        signals::job_of_path,
    },
    error::SystemdError,
    events::EventSender,
    files::UnitFiles,
    types::{JobId, SystemdEvent, UnitName},
};

const TEMPLATE: &str = "fleet-pin@.target";
const TEMPLATE_TEXT: &str = "# Made by fleetd. Keeps a finished unit loaded, so that its result can be read.\n\
                             [Unit]\nDefaultDependencies=no\nIgnoreOnIsolate=yes\nPropagatesReloadTo=%i\n";
const ONE: (&str, &str) = ("fleet-pin@", ".target");
const GROUP: (&str, &str) = ("fleet-pins-", ".target");
/// From this many names on, one generated target is cheaper than single pins and the rescan of the unit
/// directories that its file causes.
const FROM_GROUP: usize = 9;

/// systemd's limit for a unit name.
const LONGEST_NAME: usize = 255;

#[derive(Debug)]
pub(super) struct Pins<'a> {
    pub bus: &'a Bus,
    pub files: &'a UnitFiles,
    pub events: &'a EventSender,
}

/// Target -> names it pins.
type Held = BTreeMap<String, BTreeSet<UnitName>>;

impl Pins<'_> {
    pub(super) async fn pin(&self, names: &[UnitName]) -> Result<(), SystemdError> {
        let held: BTreeSet<UnitName> = self.held().await?.into_values().flatten().collect();
        let missing: BTreeSet<UnitName> =
            names.iter().filter(|name| !held.contains(*name)).cloned().collect();
        self.hold(&missing).await
    }

    pub(super) async fn pinned(&self) -> Result<Vec<UnitName>, SystemdError> {
        let names: BTreeSet<UnitName> = self.held().await?.into_values().flatten().collect();
        Ok(names.into_iter().collect())
    }

    /// Those of a shared target that stay pinned are pinned anew before it goes.
    pub(super) async fn unpin(&self, names: &[UnitName]) -> Result<(), SystemdError> {
        let names: BTreeSet<&UnitName> = names.iter().collect();
        let mut gone = Vec::new();
        let mut stay = BTreeSet::new();
        let mut held_elsewhere = BTreeSet::new();
        for (target, members) in self.held().await? {
            if members.iter().any(|member| names.contains(member)) {
                stay.extend(members.into_iter().filter(|member| !names.contains(member)));
                gone.push(target);
            } else {
                held_elsewhere.extend(members);
            }
        }
        stay.retain(|name| !held_elsewhere.contains(name));
        self.hold(&stay).await?;
        self.stop(&gone).await?;
        for target in gone.iter().filter(|target| target.starts_with(GROUP.0)) {
            self.files.remove_pin(target)?;
        }
        Ok(())
    }

    async fn hold(&self, names: &BTreeSet<UnitName>) -> Result<(), SystemdError> {
        let fits = |name: &UnitName| ONE.0.len() + name.as_str().len() + ONE.1.len() <= LONGEST_NAME;
        if names.len() < FROM_GROUP && names.iter().all(fits) {
            if !names.is_empty() {
                self.files.write_pin(TEMPLATE, TEMPLATE_TEXT)?;
            }
            let targets = names.iter().map(|name| format!("{}{name}{}", ONE.0, ONE.1));
            try_join_all(targets.map(|target| self.start(target))).await?;
            return Ok(());
        }
        let list = names.iter().map(UnitName::as_str).collect::<Vec<_>>().join(" ");
        // The same names always make the same target, so that pinning twice is once.
        let digest = hex::encode(&Sha256::digest(&list)[..8]);
        let target = format!("{}{digest}{}", GROUP.0, GROUP.1);
        let mut text =
            String::from("# Made by fleetd.\n[Unit]\nDefaultDependencies=no\nIgnoreOnIsolate=yes\n");
        // A line each: systemd refuses lines above a megabyte.
        for name in names {
            text.push_str("PropagatesReloadTo=");
            text.push_str(name.as_str());
            text.push('\n');
        }
        self.files.write_pin(&target, &text)?;
        self.start(target).await
    }

    async fn start(&self, target: String) -> Result<(), SystemdError> {
        let about = About::machine("pin");
        let started: Result<OwnedObjectPath, _> =
            self.bus.call(about, TO_MANAGER, "StartUnit", &(target, "replace")).await;
        started.map(drop)
    }

    /// Stops the targets and waits until they are, so that what they held can be unloaded.
    async fn stop(&self, targets: &[String]) -> Result<(), SystemdError> {
        let mut events = self.events.subscribe();
        let about = About::machine("unpin");
        let stops = targets.iter().map(|target| async move {
            let path: OwnedObjectPath =
                self.bus.call(about, TO_MANAGER, "StopUnit", &(target, "replace")).await?;
            Ok::<_, SystemdError>(job_of_path(path.as_str()))
        });
        let mut jobs: BTreeSet<JobId> = BTreeSet::new();
        for stopped in join_all(stops).await {
            match stopped {
                Ok(job) => jobs.extend(job),
                Err(error) if is_not_loaded(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let wait = async {
            while !jobs.is_empty() {
                match events.recv().await {
                    Some(SystemdEvent::JobRemoved { job, .. }) => {
                        jobs.remove(&job);
                    }
                    // Missed: the jobs of a target take no time, so they are over.
                    Some(SystemdEvent::Resync | SystemdEvent::Disconnected) | None => return,
                    Some(SystemdEvent::UnitChanged { .. }) => {}
                }
            }
        };
        let limit = self.bus.call_timeout();
        tokio::time::timeout(limit, wait)
            .await
            .map_err(|_| SystemdError::TimedOut { operation: "unpin", after: limit })
    }

    async fn held(&self) -> Result<Held, SystemdError> {
        let patterns = [format!("{}*{}", ONE.0, ONE.1), format!("{}*{}", GROUP.0, GROUP.1)];
        let rows = inspect::rows(self.bus, &patterns).await?;
        let active = rows.into_iter().filter(|row| row.is_starting_or_active());
        let held = active.map(|row| async move {
            let one = row.name.strip_prefix(ONE.0).and_then(|name| name.strip_suffix(ONE.1));
            if let Some(name) = one {
                let names = name.parse().into_iter().collect();
                return Ok((row.name, names));
            }
            // What is loaded counts, whatever became of the file.
            let about = About::machine("list pins");
            let members: Vec<String> =
                self.bus.get(about, row.path.as_str(), UNIT, "PropagatesReloadTo").await?;
            Ok((row.name, members.iter().filter_map(|name| name.parse().ok()).collect()))
        });
        let held: Vec<(String, BTreeSet<UnitName>)> = try_join_all(held).await?;
        Ok(held.into_iter().collect())
    }
}

fn is_not_loaded(error: &SystemdError) -> bool {
    matches!(error, SystemdError::Refused { name, .. } if name.ends_with(".NoSuchUnit"))
}
