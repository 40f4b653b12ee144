//! A cluster as a document, and what is made from one; this machine's move to the configured store.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use fleet_api::v2::{ImportReport, ImportRequest, JoinRequest};
use fleet_core::store_trust::Trust;
use fleet_core::{ClusterId, Epoch};
use fleet_registry::registry::document::Export;
use fleet_registry::registry::export::Imported;

use super::super::Failure;
use super::super::state::Api;
use super::{Answer, NDJSON, document, json, typed};

const SETTLES_WITHIN: Duration = Duration::from_secs(5);

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
    let conflict = |message: String| Failure::new(StatusCode::CONFLICT, message);
    // A machine of another cluster would stand before a store that is not its own from then on.
    let session = api.session.session();
    if let Some((cluster, _)) = &session.cluster
        && *cluster != export.cluster.id
    {
        let message = format!("this machine belongs to cluster {cluster}");
        return Err(conflict(message).with_remedy("import on a machine that belongs to none, or to the same"));
    }
    let mut report = ImportReport {
        cluster: export.cluster.id.to_string(),
        epoch: Epoch(export.cluster.epoch.0 + 1).0,
        units: export.units().count(),
        machines: export.machines().count(),
        done: false,
    };
    if matches!(session.trust, Some(Trust::Own | Trust::Held { .. } | Trust::RolledBack { .. })) {
        return Err(conflict("the registry holds a cluster already".to_owned())
            .with_remedy("import into an etcd, or below an etcd_key_prefix, that has none"));
    }
    if !request.yes {
        return json(&report);
    }
    match api.registry.import(&export, &api.asked(Some(&request.by), None)).await? {
        Imported::Done { epoch, .. } => {
            (report.epoch, report.done) = (epoch.0, true);
            settled(&api, &export.cluster.id).await;
            json(&report)
        }
        Imported::Exists { found } => Err(conflict(format!("the registry holds cluster {found} already"))
            .with_remedy("import into an etcd, or below an etcd_key_prefix, that has none")),
        Imported::NotEmpty { sample } => {
            Err(conflict(format!("the registry holds {sample}, which is not of this document"))
                .with_remedy("choose another etcd_key_prefix, or remove what is there"))
        }
    }
}

/// The session looks at a store that it distrusts about once a second. Whoever imports wants to go on at once; if this
/// machine is of another mind, the next request says so.
async fn settled(api: &Api, cluster: &ClusterId) {
    let _ = tokio::time::timeout(SETTLES_WITHIN, api.session.joined(cluster)).await;
}

pub(super) async fn join(State(api): State<Api>, body: Body) -> Answer {
    let request: JoinRequest = document(&api, body).await?;
    let nowhere = || Failure::new(StatusCode::CONFLICT, "this machine cannot move to another store");
    let joiner = api.joiner.as_ref().ok_or_else(nowhere)?;
    json(&joiner.join(&request, &api.asked(Some(&request.by), None)).await?)
}
