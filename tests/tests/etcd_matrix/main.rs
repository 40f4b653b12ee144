//! etcd as it is run for real: both versions, every way to secure it, members that fail and are replaced, a full disk;
//! and several machines on one etcd.
//!
//! Whole fleetds in one process with fake systemds. Real time; every wait is for a condition and has a deadline.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod certificates;
mod cluster;
mod etcd;
mod members;
mod one_etcd;
mod renewal;
mod roles;
mod space;
mod strangers;

use std::time::{Duration, Instant};

use fleet_api::v2::Verb;

use cluster::{machines, runs};
use etcd::{Etcd, Security, Version};

/// For what takes milliseconds on a quiet machine.
const SOON: Duration = Duration::from_secs(30);

/// Waits for a condition.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> Option<()>) {
    let began = Instant::now();
    while condition().await.is_none() {
        assert!(began.elapsed() < SOON, "waited {SOON:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A unit is started and stopped by a machine that knows etcd in this way only, also after its token has ended.
async fn one_cell(version: Version, security: Security) {
    let home = tempfile::tempdir().unwrap();
    let extra = ["--auth-token-ttl=2", "--log-level=debug"];
    let etcd = Etcd::start(home.path(), version, 1, security, &extra).await;
    let machines = machines(home.path(), 1, &etcd.options()).await;
    let machine = &machines[0];
    machine.ask(Verb::Start, &["hello.service"]).await.unwrap();
    machine.active(&["hello.service"]).await;
    if security.password {
        let ended = || etcd.log(0).matches("deleted a simple token").count();
        let before = ended();
        until("every token has ended", async || (ended() > before + 1).then_some(())).await;
    }
    machine.ask(Verb::Stop, &["hello.service"]).await.unwrap();
    machine.active(&[]).await;
    assert_eq!(runs(&machines), (1, 1));
    let health = machine.health().await;
    assert!(health.healthy && health.problems.is_empty(), "{health:#?}");
    let endpoint = &health.endpoints[0];
    assert!(endpoint.version.starts_with(version.number()) && endpoint.is_leader, "{endpoint:?}");
    assert!(endpoint.quota.is_some() && endpoint.compacted.is_some(), "{endpoint:?}");
}

const PLAIN: Security =
    Security { tls: false, client_certificate: false, password: false, certificate_user: false };
const TLS: Security = Security { tls: true, ..PLAIN };
const MTLS: Security = Security { client_certificate: true, ..TLS };
const PASSWORD: Security = Security { password: true, ..PLAIN };
const PASSWORD_TLS: Security = Security { password: true, ..TLS };
const CERTIFICATE_USER: Security = Security { certificate_user: true, ..MTLS };

macro_rules! cells {
    ($($name:ident: $version:expr, $security:expr;)+) => {
        mod matrix {
            use super::*;
            $(
                #[tokio::test]
                async fn $name() {
                    one_cell($version, $security).await;
                }
            )+
        }
    };
}

cells! {
    plain_3_4: Version::V3_4, PLAIN;
    plain_3_5: Version::V3_5, PLAIN;
    tls_by_name_3_4: Version::V3_4, TLS;
    tls_by_name_3_5: Version::V3_5, TLS;
    client_certificate_3_4: Version::V3_4, MTLS;
    client_certificate_3_5: Version::V3_5, MTLS;
    password_3_4: Version::V3_4, PASSWORD;
    password_3_5: Version::V3_5, PASSWORD;
    password_and_tls_3_4: Version::V3_4, PASSWORD_TLS;
    password_and_tls_3_5: Version::V3_5, PASSWORD_TLS;
    certificate_as_user_3_4: Version::V3_4, CERTIFICATE_USER;
    certificate_as_user_3_5: Version::V3_5, CERTIFICATE_USER;
}
