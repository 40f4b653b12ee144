//! The typed registry, fitted to what the agent asks for.
//!
//! Judges every view of the store against the member file before the agent sees it, compares the machine's presence
//! and the judged cluster in every write, and copies witness and seen revision to disk after the store's reply.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use fleet_core::MachineId;
use fleet_core::reconcile::{OrderSource, Orders};
use fleet_core::records::{StateRow, WitnessRecord};
use fleet_core::store_trust::{StoreView, Trust, judge};
use fleet_registry::keys::Area;
use fleet_registry::registry::Outcome;
use fleet_registry::registry::commit::{Acknowledgement, AgentCommit};
use fleet_registry::registry::orders::{OrdersItem, OrdersStream, OrdersView};
use fleet_registry::{ClusterFence, Registry, RegistryError};
use tokio::sync::{Notify, watch};
use unit_files::{ContentHash, UnitName};

use crate::agent::{AgentRegistry, Committed, FeedEvent, FeedView, OrdersFeed, RegistryFault, Report};
use crate::member::MemberFile;
use crate::session::SessionState;

/// Of the view that the agent decides from.
#[derive(Clone, Debug)]
pub struct Judged {
    pub fence: ClusterFence,
    /// Raised by what the agent writes, and otherwise left as it is.
    pub witness: WitnessRecord,
}

#[derive(Clone, Debug)]
pub struct WiredRegistry {
    pub registry: Registry,
    pub machine: MachineId,
    pub member: MemberFile,
    pub session: watch::Receiver<SessionState>,
    /// Told when a view does not fit the member file.
    pub doubt: Arc<Notify>,
    /// `None` while nothing may be applied.
    pub judged: Arc<Mutex<Option<Judged>>>,
}

fn fault(doing: &'static str, error: &dyn std::error::Error) -> RegistryFault {
    RegistryFault { doing, why: crate::session::chain(error) }
}

#[async_trait]
impl AgentRegistry for WiredRegistry {
    fn follow(&self) -> Box<dyn OrdersFeed> {
        Box::new(WiredFeed {
            stream: self.registry.follow_orders(&self.machine),
            wired: self.clone(),
            view: None,
            orders: Orders::none(fleet_core::Revision(0)),
            verdict: Trust::Empty,
            trust: Trust::Empty,
            session: self.session.clone(),
            anchored: self.member.anchored(),
            is_present: false,
            is_suspicious: false,
            is_audit_due: false,
        })
    }

    async fn rows(&self) -> Result<BTreeMap<UnitName, StateRow>, RegistryFault> {
        const DOING: &str = "reading this machine's rows";
        let area = [Area::StatesOf(self.machine.clone())];
        let mut snapshot = self.registry.read(&area).await.map_err(|error| fault(DOING, &error))?;
        let rows = snapshot.states.remove(&self.machine).unwrap_or_default();
        Ok(rows.into_iter().map(|(unit, row)| (unit, row.value)).collect())
    }

    async fn content(&self, hash: ContentHash) -> Result<Option<Bytes>, RegistryFault> {
        match self.registry.get_content(&hash).await {
            Ok(text) => Ok(Some(Bytes::from(text))),
            Err(RegistryError::ContentMissing(_)) => Ok(None),
            Err(error) => Err(fault("fetching a text", &error)),
        }
    }

    async fn commit(&self, report: Report) -> Result<Committed, RegistryFault> {
        let Some(presence) = self.session.borrow().presence.clone() else {
            let fenced = Some("this machine is not present in the registry".to_owned());
            return Ok(Committed { fenced, ..Committed::default() });
        };
        let judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if report.is_of_pass && judged.is_none() {
            let fenced = Some("the store is not trusted".to_owned());
            return Ok(Committed { fenced, ..Committed::default() });
        }
        let member = self.member.get();
        let judged = judged.filter(|_| report.is_of_pass);
        let raised = member.zip(judged.clone()).map(|(member, judged)| WitnessRecord {
            epoch: member.epoch,
            passes: member.witness + 1,
            ..judged.witness
        });
        let passes = raised.as_ref().map_or(0, |witness| witness.passes);
        let acks = report.acknowledgements.iter();
        let commit = AgentCommit {
            machine: self.machine.clone(),
            presence: presence.created,
            pass: judged.map(|judged| judged.fence),
            witness: raised,
            rows: report.rows,
            acknowledgements: acks
                .map(|ack| Acknowledgement { unit: ack.unit.clone(), order: ack.modified })
                .collect(),
        };
        let done = self.registry.commit(commit).await;
        if let Some(revision) = done.revision {
            let witness = if done.is_witness_written { passes } else { 0 };
            if let Err(error) = self.member.advance_apart(witness, revision).await {
                tracing::error!(%error, "what the store has acknowledged cannot be kept");
            }
        }
        let unknown = done.rows.iter().chain(&done.acknowledgements).find_map(|(_, outcome)| match outcome {
            Outcome::Unknown(error) | Outcome::Failed(error) => Some(error.clone()),
            _ => None,
        });
        let fenced = done.is_fenced().then(|| "presence lost, or the store held or re-anchored".to_owned());
        if fenced.is_some() {
            self.doubt.notify_one();
        }
        let committed = Committed {
            rows: applied(&done.rows).collect(),
            acknowledged: done
                .acknowledgements
                .iter()
                .filter(|(_, outcome)| outcome.is_applied() || *outcome == Outcome::Conflict)
                .map(|(unit, _)| unit.clone())
                .collect(),
            fenced,
        };
        match unknown {
            Some(error) if committed.rows.is_empty() && committed.acknowledged.is_empty() => {
                Err(fault("reporting this machine's units", &error))
            }
            _ => Ok(committed),
        }
    }
}

fn applied(outcomes: &[(UnitName, Outcome)]) -> impl Iterator<Item = UnitName> + '_ {
    outcomes.iter().filter(|(_, outcome)| outcome.is_applied()).map(|(unit, _)| unit.clone())
}

#[derive(Debug)]
struct WiredFeed {
    stream: OrdersStream,
    wired: WiredRegistry,
    view: Option<OrdersView>,
    orders: Orders,
    /// On the store.
    verdict: Trust,
    /// The verdict, as long as this machine is present: before it is, another machine may live under its id, and
    /// nothing of that one's is to be started here.
    trust: Trust,
    session: watch::Receiver<SessionState>,
    anchored: watch::Receiver<u64>,
    /// As the trust has it.
    is_present: bool,
    /// The list is older than what this machine has seen.
    is_suspicious: bool,
    is_audit_due: bool,
}

#[async_trait]
impl OrdersFeed for WiredFeed {
    async fn changed(&mut self) -> FeedEvent {
        // Dropped half way it starts over: the view is kept, and so is the suspicion.
        while self.is_suspicious {
            self.settle_suspicion().await;
            if !self.is_suspicious {
                return FeedEvent::Changed;
            }
        }
        if self.is_audit_due {
            // Dropped half way it starts over. Without an answer the connection is lost, and all is read anew anyway.
            let audited = self.stream.audit().await;
            self.is_audit_due = false;
            match audited {
                Ok(report) => return FeedEvent::Audited { differences: report.differences.len() },
                Err(error) => tracing::debug!(%error, "the orders are compared at the next audit"),
            }
        }
        // All are cancel safe.
        let item = tokio::select! {
            item = self.stream.next() => item,
            Ok(()) = self.anchored.changed() => {
                self.judge_as_member();
                return FeedEvent::Judged;
            }
            () = presence_changes(&mut self.session, self.is_present) => {
                self.gate();
                return FeedEvent::Judged;
            }
        };
        match item {
            OrdersItem::Snapshot { view, .. } => {
                let trust = self.judge(&view, true);
                let seen = self.wired.member.get().map(|member| member.seen);
                self.is_suspicious =
                    seen.is_some_and(|seen| view.revision < seen) && matches!(trust, Trust::Unsettled { .. });
                self.view = Some(*view);
                self.take(trust);
                FeedEvent::Changed
            }
            OrdersItem::Changes { revision, changes } => {
                if let Some(mut view) = self.view.take() {
                    for change in changes {
                        view.apply(change);
                    }
                    view.revision = view.revision.max(revision);
                    let trust = self.judge(&view, false);
                    self.view = Some(view);
                    self.take(trust);
                }
                FeedEvent::Changed
            }
            OrdersItem::Disconnected { error } => FeedEvent::Disconnected { why: error.to_string() },
        }
    }

    fn audit(&mut self) {
        self.is_audit_due = true;
    }

    fn view(&self) -> Option<FeedView<'_>> {
        self.view.as_ref().map(|_| FeedView { orders: &self.orders, trust: &self.trust })
    }
}

impl WiredFeed {
    /// The verdict is what the agent gets, if this machine is present.
    fn gate(&mut self) {
        self.is_present = self.session.borrow_and_update().presence.is_some();
        let fits = self.verdict.may_act();
        self.trust = if self.is_present || !fits {
            self.verdict.clone()
        } else {
            Trust::Unsettled { why: NOT_PRESENT.to_owned() }
        };
        let judged = self.view.as_ref().filter(|_| fits).and_then(|view| {
            let witness = view.witness.as_ref().map(|witness| witness.value.clone()).unwrap_or_default();
            view.fence().map(|fence| Judged { fence, witness })
        });
        *self.wired.judged.lock().unwrap_or_else(PoisonError::into_inner) = judged;
        if !fits {
            // The session reads the store itself, and joins, holds or re-anchors.
            self.wired.doubt.notify_one();
        }
    }

    /// The session has joined or re-anchored, perhaps after the last change of this view: nothing else may ever come
    /// to judge it by. What the store itself still has to say comes with a change.
    fn judge_as_member(&mut self) {
        if let (Trust::Create | Trust::Join | Trust::Reanchor { .. }, Some(view)) =
            (&self.verdict, &self.view)
        {
            let verdict = self.judge(view, false);
            if verdict.may_act() {
                self.verdict = verdict;
                self.gate();
            }
        }
    }

    /// Makes the agent's orders of the view.
    fn take(&mut self, verdict: Trust) {
        self.verdict = verdict;
        self.gate();
        let Some(view) = &self.view else { return };
        self.orders = Orders {
            by_unit: view.orders.clone(),
            frozen: view.frozen.iter().map(|(unit, why)| (unit.clone(), why.error.to_string())).collect(),
            revision: view.revision,
            source: OrderSource::Registry,
        };
    }

    fn judge(&self, view: &OrdersView, is_list: bool) -> Trust {
        let seen = match view.trust() {
            Ok(seen) => seen,
            Err(error) => return Trust::Unsettled { why: error.to_string() },
        };
        let Some(member) = self.wired.member.get() else {
            // The session has not joined yet; its word counts.
            return judge(None, seen);
        };
        // A list is linearizable: unless this machine's own commits have overtaken it, it holds all that the disk
        // knows. A change proves nothing of the kind, because a witness written meanwhile may still be on its way.
        if is_list && view.revision >= member.seen {
            return judge(Some(&member), seen);
        }
        if is_list {
            // Either overtaken by a commit while it was read, or rolled back: `changed` finds out which.
            return Trust::Unsettled {
                why: "the store is being judged again; nothing is applied meanwhile".to_owned(),
            };
        }
        let witness = WitnessRecord { passes: member.witness, ..WitnessRecord::default() };
        judge(Some(&member), StoreView { witness: Some(&witness), revision: member.seen, ..seen })
    }

    /// Reads the store once more, with what the disk knew before the read began.
    async fn settle_suspicion(&mut self) {
        let before = self.wired.member.get();
        match self.wired.registry.read_trust_view(&self.wired.machine).await {
            Ok(view) => {
                let trust = judge(before.as_ref(), view.view());
                self.is_suspicious = false;
                self.take(trust);
            }
            Err(error) => {
                tracing::warn!(%error, "the store cannot be judged; nothing is applied");
                tokio::time::sleep(SUSPICION_RETRY).await;
            }
        }
    }
}

const NOT_PRESENT: &str = "nothing is applied until this machine is present in the registry";

/// Waits until the machine's presence comes or goes. Cancel safe.
async fn presence_changes(session: &mut watch::Receiver<SessionState>, is_present: bool) {
    if session.wait_for(|state| state.presence.is_some() != is_present).await.is_err() {
        // The session has ended, and with it soon everything.
        std::future::pending::<()>().await;
    }
}

/// Between two attempts to judge a store that looks older than it should.
const SUSPICION_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use fleet_core::{ClusterId, Epoch, Revision, Timestamp};
    use fleet_registry::keys::{Key, Keys};
    use fleet_registry::memory::{Link, MemoryStore};
    use fleet_registry::store::{LeaseId, Op, Store as _, StoreKind, Txn};

    use super::*;
    use crate::session::{Connection, Presence};

    fn presence() -> Presence {
        Presence { created: Revision(1), lease: LeaseId(1), since: Timestamp(0) }
    }

    /// The registry of a machine that is present.
    fn present(registry: Registry, member: &MemberFile) -> (WiredRegistry, watch::Sender<SessionState>) {
        let (sender, session) = watch::channel(SessionState {
            connection: Connection::Connected { since: Timestamp(0) },
            trust: None,
            cluster: None,
            presence: Some(presence()),
            refused: None,
        });
        let wired = WiredRegistry {
            registry,
            machine: MachineId::parse("aaaaaaaa11111111").unwrap(),
            member: member.clone(),
            session,
            doubt: Arc::default(),
            judged: Arc::default(),
        };
        (wired, sender)
    }

    async fn until(feed: &mut dyn OrdersFeed, trust: &Trust) {
        while feed.view().is_none_or(|view| view.trust != trust) {
            feed.changed().await;
        }
    }

    /// The clock is paused: what is waited for in vain ends the test at once.
    #[tokio::test(start_paused = true)]
    async fn orders_that_were_judged_before_the_machine_joined_or_reanchored_are_judged_again() {
        let store = Arc::new(MemoryStore::new(1));
        let keys = Keys::new("/fleet/").unwrap();
        let put = |epoch: u64| {
            let cluster = format!(r#"{{"v":1,"id":"ours","epoch":{epoch}}}"#);
            store.txn(Txn::of(vec![Op::put(keys.key(&Key::Cluster), cluster)]))
        };
        put(1).await.unwrap();
        let disk = tempfile::tempdir().unwrap();
        let member = MemberFile::open(disk.path()).unwrap();
        let (wired, _session) = present(Registry::new(Arc::clone(&store) as _, keys.clone(), 1), &member);
        let mut feed = wired.follow();
        let minute = std::time::Duration::from_secs(60);
        for epoch in 1..=2 {
            put(epoch).await.unwrap();
            let before = if epoch == 1 { Trust::Join } else { Trust::Reanchor { epoch: Epoch(epoch) } };
            tokio::time::timeout(minute, until(&mut *feed, &before)).await.expect("the verdict before");
            let seen = wired.registry.read(&[Area::One(Key::Cluster)]).await.unwrap().revision;
            let ours = ClusterId::parse("ours").unwrap();
            member.anchor(StoreKind::Memory, ours, Epoch(epoch), 0, seen).unwrap();
            tokio::time::timeout(minute, until(&mut *feed, &Trust::Own)).await.expect("the verdict after");
            assert!(wired.judged.lock().unwrap().is_some(), "and writes are fenced by it");
        }
    }

    /// Leases have a connection of their own: the machine may be present again before its orders are followed again, and
    /// it may have been forgotten meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_presence_that_comes_back_while_the_orders_are_not_followed_confirms_none_of_them() {
        let store = MemoryStore::new(1);
        let keys = Keys::new("/fleet/").unwrap();
        let cluster = r#"{"v":1,"id":"ours","epoch":1}"#;
        store.txn(Txn::of(vec![Op::put(keys.key(&Key::Cluster), cluster)])).await.unwrap();
        let disk = tempfile::tempdir().unwrap();
        let member = MemberFile::open(disk.path()).unwrap();
        member
            .anchor(StoreKind::Memory, ClusterId::parse("ours").unwrap(), Epoch(1), 0, Revision(1))
            .unwrap();
        let registry = Registry::new(Arc::new(store.client("m1")), keys, 1);
        let (wired, session) = present(registry, &member);
        let mut feed = wired.follow();
        until(&mut *feed, &Trust::Own).await;
        store.set_link("m1", Link::Refused);
        while !matches!(feed.changed().await, FeedEvent::Disconnected { .. }) {}
        for presence in [None, Some(presence())] {
            session.send_modify(|state| state.presence.clone_from(&presence));
            assert_eq!(feed.changed().await, FeedEvent::Judged, "{presence:?}");
        }
        store.set_link("m1", Link::Open);
        let mut event = feed.changed().await;
        while matches!(event, FeedEvent::Disconnected { .. }) {
            event = feed.changed().await;
        }
        assert_eq!(event, FeedEvent::Changed);
    }
}
