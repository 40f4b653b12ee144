//! Between our value types and etcd's. Pure; called by the store and the watch.

use etcd_client::{
    Compare as EtcdCompare, CompareOp, DeleteOptions, EventType, GetOptions, GetResponse, PutOptions,
    ResponseHeader, StatusResponse, Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse,
};

use crate::store::{
    Compare, Condition, Header, KeyRange, KeyValue, LeaseId, Op, OpReply, Range, RangeReply, Revision,
    Select, StoreStatus, Txn, TxnReply, WatchEvent,
};

pub(super) fn revision(wire: i64) -> Revision {
    Revision(u64::try_from(wire).unwrap_or_default())
}

pub(super) fn wire_revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// First key and range end as etcd wants them: a zero byte stands for "from the first key" and for
/// "to the last key".
pub(super) fn wire_range(keys: &KeyRange) -> (Vec<u8>, Option<Vec<u8>>) {
    let start = match keys.start() {
        start if start.is_empty() => vec![0],
        start => start.to_vec(),
    };
    let end = match keys {
        KeyRange::Key(_) => None,
        _ => Some(keys.end().map_or_else(|| vec![0], Vec::from)),
    };
    (start, end)
}

pub(super) fn header(wire: Option<&ResponseHeader>) -> Header {
    wire.map(|wire| Header {
        cluster_id: wire.cluster_id(),
        member_id: wire.member_id(),
        revision: revision(wire.revision()),
        raft_term: wire.raft_term(),
    })
    .unwrap_or_default()
}

/// Alarms are another question.
pub(super) fn status(wire: &StatusResponse) -> StoreStatus {
    StoreStatus {
        header: header(wire.header()),
        version: wire.version().to_owned(),
        db_size: u64::try_from(wire.db_size()).unwrap_or_default(),
        db_size_in_use: u64::try_from(wire.raft_used_db_size()).unwrap_or_default(),
        leader: Some(wire.leader()).filter(|id| *id != 0),
        alarms: Vec::new(),
    }
}

pub(super) fn get_options(range: &Range) -> (Vec<u8>, GetOptions) {
    let (key, end) = wire_range(&range.keys);
    let mut options = GetOptions::new();
    if let Some(end) = end {
        options = options.with_range(end);
    }
    if let Some(revision) = range.at_revision {
        options = options.with_revision(wire_revision(revision));
    }
    if let Some(limit) = range.limit {
        options = options.with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
    }
    let options = match range.select {
        Select::All => options,
        Select::KeysOnly => options.with_keys_only(),
        Select::CountOnly => options.with_count_only(),
    };
    (key, options)
}

pub(super) fn range_reply(mut wire: GetResponse) -> RangeReply {
    RangeReply {
        header: header(wire.header()),
        more: wire.more(),
        count: u64::try_from(wire.count()).unwrap_or_default(),
        kvs: wire.take_kvs().into_iter().map(key_value).collect(),
    }
}

fn key_value(wire: etcd_client::KeyValue) -> KeyValue {
    let create_revision = revision(wire.create_revision());
    let mod_revision = revision(wire.mod_revision());
    let version = u64::try_from(wire.version()).unwrap_or_default();
    let lease = Some(wire.lease()).filter(|id| *id != 0).map(LeaseId);
    let (key, value) = wire.into_key_value();
    KeyValue { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease }
}

pub(super) fn event(wire: &etcd_client::Event) -> Option<WatchEvent> {
    let kv = key_value(wire.kv()?.clone());
    let previous = wire.prev_kv().cloned().map(key_value);
    Some(match wire.event_type() {
        EventType::Put => WatchEvent::Put { kv, previous },
        EventType::Delete => WatchEvent::Delete { kv, previous },
    })
}

pub(super) fn txn(txn: Txn) -> EtcdTxn {
    EtcdTxn::new()
        .when(txn.compares.into_iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.then.into_iter().map(op).collect::<Vec<_>>())
        .or_else(txn.otherwise.into_iter().map(op).collect::<Vec<_>>())
}

fn compare(compare: Compare) -> EtcdCompare {
    let key = Vec::from(compare.key);
    match compare.condition {
        Condition::Value(value) => EtcdCompare::value(key, CompareOp::Equal, value),
        Condition::ModRevision(revision) => {
            EtcdCompare::mod_revision(key, CompareOp::Equal, wire_revision(revision))
        }
        Condition::CreateRevision(revision) => {
            EtcdCompare::create_revision(key, CompareOp::Equal, wire_revision(revision))
        }
        Condition::Version(version) => {
            EtcdCompare::version(key, CompareOp::Equal, i64::try_from(version).unwrap_or(i64::MAX))
        }
        Condition::Absent => EtcdCompare::create_revision(key, CompareOp::Equal, 0),
        Condition::Present => EtcdCompare::create_revision(key, CompareOp::Greater, 0),
    }
}

fn op(op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            TxnOp::put(key, value, lease.map(|id| PutOptions::new().with_lease(id.0)))
        }
        Op::Delete { keys } => {
            let (key, end) = wire_range(&keys);
            TxnOp::delete(key, end.map(|end| DeleteOptions::new().with_range(end)))
        }
        Op::Range(range) => {
            let (key, options) = get_options(&range);
            TxnOp::get(key, Some(options))
        }
    }
}

pub(super) fn txn_reply(wire: &TxnResponse) -> TxnReply {
    let replies = wire.op_responses().into_iter().map(|reply| match reply {
        TxnOpResponse::Get(reply) => OpReply::Range(range_reply(reply)),
        TxnOpResponse::Delete(reply) => {
            OpReply::Deleted { count: u64::try_from(reply.deleted()).unwrap_or_default() }
        }
        // We send no nested transactions.
        TxnOpResponse::Put(_) | TxnOpResponse::Txn(_) => OpReply::Put,
    });
    TxnReply { succeeded: wire.succeeded(), header: header(wire.header()), replies: replies.collect() }
}

/// The first lease that a transaction puts under, which is the one etcd can miss.
pub(super) fn lease_of(txn: &Txn) -> Option<LeaseId> {
    txn.then.iter().chain(&txn.otherwise).find_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete { .. } | Op::Range(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_store_is_asked_for_with_zero_bytes() {
        assert_eq!(wire_range(&KeyRange::prefix("")), (vec![0], Some(vec![0])));
        assert_eq!(wire_range(&KeyRange::prefix("/a/")), (b"/a/".to_vec(), Some(b"/a0".to_vec())));
        assert_eq!(wire_range(&KeyRange::key("/a")), (b"/a".to_vec(), None));
    }
}
