//! What must hold while PID 1 is re-executed or the bus dies. Apart from the suite, because only the caller
//! knows how to disturb its machine.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    Systemd,
    contract::{POLL, Subject, WAIT_LIMIT, fail},
    types::{ActiveState, JobResult, UnitDetail, UnitName},
};

/// Starts a service and a pinned oneshot, disturbs, and wants: `Resync` comes, both are the same runs as
/// before, the pin holds, and a new start is seen to its end.
///
/// # Panics
/// When one of these does not hold.
pub async fn survives(systemd: &dyn Systemd, disturb: impl AsyncFnOnce()) {
    let mut subject = Subject::new(systemd);
    let (service, once) = (subject.name("survivor.service"), subject.name("survivor-once.service"));
    subject.install(&service, "[Service]\nExecStart=/bin/sleep infinity\n").await;
    subject.install(&once, "[Service]\nType=oneshot\nExecStart=/bin/sleep 2\n").await;
    systemd.pin(std::slice::from_ref(&once)).await.expect("pin");
    assert_eq!(subject.run(&service).await, JobResult::Done);
    let before = subject.loaded(&service).await;
    subject.start(&once).await;
    let is_activating = |unit: &UnitDetail| unit.active == ActiveState::Activating;
    let running = subject.until(&once, "activating", is_activating).await;

    subject.forget_events();
    disturb().await;
    subject.resync().await;

    let over = |unit: &UnitDetail| unit.active == ActiveState::Inactive;
    let after = until_again(systemd, &once, over).await;
    assert_eq!((after.invocation_id, after.result.as_str()), (running.invocation_id, "success"));
    let after = subject.loaded(&service).await;
    assert_eq!((after.invocation_id, after.main_pid), (before.invocation_id, before.main_pid));
    assert_eq!(systemd.pinned().await.expect("pinned"), std::slice::from_ref(&once));
    subject.stop(&service).await;
    assert_eq!(subject.run(&service).await, JobResult::Done);
    subject.clean().await;
}

/// Waits for a state through errors that pass.
async fn until_again(
    systemd: &dyn Systemd,
    name: &UnitName,
    wanted: impl Fn(&UnitDetail) -> bool,
) -> UnitDetail {
    let limit = Instant::now() + WAIT_LIMIT.max(Duration::from_secs(30));
    while Instant::now() < limit {
        match systemd.inspect(name).await {
            Ok(Some(detail)) if wanted(&detail) => return detail,
            Err(error) if !error.is_transient() => fail(&format!("reading {name}: {error}")),
            _ => sleep(POLL).await,
        }
    }
    fail(&format!("{name} did not end"))
}
