//! The fake against the contract, and what only the fake can do.

use std::time::Duration;

use super::{Behaviour, Call, FakeSystemd, What};
use crate::{
    Systemd, SystemdError, contract,
    contract::{install, wait_for},
    types::{ActiveState, JobId, JobResult, SystemdEvent, UnitName},
};

fn name(text: &str) -> UnitName {
    text.parse().unwrap()
}

async fn end_of(events: &mut crate::Events, job: JobId) -> JobResult {
    loop {
        if let Some(SystemdEvent::JobRemoved { job: ended, result, .. }) = events.recv().await
            && ended == job
        {
            return result;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn fake_keeps_the_contract() {
    let fake = FakeSystemd::new("m1");
    fake.add_host_unit(
        &name("dbus.service"),
        "/usr/lib/systemd/system/dbus.service",
        "[Service]\nExecStart=/x",
    );
    fake.load_target("multi-user.target");
    contract::contract(&fake).await;
    assert!(fake.installed().await.unwrap().is_empty());
    contract::measure_starts(&fake, 50, true).await;
    contract::survives(&fake, async || {
        fake.set_connected(false);
        fake.set_connected(true);
    })
    .await;
    contract::survives(&fake, async || fake.admin_reload()).await;
}

#[tokio::test(start_paused = true)]
async fn hung_stop_ends_never_and_slow_stop_is_killed_at_its_limit() {
    let fake = FakeSystemd::new("m1");
    let unit = name("a.service");
    fake.install(&install(&unit, "[Service]\nExecStart=/bin/sleep infinity\nTimeoutStopSec=10\n"))
        .await
        .unwrap();
    let mut events = fake.events();
    let job = fake.start(&unit).await.unwrap();
    assert_eq!(end_of(&mut events, job).await, JobResult::Done);
    fake.behave(&unit, Behaviour { stop_takes: Duration::from_secs(60), ..Behaviour::default() });
    let began = tokio::time::Instant::now();
    let job = fake.stop(&unit).await.unwrap().unwrap();
    assert_eq!(end_of(&mut events, job).await, JobResult::Done);
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(fake.inspect(&unit).await.unwrap().unwrap().result, "timeout");

    fake.behave(&unit, Behaviour { stop_hangs: true, ..Behaviour::default() });
    let job = fake.start(&unit).await.unwrap();
    end_of(&mut events, job).await;
    fake.stop(&unit).await.unwrap();
    tokio::time::advance(Duration::from_secs(3600)).await;
    let detail = fake.inspect(&unit).await.unwrap().unwrap();
    assert_eq!(detail.active, ActiveState::Deactivating);
}

#[tokio::test(start_paused = true)]
async fn start_that_never_gets_ready_fails_at_its_limit() {
    let fake = FakeSystemd::new("m1");
    let unit = name("a.service");
    let text = "[Service]\nType=notify\nExecStart=/x\nTimeoutStartSec=5\n";
    fake.install(&install(&unit, text)).await.unwrap();
    fake.behave(&unit, Behaviour { start_hangs: true, ..Behaviour::default() });
    let mut events = fake.events();
    let job = fake.start(&unit).await.unwrap();
    assert_eq!(end_of(&mut events, job).await, JobResult::Failed);
    assert_eq!(fake.inspect(&unit).await.unwrap().unwrap().result, "timeout");
}

#[tokio::test(start_paused = true)]
async fn boot_forgets_what_ran_and_what_lay_in_run_but_not_the_log() {
    let fake = FakeSystemd::new("m1");
    let unit = name("a.service");
    fake.install(&install(&unit, "[Service]\nType=oneshot\nExecStart=/bin/sleep 5\n")).await.unwrap();
    fake.pin(std::slice::from_ref(&unit)).await.unwrap();
    fake.start(&unit).await.unwrap();
    wait_for("the start", async || fake.runs(&unit) == 1).await;
    let before = fake.environment().await.unwrap();
    fake.boot();
    assert_ne!(fake.environment().await.unwrap().boot_id, before.boot_id);
    assert!(fake.installed().await.unwrap().is_empty() && fake.pinned().await.unwrap().is_empty());
    assert_eq!(fake.inspect(&unit).await.unwrap(), None);
    // The timer of the run before the boot is void.
    tokio::time::advance(Duration::from_secs(60)).await;
    let log = fake.executions();
    assert_eq!(log.len(), 1);
    assert_eq!((log[0].what, log[0].boot), (What::Started, 1));
}

#[tokio::test(start_paused = true)]
async fn injected_failures_hit_the_call_and_the_unit_they_name() {
    let fake = FakeSystemd::new("m1");
    let (a, b) = (name("a.service"), name("b.service"));
    for unit in [&a, &b] {
        fake.install(&install(unit, "[Service]\nExecStart=/bin/sleep infinity\n")).await.unwrap();
    }
    let error = SystemdError::TimedOut { operation: "start", after: Duration::from_secs(25) };
    fake.fail(Call::Start, Some(&a), Some(1), error);
    fake.start(&b).await.unwrap();
    assert!(matches!(fake.start(&a).await, Err(SystemdError::TimedOut { .. })));
    fake.start(&a).await.unwrap();
    let counters = fake.counters();
    assert_eq!((counters.starts, counters.calls[&Call::Start]), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn cut_bus_fails_calls_and_loses_events_but_nothing_stops() {
    let fake = FakeSystemd::new("m1");
    let unit = name("a.service");
    fake.install(&install(&unit, "[Service]\nType=oneshot\nExecStart=/bin/sleep 5\n")).await.unwrap();
    let mut events = fake.events();
    fake.start(&unit).await.unwrap();
    fake.set_connected(false);
    assert!(matches!(fake.start(&unit).await, Err(SystemdError::Disconnected { .. })));
    fake.installed().await.unwrap();
    wait_for("the end", async || fake.executions().len() == 2).await;
    fake.set_connected(true);
    assert_eq!(events.recv().await, Some(SystemdEvent::Disconnected));
    assert_eq!(events.recv().await, Some(SystemdEvent::Resync));
    assert_eq!(fake.inspect(&unit).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn masked_aliased_and_host_units_are_told_apart() {
    let fake = FakeSystemd::new("m1");
    let (masked, alias, host) = (name("masked.service"), name("alias.service"), name("host@.service"));
    fake.mask(&masked);
    fake.add_host_alias(&alias, &host);
    fake.add_host_unit(&host, "/usr/lib/systemd/system/host@.service", "[Service]\nExecStart=/x");
    assert!(matches!(fake.start(&masked).await, Err(SystemdError::UnitMasked { .. })));
    let kind = async |unit: &UnitName| fake.shadowed(unit, &[]).await.unwrap().unwrap().kind;
    assert_eq!(kind(&masked).await, crate::ShadowKind::Masked);
    assert_eq!(kind(&alias).await, crate::ShadowKind::Alias);
    assert_eq!(kind(&name("host@1.service")).await, crate::ShadowKind::Template);
}

#[tokio::test(start_paused = true)]
async fn unit_that_the_host_refers_to_stays_loaded_with_its_old_text() {
    let fake = FakeSystemd::new("m1");
    let unit = name("a.service");
    let mut events = fake.events();
    fake.install(&install(&unit, "[Service]\nExecStart=/bin/sleep infinity\n#1\n")).await.unwrap();
    fake.refer_to(&unit, true);
    let job = fake.start(&unit).await.unwrap();
    end_of(&mut events, job).await;
    let job = fake.stop(&unit).await.unwrap().unwrap();
    end_of(&mut events, job).await;
    fake.install(&install(&unit, "[Service]\nExecStart=/bin/sleep infinity\n#2\n")).await.unwrap();
    assert!(fake.inspect(&unit).await.unwrap().unwrap().need_daemon_reload);
    fake.admin_reload();
    assert!(!fake.inspect(&unit).await.unwrap().unwrap().need_daemon_reload);
    fake.refer_to(&unit, false);
    assert_eq!(fake.inspect(&unit).await.unwrap(), None);
    assert_eq!(fake.counters().reloads, 1);
}
