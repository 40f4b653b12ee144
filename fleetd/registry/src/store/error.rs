//! What can go wrong between a caller and a store, classified by what the caller may do next.

use std::fmt;
use std::time::Duration;

use super::{LeaseId, MAX_TXN_COMPARES, MAX_TXN_OPS, Revision};

/// The call that failed, for messages and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Connect,
    Range,
    Txn,
    Watch,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    LeaseTtl,
    Compact,
    Status,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Range => "range read",
            Self::Txn => "transaction",
            Self::Watch => "watch",
            Self::LeaseGrant => "lease grant",
            Self::LeaseKeepAlive => "lease keep-alive",
            Self::LeaseRevoke => "lease revoke",
            Self::LeaseTtl => "lease read",
            Self::Compact => "compaction",
            Self::Status => "status read",
        })
    }
}

/// Why a store call gave no result. Of a writing transaction only [`Unknown`](Self::Unknown) leaves
/// open whether it was applied; after all others it was not. The other calls may be repeated freely.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{operation}: no registry endpoint answers ({detail}); check that etcd runs and has a leader")]
    Unavailable { operation: Operation, detail: String },

    #[error(
        "{operation}: this machine's own store does not take it ({detail}); try again, and look at the disk below the \
         state directory if that goes on"
    )]
    Busy { operation: Operation, detail: String },

    #[error("{operation}: no answer within {after:?}; the registry is overloaded or unreachable")]
    Timeout { operation: Operation, after: Duration },

    #[error("{operation}: whether it was applied is unknown ({detail}); read again before repeating it")]
    Unknown { operation: Operation, detail: String },

    #[error("revision {asked} is compacted; list anew")]
    Compacted { asked: Revision },

    #[error(
        "revision {asked} is in the future of this store; the member lags behind, or the store was emptied or restored from a backup"
    )]
    FutureRevision { asked: Revision },

    #[error(
        "{operation}: the registry is out of space; free its disk, or compact and defragment etcd and disarm its alarm"
    )]
    NoSpace { operation: Operation },

    #[error("{operation}: not permitted ({detail}); check the etcd user, certificate and role")]
    PermissionDenied { operation: Operation, detail: String },

    #[error(
        "{operation}: the registry reports corrupt data ({detail}); restore the member from a healthy one"
    )]
    Corrupt { operation: Operation, detail: String },

    #[error("{operation}: the registry's disk failed ({detail}); check it, then restart fleetd")]
    Disk { operation: Operation, detail: String },

    #[error("lease {id} does not exist; it expired or was revoked, grant a new one")]
    LeaseNotFound { id: LeaseId },

    #[error(
        "a transaction of {compares} compares and {ops} operations is above the limit of \
         {MAX_TXN_COMPARES} and {MAX_TXN_OPS}; split it"
    )]
    TxnTooLarge { compares: usize, ops: usize },

    #[error("a transaction changes key {key:?} twice; keep the last change only")]
    DuplicateKey { key: String },

    #[error("{operation}: the request or its answer is too large ({detail}); ask for less at once")]
    TooLarge { operation: Operation, detail: String },

    #[error("registry endpoint {endpoint:?} cannot be used: {detail}")]
    Endpoint { endpoint: String, detail: String },

    #[error("{operation}: refused by the registry: {detail}")]
    Refused { operation: Operation, detail: String },
}

impl StoreError {
    /// The write may or may not have been applied.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// Worth trying again later as it is: nothing was applied, nothing is wrong with the request.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Busy { .. } | Self::Timeout { .. })
    }

    /// Any other write would be refused as well, until somebody has helped the store or its user.
    pub fn is_for_every_write(&self) -> bool {
        matches!(
            self,
            Self::NoSpace { .. } | Self::Corrupt { .. } | Self::Disk { .. } | Self::PermissionDenied { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_fits_the_store() {
        let (operation, detail) = (Operation::Txn, "why".to_owned());
        let etcd = StoreError::Unavailable { operation, detail: detail.clone() };
        assert!(etcd.is_transient() && etcd.to_string().contains("check that etcd runs"), "{etcd}");
        let embedded = StoreError::Busy { operation, detail };
        assert!(embedded.is_transient() && !embedded.to_string().contains("etcd"), "{embedded}");
    }
}
