//! An agent's view: its orders and what it needs to trust the store, at one revision and then kept up to date.
//!
//! Followed are `assignments/<own id>/`, `cluster` and `hold`, and the machine's own record and witness, which change
//! next to never and by this machine itself.

use std::collections::BTreeMap;

use fleet_core::records::{ClusterRecord, HoldRecord, MachineRecord, Order, Versioned, WitnessRecord};
use fleet_core::store_trust::StoreView;
use fleet_core::{MachineId, Revision};
use unit_files::UnitName;

use super::entry::{self, Change, Entry};
use super::follow::{Feed, FeedItem};
use super::{ClusterFence, Registry, RegistryError};
use crate::codec::{CodecError, Undecodable};
use crate::follow::AuditReport;
use crate::keys::{Area, Key};
use crate::store::StoreError;

/// What a machine is told, as of `revision`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrdersView {
    /// Of the list, or of the newest change since.
    pub revision: Revision,
    pub orders: BTreeMap<UnitName, Versioned<Order>>,
    /// Orders that this release cannot read: nothing may be done to these units, as if nothing had changed.
    pub frozen: BTreeMap<UnitName, Undecodable>,
    pub cluster: Option<Versioned<ClusterRecord>>,
    /// Also present when the hold in the registry cannot be read.
    pub hold: Option<Versioned<HoldRecord>>,
    pub machine: Option<Versioned<MachineRecord>>,
    pub witness: Option<Versioned<WitnessRecord>>,
    /// `cluster` or the own witness, if they cannot be read: apply nothing and say so.
    pub unreadable: BTreeMap<Key, CodecError>,
}

impl OrdersView {
    /// For [`judge`](fleet_core::store_trust::judge).
    ///
    /// # Errors
    /// What cannot be read: then nothing may be applied.
    pub fn trust(&self) -> Result<StoreView<'_>, &CodecError> {
        if let Some(error) = self.unreadable.values().next() {
            return Err(error);
        }
        Ok(StoreView {
            cluster: self.cluster.as_ref().map(|c| &c.value),
            hold: self.hold.as_ref().map(|h| &h.value),
            witness: self.witness.as_ref().map(|w| &w.value),
            is_forgotten: self.machine.as_ref().is_some_and(|m| m.value.forgotten.is_some()),
            revision: self.revision,
        })
    }

    /// What the writes of a pass over this view compare; `None` without a cluster record, under a hold, or with one of
    /// the two unreadable.
    #[must_use]
    pub fn fence(&self) -> Option<ClusterFence> {
        let is_trusted = self.hold.is_none() && self.unreadable.is_empty();
        let cluster = self.cluster.as_ref().filter(|_| is_trusted)?;
        Some(ClusterFence { cluster: cluster.modified })
    }

    /// Takes one change in.
    pub fn apply(&mut self, change: Change) {
        self.unreadable.remove(&change.key());
        match change {
            Change::Put(entry) => self.put(entry),
            Change::Undecodable(undecodable) => self.freeze(undecodable),
            Change::Deleted { key, .. } => match key {
                Key::Order(_, unit) => {
                    self.orders.remove(&unit);
                    self.frozen.remove(&unit);
                }
                Key::Cluster => self.cluster = None,
                Key::Hold => self.hold = None,
                Key::Machine(_) => self.machine = None,
                Key::Witness(_) => self.witness = None,
                _ => {}
            },
        }
    }

    fn put(&mut self, entry: Entry) {
        match entry {
            Entry::Order(_, unit, order) => {
                self.frozen.remove(&unit);
                self.orders.insert(unit, *order);
            }
            Entry::Cluster(record) => self.cluster = Some(*record),
            Entry::Hold(record) => self.hold = Some(*record),
            Entry::Machine(_, record) => self.machine = Some(*record),
            Entry::Witness(_, record) => self.witness = Some(*record),
            _ => {}
        }
    }

    fn freeze(&mut self, undecodable: Undecodable) {
        match &undecodable.key {
            Key::Order(_, unit) => {
                let unit = unit.clone();
                self.orders.remove(&unit);
                self.frozen.insert(unit, undecodable);
            }
            Key::Hold => self.hold = Some(entry::unreadable_hold(&undecodable)),
            Key::Cluster | Key::Witness(_) => {
                self.unreadable.insert(undecodable.key, undecodable.error);
            }
            _ => {}
        }
    }
}

/// What the agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrdersItem {
    /// Replaces the view.
    Snapshot { view: Box<OrdersView>, is_relisted: bool },
    /// For [`OrdersView::apply`], in order; then the view is as of `revision`.
    Changes { revision: Revision, changes: Vec<Change> },
    /// The registry does not answer; everything keeps running.
    Disconnected { error: StoreError },
}

/// See [`Registry::follow_orders`].
#[derive(Debug)]
pub struct OrdersStream {
    feed: Feed,
}

impl Registry {
    /// Follows the orders of one machine.
    #[must_use]
    pub fn follow_orders(&self, machine: &MachineId) -> OrdersStream {
        OrdersStream {
            feed: self.follow(&[
                Area::OrdersOf(machine.clone()),
                Area::One(Key::Cluster),
                Area::One(Key::Hold),
                Area::One(Key::Machine(machine.clone())),
                Area::One(Key::Witness(machine.clone())),
            ]),
        }
    }
}

impl OrdersStream {
    /// The next thing to tell. Cancel safe.
    pub async fn next(&mut self) -> OrdersItem {
        match self.feed.next().await {
            FeedItem::Snapshot(snapshot) => {
                let mut view = OrdersView { revision: snapshot.revision, ..OrdersView::default() };
                snapshot.entries.into_iter().for_each(|entry| view.put(entry));
                snapshot.undecodable.into_iter().for_each(|undecodable| view.freeze(undecodable));
                OrdersItem::Snapshot { view: Box::new(view), is_relisted: snapshot.is_relisted }
            }
            FeedItem::Changes { revision, changes } => OrdersItem::Changes { revision, changes },
            FeedItem::Disconnected { error } => OrdersItem::Disconnected { error },
        }
    }

    /// The slow full check; see [`Feed::audit`].
    ///
    /// # Errors
    /// `Store`; then nothing was compared.
    pub async fn audit(&mut self) -> Result<AuditReport, RegistryError> {
        self.feed.audit().await
    }
}
