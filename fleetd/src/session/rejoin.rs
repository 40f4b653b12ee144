//! A machine without a member file that has accepted orders: whether the cluster in front of it gave them, forgot them,
//! or has to be raised above them before the machine belongs to it.
//!
//! A step of the session's loop. Makes nobody a member.

use fleet_core::Epoch;
use fleet_core::reconcile::Knowledge;
use fleet_core::records::{ClusterRecord, Versioned};
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::cluster::TrustView;
use fleet_registry::store::StoreError;
use fleet_registry::{Asked, RegistryError};
use tracing::info;

use super::task::{Again, Task};

impl Task {
    /// If it is this cluster that gave the orders that this machine has accepted, the other machines need not take a new
    /// epoch only because this one lost its member file. `None`: the cluster changed meanwhile.
    pub(super) async fn knowledge(
        &self,
        cluster: &Versioned<ClusterRecord>,
    ) -> Result<Option<Knowledge>, RegistryError> {
        let machine = &self.options.presence.machine;
        let areas = [Area::One(Key::Cluster), Area::OrdersOf(machine.clone())];
        let snapshot = self.options.registry.read(&areas).await?;
        let orders = snapshot.orders.get(machine).into_iter().flatten();
        let orders = orders.map(|(unit, order)| (unit, &order.value));
        let knowledge = self.options.accepted.known_to(cluster.value.epoch, orders);
        Ok(snapshot.cluster.is_some_and(|now| now.modified == cluster.modified).then_some(knowledge))
    }

    /// Nobody but the operator says that the cluster goes on from there; then it is raised above what was forgotten.
    pub(super) async fn rolled_back(
        &mut self,
        view: &TrustView,
        epoch: Epoch,
        why: &str,
    ) -> Result<Again, RegistryError> {
        if view.hold.is_some() {
            self.held = Some(epoch);
        } else if self.held.is_none_or(|held| epoch <= held) {
            self.hold(view, why).await?;
            return Ok(Again::Soon);
        }
        self.raise(view).await
    }

    /// Puts the cluster above every order that this machine has accepted, before it belongs to it.
    pub(super) async fn raise(&mut self, view: &TrustView) -> Result<Again, RegistryError> {
        let accepted = self.options.accepted.epoch();
        if view.hold.is_some() {
            self.refuse(format!(
                "this machine has orders of epoch {accepted}, which the cluster has to be raised above; it joins when \
                 the hold is over: `fleetctl cluster adopt`"
            ));
            return Ok(Again::Later);
        }
        info!(%accepted, "raising the cluster's epoch above the orders of this machine");
        let stamp = self.stamp("");
        let asked = Asked { at: stamp.at, by: stamp.by, request: None };
        match self.options.registry.raise_epoch(accepted, &asked).await {
            Ok(_) => Ok(Again::Soon),
            Err(RegistryError::Store { error: StoreError::PermissionDenied { .. }, .. }) => {
                let prefix = self.options.registry.keys().prefix();
                self.refuse(format!(
                    "this machine has no member file but orders of epoch {accepted}, which the cluster has to be raised \
                     above before it joins, and its etcd user may not write {prefix}cluster and {prefix}events/. Restart \
                     fleetd here once with a user that may write all of {prefix} (`etcd_username` or the certificate), \
                     wait until this machine is listed, and go back to its own user; or put member.json back from a \
                     backup. What runs keeps running"
                ));
                Ok(Again::Later)
            }
            Err(error) => Err(error),
        }
    }
}
