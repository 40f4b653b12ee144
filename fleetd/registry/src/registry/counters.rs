//! What the registry cost so far and what went wrong, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the process started; shared by all clones of a registry.
#[derive(Debug, Default)]
pub struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    watches: AtomicU64,
    relists: AtomicU64,
    disconnections: AtomicU64,
    audits: AtomicU64,
    audit_differences: AtomicU64,
    undecodable: AtomicU64,
    unknown_outcomes: AtomicU64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $get:ident, $add:ident;)*) => {
        impl Counters {
            $($(#[$doc])*
            #[must_use]
            pub fn $get(&self) -> u64 {
                self.$get.load(Ordering::Relaxed)
            }

            pub(super) fn $add(&self, count: usize) {
                self.$get.fetch_add(count as u64, Ordering::Relaxed);
            }
            )*
        }
    };
}

counters! {
    /// Read requests, pages counted one by one.
    reads, add_reads;
    /// Writing transactions that were tried.
    writes, add_writes;
    /// Watches opened, the first of each followed view included.
    watches, add_watches;
    /// Followed views that were listed anew after their first list: a watch was cut or overtaken.
    relists, add_relists;
    /// Lists of followed views that failed.
    disconnections, add_disconnections;
    audits, add_audits;
    /// Keys in which audits found a followed view wrong; zero as long as all is well.
    audit_differences, add_audit_differences;
    /// Values read that this release cannot read, each time counted.
    undecodable, add_undecodable;
    /// Writes of which no answer told whether they were applied.
    unknown_outcomes, add_unknown_outcomes;
}
