//! Results: what can be known about a run after it ended.

use crate::{
    contract::Subject,
    types::{ActiveState, JobResult, LoadState, UnitDetail},
};

const DONE: &str = "[Service]\nType=oneshot\nExecStart=/bin/true\n";

pub(super) async fn finished_oneshot_is_unloaded_unless_pinned(subject: &mut Subject<'_>) {
    let name = subject.name("once.service");
    subject.install(&name, DONE).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    subject.until_unloaded(&name).await;

    subject.systemd.pin(std::slice::from_ref(&name)).await.expect("pin");
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let first = subject.until(&name, "over", |unit| unit.active == ActiveState::Inactive).await;
    assert_eq!(first.result, "success");
    assert!(first.invocation_id.is_some() && first.condition_timestamp != 0 && first.condition_result);
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let second = subject.until(&name, "over", |unit| unit.active == ActiveState::Inactive).await;
    assert!(second.invocation_id.is_some() && second.invocation_id != first.invocation_id);
    subject.systemd.unpin(std::slice::from_ref(&name)).await.expect("unpin");
    subject.until_unloaded(&name).await;
}

pub(super) async fn ran_skipped_and_never_ran_are_told_apart(subject: &mut Subject<'_>) {
    let names = [subject.name("ran.service"), subject.name("skipped.service"), subject.name("never.service")];
    let condition = "[Unit]\nConditionPathExists=/nonexistent/x\n";
    subject.systemd.pin(&names).await.expect("pin");
    subject.install(&names[0], DONE).await;
    subject.install(&names[1], &format!("{condition}{DONE}")).await;
    subject.install(&names[2], DONE).await;
    assert_eq!(subject.run(&names[0]).await, JobResult::Done);
    assert_eq!(subject.run(&names[1]).await, JobResult::Done);
    let ran = subject.until(&names[0], "over", |unit| unit.active == ActiveState::Inactive).await;
    assert!(ran.invocation_id.is_some());
    let skipped = subject.loaded(&names[1]).await;
    assert_eq!((skipped.invocation_id, skipped.condition_result), (None, false));
    assert!(skipped.condition_timestamp != 0);
    assert_eq!((skipped.active, skipped.result.as_str()), (ActiveState::Inactive, "success"));
    let never = subject.loaded(&names[2]).await;
    assert_eq!((never.invocation_id, never.condition_timestamp), (None, 0));
}

pub(super) async fn failure_stays_readable_until_reset(subject: &mut Subject<'_>) {
    let name = subject.name("fails.service");
    subject.install(&name, "[Service]\nType=oneshot\nExecStart=/bin/false\n").await;
    assert_eq!(subject.run(&name).await, JobResult::Failed);
    let failed = subject.until(&name, "failed", |unit| unit.active == ActiveState::Failed).await;
    assert_eq!((failed.result.as_str(), failed.exec_main_code, failed.exec_main_status), ("exit-code", 1, 1));
    assert!(failed.invocation_id.is_some());
    // A stop of what has failed is done and does not hide the failure.
    subject.stop(&name).await;
    assert_eq!(subject.loaded(&name).await.active, ActiveState::Failed);
    subject.systemd.reset_failed(&name).await.expect("reset failed");
    subject.until_unloaded(&name).await;
}

pub(super) async fn missing_binary_is_a_job_that_is_done_and_a_unit_that_failed(subject: &mut Subject<'_>) {
    let name = subject.name("missing.service");
    subject.install(&name, "[Service]\nExecStart=/nonexistent/binary\n").await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let failed = subject.until(&name, "failed", |unit| unit.active == ActiveState::Failed).await;
    assert_eq!((failed.result.as_str(), failed.exec_main_status), ("exit-code", 203));

    let strict = subject.name("missing-exec.service");
    subject.install(&strict, "[Service]\nType=exec\nExecStart=/nonexistent/binary\n").await;
    assert_eq!(subject.run(&strict).await, JobResult::Failed);
}

pub(super) async fn remaining_oneshot_is_active_and_does_not_run_again(subject: &mut Subject<'_>) {
    let name = subject.name("remains.service");
    subject.install(&name, "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n").await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let first = subject.loaded(&name).await;
    assert_eq!((&first.active, first.sub.as_str()), (&ActiveState::Active, "exited"));
    assert_eq!(subject.run(&name).await, JobResult::Done);
    assert_eq!(subject.loaded(&name).await.invocation_id, first.invocation_id);
    subject.stop(&name).await;
    subject.until_unloaded(&name).await;
}

pub(super) async fn service_that_fails_is_restarted_by_its_own_rules(subject: &mut Subject<'_>) {
    let name = subject.name("restarts.service");
    let text = "[Service]\nExecStart=/bin/false\nRestart=on-failure\nRestartSec=200ms\n";
    subject.install(&name, text).await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let first = subject.loaded(&name).await.invocation_id;
    // Counted when the restart is enqueued; the new run begins a moment later.
    let is_restarted = |unit: &UnitDetail| unit.n_restarts > 0 && unit.invocation_id != first;
    subject.until(&name, "restarted", is_restarted).await;
    subject.stop(&name).await;
    let detail = subject.inspect(&name).await;
    assert!(detail.is_none_or(|unit| unit.active.is_at_rest()));
}

pub(super) async fn service_that_ends_by_itself_is_unloaded(subject: &mut Subject<'_>) {
    let name = subject.name("ends.service");
    subject.install(&name, "[Service]\nExecStart=/bin/sleep 0.3\n").await;
    assert_eq!(subject.run(&name).await, JobResult::Done);
    let running = subject.loaded(&name).await;
    assert_eq!((running.load, running.active), (LoadState::Loaded, ActiveState::Active));
    subject.until_unloaded(&name).await;
}
