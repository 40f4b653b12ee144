//! What systemd is told of fleetd: `READY=1`, `STATUS=`, and the watchdog, `sd_notify(3)`.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "systemd is not told");
    }
}

/// Says that the API answers and systemd is subscribed; whether the registry answers does not matter.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that the configuration is read again; [`ready`] ends that. Newer systemds match the two by the time.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "systemd is not told of the reload"),
    }
}

/// Leaves the reason in `systemctl status` for as long as the service is down.
pub fn cannot_start(why: &str) {
    tell(&[NotifyState::Status(why.lines().next().unwrap_or_default())]);
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Keeps the status line current and feeds the watchdog at half its time. The feed runs on the runtime that serves
/// everything, so that a runtime that hangs is noticed.
pub async fn run(mut status: watch::Receiver<String>, shutdown: CancellationToken) {
    let watchdog = sd_notify::watchdog_enabled().map(|every| every / 2);
    // Without a watchdog the tick does nothing, once an hour.
    let mut tick = interval(watchdog.unwrap_or(Duration::from_secs(3600)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
                let line = status.borrow_and_update().clone();
                tell(&[NotifyState::Status(&line)]);
            }
            _ = tick.tick() => {
                if watchdog.is_some() {
                    tell(&[NotifyState::Watchdog]);
                }
            }
        }
    }
}
