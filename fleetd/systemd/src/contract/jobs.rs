//! Jobs: what is enqueued, what is refused, what is seen while they run.

use futures_util::future::join_all;

use crate::{
    SystemdError,
    contract::{Subject, hash_of, is},
    types::{ActiveState, JobResult, LoadState, UnitName},
};

const SLEEPER: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

pub(super) async fn name_without_unit_is_nowhere_and_asking_does_not_load_it(subject: &mut Subject<'_>) {
    let name = subject.name("absent.service");
    let names = [name.clone()];
    assert_eq!(subject.inspect(&name).await, None);
    assert_eq!(subject.systemd.list(&names).await.expect("list"), []);
    assert_eq!(subject.systemd.stop(&name).await.expect("stop"), None);
    subject.systemd.reset_failed(&name).await.expect("reset failed");
    is(
        subject.systemd.start(&name).await,
        |error| matches!(error, SystemdError::NoSuchUnit { unit } if *unit == name),
    );
    subject.until_unloaded(&name).await;
    // On disk is not loaded.
    subject.install(&name, SLEEPER).await;
    assert_eq!(subject.inspect(&name).await, None);
    assert_eq!(subject.systemd.stop(&name).await.expect("stop"), None);
    assert_eq!(subject.systemd.list(&names).await.expect("list"), []);
}

pub(super) async fn service_runs_until_it_is_stopped(subject: &mut Subject<'_>) {
    let name = subject.name("simple.service");
    subject.install(&name, SLEEPER).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let first = subject.loaded(&name).await;
    assert_eq!(
        (&first.load, &first.active, first.sub.as_str()),
        (&LoadState::Loaded, &ActiveState::Active, "running")
    );
    assert_eq!(first.id, name.as_str());
    assert!(first.invocation_id.is_some() && first.main_pid != 0 && !first.control_group.is_empty());
    assert!(first.active_enter_monotonic != 0 && first.state_change != 0);
    assert!(first.fragment_path.ends_with(name.as_str()), "{}", first.fragment_path);
    assert_eq!(first.loaded_run_hash, Some(hash_of(SLEEPER)));
    assert!(!first.need_daemon_reload);
    subject.until_told(&name, &first).await;
    // A start of what is active is done and changes nothing.
    assert_eq!(subject.run(&name).await, JobResult::Done);
    assert_eq!(subject.loaded(&name).await, first);
    subject.stop(&name).await;
    subject.until_unloaded(&name).await;
    assert_eq!(subject.systemd.stop(&name).await.expect("stop"), None);
}

pub(super) async fn equal_start_is_the_same_job(subject: &mut Subject<'_>) {
    let name = subject.name("slow.service");
    subject.install(&name, "[Service]\nType=oneshot\nExecStart=/bin/sleep 1\n").await;
    let job = subject.start(&name).await;
    assert_eq!(subject.start(&name).await, job);
    subject.until(&name, "activating", |unit| unit.active == ActiveState::Activating).await;
    assert_eq!(subject.start(&name).await, job);
    let row = subject.systemd.list(std::slice::from_ref(&name)).await.expect("list").pop().expect("loaded");
    assert_eq!(row.active, ActiveState::Activating);
    assert_eq!(row.job.map(|job| (job.id, job.kind)), Some((job, "start".to_owned())));
    assert_eq!(subject.end_of(job).await, JobResult::Done);
}

pub(super) async fn start_over_a_stop_is_refused_until_the_stop_ends(subject: &mut Subject<'_>) {
    let name = subject.name("slow-stop.service");
    let text = "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 1\n";
    subject.install(&name, text).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let stop = subject.systemd.stop(&name).await.expect("stop").expect("a job");
    let answer = subject.systemd.start(&name).await;
    is(answer, |error| {
        error.is_transient() && matches!(error, SystemdError::TransactionIsDestructive { .. })
    });
    assert_eq!(subject.end_of(stop).await, JobResult::Done);
    assert_eq!(subject.run(&name).await, JobResult::Done);
    assert_eq!(subject.loaded(&name).await.active, ActiveState::Active);
}

pub(super) async fn stop_cancels_a_start_that_is_under_way(subject: &mut Subject<'_>) {
    let name = subject.name("long.service");
    subject.install(&name, "[Service]\nType=oneshot\nExecStart=/bin/sleep 600\n").await;
    let start = subject.start(&name).await;
    subject.until(&name, "activating", |unit| unit.active == ActiveState::Activating).await;
    let stop = subject.systemd.stop(&name).await.expect("stop").expect("a job");
    assert_eq!(subject.end_of(start).await, JobResult::Canceled);
    assert_eq!(subject.end_of(stop).await, JobResult::Done);
    let detail = subject.inspect(&name).await;
    assert!(detail.is_none_or(|unit| unit.active.is_at_rest()));
}

pub(super) async fn instances_of_a_template_are_units_of_their_own(subject: &mut Subject<'_>) {
    let names = [subject.name("t@1.service"), subject.name("t@a\\x2db.service")];
    for name in &names {
        subject.install(name, SLEEPER).await;
        assert_eq!(subject.run(name).await, JobResult::Done);
    }
    let rows = subject.systemd.list(&names).await.expect("list");
    assert_eq!(rows.len(), 2);
    subject.stop(&names[0]).await;
    assert_eq!(subject.loaded(&names[1]).await.active, ActiveState::Active);
}

pub(super) async fn many_starts_at_once_are_seen_in_one_list(subject: &mut Subject<'_>) {
    let names: Vec<UnitName> = (0..40).map(|n| subject.name(&format!("many{n}.service"))).collect();
    for name in &names {
        subject.install(name, SLEEPER).await;
    }
    for job in join_all(names.iter().map(|name| subject.systemd.start(name))).await {
        assert_eq!(subject.end_of(job.expect("start")).await, JobResult::Done);
    }
    let rows = subject.systemd.list(&names).await.expect("list");
    assert_eq!(rows.len(), names.len());
    assert!(rows.iter().all(|row| row.active == ActiveState::Active && row.job.is_none()));
}
