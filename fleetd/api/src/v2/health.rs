//! Whether the cluster's foundation is well: the store, member by member, and the machine that answers.

use serde::{Deserialize, Serialize};

use super::LocalView;

/// What is wrong is in `problems`, with what to do; the rest is what it was judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct HealthView {
    /// No problem is an error.
    pub healthy: bool,
    /// Errors first.
    pub problems: Vec<ProblemView>,
    /// `etcd` or `embedded`.
    pub kind: String,
    /// As configured on the machine that answers.
    pub endpoints: Vec<EndpointView>,
    /// Members that the store knows under addresses that are not configured.
    pub unconfigured: Vec<MemberView>,
    /// Revisions between the last compaction and now; None: the store does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<u64>,
    /// The machine that answers.
    pub local: LocalView,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ProblemView {
    /// False: something to look after, while everything works.
    pub is_error: bool,
    /// A stable word: `unreachable`, `no-leader`, `other-cluster`, `no-space`, `corrupt`, `almost-full`, `fragmented`,
    /// `learner`, `unconfigured`, `versions`, `history`, `no-answer`, `machine`.
    pub code: String,
    /// The endpoint or member concerned; empty: the store or the machine.
    pub subject: String,
    pub text: String,
    pub remedy: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointView {
    pub endpoint: String,
    pub reachable: bool,
    /// Why not; empty if it is.
    pub error: String,
    /// How long it took to connect and to answer, a length of time.
    pub took_ms: u64,
    pub version: String,
    /// Hexadecimal, as `etcdctl` writes them.
    pub cluster: String,
    pub member: String,
    /// This member leads.
    pub is_leader: bool,
    /// It knows a leader.
    pub has_leader: bool,
    pub is_learner: bool,
    pub revision: u64,
    pub raft_term: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes; what is not in use is given back by a defragmentation.
    pub size_in_use: u64,
    /// Bytes at which writes are refused; None: it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compacted: Option<u64>,
    /// `NOSPACE`, `CORRUPT`.
    pub alarms: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct MemberView {
    pub member: String,
    /// Empty while it has never started.
    pub name: String,
    pub urls: Vec<String>,
}
