//! Reading: key ranges, and what a range read asks and answers.

use std::ops::Bound;

use bytes::Bytes;

use super::{Header, LeaseId, Revision};

/// A set of neighbouring keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyRange {
    Key(Bytes),
    /// Every key that starts with these bytes; the empty prefix is the whole store.
    Prefix(Bytes),
    /// From `from` (inclusive) to `to` (exclusive).
    Span {
        from: Bytes,
        to: Bytes,
    },
}

impl KeyRange {
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::Key(key.into())
    }

    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::Prefix(prefix.into())
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Span { from, to } => from <= key && key < to.as_ref(),
        }
    }

    /// First key that may be in the range.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Key(key) => key,
            Self::Prefix(prefix) => prefix,
            Self::Span { from, .. } => from,
        }
    }

    /// First key after the range; `None` when it reaches to the end of the store.
    pub fn end(&self) -> Option<Bytes> {
        match self {
            Self::Key(key) => {
                let mut end = Vec::with_capacity(key.len() + 1);
                end.extend_from_slice(key);
                end.push(0);
                Some(end.into())
            }
            Self::Prefix(prefix) => prefix_end(prefix),
            Self::Span { to, .. } => Some(to.clone()),
        }
    }

    /// No key can be in it.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Span { from, to } if from >= to)
    }

    /// Bounds for an ordered map of keys. Must not be used on an [empty](Self::is_empty) range.
    pub(crate) fn bounds(&self) -> (Bound<Bytes>, Bound<Bytes>) {
        let end = match (self, self.end()) {
            (Self::Key(key), _) => Bound::Included(key.clone()),
            (_, Some(end)) => Bound::Excluded(end),
            (_, None) => Bound::Unbounded,
        };
        (Bound::Included(self.start().clone()), end)
    }
}

/// The first key after all that start with `prefix`; `None` when there is none (all bytes 0xff).
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let keep = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end.into())
}

/// How much of each key a range read returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Select {
    #[default]
    All,
    /// Values are left empty.
    KeysOnly,
    /// No keys, only [`RangeReply::count`].
    CountOnly,
}

/// A linearizable read of one key range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub keys: KeyRange,
    /// Read as of this revision instead of the newest.
    pub at_revision: Option<Revision>,
    /// At most so many keys; `None`: all.
    pub limit: Option<usize>,
    pub select: Select,
}

impl Range {
    pub fn new(keys: KeyRange) -> Self {
        Self { keys, at_revision: None, limit: None, select: Select::All }
    }

    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::new(KeyRange::key(key))
    }

    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::new(KeyRange::prefix(prefix))
    }

    #[must_use]
    pub fn at(mut self, revision: Revision) -> Self {
        self.at_revision = Some(revision);
        self
    }

    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    #[must_use]
    pub fn select(mut self, select: Select) -> Self {
        self.select = select;
        self
    }
}

/// One key as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// When the key was last created.
    pub create_revision: Revision,
    /// When the key was last put.
    pub mod_revision: Revision,
    /// Puts since it was created, the first included.
    pub version: u64,
    pub lease: Option<LeaseId>,
}

/// Answer to a [`Range`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeReply {
    pub header: Header,
    /// Ascending by key.
    pub kvs: Vec<KeyValue>,
    /// The limit cut the answer short.
    pub more: bool,
    /// Keys in the range, whatever the limit.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_range_ends_before_the_next_sibling() {
        assert_eq!(KeyRange::prefix("/a/").end(), Some(Bytes::from("/a0")));
        assert_eq!(KeyRange::prefix(vec![1, 0xff]).end(), Some(Bytes::from(vec![2])));
        assert_eq!(KeyRange::prefix("").end(), None);
        assert_eq!(KeyRange::prefix(vec![0xff, 0xff]).end(), None);
    }

    #[test]
    fn key_range_holds_its_key_alone() {
        let range = KeyRange::key("/a");
        assert!(range.contains(b"/a"));
        assert!(!range.contains(b"/a\0"));
        assert!(!range.contains(b"/"));
    }
}
