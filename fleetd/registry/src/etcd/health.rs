//! Every member asked for itself, for `fleetctl cluster health`.
//!
//! Called by the store on an operator's request only. Each endpoint gets a connection of its own, without a user and
//! also without a leader, so that what it says is about itself and not about the fail-over.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{AlarmAction, AlarmType, Client, GetOptions};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::classify::{Asked, Failure, classify};
use super::convert;
use super::failover::{Members, Repeat};
use super::member::Member;
use super::metrics::Metrics;
use crate::store::{
    Alarm, EndpointContent, EndpointHealth, EndpointReport, MemberInfo, Operation, StoreError, StoreHealth,
};

const ASKED: Asked = Asked { operation: Operation::Status, revision: None, lease: None };

pub(super) async fn of(members: &Members, metrics: &Metrics) -> StoreHealth {
    let endpoints = join_all(members.all.iter().map(|member| one(member, metrics, members.request_timeout)));
    // These two go through consensus or are the cluster's, so whoever answers may say them.
    let alarms = members.call(ASKED, Repeat::Freely, alarms);
    let known = members.call(ASKED, Repeat::Freely, known_members);
    let (endpoints, alarms, known) = tokio::join!(endpoints, alarms, known);
    StoreHealth {
        endpoints,
        alarms: alarms.map(|(_, alarms)| alarms).unwrap_or_default(),
        members: known.map(|(_, known)| known).unwrap_or_default(),
    }
}

/// With the id of the cluster that tells them.
pub(super) async fn alarms(client: Client) -> Result<(u64, Vec<Alarm>), Failure> {
    let reply = client.maintenance_client().alarm(AlarmAction::Get, AlarmType::None, None).await;
    let reply = reply.map_err(|error| classify(ASKED, &error))?;
    let alarms = reply.alarms().iter().filter_map(|alarm| match alarm.alarm() {
        AlarmType::Nospace => Some(Alarm::NoSpace { member_id: alarm.member_id() }),
        AlarmType::Corrupt => Some(Alarm::Corrupt { member_id: alarm.member_id() }),
        AlarmType::None => None,
    });
    Ok((convert::header(reply.header()).cluster_id, alarms.collect()))
}

async fn known_members(client: Client) -> Result<(u64, Vec<MemberInfo>), Failure> {
    let reply = client.cluster_client().member_list().await.map_err(|error| classify(ASKED, &error))?;
    let members = reply.members().iter().map(|member| MemberInfo {
        id: member.id(),
        name: member.name().to_owned(),
        urls: member.client_urls().to_vec(),
    });
    Ok((convert::header(reply.header()).cluster_id, members.collect()))
}

/// Also from members without a leader, and from those of other clusters. See [`Store::divided`](crate::store::Store).
pub(super) async fn divided(members: &Members, key: &[u8]) -> Vec<EndpointContent> {
    let within = members.request_timeout;
    let ids = join_all(members.all.iter().map(|member| timeout(within, status(member)))).await;
    let ids: Vec<Option<u64>> =
        ids.into_iter().map(|status| Some(status.ok()?.ok()?.status.header.cluster_id)).collect();
    if ids.iter().flatten().collect::<BTreeSet<_>>().len() < 2 {
        return Vec::new();
    }
    let value = async |member: &Member| {
        let client = member.reader().await.ok()?;
        let reply = client.kv_client().get(key, Some(GetOptions::new().with_serializable())).await.ok()?;
        reply.kvs().first().map(|kv| Bytes::copy_from_slice(kv.value()))
    };
    let values = join_all(members.all.iter().map(|member| timeout(within, value(member)))).await;
    let each = members.all.iter().zip(ids).zip(values);
    each.map(|((member, cluster_id), value)| EndpointContent {
        endpoint: member.url().to_owned(),
        cluster_id,
        value: value.ok().flatten(),
    })
    .collect()
}

async fn one(member: &Member, metrics: &Metrics, within: Duration) -> EndpointReport {
    let began = Instant::now();
    let status = match timeout(within, status(member)).await {
        Ok(Ok(status)) => {
            let rest = within.saturating_sub(began.elapsed());
            // Only sizes are lost without them.
            let numbers = timeout(rest, metrics.read(member.place())).await.ok().and_then(Result::ok);
            let numbers = numbers.unwrap_or_default();
            Ok(EndpointHealth {
                quota: numbers.quota.or(status.quota),
                compacted: numbers.compacted,
                ..status
            })
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StoreError::Timeout { operation: Operation::Status, after: within }),
    };
    EndpointReport { endpoint: member.url().to_owned(), took: began.elapsed(), status }
}

async fn status(member: &Member) -> Result<EndpointHealth, StoreError> {
    let asked = async {
        let mut maintenance = member.probe().await?.maintenance_client();
        maintenance.status().await.map_err(|error| classify(ASKED, &error))
    };
    let reply = asked.await.map_err(|failure| match failure.without_token(Operation::Status) {
        Failure::Final(error) => error,
        Failure::NotApplied(detail)
        | Failure::Ambiguous(detail)
        | Failure::Token(detail)
        | Failure::Broken { detail, .. } => StoreError::Unavailable { operation: Operation::Status, detail },
        Failure::Silent(after) => StoreError::Timeout { operation: Operation::Status, after },
    })?;
    Ok(EndpointHealth {
        status: convert::status(&reply),
        is_learner: reply.is_learner(),
        // From etcd 3.6 on; before that only the metrics say it.
        quota: u64::try_from(reply.db_size_quota()).ok().filter(|quota| *quota > 0),
        compacted: None,
    })
}
