//! Pins of many passes, one call at a time. A call to systemd about pins costs it a look through its unit directories,
//! so that passes which wait for their turn share the next call, as commits of a log share one sync.
//!
//! Called by the executor.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use fleet_systemd::{Systemd, SystemdError};
use tokio::sync::{Mutex as Turn, oneshot};
use unit_files::UnitName;

type Answers = BTreeMap<UnitName, Result<(), SystemdError>>;

#[derive(Debug, Default)]
pub(super) struct Pins {
    turn: Turn<()>,
    waiting: Mutex<Vec<Waiting>>,
}

/// What a pass wants pinned.
#[derive(Debug)]
struct Waiting {
    units: Vec<UnitName>,
    answer: oneshot::Sender<Answers>,
}

impl Pins {
    /// Pins the units, together with those of others that wait: all at once, and one by one if one of the names may be
    /// why that failed. One answer for each unit. Idempotent.
    pub(super) async fn pin(&self, systemd: &dyn Systemd, units: &[UnitName]) -> Answers {
        if units.is_empty() {
            return Answers::new();
        }
        loop {
            let (answer, answered) = oneshot::channel();
            self.wait(Waiting { units: units.to_vec(), answer });
            {
                let _turn = self.turn.lock().await;
                // Empty if the one before took these as well.
                let batch = self.waiting();
                share(systemd, batch).await;
            }
            // No answer: whoever had taken them was cancelled.
            if let Ok(answers) = answered.await {
                return answers;
            }
        }
    }

    fn wait(&self, waiting: Waiting) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(waiting);
    }

    fn waiting(&self) -> Vec<Waiting> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets go of the units in one call, while nothing is pinned.
    ///
    /// # Errors
    /// Those of [`Systemd::unpin`].
    pub(super) async fn unpin(&self, systemd: &dyn Systemd, units: &[UnitName]) -> Result<(), SystemdError> {
        let _turn = self.turn.lock().await;
        systemd.unpin(units).await
    }
}

async fn share(systemd: &dyn Systemd, mut batch: Vec<Waiting>) {
    batch.retain(|waiting| !waiting.answer.is_closed());
    let mut all: Vec<UnitName> = batch.iter().flat_map(|waiting| waiting.units.iter().cloned()).collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        return;
    }
    let together = systemd.pin(&all).await;
    let mut answers = Answers::new();
    for unit in all.iter().cloned() {
        let answer = match &together {
            Err(error) if all.len() > 1 && !error.is_transient() => {
                systemd.pin(std::slice::from_ref(&unit)).await
            }
            answer => answer.clone(),
        };
        answers.insert(unit, answer);
    }
    for Waiting { units, answer } in batch {
        let of = |unit: &UnitName| Some((unit.clone(), answers.get(unit)?.clone()));
        // A pass that was cancelled does not wait any more.
        drop(answer.send(units.iter().filter_map(of).collect()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fleet_systemd::Systemd as _;
    use fleet_systemd::fake::{Call, FakeSystemd};

    use super::*;

    fn name(number: usize) -> UnitName {
        UnitName::parse(&format!("u{number}.service")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn passes_that_wait_share_one_call_and_all_are_answered() {
        let fake = FakeSystemd::new("m1");
        fake.delay(Call::Pin, Duration::from_millis(100));
        let pins = Pins::default();
        let waiting = (0..20).map(|number| {
            let (fake, pins) = (&fake, &pins);
            async move { pins.pin(fake, &[name(number), name(99)]).await }
        });
        let answers = futures_util::future::join_all(waiting).await;
        for (number, answers) in answers.into_iter().enumerate() {
            assert_eq!(answers.keys().cloned().collect::<Vec<_>>(), [name(number), name(99)]);
            assert!(answers.values().all(Result::is_ok));
        }
        assert_eq!(fake.counters().calls[&Call::Pin], 2);
        assert_eq!(fake.pinned().await.unwrap().len(), 21);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_that_is_cancelled_in_its_turn_leaves_nobody_waiting() {
        let fake = FakeSystemd::new("m1");
        fake.delay(Call::Pin, Duration::from_millis(100));
        let pins = Pins::default();
        let (one, two, three) = ([name(1)], [name(2)], [name(3)]);
        let first = pins.pin(&fake, &one);
        let mut second = Box::pin(pins.pin(&fake, &two));
        let third = pins.pin(&fake, &three);
        let cancelled = async {
            // Its turn comes after 100 ms; then it pins for the third as well, and is cut off.
            let limit = Duration::from_millis(150);
            assert!(tokio::time::timeout(limit, &mut second).await.is_err());
            drop(second);
        };
        let (first, (), third) = tokio::join!(first, cancelled, third);
        assert!(first[&name(1)].is_ok() && third[&name(3)].is_ok());
    }
}
