//! Leases: keys live as long as they do.

use std::time::Duration;

use super::{
    Compare, KeyRange, Op, PATIENCE, Store, Txn, compare, delete, keys, next_events, put, watch, write,
};
use crate::store::{Lease, LeaseId, StoreError};

async fn grant<S: Store>(store: &S, seconds: u64) -> Lease {
    store.lease_grant(Duration::from_secs(seconds)).await.expect("a healthy store grants a lease")
}

pub async fn expiry_deletes_keys_and_is_watched<S: Store>(store: &S) {
    let start = put(store, "/start", "x").await;
    let lease = grant(store, 1).await;
    write(store, vec![Op::put_leased("/p/1", "x", lease.id), Op::put_leased("/p/2", "x", lease.id)]).await;
    let mut watch = watch(store, vec![KeyRange::prefix("/p/")], start.next()).await;
    let told = next_events(&mut watch, 4).await;
    let deletions: Vec<&str> =
        told.iter().filter(|(_, value, _)| value == "-").map(|(key, _, _)| key.as_str()).collect();
    assert_eq!(deletions, ["/p/1", "/p/2"]);
    assert_eq!(keys(store, KeyRange::prefix("/p/")).await, Vec::<String>::new());
}

pub async fn renewal_keeps_keys<S: Store>(store: &S) {
    let start = put(store, "/start", "x").await;
    let short = grant(store, 2).await;
    let long = grant(store, 2).await;
    write(store, vec![Op::put_leased("/short", "x", short.id), Op::put_leased("/long", "x", long.id)]).await;
    let mut watch = watch(store, vec![KeyRange::key("/short")], start.next()).await;
    let expiry = next_events(&mut watch, 2);
    let mut expiry = std::pin::pin!(expiry);
    loop {
        let ttl = store.lease_keep_alive(long.id).await.expect("a healthy store renews");
        assert!(ttl >= Duration::from_secs(2), "{ttl:?}");
        if tokio::time::timeout(Duration::from_millis(500), &mut expiry).await.is_ok() {
            break;
        }
    }
    assert!(compare(store, Compare::present("/long")).await);
    let left = store.lease_ttl(long.id).await.expect("a healthy store answers").expect("the lease is alive");
    assert!(left.granted >= Duration::from_secs(2) && left.remaining <= left.granted, "{left:?}");
    assert_eq!(store.lease_ttl(short.id).await, Ok(None));
}

pub async fn dead_lease_renews_to_zero<S: Store>(store: &S) {
    let lease = grant(store, 30).await;
    assert!(!store.lease_keep_alive(lease.id).await.expect("a healthy store renews").is_zero());
    store.lease_revoke(lease.id).await.expect("a live lease can be revoked");
    assert_eq!(store.lease_keep_alive(lease.id).await, Ok(Duration::ZERO));
    assert_eq!(store.lease_keep_alive(LeaseId(0x1234_5678)).await, Ok(Duration::ZERO));
}

pub async fn revoked_lease_takes_its_keys<S: Store>(store: &S) {
    let lease = grant(store, 30).await;
    write(store, vec![Op::put_leased("/p", "x", lease.id)]).await;
    store.lease_revoke(lease.id).await.expect("a live lease can be revoked");
    assert!(compare(store, Compare::absent("/p")).await);
    let again = store.lease_revoke(lease.id).await;
    assert_eq!(again, Err(StoreError::LeaseNotFound { id: lease.id }));
}

pub async fn put_under_unknown_lease_writes_nothing<S: Store>(store: &S) {
    let id = LeaseId(0x1234_5678);
    let refused = store.txn(Txn::of(vec![Op::put("/a", "x"), Op::put_leased("/p", "x", id)])).await;
    assert_eq!(refused, Err(StoreError::LeaseNotFound { id }));
    assert!(compare(store, Compare::absent("/a")).await);
}

pub async fn put_without_lease_leaves_the_old_one<S: Store>(store: &S) {
    let lease = grant(store, 30).await;
    write(store, vec![Op::put_leased("/kept", "x", lease.id), Op::put_leased("/gone", "x", lease.id)]).await;
    put(store, "/kept", "y").await;
    let wait = tokio::time::timeout(PATIENCE, store.lease_revoke(lease.id)).await;
    wait.expect("a revocation is quick").expect("a live lease can be revoked");
    assert_eq!(keys(store, KeyRange::prefix("/")).await, ["/kept"]);
    delete(store, "/kept").await;
}
