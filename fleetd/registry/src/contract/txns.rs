//! Transactions: compares, fences, limits.

use super::{
    Compare, KeyRange, Op, OpReply, Range, Revision, Store, Txn, compare, keys, names, put, range_of, run,
};
use crate::store::StoreError;

pub async fn every_condition_is_compared<S: Store>(store: &S) {
    let created = put(store, "/a", "1").await;
    let modified = put(store, "/a", "2").await;
    for (holds, condition) in [
        (true, Compare::value("/a", "2")),
        (false, Compare::value("/a", "1")),
        (false, Compare::value("/none", "")),
        (true, Compare::mod_revision("/a", modified)),
        (false, Compare::mod_revision("/a", created)),
        (true, Compare::create_revision("/a", created)),
        (false, Compare::create_revision("/a", modified)),
        (true, Compare::mod_revision("/none", Revision(0))),
        (true, Compare::version("/a", 2)),
        (false, Compare::version("/a", 1)),
        (true, Compare::version("/none", 0)),
        (true, Compare::present("/a")),
        (false, Compare::present("/none")),
        (true, Compare::absent("/none")),
        (false, Compare::absent("/a")),
    ] {
        assert_eq!(compare(store, condition.clone()).await, holds, "{condition:?}");
    }
}

pub async fn failed_fence_writes_nothing<S: Store>(store: &S) {
    let term = put(store, "/leader", "m1").await;
    let fence = Compare::create_revision("/leader", term);
    let write = |value: &str| {
        let txn = Txn::of(vec![Op::put("/unit", value.to_owned())]).when(vec![fence.clone()]);
        txn.otherwise(vec![Op::range(Range::key("/leader"))])
    };
    assert!(run(store, write("first")).await.succeeded);
    run(store, Txn::of(vec![Op::delete("/leader")])).await;
    let other = put(store, "/leader", "m2").await;
    let reply = run(store, write("second")).await;
    assert!(!reply.succeeded);
    assert_eq!(reply.header.revision, other, "a transaction that wrote nothing makes no revision");
    assert_eq!(range_of(&reply.replies[0]).kvs[0].create_revision, other);
    assert!(compare(store, Compare::value("/unit", "first")).await);
}

pub async fn steps_see_the_steps_before_them<S: Store>(store: &S) {
    put(store, "/k/1", "x").await;
    put(store, "/k/2", "x").await;
    let reply = run(
        store,
        Txn::of(vec![
            Op::put("/other", "x"),
            Op::delete_prefix("/k/"),
            Op::range(Range::prefix("/k/")),
            Op::range(Range::prefix("/other")),
        ]),
    )
    .await;
    assert_eq!(reply.replies[0], OpReply::Put);
    assert_eq!(reply.replies[1], OpReply::Deleted { count: 2 });
    assert_eq!(range_of(&reply.replies[2]).kvs, []);
    assert_eq!(names(&range_of(&reply.replies[3]).kvs), ["/other"]);
    assert_eq!(range_of(&reply.replies[3]).kvs[0].mod_revision, reply.header.revision);
}

pub async fn limits_are_enforced<S: Store>(store: &S) {
    let ops = |count: usize| (0..count).map(|i| Op::put(format!("/k/{i:03}"), "")).collect::<Vec<_>>();
    let compares =
        |count: usize| (0..count).map(|i| Compare::absent(format!("/k/{i:03}"))).collect::<Vec<_>>();
    let too_many = store.txn(Txn::of(ops(129))).await;
    assert_eq!(too_many, Err(StoreError::TxnTooLarge { compares: 0, ops: 129 }));
    let too_many = store.txn(Txn::of(ops(1)).when(compares(129))).await;
    assert_eq!(too_many, Err(StoreError::TxnTooLarge { compares: 129, ops: 1 }));
    assert_eq!(keys(store, KeyRange::prefix("/k/")).await, Vec::<String>::new());
    let full = Txn::of(ops(128)).when(compares(128)).otherwise(ops(128));
    assert!(run(store, full).await.succeeded);
    assert_eq!(keys(store, KeyRange::prefix("/k/")).await.len(), 128);
}

pub async fn key_put_twice_is_refused<S: Store>(store: &S) {
    let twice = store.txn(Txn::of(vec![Op::put("/a", "1"), Op::put("/a", "2")])).await;
    assert_eq!(twice, Err(StoreError::DuplicateKey { key: "/a".into() }));
    let both = store.txn(Txn::of(vec![Op::delete("/a"), Op::put("/a", "2")])).await;
    assert_eq!(both, Err(StoreError::DuplicateKey { key: "/a".into() }));
    assert!(compare(store, Compare::absent("/a")).await);
}

pub async fn delete_of_nothing_is_no_revision<S: Store>(store: &S) {
    let before = put(store, "/a", "1").await;
    let reply = run(store, Txn::of(vec![Op::delete("/none")])).await;
    assert_eq!(reply.replies, [OpReply::Deleted { count: 0 }]);
    assert_eq!(reply.header.revision, before);
}
