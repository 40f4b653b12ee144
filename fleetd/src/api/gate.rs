//! What strangers cost: how many connections may be opening, which one makes room, and how often a refusal is told.
//!
//! Used by the listeners that strangers can reach: those of the API with TLS, and the one for other machines. Everything
//! here is decided without the registry. Newcomers never wait: with all room taken, whoever takes most of it gives some
//! back. It never lets anybody in: that is the word of a certificate, or of the registry.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two log lines about refusals.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How many connections may be opening.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// That have not said yet who they are.
    pub silent: usize,
    /// That have, and wait for the registry's word, or for a connection to become free.
    pub asking: usize,
}

impl Default for Room {
    /// For callers that ask more than come while a look is waited for: a processor does not do that many handshakes.
    fn default() -> Room {
        Room { silent: 128, asking: 512 }
    }
}

/// Clones share one state.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    room: Room,
    /// In the order in which they came.
    openings: Vec<Entry>,
    next: u64,
    told: Option<Instant>,
    untold: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    network: IpAddr,
    is_asking: bool,
    closed: CancellationToken,
}

/// A connection that is being opened, until this is dropped.
#[derive(Debug)]
pub(crate) struct Opening {
    gate: Gate,
    id: u64,
    closed: CancellationToken,
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.gate.state().openings.retain(|entry| entry.id != self.id);
    }
}

impl Opening {
    /// The caller has said who it is.
    pub fn asks(&self) {
        let mut state = self.gate.state();
        if let Some(entry) = state.openings.iter_mut().find(|entry| entry.id == self.id) {
            entry.is_asking = true;
            let room = state.room.asking;
            state.make_room(true, room);
        }
    }

    /// It made room for another. Cancel safe.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl Gate {
    pub fn new(room: Room) -> Gate {
        Gate(Arc::new(Mutex::new(State { room, openings: Vec::new(), next: 0, told: None, untold: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the gate")
    }

    /// Counts the connection, and has another one closed if that makes too many.
    pub fn enter(&self, from: IpAddr) -> Opening {
        let mut state = self.state();
        let (id, closed, room) = (state.next, CancellationToken::new(), state.room.silent);
        state.next += 1;
        // Before it is counted: a newcomer could not have said anything yet.
        state.make_room(false, room.saturating_sub(1));
        let network = network(from);
        state.openings.push(Entry { id, network, is_asking: false, closed: closed.clone() });
        Opening { gate: self.clone(), id, closed }
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

impl State {
    /// Closes one of those that ask, or of the silent ones, if there are more than this: one of the network that has
    /// most. Of the silent ones the longest-silent, for a machine says soon who it is. Of those that ask the last, for
    /// they wait for this machine, and the first is about to be answered.
    fn make_room(&mut self, asking: bool, room: usize) {
        let alike = || self.openings.iter().enumerate().filter(|(_, entry)| entry.is_asking == asking);
        if alike().count() <= room {
            return;
        }
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (_, entry) in alike() {
            *counts.entry(entry.network).or_default() += 1;
        }
        let most = counts.values().copied().max();
        let mut those = alike().filter(|(_, entry)| counts.get(&entry.network).copied() == most);
        let found = if asking { those.next_back() } else { those.next() };
        if let Some((at, _)) = found {
            self.openings.remove(at).closed.cancel();
        }
    }
}

/// Whose address it is, as far as that can be told: of IPv6, one machine has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { silent: 4, asking: 4 };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_closed(opening: &Opening) -> bool {
        opening.closed.is_cancelled()
    }

    #[test]
    fn with_all_room_taken_the_longest_silent_connection_makes_room() {
        let gate = Gate::new(ROOM);
        let held: Vec<Opening> = (1..=4_u8).map(|last| gate.enter([10, 0, 0, last].into())).collect();
        assert!(!held.iter().any(is_closed));
        // It is silent no longer, and waits for this machine.
        held[0].asks();
        let fifth = gate.enter(address("10.0.0.5"));
        assert!(!held.iter().any(is_closed));
        let sixth = gate.enter(address("10.0.0.6"));
        assert_eq!(held.iter().map(is_closed).collect::<Vec<_>>(), [false, true, false, false]);
        assert!(!is_closed(&fifth) && !is_closed(&sixth));
        drop((held, fifth, sixth));
        assert!(gate.state().openings.is_empty());
    }

    #[test]
    fn whoever_opens_most_makes_room_for_others() {
        let gate = Gate::new(ROOM);
        let other = gate.enter(address("10.0.0.1"));
        let flood: Vec<Opening> = (0..100).map(|_| gate.enter(address("10.0.0.2"))).collect();
        assert!(!is_closed(&other));
        assert_eq!(flood.iter().filter(|opening| !is_closed(opening)).count(), 3);
        let another = gate.enter(address("10.0.0.3"));
        assert!(!is_closed(&other) && !is_closed(&another));
        assert_eq!(flood.iter().filter(|opening| !is_closed(opening)).count(), 2);
    }

    #[test]
    fn whoever_asks_most_waits_in_vain_and_who_waits_longest_does_not() {
        let gate = Gate::new(ROOM);
        let asks = |from: &str| {
            let opening = gate.enter(address(from));
            opening.asks();
            opening
        };
        let flood: Vec<Opening> = (0..10).map(|_| asks("10.0.0.2")).collect();
        assert!(flood[..4].iter().all(|opening| !is_closed(opening)) && flood[4..].iter().all(is_closed));
        let other = asks("10.0.0.1");
        assert!(!is_closed(&other) && is_closed(&flood[3]) && !is_closed(&flood[2]));
    }

    #[test]
    fn addresses_that_one_machine_can_have_are_one() {
        for (one, other, is_same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:1:2:3", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(network(address(one)) == network(address(other)), is_same, "{one} {other}");
        }
    }

    #[test]
    fn refusals_are_told_once_a_minute_with_their_number() {
        let gate = Gate::new(Room::default());
        let start = Instant::now();
        assert_eq!(gate.refused(start), Some(0));
        assert!((1..60).all(|second| gate.refused(start + Duration::from_secs(second)).is_none()));
        assert_eq!(gate.refused(start + Duration::from_secs(60)), Some(59));
        assert_eq!(gate.refused(start + Duration::from_secs(120)), Some(0));
    }
}
