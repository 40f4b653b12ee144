//! Certificates that are renewed under a running machine.

use fleet_api::v2::Verb;

use super::cluster::{machines, runs};
use super::etcd::{Etcd, Version};
use super::{MTLS, until};

#[tokio::test]
async fn a_machine_takes_renewed_certificates_from_the_disk_when_it_connects_anew() {
    let home = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(home.path(), Version::V3_5, 1, MTLS, &[]).await;
    let machines = machines(home.path(), 1, &etcd.options()).await;
    machines[0].ask(Verb::Start, &["hello.service"]).await.unwrap();
    machines[0].active(&["hello.service"]).await;
    // All of them, so that neither side would believe what the other had before.
    etcd.kill(0);
    etcd.renew_certificates();
    etcd.restart(0);
    etcd.await_answer().await;
    until("the machine is connected again", async || machines[0].health().await.healthy.then_some(())).await;
    machines[0].ask(Verb::Stop, &["hello.service"]).await.unwrap();
    machines[0].active(&[]).await;
    assert_eq!(runs(&machines), (1, 1));
    let endpoint = &machines[0].health().await.endpoints[0];
    assert!(endpoint.quota.is_some(), "the page with its numbers is read with them as well: {endpoint:?}");
}
