//! When a candidate campaigns, and what a leader must know.

use std::collections::BTreeSet;

use crate::records::{ClusterRecord, EngineRole, LeaderRecord};
use crate::store_trust::Trust;

/// Features of the cluster that this release understands. A record that needs another one is refused, not guessed.
pub const KNOWN_FEATURES: &[&str] = &["global-serial", "restart-counter"];

/// What a candidate does after looking at the leader key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidacy {
    /// Nobody leads: campaign, after a jittered wait.
    Campaign,
    /// Somebody leads: watch the key.
    Follow,
    /// This machine must not lead, and why.
    Abstain(String),
}

/// Decides from one linearizable read: leader key, cluster record, trust in the store.
#[must_use]
pub fn candidacy(
    role: EngineRole,
    leader: Option<&LeaderRecord>,
    cluster: Option<&ClusterRecord>,
    trust: &Trust,
) -> Candidacy {
    if role == EngineRole::Never {
        return Candidacy::Abstain("engine = \"never\" is configured".to_owned());
    }
    if !trust.may_act() {
        let remedy = trust.remedy();
        return Candidacy::Abstain(if remedy.is_empty() {
            "this machine has not joined the cluster, or not taken its new epoch, yet".to_owned()
        } else {
            remedy
        });
    }
    if let Some(missing) = cluster.and_then(|c| missing_feature(&c.features)) {
        return Candidacy::Abstain(format!(
            "the cluster needs the feature {missing:?}, which this release of fleetd does not know; update it"
        ));
    }
    match leader {
        None => Candidacy::Campaign,
        Some(_) => Candidacy::Follow,
    }
}

/// The first required feature that this release does not know.
#[must_use]
pub fn missing_feature(required: &BTreeSet<String>) -> Option<&str> {
    required.iter().map(String::as_str).find(|feature| !KNOWN_FEATURES.contains(feature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_distrusts_the_store_never_campaigns() {
        let trust = Trust::RolledBack { why: "revision".into() };
        assert!(matches!(candidacy(EngineRole::Auto, None, None, &trust), Candidacy::Abstain(_)));
        assert_eq!(candidacy(EngineRole::Auto, None, None, &Trust::Own), Candidacy::Campaign);
        assert!(matches!(candidacy(EngineRole::Never, None, None, &Trust::Own), Candidacy::Abstain(_)));
    }

    #[test]
    fn an_unknown_feature_of_the_cluster_keeps_a_candidate_out() {
        assert_eq!(missing_feature(&BTreeSet::from(["from-the-future".to_owned()])), Some("from-the-future"));
        assert_eq!(missing_feature(&BTreeSet::from(["global-serial".to_owned()])), None);
    }
}
