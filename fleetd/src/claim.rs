//! What is said of an import that has the store for itself: whose it is, since when, and how it ends.
//!
//! The session, the API and a join refuse because of it, with the same words. Writes nothing.

use fleet_core::records::ImportRecord;
use fleet_registry::Registry;
use fleet_registry::store::StoreKind;

use crate::clock::utc;

/// In one sentence without an end. `sample`: a key of that import which another document of its cluster does not have.
#[must_use]
pub fn text(by: &ImportRecord, sample: Option<&str>) -> String {
    let ImportRecord { cluster, begun, .. } = by;
    let of = match sample {
        Some(sample) => format!(" from another document, which has {sample},"),
        None => String::new(),
    };
    format!(
        "cluster {cluster} is being imported{of} into the store, begun by {} at {}, or that broke off",
        begun.by,
        utc(begun.at)
    )
}

/// What to do, the last resort included.
#[must_use]
pub fn remedy(registry: &Registry) -> String {
    let last = match registry.store().kind() {
        StoreKind::Etcd | StoreKind::Memory => format!("`etcdctl del --prefix {}`", registry.keys().prefix()),
        StoreKind::Embedded => {
            "stop fleetd, move `registry` out of its state directory, and start it".to_owned()
        }
    };
    format!(
        "wait for it. If it broke off, repeat it with the same document (`fleetctl cluster import --yes FILE`, or \
         `fleetctl machine join --adopt --yes` where it was begun). If it is not wanted any more and nobody is at it, look at \
         `fleetctl cluster status` once more before this, the last resort: {last}, and then remove member.json of the \
         machine that began it from its state directory"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet_registry::keys::Keys;
    use fleet_registry::memory::MemoryStore;

    use super::*;

    #[test]
    fn an_import_that_stays_is_told_with_whose_it_is_since_when_and_the_last_resort() {
        let by = serde_json::json!({"cluster": "c1", "begun": {"by": "me@m1", "at": 1_795_506_840_116_u64, "why": ""}});
        let by: ImportRecord = serde_json::from_value(by).unwrap();
        let told = text(&by, Some("/fleet/units/b.service"));
        for part in
            ["cluster c1", "begun by me@m1 at 2026-11-24T07:54:00Z", "which has /fleet/units/b.service"]
        {
            assert!(told.contains(part), "{told}");
        }
        let registry = Registry::new(Arc::new(MemoryStore::new(1)), Keys::new("/other/").unwrap(), 1);
        let told = remedy(&registry);
        assert!(told.contains("`fleetctl cluster status` once more before this, the last resort: `etcdctl del --prefix /other/`, and then remove member.json"), "{told}");
    }
}
