//! Reading and writing unit records, for both versions of the API: what has to be known around a unit to judge a
//! request, and the loop of reading, judging and writing until nobody else was faster.

use std::collections::{BTreeMap, HashMap};

use fleet_core::records::{EventNote, Stamp, UnitRecord, Versioned};
use fleet_core::requests::Refusal;
use fleet_core::requests::change::{Request, Verb, Verdict, Written, live, repeated};
use fleet_core::requests::circle::circle;
use fleet_core::{RequestId, Revision, Span, Timestamp};
use fleet_registry::codec::Undecodable;
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::Outcome;
use fleet_registry::registry::snapshot::Snapshot;
use fleet_registry::registry::units::UnitWrite;
use fleet_registry::store::{KeyRange, Range, Select};
use futures_util::{StreamExt, TryStreamExt, stream};
use unit_files::{ContentHash, UnitName};

use super::Failure;
use super::state::Api;

/// How often a request is judged anew because others wrote meanwhile, or its outcome was unknown.
pub(super) const ATTEMPTS: usize = 5;
/// Keys in one read: etcd takes 128 operations in a transaction.
pub(super) const KEYS_AT_ONCE: usize = 100;
const TEXTS_AT_ONCE: usize = 16;
const NAMES_AT_ONCE: usize = 5_000;
/// How far back a request that was sent before is looked for: longer than anybody goes on repeating one, and than the
/// clocks of machines should differ.
const SENT_WITHIN: Span = Span::from_secs(600);

/// Units by name, as read.
pub(super) type Records = BTreeMap<UnitName, Versioned<UnitRecord>>;

/// Adds single keys to a snapshot. They may be newer than what is in it.
pub(super) async fn read_keys(api: &Api, snapshot: &mut Snapshot, mut keys: Vec<Key>) -> Result<(), Failure> {
    keys.sort_unstable();
    keys.dedup();
    for chunk in keys.chunks(KEYS_AT_ONCE) {
        let areas: Vec<Area> = chunk.iter().cloned().map(Area::One).collect();
        let read = api.registry.read(&areas).await?;
        snapshot.revision = snapshot.revision.max(read.revision);
        snapshot.units.extend(read.units);
        snapshot.placements.extend(read.placements);
        snapshot.machines.extend(read.machines);
        snapshot.presence.extend(read.presence);
        snapshot.lost.extend(read.lost);
        for (id, orders) in read.orders {
            snapshot.orders.entry(id).or_default().extend(orders);
        }
        for (id, states) in read.states {
            snapshot.states.entry(id).or_default().extend(states);
        }
        snapshot.undecodable.extend(read.undecodable);
    }
    Ok(())
}

/// The names of all units, those that are being destroyed included. Keys alone are read: a page of a list does not pay
/// for the others.
pub(super) async fn names(api: &Api) -> Result<Vec<UnitName>, Failure> {
    let keys = api.registry.keys();
    let area = keys.area(&Area::Units);
    let (mut names, mut at, mut rest) = (Vec::new(), None, area.clone());
    loop {
        let mut range = Range::new(rest).select(Select::KeysOnly).limit(NAMES_AT_ONCE);
        range.at_revision = at;
        let reply = api.registry.store().range(range).await?;
        names.extend(reply.kvs.iter().filter_map(|kv| match keys.parse(&kv.key)? {
            Key::Unit(name) => Some(name),
            _ => None,
        }));
        let (Some(last), Some(to), true) = (reply.kvs.last(), area.end(), reply.more) else {
            return Ok(names);
        };
        let Some(from) = KeyRange::Key(last.key.clone()).end() else { return Ok(names) };
        // The rest as of the same moment.
        at = Some(at.unwrap_or(reply.header.revision));
        rest = KeyRange::Span { from, to };
    }
}

/// A record that cannot be read is not an absent one.
pub(super) fn refuse_unreadable(snapshot: &Snapshot) -> Result<(), Failure> {
    match snapshot.undecodable.first() {
        None => Ok(()),
        Some(unreadable) => Err(unreadable_record(unreadable)),
    }
}

/// The answer where a record that is needed cannot be read: its error says what to do.
pub(super) fn unreadable_record(unreadable: &Undecodable) -> Failure {
    Failure::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, unreadable.error.to_string())
}

/// Unit texts by hash.
pub(super) async fn texts(
    api: &Api,
    mut hashes: Vec<ContentHash>,
) -> Result<HashMap<ContentHash, String>, Failure> {
    hashes.sort_unstable();
    hashes.dedup();
    let fetch = |hash: ContentHash| async move {
        let text = api.registry.get_content(&hash).await.map_err(Failure::from)?;
        Ok::<_, Failure>((hash, text))
    };
    stream::iter(hashes).map(fetch).buffer_unordered(TEXTS_AT_ONCE).try_collect().await
}

/// What a new content must not collide with: names of other units, and circles of `MachineOf=`.
pub(super) async fn check_surroundings(
    api: &Api,
    name: &UnitName,
    aliases: &[String],
    machine_of: &[String],
) -> Result<(), Failure> {
    if aliases.is_empty() && machine_of.is_empty() {
        return Ok(());
    }
    let known = api.registry.read(&[Area::Units]).await?.units;
    check_among(&known, &BTreeMap::new(), name, aliases, machine_of).map_err(Failure::from)
}

/// `submitted` is what the units of the same request name in `MachineOf=`.
pub(super) fn check_among(
    known: &Records,
    submitted: &BTreeMap<UnitName, Vec<String>>,
    name: &UnitName,
    aliases: &[String],
    machine_of: &[String],
) -> Result<(), Refusal> {
    let of = |unit: &str| known.get(unit).filter(|unit| live(Some(&unit.value)).is_some());
    if let Some(alias) =
        aliases.iter().find(|alias| of(alias).is_some() || submitted.contains_key(alias.as_str()))
    {
        return Err(Refusal::AliasTaken { alias: alias.clone() });
    }
    let peers = |unit: &str| -> &[String] {
        let stored = || of(unit).map(|unit| &unit.value.current.requirements.machine_of);
        submitted.get(unit).or_else(stored).map_or(&[], Vec::as_slice)
    };
    match circle(name, machine_of, peers) {
        Some(path) => Err(Refusal::Circle { path }),
        None => Ok(()),
    }
}

/// What the event log says of a request that may have been carried out before: a unit's record tells as well, but is
/// gone once the unit was destroyed. Events are written in the transaction of what they tell.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    kinds: BTreeMap<UnitName, Vec<String>>,
}

impl Earlier {
    /// Since when to look for a request that its client sent before.
    pub(super) fn since(stamp: &Stamp) -> Timestamp {
        Timestamp(stamp.at.0.saturating_sub(SENT_WITHIN.0))
    }

    /// Read after the records that are judged with it, so that nothing falls in between.
    pub(super) async fn look(api: &Api, id: &RequestId, since: Timestamp) -> Result<Earlier, Failure> {
        let log = api.registry.events(usize::MAX, Some(since)).await?;
        if let Some(unreadable) = log.undecodable.first() {
            return Err(unreadable_record(unreadable));
        }
        let events = log.events.into_iter().map(|(_, event)| event);
        let notes = events.filter(|event| event.request.as_ref() == Some(id)).flat_map(|event| event.notes);
        let mut kinds: BTreeMap<UnitName, Vec<String>> = BTreeMap::new();
        for note in notes {
            if let Some(unit) = note.unit {
                kinds.entry(unit).or_default().push(note.kind);
            }
        }
        Ok(Earlier { kinds })
    }

    /// `verb`: what the request asks for; none where the id is of this one request alone.
    pub(super) fn verdict(&self, name: &UnitName, verb: Option<Verb>) -> Option<Verdict> {
        let is_told = |kind: &&String| verb.is_none_or(|verb| verb.may_be_told_as(kind));
        let kind = self.kinds.get(name)?.iter().find(is_told)?;
        Some(Verdict::Repeated { created: kind == Written::CREATED })
    }
}

/// What a single write came to.
pub(super) struct Done {
    /// Created, or its content was replaced.
    pub has_new_text: bool,
}

/// Judges and writes one unit.
pub(super) async fn write_one(
    api: &Api,
    name: &UnitName,
    judge: impl Fn(Option<&UnitRecord>, &Request) -> Result<Verdict, Refusal>,
    request: &Request,
) -> Result<Done, Failure> {
    let fence = api.fence().await?;
    let asked = api.asked(Some(&request.stamp.by), Some(request.id.clone()));
    let mut last = Outcome::Conflict;
    let mut may_have_counted = false;
    // Whether a write of this request, whose outcome was unknown, brought a text.
    let mut has_new_text = false;
    for _ in 0..ATTEMPTS {
        let found = api.registry.read_unit(name).await?;
        let record = found.as_ref().map(|found| &found.value);
        // The record tells, where it is there; a look through the log is for where it is not.
        let earlier = if may_have_counted && repeated(record, request).is_none() {
            Earlier::look(api, &request.id, request.stamp.at).await?.verdict(name, None)
        } else {
            None
        };
        let judged = match earlier {
            Some(repeated) => repeated,
            None => judge(record, request)?,
        };
        let written = match judged {
            Verdict::Nothing { .. } => return Ok(Done { has_new_text: false }),
            Verdict::Repeated { .. } => return Ok(Done { has_new_text }),
            Verdict::Write(written) => *written,
        };
        has_new_text = written.text.is_some();
        let write = unit_write(name, found.map_or(Revision(0), |found| found.modified), written);
        let outcome = api.registry.write_units(fence, &[write], &asked).await.pop();
        match outcome.unwrap_or(Outcome::Skipped) {
            Outcome::Applied(_) => return Ok(Done { has_new_text }),
            retry @ (Outcome::Conflict | Outcome::Unknown(_)) => {
                may_have_counted |= matches!(retry, Outcome::Unknown(_));
                last = retry;
            }
            other => return Err(Failure::of_outcome(&other)),
        }
    }
    Err(Failure::of_outcome(&last))
}

/// The write of a judged request; `expected` is the revision of the record it was judged on.
pub(super) fn unit_write(name: &UnitName, expected: Revision, written: Written) -> UnitWrite {
    UnitWrite {
        unit: name.clone(),
        expected,
        record: written.record,
        content: written.text,
        placement: None,
        note: EventNote {
            kind: written.kind.to_owned(),
            unit: Some(name.clone()),
            machine: None,
            why: written.why,
        },
    }
}
