//! A cluster that is made from a document of another one.

use std::time::Duration;

use fleet_api::paths;
use fleet_api::v2::{ImportReport, ImportRequest};
use fleet_core::store_trust::Trust;
use fleet_core::{ClusterId, Epoch};
use fleet_registry::keys::{Area, Key};
use tokio::time::timeout;

use super::Lab;

#[tokio::test]
async fn an_import_is_answered_as_soon_as_the_session_has_joined() {
    let from = Lab::start().await;
    let document = from.registry.export().await.unwrap().unwrap().to_document();
    let lab = Lab::start().await;
    lab.delete(&Key::Cluster).await;
    lab.fake.session.send_modify(|session| {
        (session.trust, session.cluster, session.has_presence) = (None, None, false);
    });
    let client = lab.client();
    let request = ImportRequest { document, yes: true, by: "operator".to_owned() };
    let import =
        tokio::spawn(
            async move { client.post::<ImportReport>(paths::CLUSTER_IMPORT, &request).await.unwrap() },
        );
    let imported = async {
        while lab.registry.read(&[Area::One(Key::Cluster)]).await.unwrap().cluster.is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), imported).await.expect("the import writes the cluster");
    assert!(!import.is_finished(), "the session has not joined yet");
    lab.fake.session.send_modify(|session| {
        session.cluster = Some((ClusterId::parse("ours").unwrap(), Epoch(2)));
        (session.trust, session.has_presence) = (Some(Trust::Own), true);
    });
    // Well below what an import waits for a session that does not join.
    let report = timeout(Duration::from_secs(3), import).await.expect("it was told").unwrap();
    assert!(report.done, "{report:?}");
}
