//! Whether the cluster's foundation is well, with a remedy for each thing that is not.
//!
//! Asks every member of the store at an operator's request; nothing of it happens at rest.

use std::collections::BTreeSet;

use axum::extract::State;
use fleet_api::v2::{EndpointView, HealthView, LocalView, MemberView, ProblemView};
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::upkeep::COMPACT_EVERY;
use fleet_registry::store::{Alarm, EndpointReport, MemberInfo, StoreError, StoreHealth, StoreKind};

use super::super::state::Api;
use super::strangers::Ours;
use super::{Answer, cluster, json, own_store, strangers};
use crate::claim;

/// A history longer than this was not compacted when it should have been, three times.
const HISTORY_MOST: u64 = 3 * COMPACT_EVERY.unsigned_abs();
/// Of the quota. The rest goes quickly once something writes in a loop.
const FULL_PERCENT: u64 = 80;
/// Smaller files are not worth the pause of a defragmentation.
const FRAGMENTED_BYTES: u64 = 256 << 20;

pub(super) async fn get(State(api): State<Api>) -> Answer {
    let store = api.registry.store();
    let health = store.health().await;
    let ours = strangers::ours(&api, &health).await;
    let mut view = judge(store.kind(), &health, cluster::local(&api), &ours);
    if view.endpoints.iter().any(|endpoint| endpoint.reachable)
        && let Some(problem) = import(&api).await
    {
        view.healthy = false;
        view.problems.insert(0, problem);
    }
    json(&view)
}

/// A store that an import has for itself holds no cluster until that is done.
async fn import(api: &Api) -> Option<ProblemView> {
    let areas = [Area::One(Key::Import)];
    let read = tokio::time::timeout(api.limits.request / 2, api.registry.read(&areas)).await;
    let by = read.ok()?.ok()?.import?.value;
    Some(error("import", "", claim::text(&by, None), claim::remedy(&api.registry)))
}

fn judge(kind: StoreKind, health: &StoreHealth, local: LocalView, ours: &Ours) -> HealthView {
    let mut endpoints: Vec<EndpointView> = health.endpoints.iter().map(endpoint).collect();
    for alarm in &health.alarms {
        let member = member_of(alarm).map(id);
        for view in endpoints.iter_mut().filter(|view| member.as_ref().is_none_or(|id| view.member == *id)) {
            view.alarms.push(alarm_name(alarm).to_owned());
        }
    }
    let unconfigured = unconfigured(&endpoints, &health.members);
    let history = history(&endpoints);
    let mut problems = Vec::new();
    if kind == StoreKind::Etcd {
        problems.extend(silence(&health.endpoints));
        problems.extend(strangers::problems(&endpoints, ours));
        problems.extend(health.alarms.iter().filter_map(|alarm| alarmed(alarm, &endpoints, &health.members)));
    } else {
        problems.extend(own_store::problems(&health.endpoints, &health.alarms));
    }
    let has_no_space = health.alarms.iter().any(|alarm| matches!(alarm, Alarm::NoSpace { .. }));
    let members = endpoints.iter().filter(|view| view.reachable && kind == StoreKind::Etcd);
    for view in members {
        problems.extend(leaderless(view));
        problems.extend(size(view, has_no_space));
        if view.is_learner {
            problems.push(warning(
                "learner",
                &view.endpoint,
                "it is a learner: it answers only some calls and does not vote".to_owned(),
                format!("etcdctl member promote {}, once it has caught up", view.member),
            ));
        }
    }
    problems.extend(versions(&endpoints));
    let is_one_silent = endpoints.iter().any(|view| !view.reachable);
    problems.extend(unconfigured.iter().map(|member| not_configured(member, is_one_silent)));
    problems.extend(history.filter(|length| *length > HISTORY_MOST).map(|length| {
        warning(
            "history",
            "",
            format!("{length} revisions since the last compaction; the leading machine compacts after {COMPACT_EVERY}"),
            "see in `fleetctl cluster status` that a machine leads, and that etcd_compaction is not false there"
                .to_owned(),
        )
    }));
    if local.connection != "connected" {
        let text = if local.text.is_empty() { &local.connection } else { &local.text };
        problems.push(error(
            "machine",
            &local.machine,
            format!("the machine that answers does not take part: {text}"),
            "what runs keeps running; see `fleetctl cluster status` and `journalctl -u fleetd` there"
                .to_owned(),
        ));
    }
    problems.sort_by_key(|problem| !problem.is_error);
    let healthy = !problems.iter().any(|problem| problem.is_error);
    HealthView { healthy, problems, kind: kind.to_string(), endpoints, unconfigured, history, local }
}

fn endpoint(report: &EndpointReport) -> EndpointView {
    let view = EndpointView {
        endpoint: report.endpoint.clone(),
        took_ms: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        ..EndpointView::default()
    };
    match &report.status {
        Err(error) => EndpointView { error: why(error), ..view },
        Ok(health) => EndpointView {
            reachable: true,
            version: health.status.version.clone(),
            cluster: id(health.status.header.cluster_id),
            member: id(health.status.header.member_id),
            is_leader: health.status.leader == Some(health.status.header.member_id),
            has_leader: health.status.leader.is_some(),
            is_learner: health.is_learner,
            revision: health.status.header.revision.0,
            raft_term: health.status.header.raft_term,
            size: health.status.db_size,
            size_in_use: health.status.db_size_in_use,
            quota: health.quota,
            compacted: health.compacted.map(|revision| revision.0),
            ..view
        },
    }
}

/// Of one endpoint: without what to do about a store that does not answer at all.
pub(super) fn why(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable { detail, .. } | StoreError::Busy { detail, .. } => detail.clone(),
        StoreError::Timeout { after, .. } => format!("no answer within {after:?}"),
        other => other.to_string(),
    }
}

/// As `etcdctl` writes it.
pub(super) fn id(id: u64) -> String {
    format!("{id:x}")
}

pub(super) fn error(code: &str, subject: &str, text: String, remedy: String) -> ProblemView {
    ProblemView { is_error: true, ..warning(code, subject, text, remedy) }
}

fn warning(code: &str, subject: &str, text: String, remedy: String) -> ProblemView {
    ProblemView { is_error: false, code: code.to_owned(), subject: subject.to_owned(), text, remedy }
}

fn silence(endpoints: &[EndpointReport]) -> Vec<ProblemView> {
    let silent: Vec<(&EndpointReport, &StoreError)> =
        endpoints.iter().filter_map(|report| Some((report, report.status.as_ref().err()?))).collect();
    if silent.len() == endpoints.len() {
        let all = endpoints.iter().map(|report| report.endpoint.as_str()).collect::<Vec<_>>().join(", ");
        let first = silent.first().map_or_else(String::new, |(_, error)| why(error));
        return vec![error(
            "no-answer",
            &all,
            format!("no endpoint of the store answers; of the first: {first}"),
            "what runs keeps running; start etcd, and check etcd_servers and its certificates on this machine"
                .to_owned(),
        )];
    }
    let one = |(report, silence): (&EndpointReport, &StoreError)| {
        error(
            "unreachable",
            &report.endpoint,
            why(silence),
            "start this member, or replace it: `etcdctl member remove`, then `member add`".to_owned(),
        )
    };
    silent.into_iter().map(one).collect()
}

fn alarm_name(alarm: &Alarm) -> &'static str {
    match alarm {
        Alarm::NoSpace { .. } => "NOSPACE",
        Alarm::Corrupt { .. } => "CORRUPT",
        Alarm::Disk { .. } => "DISK",
    }
}

/// `None`: of a store without members.
fn member_of(alarm: &Alarm) -> Option<u64> {
    match alarm {
        Alarm::NoSpace { member_id } | Alarm::Corrupt { member_id } => Some(*member_id),
        Alarm::Disk { .. } => None,
    }
}

fn alarmed(alarm: &Alarm, endpoints: &[EndpointView], members: &[MemberInfo]) -> Option<ProblemView> {
    let member_id = member_of(alarm)?;
    let member = id(member_id);
    let shown = endpoints.iter().find(|view| view.member == member).map(|view| view.endpoint.clone());
    let named = || members.iter().find(|known| known.id == member_id).map(|known| known.name.clone());
    let subject = shown.or_else(named).unwrap_or_else(|| format!("member {member}"));
    Some(match alarm {
        Alarm::NoSpace { .. } => {
            let revision = endpoints.iter().map(|view| view.revision).max().unwrap_or_default();
            error(
                "no-space",
                &subject,
                "etcd's alarm NOSPACE: it takes no write until it is cleared; what runs keeps running"
                    .to_owned(),
                format!(
                    "etcdctl compact {revision}; etcdctl defrag --cluster; etcdctl alarm disarm. If little is given \
                     back, raise etcd's --quota-backend-bytes"
                ),
            )
        }
        Alarm::Corrupt { .. } | Alarm::Disk { .. } => error(
            "corrupt",
            &subject,
            "etcd's alarm CORRUPT: the data of this member differs from that of the others".to_owned(),
            format!(
                "replace the member from healthy ones: etcdctl member remove {member}, remove its data directory, \
                 etcdctl member add; then etcdctl alarm disarm"
            ),
        ),
    })
}

fn leaderless(view: &EndpointView) -> Option<ProblemView> {
    (!view.has_leader).then(|| {
        error(
            "no-leader",
            &view.endpoint,
            "it knows no leader: it is cut off from the others, or most of them are down".to_owned(),
            "start the other members, and check that this one reaches their peer addresses".to_owned(),
        )
    })
}

fn size(view: &EndpointView, has_no_space: bool) -> Option<ProblemView> {
    let mostly_free = view.size_in_use < view.size / 2;
    let defragment = format!("etcdctl defrag --endpoints={}; it pauses that member", view.endpoint);
    let full = view.quota.filter(|quota| view.size.saturating_mul(100) >= quota.saturating_mul(FULL_PERCENT));
    match full {
        // The alarm says it with more weight.
        Some(_) if has_no_space => None,
        Some(quota) => {
            let text = format!(
                "{} of its quota of {} are taken, {} in use",
                mib(view.size),
                mib(quota),
                mib(view.size_in_use)
            );
            let remedy = if mostly_free {
                defragment
            } else {
                "raise etcd's --quota-backend-bytes; see in `etcdctl get / --prefix --keys-only` who fills it"
                    .to_owned()
            };
            Some(warning("almost-full", &view.endpoint, text, remedy))
        }
        None if mostly_free && view.size > FRAGMENTED_BYTES => {
            let text = format!("{} on disk, {} of them in use", mib(view.size), mib(view.size_in_use));
            Some(warning("fragmented", &view.endpoint, text, defragment))
        }
        None => None,
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn versions(endpoints: &[EndpointView]) -> Option<ProblemView> {
    let found: BTreeSet<&str> =
        endpoints.iter().filter(|view| view.reachable).map(|view| view.version.as_str()).collect();
    (found.len() > 1).then(|| {
        let all = found.into_iter().collect::<Vec<_>>().join(", ");
        warning(
            "versions",
            "",
            format!("the members run different versions: {all}"),
            "finish the upgrade".to_owned(),
        )
    })
}

/// The longest, since each member compacts for itself.
fn history(endpoints: &[EndpointView]) -> Option<u64> {
    endpoints.iter().filter_map(|view| Some(view.revision.saturating_sub(view.compacted?))).max()
}

fn not_configured(member: &MemberView, is_one_silent: bool) -> ProblemView {
    let name = if member.name.is_empty() { &member.member } else { &member.name };
    let urls = if member.urls.is_empty() { "no address yet".to_owned() } else { member.urls.join(", ") };
    // The names of members and of endpoints meet only where both answer.
    let unless = if is_one_silent { ", unless it is one that does not answer" } else { "" };
    warning(
        "unconfigured",
        name,
        format!("this member ({urls}) is not among etcd_servers of this machine{unless}"),
        "add it, or take it out of etcd; a restart of fleetd disturbs no unit".to_owned(),
    )
}

fn unconfigured(endpoints: &[EndpointView], members: &[MemberInfo]) -> Vec<MemberView> {
    let plain = |url: &str| url.trim_end_matches('/').to_owned();
    let is_configured = |member: &&MemberInfo| {
        endpoints.iter().any(|view| {
            (view.reachable && view.member == id(member.id))
                || member.urls.iter().any(|url| plain(url) == plain(&view.endpoint))
        })
    };
    let unknown = members.iter().filter(|member| !is_configured(member));
    unknown
        .map(|member| MemberView {
            member: id(member.id),
            name: member.name.clone(),
            urls: member.urls.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fleet_registry::store::{EndpointHealth, Header, Operation, Revision, StoreStatus};

    use super::*;

    fn local() -> LocalView {
        LocalView { connection: "connected".to_owned(), ..LocalView::default() }
    }

    fn well(member_id: u64) -> EndpointReport {
        let header = Header { cluster_id: 1, member_id, revision: Revision(20_000), raft_term: 3 };
        let status = StoreStatus {
            header,
            version: "3.5.16".to_owned(),
            db_size: 10 << 20,
            db_size_in_use: 8 << 20,
            leader: Some(10),
            alarms: Vec::new(),
        };
        let health = EndpointHealth {
            status,
            is_learner: false,
            quota: Some(2 << 30),
            compacted: Some(Revision(15_000)),
        };
        EndpointReport {
            endpoint: format!("http://etcd{member_id}:2379"),
            took: Duration::from_millis(2),
            status: Ok(health),
        }
    }

    fn three() -> StoreHealth {
        let member =
            |id| MemberInfo { id, name: format!("e{id}"), urls: vec![format!("http://10.0.0.{id}:2379")] };
        StoreHealth {
            endpoints: [10, 11, 12].map(well).to_vec(),
            alarms: Vec::new(),
            members: [10, 11, 12].map(member).to_vec(),
        }
    }

    fn codes(health: &StoreHealth) -> Vec<String> {
        judge(StoreKind::Etcd, health, local(), &Ours::default())
            .problems
            .into_iter()
            .map(|problem| problem.code)
            .collect()
    }

    fn change(health: &mut StoreHealth, index: usize, change: impl FnOnce(&mut EndpointHealth)) {
        change(health.endpoints[index].status.as_mut().unwrap());
    }

    #[test]
    fn three_members_that_are_well_are_healthy_under_any_name() {
        let view = judge(StoreKind::Etcd, &three(), local(), &Ours::default());
        assert!(view.healthy && view.problems.is_empty(), "{view:?}");
        assert_eq!(view.history, Some(5_000));
        assert_eq!(view.endpoints.iter().filter(|view| view.is_leader).count(), 1);
    }

    #[test]
    fn each_thing_that_is_wrong_is_told_with_a_remedy() {
        let mut health = three();
        health.endpoints[1].status =
            Err(StoreError::Unavailable { operation: Operation::Status, detail: "refused".to_owned() });
        health.alarms.push(Alarm::NoSpace { member_id: 10 });
        change(&mut health, 2, |member| {
            member.status.leader = None;
            member.status.header.cluster_id = 2;
            member.status.version = "3.4.23".to_owned();
            member.compacted = Some(Revision(0));
            member.status.header.revision = Revision(50_000);
        });
        let view = judge(StoreKind::Etcd, &health, LocalView::default(), &Ours::default());
        assert!(!view.healthy && view.problems.iter().all(|problem| !problem.remedy.is_empty()));
        let codes: BTreeSet<&str> = view.problems.iter().map(|problem| problem.code.as_str()).collect();
        let expected = [
            "history",
            "machine",
            "no-leader",
            "no-space",
            "other-cluster",
            "unconfigured",
            "unreachable",
            "versions",
        ];
        assert_eq!(codes.into_iter().collect::<Vec<_>>(), expected);
        let space = view.problems.iter().find(|problem| problem.code == "no-space").unwrap();
        assert!(
            space.remedy.starts_with("etcdctl compact 50000; etcdctl defrag --cluster; etcdctl alarm disarm")
        );
        assert_eq!(view.endpoints[0].alarms, ["NOSPACE"]);
    }

    #[test]
    fn a_store_without_any_answer_is_one_problem() {
        let mut health = three();
        for endpoint in &mut health.endpoints {
            endpoint.status =
                Err(StoreError::Timeout { operation: Operation::Status, after: Duration::from_secs(1) });
        }
        health.members.clear();
        assert_eq!(codes(&health), ["no-answer"]);
    }

    #[test]
    fn of_an_own_store_nothing_is_said_that_only_etcd_has() {
        let mut health = StoreHealth { members: Vec::new(), ..three() };
        health.endpoints.truncate(1);
        change(&mut health, 0, |own| (own.quota, own.compacted) = (None, None));
        let told = |alarm, code: &str, part: &str| {
            let health = StoreHealth { alarms: vec![alarm], ..health.clone() };
            let view = judge(StoreKind::Embedded, &health, local(), &Ours::default());
            let [problem] = &view.problems[..] else { panic!("{view:?}") };
            assert!(problem.is_error && problem.code == code && problem.text.contains(part), "{problem:?}");
            assert!(!format!("{problem:?}").contains("etcd"), "{problem:?}");
        };
        told(Alarm::NoSpace { member_id: 10 }, "no-space", "is full");
        told(Alarm::Disk { detail: "journal: fsync: I/O error".to_owned() }, "disk", "fsync: I/O error");
        assert!(judge(StoreKind::Embedded, &health, local(), &Ours::default()).problems.is_empty());
    }

    #[test]
    fn a_file_that_is_nearly_full_and_one_that_is_nearly_empty_are_warnings() {
        let mut health = three();
        change(&mut health, 0, |member| member.status.db_size = 1_900 << 20);
        assert_eq!(codes(&health), ["almost-full"]);
        change(&mut health, 0, |member| member.status.db_size = 512 << 20);
        assert_eq!(codes(&health), ["fragmented"]);
        assert!(judge(StoreKind::Etcd, &health, local(), &Ours::default()).healthy);
    }

    #[test]
    fn a_member_that_is_not_configured_is_named_and_a_silent_endpoint_may_be_it() {
        let mut health = three();
        health.members.push(MemberInfo { id: 13, name: "e13".to_owned(), urls: vec![] });
        let view = judge(StoreKind::Etcd, &health, local(), &Ours::default());
        assert!(view.healthy && view.problems.len() == 1, "{view:?}");
        assert_eq!(
            (view.problems[0].code.as_str(), view.problems[0].subject.as_str()),
            ("unconfigured", "e13")
        );
        health.members.pop();
        health.endpoints[2].status =
            Err(StoreError::Timeout { operation: Operation::Status, after: Duration::from_secs(1) });
        let problems = judge(StoreKind::Etcd, &health, local(), &Ours::default()).problems;
        assert_eq!((problems[0].code.as_str(), problems[1].code.as_str()), ("unreachable", "unconfigured"));
        assert!(problems[1].text.ends_with("unless it is one that does not answer"), "{problems:?}");
    }
}
