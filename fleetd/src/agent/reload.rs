//! Reloads of systemd: merged, kept apart, and asked for only where nothing else makes systemd read what changed.
//!
//! Used by `execute`. A reload costs 0.1 to 3 s of PID 1, so whoever asks while one is waited for shares it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use fleet_systemd::{LoadState, Systemd, SystemdError};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant, sleep};
use tracing::{debug, warn};
use unit_files::UnitName;

use super::execute::describe;

/// Reloads that may follow each other at once; then one a second.
const BURST: f64 = 5.0;

#[derive(Debug)]
pub(super) struct Reloads {
    /// How often a reload was asked for.
    wishes: AtomicU64,
    turn: Mutex<Turn>,
}

#[derive(Debug)]
struct Turn {
    /// The last wish that was made before a reload that succeeded.
    served: u64,
    tokens: f64,
    filled: Instant,
    /// Links that stayed unread in spite of a reload; none is spent on them again.
    hopeless: BTreeSet<String>,
}

impl Reloads {
    pub(super) fn new() -> Reloads {
        let turn = Turn { served: 0, tokens: BURST, filled: Instant::now(), hopeless: BTreeSet::new() };
        Reloads { wishes: AtomicU64::new(0), turn: Mutex::new(turn) }
    }

    /// Has systemd read everything that was written before this call, by a reload that may serve others too.
    pub(super) async fn reload(&self, systemd: &dyn Systemd) -> Result<(), SystemdError> {
        let wish = self.wishes.fetch_add(1, Ordering::SeqCst) + 1;
        let mut turn = self.turn.lock().await;
        if turn.served >= wish {
            return Ok(());
        }
        turn.take().await;
        let served = self.wishes.load(Ordering::SeqCst);
        systemd.reload().await?;
        turn.served = served;
        Ok(())
    }

    /// Reloads if a loaded target has not read links of ours, or if systemd still has one of `removed`, whose text is
    /// gone. Nobody waits for it; what fails here is tried again at the next audit.
    pub(super) async fn settle(&self, systemd: &dyn Systemd, removed: &[UnitName]) {
        let done = async {
            let unread: BTreeSet<String> = systemd.unread_links().await?.into_iter().collect();
            let is_known = unread.is_subset(&self.turn.lock().await.hopeless);
            let left = if removed.is_empty() { Vec::new() } else { systemd.list(removed).await? };
            let left =
                left.iter().filter(|unit| unit.active.is_at_rest() && unit.load != LoadState::NotFound);
            let left = left.count();
            if is_known && left == 0 {
                return Ok(());
            }
            debug!(?unread, left, "reload");
            self.reload(systemd).await?;
            let unread = systemd.unread_links().await?;
            self.turn.lock().await.hopeless = unread.into_iter().collect();
            Ok::<_, SystemdError>(())
        };
        if let Err(error) = done.await {
            warn!(error = %describe(&error), "systemd has not read all [Install] links, trying again at the next audit");
        }
    }
}

impl Turn {
    async fn take(&mut self) {
        self.fill();
        if self.tokens < 1.0 {
            sleep(Duration::from_secs_f64(1.0 - self.tokens)).await;
            self.fill();
        }
        self.tokens -= 1.0;
    }

    fn fill(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + now.duration_since(self.filled).as_secs_f64()).min(BURST);
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_systemd::fake::FakeSystemd;
    use futures_util::future::join_all;

    #[tokio::test(start_paused = true)]
    async fn five_reloads_at_once_then_one_a_second_shared_by_all_who_wait() {
        let (fake, reloads) = (FakeSystemd::new("m1"), Reloads::new());
        let began = Instant::now();
        for _ in 0..5 {
            reloads.reload(&fake).await.unwrap();
        }
        assert_eq!((fake.counters().reloads, began.elapsed()), (5, Duration::ZERO));
        for answer in join_all((0..100).map(|_| reloads.reload(&fake))).await {
            answer.unwrap();
        }
        assert_eq!(fake.counters().reloads, 6);
        assert!(began.elapsed() >= Duration::from_millis(999), "{:?}", began.elapsed());
        reloads.reload(&fake).await.unwrap();
        assert_eq!(fake.counters().reloads, 7);
    }
}
