//! Writing unit records, with the texts that they name. Called by the API, for submit as for every change of state.

use fleet_core::Revision;
use fleet_core::records::{EventNote, Placement, UnitRecord};
use unit_files::{ContentHash, UnitName};

use super::batch::{Asked, Batch, Item, Outcome};
use super::{ClusterFence, Registry};
use crate::codec::encode;
use crate::keys::Key;
use crate::store::Op;

/// One unit's new record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitWrite {
    pub unit: UnitName,
    /// Modification revision of the record that this one was made from; 0: there was none.
    pub expected: Revision,
    pub record: UnitRecord,
    /// The text of `record.current`, if this write brings one, also if the registry may have it already: writing it
    /// again keeps a collection that is under way from taking it.
    pub content: Option<String>,
    /// Where a new unit is already. The name must have no placement.
    pub placement: Option<Placement>,
    /// For the event log. Never holds a text.
    pub note: EventNote,
}

impl Registry {
    /// Writes unit records, each with its text in the same transaction, as many as fit in one; one event for each
    /// transaction. Outcomes are in the order of the writes. After `Conflict` or `Unknown` the caller reads the unit
    /// again and decides anew; its request id in the record tells whether the write was applied.
    pub async fn write_units(
        &self,
        fence: ClusterFence,
        writes: &[UnitWrite],
        asked: &Asked,
    ) -> Vec<Outcome> {
        let items = writes.iter().map(|write| self.unit_item(write)).collect();
        let batch =
            Batch { fence: self.compare_cluster(fence), lead: Vec::new(), asked: Some(asked.clone()), items };
        self.run(batch).await
    }

    fn unit_item(&self, write: &UnitWrite) -> Item {
        let key = Key::Unit(write.unit.clone());
        let mut ops = vec![Op::put(self.key(&key), encode(&write.record))];
        if let Some(text) = &write.content {
            let hash = ContentHash::of(text.as_bytes());
            ops.push(Op::put(self.key(&Key::Content(hash)), text.clone()));
        }
        let mut compares = vec![self.compare_modified(&key, write.expected)];
        if let Some(placement) = &write.placement {
            let key = Key::Placement(write.unit.clone());
            compares.push(self.compare_modified(&key, Revision(0)));
            ops.push(Op::put(self.key(&key), encode(placement)));
        }
        Item { compares, ops, note: Some(write.note.clone()) }
    }
}
