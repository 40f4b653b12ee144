//! `/machines`: who is there, and the operator's words about metadata.

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use fleet_api::v1::{Machine, MachinePage, MachinePatch, decode_request};
use fleet_core::records::{EventNote, MachineRecord, SCHEMA, effective_metadata};
use fleet_core::requests::patch::{Operation, edits};
use fleet_core::{MachineId, Revision};
use fleet_registry::ClusterFence;
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::Outcome;

use super::super::Failure;
use super::super::query::Query;
use super::super::state::{Api, read_body};
use super::super::units::{ATTEMPTS, refuse_unreadable};
use super::{Answer, V1Failure, empty, json, page};

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let token = page(&api, &Query::of(&uri))?;
    let snapshot = api.registry.read(&[Area::Machines, Area::Presence]).await?;
    let entity = |(id, presence): (&MachineId, &fleet_core::records::Versioned<_>)| {
        let record = snapshot.machines.get(id).map(|record| &record.value);
        let presence: &fleet_core::records::PresenceRecord = &presence.value;
        Machine {
            id: id.to_string(),
            metadata: effective_metadata(Some(presence), record),
            primary_ip: presence.primary_ip.clone(),
        }
    };
    let range = token.range(snapshot.presence.len());
    let machines = snapshot.presence.iter().skip(range.start).take(range.len()).map(entity).collect();
    let next_page_token =
        token.next(snapshot.presence.len()).map(|next| next.to_string()).unwrap_or_default();
    json(&MachinePage { machines, next_page_token })
}

pub(super) async fn patch(State(api): State<Api>, body: Body) -> Answer {
    let body = read_body(body, api.limits.v1_body).await?;
    let patches: Vec<MachinePatch> =
        decode_request(&body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let operations =
        patches.iter().map(|patch| Operation { op: &patch.op, path: &patch.path, value: patch.text() });
    let edits = edits(operations).map_err(|refusal| Failure::bad_request(refusal.to_string()))?;
    if edits.is_empty() {
        return empty(StatusCode::NO_CONTENT);
    }
    let fence = api.fence().await?;
    for (machine, edits) in edits {
        edit(&api, fence, &machine, edits.into_iter().collect()).await?;
    }
    empty(StatusCode::NO_CONTENT)
}

/// Sets keys in a machine's record, which is made if the machine has not been seen yet.
async fn edit(
    api: &Api,
    fence: ClusterFence,
    machine: &MachineId,
    edits: Vec<(String, String)>,
) -> Result<(), V1Failure> {
    let asked = api.asked(None, None);
    let mut last = Outcome::Conflict;
    for _ in 0..ATTEMPTS {
        let snapshot = api.registry.read(&[Area::One(Key::Machine(machine.clone()))]).await?;
        refuse_unreadable(&snapshot)?;
        let found = snapshot.machines.get(machine);
        let expected = found.map_or(Revision(0), |found| found.modified);
        let new = || MachineRecord { v: SCHEMA, first_seen: api.now(), ..MachineRecord::default() };
        let mut record = found.map_or_else(new, |found| found.value.clone());
        record.metadata.extend(edits.iter().cloned());
        if found.is_some_and(|found| found.value == record) {
            return Ok(());
        }
        let keys: Vec<&str> = edits.iter().map(|(key, _)| key.as_str()).collect();
        let note = EventNote {
            kind: "machine-metadata".to_owned(),
            unit: None,
            machine: Some(machine.clone()),
            why: format!("set: {}", keys.join(", ")),
        };
        match api.registry.set_machine_record(fence, machine, expected, &record, note, &asked).await {
            Outcome::Applied(_) => return Ok(()),
            retry @ (Outcome::Conflict | Outcome::Unknown(_)) => last = retry,
            other => return Err(Failure::of_outcome(&other).into()),
        }
    }
    Err(Failure::of_outcome(&last).into())
}
