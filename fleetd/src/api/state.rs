//! What every handler has at hand.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use fleet_core::store_trust::Trust;
use fleet_core::{MachineId, RequestId, Timestamp};
use fleet_registry::ClusterFence;
use fleet_registry::registry::Asked;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::bodies::{Bodies, too_large};
use super::{Failure, Options, caller};

/// A registry that answers is judged within milliseconds; below what clients wait for an answer.
const JUDGED_WITHIN: Duration = Duration::from_secs(2);

/// Whole lists that are read for clients at once, of those who begin to follow them.
const OPENING: usize = 2;

/// The options of the running API, and what its clients share. Clones are cheap.
#[derive(Clone)]
pub(super) struct Api(Arc<Shared>);

struct Shared {
    options: Options,
    relays: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    opening: Semaphore,
    bodies: Bodies,
}

impl std::ops::Deref for Api {
    type Target = Options;
    fn deref(&self) -> &Options {
        &self.0.options
    }
}

impl Api {
    pub fn new(options: Options) -> Api {
        let relays = Arc::new(Semaphore::new(options.limits.relays));
        let watches = Arc::new(Semaphore::new(options.limits.watches));
        let opening = Semaphore::new(OPENING);
        let bodies = Bodies::new(&options.limits);
        Api(Arc::new(Shared { options, relays, watches, opening, bodies }))
    }

    pub fn bodies(&self) -> &Bodies {
        &self.0.bodies
    }

    /// Held for as long as another machine's answer is passed on.
    pub fn relay(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.0.relays).try_acquire_owned().map_err(|_| {
            let message = "this machine passes on as many answers of other machines as it may";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, message).with_remedy(
                "try again; end a `fleetctl journal` that nobody reads, or ask the unit's machine itself",
            )
        })
    }

    /// Held for as long as a client follows lists.
    pub fn watch(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.0.watches).try_acquire_owned().map_err(|_| {
            let message = "as many clients follow this machine's lists as may";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
                .with_remedy("try again; end a `--watch` that nobody reads, or ask another machine")
        })
    }

    /// Held while a client that begins to follow lists is given what it lacks.
    pub async fn opens_watch(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.0.opening.acquire().await.ok()
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Asked before every write: whether this machine trusts the store, and what the write has to compare.
    pub async fn fence(&self) -> Result<ClusterFence, Failure> {
        let unavailable = |message: &str| Failure::new(StatusCode::SERVICE_UNAVAILABLE, message);
        // One that has waited in the socket for a fleetd to be replaced meets a session that has only begun.
        let _ = tokio::time::timeout(JUDGED_WITHIN, self.session.judged()).await;
        let session = self.session.session();
        match &session.trust {
            Some(Trust::Own | Trust::Reanchor { .. }) => {}
            None if !session.is_connected => return Err(Failure::no_registry(session.text)),
            None | Some(Trust::Join | Trust::Create) => {
                return Err(
                    unavailable("this machine has not joined its cluster yet").with_remedy("try again")
                );
            }
            Some(distrust) => {
                return Err(
                    unavailable("this machine does not trust the registry").with_remedy(distrust.remedy())
                );
            }
        }
        let view = self.registry.read_trust_view(&self.machine).await?;
        view.fence().ok_or_else(|| {
            let why = view.hold.map_or_else(String::new, |hold| hold.value.why);
            unavailable("the registry is on hold").with_remedy(format!(
                "it was rolled back ({why}); `fleetctl cluster adopt` confirms what is in it"
            ))
        })
    }

    pub fn asked(&self, by: Option<&str>, request: Option<RequestId>) -> Asked {
        Asked { at: self.now(), by: self.by(by), request }
    }

    /// Who asks: what their certificate says, and what they say.
    pub fn by(&self, by: Option<&str>) -> String {
        let said = by.filter(|by| !by.is_empty()).map(|by| by.chars().take(200).collect::<String>());
        // Cut after signing, so that what was signed once is the same when it is signed again.
        match caller::signed(said.as_deref()) {
            Some(signed) => signed.chars().take(200).collect(),
            None => said.unwrap_or_else(|| format!("api@{}", self.machine.short())),
        }
    }

    /// The machine that a full id or its first eight characters name, among `known`.
    pub fn machine_among<'a>(
        &self,
        text: &str,
        known: impl IntoIterator<Item = &'a MachineId>,
    ) -> Result<MachineId, Failure> {
        let fits = |id: &&MachineId| id.as_str() == text || id.short() == text;
        let mut found: Vec<&MachineId> = known.into_iter().filter(fits).collect();
        found.dedup();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Failure::not_found("machine does not exist")),
            _ => Err(Failure::bad_request("found more than one machine").with_remedy("give the full id")),
        }
    }
}

/// The whole body of a request, or 413.
pub(super) async fn read_body(body: Body, limit: usize) -> Result<Bytes, Failure> {
    axum::body::to_bytes(body, limit).await.map_err(|error| {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = source {
            if inner.is::<http_body_util::LengthLimitError>() {
                return too_large(limit);
            }
            source = inner.source();
        }
        Failure::bad_request(format!("cannot read the request's body: {error}"))
    })
}

/// A new id for a request or a unit: 32 hexadecimal digits.
pub(super) fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
