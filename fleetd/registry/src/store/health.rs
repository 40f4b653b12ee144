//! The store as an operator looks at it: each endpoint for itself, and what the store says of itself as a whole.

use std::time::Duration;

use bytes::Bytes;

use super::{Alarm, Revision, StoreError, StoreStatus};

/// Asked on an operator's request; a store without members of its own reports one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreHealth {
    /// In the order of the configuration.
    pub endpoints: Vec<EndpointReport>,
    pub alarms: Vec<Alarm>,
    /// Those that the store knows, configured as endpoints or not; empty if it does not say.
    pub members: Vec<MemberInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointReport {
    /// As configured.
    pub endpoint: String,
    /// Connection and answer.
    pub took: Duration,
    pub status: Result<EndpointHealth, StoreError>,
}

/// One of several endpoints that belong to different clusters of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointContent {
    /// As configured.
    pub endpoint: String,
    /// `None`: it does not answer.
    pub cluster_id: Option<u64>,
    /// `None`: the key is not there, or this client may not read it.
    pub value: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointHealth {
    /// Without alarms: those are the store's.
    pub status: StoreStatus,
    /// It does not vote yet.
    pub is_learner: bool,
    /// Bytes at which writes are refused; `None`: it is not said.
    pub quota: Option<u64>,
    /// Up to where history is forgotten; `None`: it is not said.
    pub compacted: Option<Revision>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    pub id: u64,
    /// Empty while it has never started.
    pub name: String,
    /// Where it says that clients reach it.
    pub urls: Vec<String>,
}
