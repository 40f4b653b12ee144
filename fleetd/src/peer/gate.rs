//! What strangers cost: how many connections one address may be opening, how often the registry is asked about callers
//! that it has not named yet, and how often a refusal is told.
//!
//! Used by [`listener`](super::listener). Anybody in the network can connect and show a certificate of their own making,
//! so everything here is decided without the registry. It never lets anybody in: that is the registry's word.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fleet_core::MachineId;
use tokio::time::Instant;

/// Half of the connections that may be opening at once, so that one address does not shut out the others.
const OPENING_OF_ONE: usize = super::listener::OPENING_CONNECTIONS / 2;
/// Between two log lines about refusals.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How often the registry is asked about callers that it has not named before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looks {
    pub at_once: u32,
    /// After so long another one.
    pub every: Duration,
}

impl Default for Looks {
    /// More than the machines of a cluster that ask for the first time at the same moment, and little for an etcd.
    fn default() -> Looks {
        Looks { at_once: 64, every: Duration::from_millis(100) }
    }
}

/// Clones share one state.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Connections being opened.
    opening: HashMap<IpAddr, usize>,
    /// Whom the registry named, with the fingerprint. Never more than the cluster has had machines.
    known: HashMap<MachineId, String>,
    looks: Looks,
    left: u32,
    /// Up to when the looks that come with time were counted.
    counted: Instant,
    told: Option<Instant>,
    untold: u64,
}

/// A connection that is being opened, until this is dropped.
#[derive(Debug)]
pub(super) struct Opening {
    gate: Gate,
    from: IpAddr,
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if let Some(count) = state.opening.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                state.opening.remove(&self.from);
            }
        }
    }
}

impl Gate {
    pub fn new(looks: Looks) -> Gate {
        let (left, counted) = (looks.at_once, Instant::now());
        let (opening, known) = (HashMap::new(), HashMap::new());
        Gate(Arc::new(Mutex::new(State { opening, known, looks, left, counted, told: None, untold: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the gate")
    }

    /// `None`: this address is opening as many connections as one may.
    pub fn enter(&self, from: IpAddr) -> Option<Opening> {
        let mut state = self.state();
        let count = state.opening.entry(from).or_default();
        if *count >= OPENING_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Opening { gate: self.clone(), from })
    }

    /// Whether the registry may be asked about this caller, who has proven to have the certificate's key. Counts.
    pub fn may_look(&self, machine: &MachineId, fingerprint: &str, now: Instant) -> bool {
        let mut state = self.state();
        if state.known.get(machine).is_some_and(|known| known == fingerprint) {
            return true;
        }
        let Looks { at_once, every } = state.looks;
        let come = now.saturating_duration_since(state.counted).as_nanos() / every.as_nanos().max(1);
        match u32::try_from(come) {
            Ok(come) if come < at_once => {
                state.left = at_once.min(state.left + come);
                state.counted += every * come;
            }
            _ => (state.left, state.counted) = (at_once, now),
        }
        let is_left = state.left > 0;
        state.left = state.left.saturating_sub(1);
        is_left
    }

    /// What the registry said of a caller.
    pub fn looked(&self, machine: &MachineId, fingerprint: &str, is_named: bool) {
        let mut state = self.state();
        if is_named {
            state.known.insert(machine.clone(), fingerprint.to_owned());
        } else if state.known.get(machine).is_some_and(|known| known == fingerprint) {
            state.known.remove(machine);
        }
    }

    /// Counts a refusal. `Some`: tell it, and that so many before it were not told.
    pub fn refused(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        if state.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            state.untold += 1;
            return None;
        }
        state.told = Some(now);
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str) -> MachineId {
        MachineId::parse(id).unwrap()
    }

    #[test]
    fn strangers_are_looked_up_at_a_bounded_rate_and_known_machines_always() {
        let gate = Gate::new(Looks { at_once: 2, every: Duration::from_secs(1) });
        let start = Instant::now();
        assert!(gate.may_look(&machine("m1"), "f1", start));
        gate.looked(&machine("m1"), "f1", true);
        assert!(gate.may_look(&machine("x1"), "f9", start));
        assert!(!gate.may_look(&machine("x2"), "f9", start));
        // Only with the certificate that the registry named.
        assert!(!gate.may_look(&machine("m1"), "f9", start));
        for _ in 0..10 {
            assert!(gate.may_look(&machine("m1"), "f1", start));
        }
        let later = start + Duration::from_secs(100);
        assert!(gate.may_look(&machine("x3"), "f9", later) && gate.may_look(&machine("x3"), "f9", later));
        assert!(!gate.may_look(&machine("x3"), "f9", later));
        gate.looked(&machine("m1"), "f9", false);
        assert!(gate.may_look(&machine("m1"), "f1", later), "another's refusal is none of its business");
        gate.looked(&machine("m1"), "f1", false);
        assert!(!gate.may_look(&machine("m1"), "f1", later));
    }

    #[test]
    fn looks_come_back_with_time_however_often_strangers_ask() {
        let gate = Gate::new(Looks { at_once: 2, every: Duration::from_secs(1) });
        let start = Instant::now();
        let asked = (0..100)
            .filter(|step| gate.may_look(&machine("x"), "f", start + Duration::from_millis(300) * *step));
        // Two at once, and one more each second.
        assert_eq!(asked.count(), 2 + 29);
    }

    #[test]
    fn one_address_cannot_open_all_connections() {
        let gate = Gate::new(Looks::default());
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut held: Vec<Opening> = (0..OPENING_OF_ONE).map(|_| gate.enter(one).unwrap()).collect();
        assert!(gate.enter(one).is_none() && gate.enter(other).is_some());
        held.pop();
        assert!(gate.enter(one).is_some());
        held.clear();
        assert!(gate.state().opening.is_empty());
    }

    #[test]
    fn refusals_are_told_once_a_minute_with_their_number() {
        let gate = Gate::new(Looks::default());
        let start = Instant::now();
        assert_eq!(gate.refused(start), Some(0));
        assert!((1..60).all(|second| gate.refused(start + Duration::from_secs(second)).is_none()));
        assert_eq!(gate.refused(start + Duration::from_secs(60)), Some(59));
        assert_eq!(gate.refused(start + Duration::from_secs(120)), Some(0));
    }
}
