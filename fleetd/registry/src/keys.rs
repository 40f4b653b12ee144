//! The names of all keys: built and parsed here and nowhere else.
//!
//! Used by the typed [`registry`](crate::registry) alone. Ids and unit names hold only characters that need no
//! escape in a key (neither has a `/`), so that a key reads as the layout of the registry is written.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use fleet_core::{MachineId, Timestamp};
use unit_files::{ContentHash, UnitName};

use crate::store::KeyRange;

/// Where the registry lives unless configured otherwise.
pub const DEFAULT_PREFIX: &str = "/fleet/";

/// A prefix under which no registry can live.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "key prefix {prefix:?} cannot be used: expected a path of printable characters without spaces, such as \"/fleet/\""
)]
pub struct PrefixError {
    prefix: String,
}

/// Name of an event: when, and something that makes it unique. Sorts by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    pub at: Timestamp,
    /// Characters of an id (`0-9A-Za-z-_`).
    pub id: String,
}

impl EventId {
    /// An id for an event at `at`; `random` makes it unique among the events of one millisecond.
    #[must_use]
    pub fn new(at: Timestamp, random: u64) -> EventId {
        EventId { at, id: format!("{random:016x}") }
    }

    /// # Errors
    /// The text itself, if [`fmt::Display`] would not have printed it.
    pub fn parse(text: &str) -> Result<EventId, String> {
        let parsed = text.split_once('-').and_then(|(ms, id)| {
            let is_stamp = ms.len() == 13 && ms.bytes().all(|b| b.is_ascii_digit());
            let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            let at = Timestamp(ms.parse().ok()?);
            (is_stamp && is_id).then(|| EventId { at, id: id.to_owned() })
        });
        parsed.ok_or_else(|| text.to_owned())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}-{}", self.at.0, self.id)
    }
}

/// One key of the registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Cluster,
    Hold,
    Import,
    Brake,
    Leader,
    Unit(UnitName),
    Content(ContentHash),
    Machine(MachineId),
    Presence(MachineId),
    Lost(MachineId),
    Witness(MachineId),
    Placement(UnitName),
    Order(MachineId, UnitName),
    State(MachineId, UnitName),
    Event(EventId),
}

impl fmt::Display for Key {
    /// The key without the prefix: what messages show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Cluster => f.write_str("cluster"),
            Key::Hold => f.write_str("hold"),
            Key::Import => f.write_str("import"),
            Key::Brake => f.write_str("brake"),
            Key::Leader => f.write_str("engine/leader"),
            Key::Unit(unit) => write!(f, "units/{unit}"),
            Key::Content(hash) => write!(f, "contents/{hash}"),
            Key::Machine(id) => write!(f, "machines/{id}"),
            Key::Presence(id) => write!(f, "presence/{id}"),
            Key::Lost(id) => write!(f, "lost/{id}"),
            Key::Witness(id) => write!(f, "witness/{id}"),
            Key::Placement(unit) => write!(f, "placements/{unit}"),
            Key::Order(id, unit) => write!(f, "assignments/{id}/{unit}"),
            Key::State(id, unit) => write!(f, "states/{id}/{unit}"),
            Key::Event(event) => write!(f, "events/{event}"),
        }
    }
}

/// A part of the registry that is read or watched as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    One(Key),
    Units,
    Contents,
    Machines,
    Presence,
    Lost,
    Placements,
    Orders,
    OrdersOf(MachineId),
    States,
    StatesOf(MachineId),
    Events,
}

impl Area {
    /// All that decisions and lists are made from: everything but contents, events and witnesses.
    #[must_use]
    pub fn all() -> Vec<Area> {
        vec![
            Area::One(Key::Cluster),
            Area::One(Key::Hold),
            Area::One(Key::Brake),
            Area::One(Key::Leader),
            Area::Units,
            Area::Machines,
            Area::Presence,
            Area::Lost,
            Area::Placements,
            Area::Orders,
            Area::States,
        ]
    }
}

/// Builds and parses keys under one prefix. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    /// A missing `/` at either end of the prefix is added.
    ///
    /// # Errors
    /// A prefix with spaces or control characters, or one that is empty.
    pub fn new(prefix: &str) -> Result<Keys, PrefixError> {
        let inner = prefix.trim_matches('/');
        if inner.is_empty() || !inner.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(PrefixError { prefix: prefix.to_owned() });
        }
        Ok(Keys { prefix: format!("/{inner}/").into() })
    }

    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Every key of the registry, known to this release or not.
    #[must_use]
    pub fn whole(&self) -> KeyRange {
        KeyRange::prefix(self.prefix.to_string())
    }

    #[must_use]
    pub fn key(&self, key: &Key) -> Bytes {
        format!("{}{key}", self.prefix).into()
    }

    #[must_use]
    pub fn area(&self, area: &Area) -> KeyRange {
        let below = |name: &str| KeyRange::prefix(format!("{}{name}/", self.prefix));
        match area {
            Area::One(key) => KeyRange::key(self.key(key)),
            Area::Units => below("units"),
            Area::Contents => below("contents"),
            Area::Machines => below("machines"),
            Area::Presence => below("presence"),
            Area::Lost => below("lost"),
            Area::Placements => below("placements"),
            Area::Orders => below("assignments"),
            Area::OrdersOf(id) => below(&format!("assignments/{id}")),
            Area::States => below("states"),
            Area::StatesOf(id) => below(&format!("states/{id}")),
            Area::Events => below("events"),
        }
    }

    /// From `from` (inclusive) to the end of an area.
    #[must_use]
    pub fn area_from(&self, area: &Area, from: Bytes) -> KeyRange {
        let to = self.area(area).end().expect("the prefix is text, so that some key follows it");
        KeyRange::Span { from, to }
    }

    /// `None`: not a key of this registry that this release knows. Such keys are left alone.
    #[must_use]
    pub fn parse(&self, key: &[u8]) -> Option<Key> {
        let (area, name) = match self.name(key)? {
            "cluster" => return Some(Key::Cluster),
            "hold" => return Some(Key::Hold),
            "import" => return Some(Key::Import),
            "brake" => return Some(Key::Brake),
            "engine/leader" => return Some(Key::Leader),
            other => other.split_once('/')?,
        };
        let machine = |name: &str| MachineId::parse(name).ok();
        let unit = |name: &str| UnitName::parse(name).ok();
        let both = || name.split_once('/').and_then(|(id, name)| Some((machine(id)?, unit(name)?)));
        match area {
            "units" => unit(name).map(Key::Unit),
            "contents" => name.parse().ok().map(Key::Content),
            "machines" => machine(name).map(Key::Machine),
            "presence" => machine(name).map(Key::Presence),
            "lost" => machine(name).map(Key::Lost),
            "witness" => machine(name).map(Key::Witness),
            "placements" => unit(name).map(Key::Placement),
            "assignments" => both().map(|(id, unit)| Key::Order(id, unit)),
            "states" => both().map(|(id, unit)| Key::State(id, unit)),
            "events" => EventId::parse(name).ok().map(Key::Event),
            _ => None,
        }
    }

    fn name<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        std::str::from_utf8(key).ok()?.strip_prefix(&*self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_parsed_back_to_what_it_was_built_from() {
        let keys = Keys::new(DEFAULT_PREFIX).unwrap();
        let machine = MachineId::parse("0123456789abcdef0123456789abcdef").unwrap();
        let unit = UnitName::parse("web@a\\x2db:1.service").unwrap();
        let all = [
            Key::Cluster,
            Key::Hold,
            Key::Import,
            Key::Brake,
            Key::Leader,
            Key::Unit(unit.clone()),
            Key::Content(ContentHash::of(b"text")),
            Key::Machine(machine.clone()),
            Key::Presence(machine.clone()),
            Key::Lost(machine.clone()),
            Key::Witness(machine.clone()),
            Key::Placement(unit.clone()),
            Key::Order(machine.clone(), unit.clone()),
            Key::State(machine, unit),
            Key::Event(EventId::new(Timestamp(1_700_000_000_000), 7)),
        ];
        for key in all {
            assert_eq!(keys.parse(&keys.key(&key)), Some(key.clone()), "{key}");
        }
    }

    #[test]
    fn keys_of_others_are_not_parsed() {
        let keys = Keys::new("fleet").unwrap();
        for other in
            ["/fleet", "/fleet/", "/fleet/os/policy", "/fleet/units/a/b.service", "/other/cluster", "\u{e9}"]
        {
            assert_eq!(keys.parse(other.as_bytes()), None, "{other}");
        }
        assert_eq!(keys.parse(&[0xff, 0xfe]), None);
    }

    #[test]
    fn a_prefix_gets_its_slashes_and_an_empty_one_is_refused() {
        assert_eq!(Keys::new("_coreos.com/fleet").unwrap().prefix(), "/_coreos.com/fleet/");
        for bad in ["", "/", "a b", "\n"] {
            assert!(Keys::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn orders_of_one_machine_are_not_those_of_a_machine_whose_id_it_begins() {
        let keys = Keys::new("/fleet/").unwrap();
        let (short, long) = (MachineId::parse("ab").unwrap(), MachineId::parse("abc").unwrap());
        let unit = UnitName::parse("a.service").unwrap();
        assert!(!keys.area(&Area::OrdersOf(short)).contains(&keys.key(&Key::Order(long, unit))));
    }

    #[test]
    fn event_ids_sort_by_time() {
        let (early, late) = (EventId::new(Timestamp(999), u64::MAX), EventId::new(Timestamp(1_000), 0));
        assert!(early.to_string() < late.to_string());
        assert_eq!(EventId::parse(&late.to_string()), Ok(late));
        assert!(EventId::parse("12-a").is_err());
    }
}
