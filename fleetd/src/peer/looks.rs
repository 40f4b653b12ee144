//! Who calls, by the registry's word, and how often it is asked about callers that it has not named before.
//!
//! Used by [`listener`](super::listener). Anybody in the network can make certificates and call, so that each stranger
//! costs a look into the registry. Some get a look of their own, and with those used up all that wait share one: then
//! strangers cost no more, and whom the registry names is answered, a little later. Nobody is refused here for the want
//! of looks, and nobody is let in but on the registry's word.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fleet_core::MachineId;
use fleet_registry::keys::Area;
use fleet_registry::{Registry, RegistryError};
use tokio::time::Instant;

use super::{certificate, published};

/// How often the registry is asked about callers that it has not named before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub at_once: u32,
    /// After so long another look, of one or of all that wait.
    pub every: Duration,
}

impl Default for Rate {
    /// More than the machines of a cluster that ask for the first time at the same moment, and little for an etcd.
    fn default() -> Rate {
        Rate { at_once: 64, every: Duration::from_millis(100) }
    }
}

/// What the registry says of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Named,
    Refused(String),
    /// It does not answer.
    Unknown(String),
}

/// Clones share one state.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    pub(super) registry: Registry,
    state: Arc<Mutex<State>>,
    /// Held by whoever looks for all. Fair, so that it goes on to who has waited longest.
    shared: Arc<tokio::sync::Mutex<Option<Shared>>>,
}

#[derive(Debug)]
struct State {
    /// Whom the registry named, with the fingerprint. Never more than the cluster has had machines.
    known: HashMap<MachineId, String>,
    rate: Rate,
    left: u32,
    /// Up to when the looks that come with time were counted.
    counted: Instant,
    /// For a shared look. While there are any, looks are theirs.
    waiting: usize,
}

/// The last look for all: the fingerprints that machines published, or why there was no answer.
#[derive(Debug)]
struct Shared {
    /// When it began.
    asked: Instant,
    answer: Result<HashMap<MachineId, String>, String>,
}

/// One that waits for a shared look, until this is dropped.
struct Waiting<'a>(&'a Looks);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

impl Looks {
    pub fn new(registry: Registry, rate: Rate) -> Looks {
        let (left, counted) = (rate.at_once, Instant::now());
        let state = State { known: HashMap::new(), rate, left, counted, waiting: 0 };
        Looks { registry, state: Arc::new(Mutex::new(state)), shared: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the looks")
    }

    /// Of a caller that has proven to have the certificate's key. The look began after this was called. Cancel safe.
    pub async fn first(&self, machine: &MachineId, fingerprint: &str) -> Word {
        let is_alone = self.state().takes_a_look(machine, fingerprint, Instant::now());
        if is_alone {
            return self.again(machine, fingerprint).await;
        }
        let found = self.together(machine).await;
        self.word(machine, fingerprint, found)
    }

    /// Of one that was named, whenever and however often. Cancel safe.
    pub async fn again(&self, machine: &MachineId, fingerprint: &str) -> Word {
        let found = published(&self.registry, machine).await;
        let found = found.map(|found| found.map(|found| found.fingerprint));
        self.word(machine, fingerprint, found.map_err(|error| error.to_string()))
    }

    /// The fingerprint that the machine published, from a look for all that wait.
    async fn together(&self, machine: &MachineId) -> Result<Option<String>, String> {
        let came = Instant::now();
        self.state().waiting += 1;
        let _waiting = Waiting(self);
        let mut shared = self.shared.lock().await;
        // An older look may not have seen what this caller published before it called.
        let answer = match shared.take().filter(|shared| shared.asked > came) {
            Some(fresh) => shared.insert(fresh),
            None => {
                self.turn().await;
                let asked = Instant::now();
                let answer = certificates(&self.registry).await.map_err(|error| error.to_string());
                shared.insert(Shared { asked, answer })
            }
        };
        answer.answer.as_ref().map(|found| found.get(machine).cloned()).map_err(Clone::clone)
    }

    /// Takes a look as soon as there is one.
    async fn turn(&self) {
        loop {
            let taken = self.state().take(Instant::now());
            let Err(at) = taken else { return };
            tokio::time::sleep_until(at).await;
        }
    }

    fn word(&self, machine: &MachineId, shown: &str, found: Result<Option<String>, String>) -> Word {
        let word = match found {
            Err(error) => return Word::Unknown(error),
            Ok(None) => Word::Refused(format!("machine {machine} is not present in the registry")),
            Ok(Some(known)) if known != shown => {
                Word::Refused(format!("the certificate is not the one that machine {machine} published"))
            }
            Ok(Some(_)) => Word::Named,
        };
        self.state().heard(machine, shown, word == Word::Named);
        word
    }
}

impl State {
    /// Whether the registry is asked about this caller alone. Counts.
    fn takes_a_look(&mut self, machine: &MachineId, fingerprint: &str, now: Instant) -> bool {
        self.known.get(machine).is_some_and(|known| known == fingerprint)
            || (self.waiting == 0 && self.take(now).is_ok())
    }

    /// `Err`: none is left, and when the next one comes.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let Rate { at_once, every } = self.rate;
        let come = now.saturating_duration_since(self.counted).as_nanos() / every.as_nanos().max(1);
        match u32::try_from(come) {
            Ok(come) if come < at_once => {
                self.left = at_once.min(self.left + come);
                self.counted += every * come;
            }
            _ => (self.left, self.counted) = (at_once, now),
        }
        self.left = self.left.checked_sub(1).ok_or(self.counted + every)?;
        Ok(())
    }

    /// What the registry said of a caller.
    fn heard(&mut self, machine: &MachineId, fingerprint: &str, is_named: bool) {
        if is_named {
            self.known.insert(machine.clone(), fingerprint.to_owned());
        } else if self.known.get(machine).is_some_and(|known| known == fingerprint) {
            self.known.remove(machine);
        }
    }
}

/// Of all machines that are present and published one.
async fn certificates(registry: &Registry) -> Result<HashMap<MachineId, String>, RegistryError> {
    let snapshot = registry.read(&[Area::Presence]).await?;
    let present = snapshot.presence.into_iter();
    Ok(present.filter_map(|(id, presence)| Some((id, certificate(&presence.value)?.to_owned()))).collect())
}

#[cfg(test)]
mod tests {
    use fleet_registry::keys::{DEFAULT_PREFIX, Key, Keys};
    use fleet_registry::memory::{Fault, Injection, Link, MemoryStore};
    use fleet_registry::store::{Op, Operation, Store, Txn};
    use futures_util::future::join_all;

    use super::*;

    fn machine(id: &str) -> MachineId {
        MachineId::parse(id).unwrap()
    }

    /// Where `m1` shows `f1`.
    async fn looks(rate: Rate) -> (MemoryStore, Looks) {
        let store = MemoryStore::new(7);
        let registry = Registry::new(Arc::new(store.clone()), Keys::new(DEFAULT_PREFIX).unwrap(), 1);
        let looks = Looks::new(registry, rate);
        publish(&looks, "m1", "f1").await;
        (store, looks)
    }

    async fn publish(looks: &Looks, id: &str, fingerprint: &str) {
        let presence = serde_json::json!({
            "machine": id, "boot": "b", "nonce": "n", "agent_ttl": 15_000, "since": 1,
            "peer_address": "127.0.0.1:1", "fingerprint": fingerprint});
        let key = looks.registry.keys().key(&Key::Presence(machine(id)));
        looks.registry.store().txn(Txn::of(vec![Op::put(key, presence.to_string())])).await.unwrap();
    }

    fn asked(store: &MemoryStore) -> u64 {
        store.calls(Operation::Range) + store.calls(Operation::Txn)
    }

    const RATE: Rate = Rate { at_once: 2, every: Duration::from_millis(100) };

    fn use_up(looks: &Looks) {
        while looks.state().take(Instant::now()).is_ok() {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_strangers_costs_ten_looks_a_second_and_refuses_nobody_who_is_named() {
        let (store, looks) = looks(RATE).await;
        let (before, start) = (asked(&store), Instant::now());
        let flood = (0..1000_u32).map(|number| {
            let looks = looks.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(10) * number).await;
                let word = looks.first(&machine("m1"), "f9").await;
                assert!(matches!(word, Word::Refused(_)), "{word:?}");
            }
        });
        let named = (0..100_u32).map(|number| {
            let looks = looks.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(97) * number).await;
                // As after each restart.
                looks.state().known.clear();
                let began = Instant::now();
                assert_eq!(looks.first(&machine("m1"), "f1").await, Word::Named);
                assert!(began.elapsed() <= Duration::from_millis(210), "{:?}", began.elapsed());
            }
        });
        tokio::join!(join_all(flood), join_all(named));
        let (cost, took) = (asked(&store) - before, start.elapsed());
        assert!(took < Duration::from_millis(10_300), "{took:?}");
        assert!(cost <= 2 + 103, "{cost} looks in {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_is_never_answered_from_a_look_that_began_before_it_came() {
        let (_, looks) = looks(RATE).await;
        use_up(&looks);
        let early = looks.first(&machine("m2"), "f2").await;
        assert!(matches!(early, Word::Refused(_)), "{early:?}");
        // In the very instant of that look, but after it.
        publish(&looks, "m2", "f2").await;
        assert_eq!(looks.first(&machine("m2"), "f2").await, Word::Named);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_gives_up_leaves_the_look_to_the_next() {
        let (store, looks) = looks(RATE).await;
        use_up(&looks);
        store.inject(Injection::next(Fault::Delay(Duration::from_secs(60))));
        let gives_up =
            tokio::time::timeout(Duration::from_secs(1), async { looks.first(&machine("m1"), "f1").await });
        let (given_up, next) = tokio::join!(gives_up, async { looks.first(&machine("m1"), "f1").await });
        assert!(given_up.is_err());
        assert_eq!(next, Word::Named);
        assert_eq!(looks.state().waiting, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_wait_hear_that_the_registry_does_not_answer() {
        let (store, looks) = looks(RATE).await;
        use_up(&looks);
        store.set_all_links(Link::Refused);
        let words = join_all((0..10).map(|_| async { looks.first(&machine("m1"), "f1").await })).await;
        assert!(words.iter().all(|word| matches!(word, Word::Unknown(_))), "{words:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_have_a_bounded_number_of_own_looks_and_known_machines_any() {
        let (_, looks) = looks(Rate { at_once: 2, every: Duration::from_secs(1) }).await;
        let (mut state, start) = (looks.state(), Instant::now());
        assert!(state.takes_a_look(&machine("m1"), "f1", start));
        state.heard(&machine("m1"), "f1", true);
        assert!(state.takes_a_look(&machine("x1"), "f9", start));
        assert!(!state.takes_a_look(&machine("x2"), "f9", start));
        // Only with the certificate that the registry named.
        assert!(!state.takes_a_look(&machine("m1"), "f9", start));
        assert!((0..10).all(|_| state.takes_a_look(&machine("m1"), "f1", start)));
        let later = start + Duration::from_secs(100);
        assert!((0..2).all(|_| state.takes_a_look(&machine("x3"), "f9", later)));
        assert!(!state.takes_a_look(&machine("x3"), "f9", later));
        state.heard(&machine("m1"), "f9", false);
        assert!(state.takes_a_look(&machine("m1"), "f1", later), "another's refusal is none of its business");
        state.heard(&machine("m1"), "f1", false);
        assert!(!state.takes_a_look(&machine("m1"), "f1", later));
        // Looks are for those that wait.
        state.waiting = 1;
        assert!(!state.takes_a_look(&machine("x3"), "f9", later + Duration::from_secs(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn looks_come_back_with_time_however_often_strangers_ask() {
        let (_, looks) = looks(Rate { at_once: 2, every: Duration::from_secs(1) }).await;
        let (mut state, start) = (looks.state(), Instant::now());
        let steps = (0..100_u32).map(|step| start + Duration::from_millis(300) * step);
        let taken = steps.filter(|now| state.takes_a_look(&machine("x"), "f", *now));
        // Two at once, and one more each second.
        assert_eq!(taken.count(), 2 + 29);
    }
}
