//! A cluster as a document, and what is made from one; this machine's move to the configured store.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use fleet_api::v2::{ExpectedMachine, ImportReport, ImportRequest, JoinRequest};
use fleet_core::records::Wanted;
use fleet_core::{ClusterId, MachineId};
use fleet_registry::registry::document::Export;
use fleet_registry::registry::import::{Begun, Imported, Importer};
use fleet_registry::registry::snapshot::Snapshot;

use super::super::Failure;
use super::super::ports::SessionReport;
use super::super::state::Api;
use super::cluster::own_effects;
use super::{Answer, NDJSON, document, json, typed};
use crate::claim;

/// Everything but what leases hold, as of one revision; also from a store that is on hold.
pub(super) async fn export(State(api): State<Api>) -> Answer {
    match api.registry.export().await? {
        Some(export) => Ok(typed(NDJSON, Body::from(export.to_document()))),
        None => {
            Err(Failure::not_found("the registry holds no cluster").with_remedy("nothing has to be exported"))
        }
    }
}

pub(super) async fn import(State(api): State<Api>, body: Body) -> Answer {
    let request: ImportRequest = document(&api, body).await?;
    let text = request.document;
    let parsed = tokio::task::spawn_blocking(move || Export::from_document(&text)).await;
    let export = parsed
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
        .map_err(|error| Failure::bad_request(error.to_string()))?;
    let asked = api.asked(Some(&request.by), None);
    let member = api.joiner.as_ref().and_then(|joiner| joiner.member());
    let by = Importer { machine: &api.machine, member, asked: &asked };
    if let Some(refused) = api.registry.refuses_import(&export, &by).await? {
        return Err(not_imported(&api, &refused));
    }
    let snapshot = export.snapshot();
    let (would_stop, would_start) = own_effects(&api, &snapshot);
    let mut report = ImportReport {
        cluster: export.cluster.id.to_string(),
        epoch: by.epoch_of(&export).0,
        units: export.units().count(),
        machines: export.machines().count(),
        expected: expected(&snapshot, &api.machine),
        newest: export.newest().0,
        would_stop,
        would_start,
        done: false,
    };
    if !request.yes {
        return json(&report);
    }
    let claim = match api.registry.begin_import(&export, &by).await? {
        Begun::Claimed(claim) => claim,
        Begun::Refused(refused) => return Err(not_imported(&api, &refused)),
    };
    // Of a new machine the session makes a cluster meanwhile. The claim remembers it, and the next request gives it up.
    if api.joiner.as_ref().and_then(|joiner| joiner.member()) != by.member {
        return Err(Failure::new(
            StatusCode::CONFLICT,
            "this machine has come to belong to another cluster meanwhile",
        )
        .with_remedy("send the same request again"));
    }
    // Before the document's cluster is there: an import that breaks off between the two is repeated, and a machine that
    // stood before a foreign store could not do that.
    if let (Some((cluster, epoch)), Some(joiner)) = (&claim.belongs, &api.joiner) {
        joiner.belong(cluster.clone(), *epoch).await?;
    }
    match api.registry.finish_import(&export, claim, &by).await? {
        Imported::Done { epoch, .. } => {
            (report.epoch, report.done) = (epoch.0, true);
            settled(&api, &export.cluster.id).await;
            json(&report)
        }
        refused => Err(not_imported(&api, &refused)),
    }
}

/// Machines that the import waits for: the document has them, and they are not the one that imports.
fn expected(document: &Snapshot, machine: &MachineId) -> Vec<ExpectedMachine> {
    let others =
        document.machines.iter().filter(|(id, record)| *id != machine && record.value.forgotten.is_none());
    let units = |id: &MachineId| {
        let orders = document.orders.get(id).into_iter().flatten();
        orders.filter(|(_, order)| order.value.wanted != Wanted::Gone).count()
    };
    others.map(|(id, _)| ExpectedMachine { machine: id.to_string(), units: units(id) }).collect()
}

fn not_imported(api: &Api, refused: &Imported) -> Failure {
    let conflict = |message: String| Failure::new(StatusCode::CONFLICT, message);
    match refused {
        Imported::OtherMember { cluster } => conflict(format!("this machine belongs to cluster {cluster}"))
            .with_remedy("import on a machine that belongs to none, or to the same"),
        Imported::NotEmpty { sample } => {
            conflict(format!("the registry holds {sample}, which is not of this document"))
                .with_remedy("choose another etcd_key_prefix, or remove what is there")
        }
        Imported::Underway { by, sample } => {
            conflict(claim::text(by, sample.as_deref())).with_remedy(claim::remedy(&api.registry))
        }
        Imported::Exists { found } => conflict(format!("the registry holds cluster {found} already"))
            .with_remedy(
                "import into a store, or below an etcd_key_prefix, that has none, or one without units and other machines",
            ),
        // No refusal.
        Imported::Done { .. } => conflict("the document was imported".to_owned()),
    }
}

/// The session looks at a store that it distrusts about once a second. Whoever imports wants to go on at once; if this
/// machine is of another mind, the next request says so.
async fn settled(api: &Api, cluster: &ClusterId) {
    let takes_part = |session: &SessionReport| session.takes_part_in(cluster);
    let _ = tokio::time::timeout(api.limits.settles, api.session.until(&takes_part)).await;
}

pub(super) async fn join(State(api): State<Api>, body: Body) -> Answer {
    let request: JoinRequest = document(&api, body).await?;
    let nowhere = || Failure::new(StatusCode::CONFLICT, "this machine cannot move to another store");
    let joiner = api.joiner.as_ref().ok_or_else(nowhere)?;
    json(&joiner.join(&request, &api.asked(Some(&request.by), None)).await?)
}
