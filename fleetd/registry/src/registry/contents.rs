//! Collecting texts that nothing names any more. Called by the leader, at its audit.
//!
//! A text goes when no unit record and no order has named it during a grace time; the delete compares the revision that
//! was seen, and every submit writes its text anew, so that a text which is being submitted again stays.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{Revision, Span, Timestamp};
use unit_files::ContentHash;

use super::batch::{Batch, Item, Outcome};
use super::entry::{self, Entry};
use super::leader::LeaderFence;
use super::{Registry, RegistryError, typed};
use crate::keys::{Area, Key};
use crate::store::{Op, Select};

/// How long a text stays that nothing names.
pub const GRACE: Span = Span::from_secs(600);

/// Texts that nothing named when they were last looked at, and since when. A new leader starts with an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreferenced {
    since: BTreeMap<ContentHash, (Revision, Timestamp)>,
}

impl Unreferenced {
    #[must_use]
    pub fn len(&self) -> usize {
        self.since.len()
    }
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.since.is_empty()
    }
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub deleted: usize,
    /// Nothing names them, but not for long enough.
    pub waiting: usize,
    /// Records that cannot be read may name any text: then nothing is deleted.
    pub is_blocked: bool,
}

impl Registry {
    /// Looks for texts that nothing names and deletes those that were found so for `grace` (see [`GRACE`]). Idempotent.
    ///
    /// # Errors
    /// `Store` from the lists; a delete that fails is tried again by the next call.
    pub async fn collect_contents(
        &self,
        fence: LeaderFence,
        unreferenced: &mut Unreferenced,
        now: Timestamp,
        grace: Span,
    ) -> Result<Collected, RegistryError> {
        const DOING: &str = "collecting texts";
        // Texts before what names them: a text that is submitted in between is not in the first list.
        let contents = [self.keys.area(&Area::Contents)];
        let (_, texts) = self.list(DOING, &contents, Select::KeysOnly).await?;
        let naming = [self.keys.area(&Area::Units), self.keys.area(&Area::Orders)];
        let (_, naming) = self.list(DOING, &naming, Select::All).await?;
        let mut named = BTreeSet::new();
        let mut collected = Collected::default();
        for read in naming.iter().filter_map(|kv| entry::read(&self.keys, kv)) {
            match read {
                Ok(Entry::Unit(_, unit)) => {
                    let unit = unit.value;
                    named.extend([unit.current.content, unit.last_good.content]);
                    named.extend(unit.previous.iter().map(|generation| generation.content));
                }
                Ok(Entry::Order(_, _, order)) => drop(named.insert(order.value.content)),
                Ok(_) => {}
                Err(_) => collected.is_blocked = true,
            }
        }
        if collected.is_blocked {
            return Ok(collected);
        }
        let mut since = BTreeMap::new();
        for kv in &texts {
            let Some(Key::Content(hash)) = self.keys.parse(&kv.key) else { continue };
            if !named.contains(&hash) {
                let modified = typed(kv.mod_revision);
                let known = unreferenced.since.get(&hash).filter(|(known, _)| *known == modified);
                since.insert(hash, known.copied().unwrap_or((modified, now)));
            }
        }
        unreferenced.since = since;
        let doomed: Vec<(ContentHash, Revision)> = unreferenced
            .since
            .iter()
            .filter(|(_, (_, seen))| now.since(*seen) >= grace)
            .map(|(hash, (modified, _))| (*hash, *modified))
            .collect();
        let item = |(hash, modified): &(ContentHash, Revision)| {
            let key = Key::Content(*hash);
            Item {
                compares: vec![self.compare_modified(&key, *modified)],
                ops: vec![Op::delete(self.key(&key))],
                note: None,
            }
        };
        let batch = Batch {
            fence: self.compare_leader(fence),
            items: doomed.iter().map(item).collect(),
            ..Batch::default()
        };
        let outcomes = self.run(batch).await;
        for ((hash, _), _) in doomed.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_applied()) {
            unreferenced.since.remove(hash);
        }
        collected.deleted = outcomes.iter().filter(|outcome| Outcome::is_applied(outcome)).count();
        collected.waiting = unreferenced.since.len();
        Ok(collected)
    }
}
