//! Writing: transactions that compare before they act.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Header, KeyRange, LeaseId, Range, RangeReply, Revision, StoreError};

/// etcd's default `--max-txn-ops`, which counts compares and the operations of each branch, each
/// for itself. Both stores refuse more.
pub const MAX_TXN_OPS: usize = 128;
/// See [`MAX_TXN_OPS`].
pub const MAX_TXN_COMPARES: usize = 128;

/// What must hold of a key, by equality.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Condition {
    Value(Bytes),
    ModRevision(Revision),
    CreateRevision(Revision),
    Version(u64),
    Absent,
    Present,
}

/// One condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Compare {
    pub key: Bytes,
    pub condition: Condition,
}

impl Compare {
    pub fn new(key: impl Into<Bytes>, condition: Condition) -> Self {
        Self { key: key.into(), condition }
    }

    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::new(key, Condition::Value(value.into()))
    }

    /// The key was last put at this revision; revision zero means absent.
    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self::new(key, Condition::ModRevision(revision))
    }

    /// The key was created at this revision; revision zero means absent.
    pub fn create_revision(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self::new(key, Condition::CreateRevision(revision))
    }

    pub fn version(key: impl Into<Bytes>, version: u64) -> Self {
        Self::new(key, Condition::Version(version))
    }

    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::new(key, Condition::Absent)
    }

    pub fn present(key: impl Into<Bytes>) -> Self {
        Self::new(key, Condition::Present)
    }
}

/// One step of a transaction's branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key; without a lease any earlier lease is taken off the key.
    Put { key: Bytes, value: Bytes, lease: Option<LeaseId> },
    /// Deletes what is there; nothing there is no error.
    Delete { keys: KeyRange },
    /// Reads; sees the steps before it.
    Range(Range),
}

impl Op {
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }

    pub fn put_leased(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { keys: KeyRange::key(key) }
    }

    pub fn delete_prefix(prefix: impl Into<Bytes>) -> Self {
        Self::Delete { keys: KeyRange::prefix(prefix) }
    }

    pub fn range(range: Range) -> Self {
        Self::Range(range)
    }

    pub(crate) fn is_write(&self) -> bool {
        !matches!(self, Self::Range(_))
    }
}

/// A transaction: if all compares hold, `then`, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub then: Vec<Op>,
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// An unconditional transaction.
    pub fn of(then: Vec<Op>) -> Self {
        Self { then, ..Self::default() }
    }

    #[must_use]
    pub fn when(mut self, compares: Vec<Compare>) -> Self {
        self.compares = compares;
        self
    }

    #[must_use]
    pub fn otherwise(mut self, ops: Vec<Op>) -> Self {
        self.otherwise = ops;
        self
    }

    /// Of all keys and values in it, about what it takes on the wire.
    pub(crate) fn bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| {
            let value = if let Condition::Value(value) = &compare.condition { value.len() } else { 8 };
            compare.key.len() + value
        });
        let ops = self.then.iter().chain(&self.otherwise).map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { keys } | Op::Range(Range { keys, .. }) => 2 * keys.start().len(),
        });
        compares.sum::<usize>() + ops.sum::<usize>()
    }

    /// Writes nothing, whatever its compares say; such a transaction may be repeated freely.
    pub fn is_read_only(&self) -> bool {
        !self.then.iter().chain(&self.otherwise).any(Op::is_write)
    }

    /// What every store refuses before it looks at the data: too many parts, or a branch that
    /// changes one key twice.
    ///
    /// # Errors
    /// `TxnTooLarge`, `DuplicateKey`.
    pub fn validate(&self) -> Result<(), StoreError> {
        let ops = self.then.len().max(self.otherwise.len());
        if self.compares.len() > MAX_TXN_COMPARES || ops > MAX_TXN_OPS {
            return Err(StoreError::TxnTooLarge { compares: self.compares.len(), ops });
        }
        refuse_double_change(&self.then)?;
        refuse_double_change(&self.otherwise)
    }
}

fn refuse_double_change(ops: &[Op]) -> Result<(), StoreError> {
    let mut puts = BTreeSet::new();
    for op in ops {
        if let Op::Put { key, .. } = op
            && !puts.insert(key.clone())
        {
            return Err(duplicate(key));
        }
    }
    for op in ops {
        if let Op::Delete { keys } = op
            && !keys.is_empty()
            && let Some(key) = puts.range(keys.bounds()).next()
        {
            return Err(duplicate(key));
        }
    }
    Ok(())
}

fn duplicate(key: &Bytes) -> StoreError {
    StoreError::DuplicateKey { key: String::from_utf8_lossy(key).into_owned() }
}

/// Answer to one [`Op`], in the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpReply {
    Put,
    Deleted { count: u64 },
    Range(RangeReply),
}

/// Answer to a [`Txn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnReply {
    /// The compares held and `then` was applied; otherwise `otherwise` was.
    pub succeeded: bool,
    /// Its revision is that of the transaction, if it wrote.
    pub header: Header,
    pub replies: Vec<OpReply>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_that_puts_a_key_twice_is_refused() {
        let txn = Txn::of(vec![Op::put("a", "1"), Op::put("a", "2")]);
        assert_eq!(txn.validate(), Err(StoreError::DuplicateKey { key: "a".into() }));
    }

    #[test]
    fn transaction_that_deletes_what_it_puts_is_refused() {
        let txn = Txn::of(vec![Op::delete_prefix("/a/"), Op::put("/a/b", "2")]);
        assert_eq!(txn.validate(), Err(StoreError::DuplicateKey { key: "/a/b".into() }));
        let other = Txn::of(vec![Op::delete_prefix("/a/"), Op::put("/ab", "2")]);
        assert_eq!(other.validate(), Ok(()));
    }

    #[test]
    fn transaction_above_the_limit_is_refused() {
        let ops = (0..129).map(|i| Op::put(format!("{i}"), "")).collect();
        assert_eq!(Txn::of(ops).validate(), Err(StoreError::TxnTooLarge { compares: 0, ops: 129 }));
    }
}
