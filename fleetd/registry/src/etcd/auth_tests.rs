//! Users, passwords and tokens of real etcd, in both versions.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::server::{EtcdServers, Version};
use super::{EtcdOptions, EtcdStore};
use crate::store::{
    KeyRange, LeaseId, Op, Range, Revision, Store, StoreError, Txn, WatchReply, WatchRequest,
};

const VERSIONS: [Version; 2] = [Version::V3_4, Version::V3_5];
/// Ended after a second without a call. The log says so, and tells every authentication.
const SHORT_TOKENS: [&str; 3] = ["--auth-token-ttl=1", "--logger=zap", "--log-level=debug"];

fn enable_authentication(servers: &EtcdServers) {
    for words in [
        "user add root:secret",
        "user grant-role root root",
        "user add machine:password",
        "role add fleet",
        "role grant-permission --prefix=true fleet readwrite /fleet/",
        "user grant-role machine fleet",
        "auth enable",
    ] {
        servers.etcdctl(&words.split(' ').collect::<Vec<_>>());
    }
}

async fn put(store: &EtcdStore, key: &str) -> Result<(), StoreError> {
    store.txn(Txn::of(vec![Op::put(key.to_owned(), "x")])).await.map(drop)
}

async fn watch(store: &EtcdStore, key: &str) -> Result<Option<WatchReply>, StoreError> {
    let mut stream = store.watch(WatchRequest::new(vec![KeyRange::key(key.to_owned())], Revision(1))).await?;
    Ok(stream.next().await)
}

/// Waits until etcd has given up so many tokens.
async fn until_tokens_end(servers: &EtcdServers, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while servers.log(0).matches("deleted a simple token").count() < count {
        assert!(Instant::now() < deadline, "tokens stay");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn token_that_has_ended_is_renewed_by_whatever_call_meets_it() {
    for version in VERSIONS {
        let servers = EtcdServers::start_version(version, 1, &SHORT_TOKENS).await;
        enable_authentication(&servers);
        // A store for each: the first call renews the token for the others.
        let stores = [(); 5].map(|()| servers.store_of("machine", "password"));
        for store in &stores {
            put(store, "/fleet/a").await.unwrap();
        }
        let lease = stores[3].lease_grant(Duration::from_secs(60)).await.unwrap();
        until_tokens_end(&servers, stores.len()).await;
        let [one, two, three, four, five] = &stores;
        one.range(Range::prefix("/fleet/")).await.unwrap();
        put(two, "/fleet/b").await.unwrap();
        let seen = watch(three, "/fleet/b").await.unwrap();
        assert!(matches!(seen, Some(WatchReply::Events(_))), "{version:?}: {seen:?}");
        assert!(!four.lease_keep_alive(lease.id).await.unwrap().is_zero());
        four.lease_revoke(lease.id).await.unwrap();
        five.status().await.unwrap();
    }
}

#[tokio::test]
async fn calls_that_meet_an_ended_token_together_authenticate_once_and_all_succeed() {
    for version in VERSIONS {
        let servers = EtcdServers::start_version(version, 1, &SHORT_TOKENS).await;
        enable_authentication(&servers);
        let store = servers.store_of("machine", "password");
        put(&store, "/fleet/a").await.unwrap();
        let authentications = || servers.log(0).matches("authenticated a user").count();
        let before = authentications();
        assert!(before > 0, "{version:?}: etcd's log tells them");
        until_tokens_end(&servers, 1).await;
        let keys: Vec<String> = (0..32).map(|i| format!("/fleet/{i}")).collect();
        let puts = futures_util::future::join_all(keys.iter().map(|key| put(&store, key))).await;
        assert!(puts.iter().all(Result::is_ok), "{version:?}: {puts:?}");
        assert_eq!(authentications(), before + 1, "{version:?}");
    }
}

#[tokio::test]
async fn authentication_is_switched_on_and_off_under_a_store_that_has_a_user() {
    for version in VERSIONS {
        let servers = EtcdServers::start_version(version, 1, &[]).await;
        let store = servers.store_of("machine", "password");
        put(&store, "/fleet/a").await.unwrap();
        enable_authentication(&servers);
        put(&store, "/fleet/a").await.unwrap();
        let seen = watch(&store, "/fleet/a").await.unwrap();
        assert!(matches!(seen, Some(WatchReply::Events(_))), "{version:?}: {seen:?}");
        servers.etcdctl(&["--user=root:secret", "role", "add", "other"]);
        put(&store, "/fleet/a").await.unwrap();
        servers.etcdctl(&["--user=root:secret", "auth", "disable"]);
        put(&store, "/fleet/a").await.unwrap();
        put(&servers.store_of("machine", "password"), "/fleet/a").await.unwrap();
    }
}

#[tokio::test]
async fn wrong_password_no_user_and_foreign_keys_are_refused_with_what_to_check() {
    for version in VERSIONS {
        let servers = EtcdServers::start_version(version, 1, &[]).await;
        enable_authentication(&servers);
        let denied = |outcome: Result<(), StoreError>| {
            let error = outcome.unwrap_err();
            assert!(matches!(error, StoreError::PermissionDenied { .. }), "{version:?}: {error:?}");
        };
        denied(put(&servers.store_of("machine", "wrong"), "/fleet/a").await);
        denied(put(&servers.store(), "/fleet/a").await);
        let store = servers.store_of("machine", "password");
        denied(put(&store, "/other/a").await);
        denied(store.range(Range::prefix("/")).await.map(drop));
        match watch(&store, "/other/a").await {
            Err(StoreError::PermissionDenied { .. }) => {}
            other => panic!("{version:?}: {other:?}"),
        }
        put(&store, "/fleet/a").await.unwrap();
        // What the leader and the health of the store need besides.
        store.compact(Revision(2)).await.unwrap();
        assert_eq!(store.lease_ttl(LeaseId(77)).await.unwrap(), None);
        let health = store.health().await;
        let endpoint = health.endpoints[0].status.as_ref().unwrap();
        assert_eq!(endpoint.compacted, Some(Revision(2)), "{version:?}");
        assert_eq!(endpoint.quota, Some(2 << 30), "{version:?}");
        assert_eq!((health.members.len(), health.alarms.len()), (1, 0));
    }
}

#[tokio::test]
async fn health_says_of_each_endpoint_what_it_says_of_itself() {
    let mut servers = EtcdServers::start(3).await;
    servers.kill(1);
    servers.wait_for_leader().await;
    let options = EtcdOptions {
        endpoints: [servers.options().endpoints, vec!["http://no-such-name.invalid:2379".to_owned()]]
            .concat(),
        ..servers.options()
    };
    let health = EtcdStore::new(&options).unwrap().health().await;
    let is_fine: Vec<bool> = health.endpoints.iter().map(|endpoint| endpoint.status.is_ok()).collect();
    assert_eq!(is_fine, [true, false, true, false]);
    let error = health.endpoints[3].status.as_ref().unwrap_err().to_string();
    assert!(error.contains("no-such-name.invalid"), "{error}");
    let leaders: Vec<Option<u64>> = health
        .endpoints
        .iter()
        .filter_map(|endpoint| Some(endpoint.status.as_ref().ok()?.status.leader))
        .collect();
    assert!(leaders[0].is_some() && leaders[0] == leaders[1], "{leaders:?}");
    assert_eq!(health.members.len(), 3);

    servers.kill(2);
    // A member that is alone still says so itself.
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let health = servers.store().health().await;
        match &health.endpoints[0].status {
            Ok(endpoint) if endpoint.status.leader.is_none() => break,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
}
