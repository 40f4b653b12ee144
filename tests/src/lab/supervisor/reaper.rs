//! PID 1's duty: collecting processes whose parents died. Children that somebody waits for are left alone.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::lab::wait::pause_for;

/// Between two looks; an orphan stays a zombie for one to two of them, which disturbs nobody.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The pids that a thread of the supervisor waits for itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Children {
    awaited: Arc<Mutex<HashSet<u32>>>,
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, pid: u32) {
        self.lock().insert(pid);
    }

    pub(super) fn remove(&self, pid: u32) {
        self.lock().remove(&pid);
    }

    /// Starts the thread that collects orphans. A zombie is an orphan when two looks in a row found it and nobody has
    /// claimed it: short-lived children of ours are waited for within milliseconds.
    pub(super) fn reap_orphans(&self) {
        let children = self.clone();
        std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            loop {
                pause_for(LOOK_EVERY);
                let now: BTreeSet<u32> = zombies();
                for pid in now.intersection(&seen).filter(|pid| !children.lock().contains(pid)) {
                    if let Ok(pid) = i32::try_from(*pid) {
                        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
                    }
                }
                seen = now;
            }
        });
    }
}

/// Our children that are dead and not collected.
fn zombies() -> BTreeSet<u32> {
    let own = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // After the command name, which may contain anything: state, parent.
            let after = stat.rsplit(')').next().unwrap_or_default();
            let mut fields = after.split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(own.as_str())
        })
        .collect()
}
