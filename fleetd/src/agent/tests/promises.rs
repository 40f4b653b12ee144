//! What the agent promises, against everything that happens to it.

use std::time::Duration;

use fleet_core::records::{RowPhase, Wanted};
use fleet_core::store_trust::Trust;
use fleet_systemd::fake::{Behaviour, Call};
use fleet_systemd::{SystemdError, UnitName};
use tokio::time::Instant;

use super::harness::{Machine, counters, name};

const SERVICE: &str = "[Service]\nExecStart=/usr/bin/work\n";
const CHANGED: &str = "[Service]\nExecStart=/usr/bin/work --better\nExecStop=/usr/bin/bye\n";
const ONESHOT: &str = "[Service]\nType=oneshot\nExecStart=/bin/true\n";
const SLOW: &str = "[Service]\nType=notify\nTimeoutStartSec=600\nExecStart=/usr/bin/work\n";

#[tokio::test(start_paused = true)]
async fn an_order_becomes_a_running_unit_and_a_row_at_once() {
    let m = Machine::started().await;
    m.until("connected", |m| m.status().is_connected()).await;
    m.pass(Duration::from_secs(2)).await;
    let began = Instant::now();
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    assert!(began.elapsed() < Duration::from_millis(30), "{:?}", began.elapsed());
    let row = m.registry.row("a.service").unwrap();
    assert_eq!((row.active.as_str(), row.phase), ("active", RowPhase::Settled));
    assert!(!row.invocation.is_empty() && row.running.is_some());
    assert_eq!(m.registry.writes("a.service").len(), 1, "nothing was written on the way");
}

#[tokio::test(start_paused = true)]
async fn gone_stops_removes_and_acknowledges() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.registry.order("a.service", SERVICE, Wanted::Gone, counters(0, 0, 0));
    m.until("acknowledged", |m| !m.registry.has_order("a.service")).await;
    assert_eq!(m.active("a.service").await, "unloaded");
    assert!(m.systemd.on_disk(&name("a.service")).is_none() && m.registry.row("a.service").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_new_text_is_stopped_by_the_old_and_started_by_the_new_without_a_reload() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    let number = m.registry.launch("a.service", CHANGED);
    m.until_done("a.service", number).await;
    let texts: Vec<_> = m.systemd.executions().into_iter().map(|run| run.text).collect();
    let [old, new] = [SERVICE, CHANGED].map(|text| unit_files::ContentHash::of(text.as_bytes()));
    assert_eq!(texts, [old, old, new]);
    assert_eq!(m.systemd.counters().reloads, 0);
}

#[tokio::test(start_paused = true)]
async fn starts_of_a_pass_follow_after_and_wants() {
    let mut m = Machine::new();
    let after = |unit: &str| format!("[Unit]\nAfter={unit}\n{SERVICE}");
    m.registry.launch("a.service", &after("b.service"));
    m.registry.launch("b.service", &after("c.service"));
    let last = m.registry.launch("c.service", SERVICE);
    m.start().await;
    m.until_done("c.service", last).await;
    m.until("all run", |m| m.systemd.executions().len() == 3).await;
    let order: Vec<UnitName> = m.systemd.executions().into_iter().map(|run| run.unit).collect();
    assert_eq!(order, [name("c.service"), name("b.service"), name("a.service")]);
}

#[tokio::test(start_paused = true)]
async fn p1_nothing_stops_while_the_registry_is_away_emptied_or_not_trusted() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.registry.connect(false);
    m.pass(Duration::from_secs(3600)).await;
    assert!(!m.status().is_connected());
    m.registry.lose_orders();
    m.registry.trust(Trust::Empty);
    m.registry.connect(true);
    m.pass(Duration::from_secs(60)).await;
    assert!(m.status().holding.as_ref().is_some_and(|why| why.contains("restore a backup")));
    m.registry.trust(Trust::Held { why: "its revision went back".into() });
    m.registry.order("a.service", SERVICE, Wanted::Gone, counters(0, 9, 0));
    m.pass(Duration::from_secs(60)).await;
    assert_eq!((m.active("a.service").await.as_str(), m.systemd.counters().stops), ("active", 0));
}

#[tokio::test(start_paused = true)]
async fn p1_an_order_that_vanished_leaves_an_orphan() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.registry.forget_order("a.service");
    let is_orphan =
        |m: &Machine| m.registry.row("a.service").is_some_and(|row| row.phase == RowPhase::Orphan);
    m.until("orphan", is_orphan).await;
    assert_eq!((m.active("a.service").await.as_str(), m.systemd.counters().stops), ("active", 0));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_is_present_before_its_orders_have_come_reports_nothing_of_the_old_ones() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.registry.cut(true);
    m.until("disconnected", |m| !m.status().is_connected()).await;
    m.registry.forget_everything();
    m.registry.judge();
    m.pass(Duration::from_secs(60)).await;
    assert!(!m.status().is_connected() && m.registry.row("a.service").is_none());
    m.registry.cut(false);
    m.until("reported", |m| m.registry.row("a.service").is_some()).await;
    assert_eq!(m.registry.row("a.service").unwrap().phase, RowPhase::Orphan, "nobody ordered it any more");
    assert_eq!((m.active("a.service").await.as_str(), m.systemd.counters().stops), ("active", 0));
}

#[tokio::test(start_paused = true)]
async fn p3_killed_terminated_and_started_again_changes_nothing() {
    let mut m = Machine::started().await;
    let units: Vec<String> = (0..20).map(|n| format!("s{n}.service")).collect();
    let mut last = m.registry.launch("once.service", ONESHOT);
    for unit in &units {
        last = m.registry.launch(unit, SERVICE);
    }
    m.until_done(units.last().unwrap(), last).await;
    m.until("all rows", |m| units.iter().all(|unit| m.registry.row(unit).is_some())).await;
    let (log, counters, rows) = (
        m.systemd.executions(),
        m.systemd.counters(),
        units.iter().map(|u| m.registry.row(u)).collect::<Vec<_>>(),
    );
    for how in 0..4 {
        if how % 2 == 0 {
            m.kill().await;
        } else {
            m.terminate().await;
        }
        m.start().await;
        m.until("connected", |m| m.status().is_connected()).await;
        m.pass(Duration::from_secs(30)).await;
    }
    assert_eq!(m.systemd.executions(), log);
    let now = m.systemd.counters();
    assert_eq!((now.starts, now.stops, now.reloads), (counters.starts, counters.stops, counters.reloads));
    assert_eq!(units.iter().map(|u| m.registry.row(u)).collect::<Vec<_>>(), rows, "byte for byte");
}

#[tokio::test(start_paused = true)]
async fn p3_a_oneshot_runs_once_wherever_its_start_is_killed() {
    let mut polls = 1;
    loop {
        let mut m = Machine::new();
        let number = m.registry.launch("once.service", ONESHOT);
        m.start_for(polls).await;
        m.pass(Duration::from_secs(5)).await;
        let has_survived = !m.has_ended();
        m.kill().await;
        m.start().await;
        m.until_done("once.service", number).await;
        m.pass(Duration::from_secs(5)).await;
        assert_eq!(m.runs("once.service"), 1, "killed after {polls} polls");
        if has_survived {
            break;
        }
        polls += 1;
    }
    assert!(polls > 10, "killed at only {polls} places");
}

#[tokio::test(start_paused = true)]
async fn p3_a_restart_is_one_new_run_wherever_it_is_killed() {
    let mut polls = 1;
    loop {
        let mut m = Machine::started().await;
        let number = m.registry.launch("a.service", SERVICE);
        m.until_done("a.service", number).await;
        m.kill().await;
        let number = m.registry.order("a.service", CHANGED, Wanted::Launched, counters(0, 0, 1));
        m.start_for(polls).await;
        m.pass(Duration::from_secs(5)).await;
        let has_survived = !m.has_ended();
        m.kill().await;
        m.start().await;
        m.until_done("a.service", number).await;
        m.pass(Duration::from_secs(5)).await;
        assert_eq!((m.runs("a.service"), m.systemd.counters().stops), (2, 1), "killed after {polls} polls");
        if has_survived {
            break;
        }
        polls += 1;
    }
    assert!(polls > 15, "killed at only {polls} places");
}

#[tokio::test(start_paused = true)]
async fn p6_two_restarts_while_the_agent_is_away_are_one() {
    let mut m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.kill().await;
    m.registry.order("a.service", SERVICE, Wanted::Launched, counters(0, 0, 1));
    let number = m.registry.order("a.service", SERVICE, Wanted::Launched, counters(0, 0, 2));
    m.start().await;
    m.until_done("a.service", number).await;
    assert_eq!((m.runs("a.service"), m.systemd.counters().stops), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn p6_orders_written_while_the_registry_was_away_are_carried_out() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.registry.connect(false);
    m.pass(Duration::from_secs(30)).await;
    let number = m.registry.order("a.service", SERVICE, Wanted::Loaded, counters(0, 1, 0));
    m.registry.connect(true);
    m.until_done("a.service", number).await;
    assert_eq!(m.active("a.service").await, "inactive");
}

#[tokio::test(start_paused = true)]
async fn p7_a_poison_unit_a_slow_start_and_a_hung_stop_delay_nobody() {
    let m = Machine::started().await;
    m.systemd.behave(&name("stuck.service"), Behaviour { stop_hangs: true, ..Behaviour::default() });
    m.systemd.behave(
        &name("slow.service"),
        Behaviour { start_takes: Duration::from_secs(300), ..Behaviour::default() },
    );
    let number = m.registry.launch("stuck.service", SERVICE);
    m.until_done("stuck.service", number).await;
    let bus = SystemdError::TimedOut { operation: "check the name", after: Duration::from_secs(25) };
    m.systemd.fail(Call::Shadowed, Some(&name("poison.service")), None, bus);
    m.registry.order("stuck.service", SERVICE, Wanted::Gone, counters(0, 1, 0));
    m.registry.launch("poison.service", SERVICE);
    m.registry.launch("slow.service", SLOW);
    m.registry.order_without_text(
        "lost.service",
        "[Service]\nExecStart=/bin/lost\n",
        Wanted::Launched,
        counters(0, 0, 0),
    );
    let began = Instant::now();
    let number = m.registry.launch("good.service", SERVICE);
    m.until_done("good.service", number).await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    m.pass(Duration::from_secs(3)).await;
    let phase = |unit: &str| m.registry.row(unit).map(|row| row.phase);
    assert_eq!(phase("stuck.service"), Some(RowPhase::Stopping));
    assert_eq!(phase("slow.service"), Some(RowPhase::Starting));
    assert_eq!(phase("poison.service"), Some(RowPhase::Retrying));
    assert_eq!(phase("lost.service"), Some(RowPhase::Refused));
    m.pass(Duration::from_secs(400)).await;
    assert_eq!((phase("slow.service"), m.runs("slow.service")), (Some(RowPhase::Settled), 1));
}

#[tokio::test(start_paused = true)]
async fn p8_at_rest_nothing_happens_but_audits_that_find_nothing() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.registry.launch("once.service", ONESHOT);
    m.pass(Duration::from_secs(60)).await;
    let (before, calls, commits) =
        (m.status().counters, m.systemd.counters().calls, m.registry.commits().len());
    m.pass(Duration::from_secs(4 * 3600)).await;
    let after = m.status().counters;
    assert!((14..=18).contains(&(after.audits - before.audits)), "{after:?}");
    assert_eq!(after.audit_differences, 0);
    assert_eq!(after.effective_passes, before.effective_passes);
    assert_eq!(m.registry.commits().len(), commits);
    let lists = m.systemd.counters().calls[&Call::List] - calls[&Call::List];
    assert!(lists <= 2 * (after.audits - before.audits), "{lists} lists");
}

#[tokio::test(start_paused = true)]
async fn an_audit_finds_what_no_event_said() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.pass(Duration::from_secs(10)).await;
    fleet_systemd::Systemd::unpin(&m.systemd, &[name("a.service")]).await.unwrap();
    m.until("found", |m| m.status().counters.audit_differences == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_local_stop_is_respected_and_shown() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    let began = Instant::now();
    m.systemd.admin_stop(&name("a.service"));
    m.until("shown", |m| m.registry.row("a.service").is_some_and(|row| row.active == "inactive")).await;
    assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
    m.pass(Duration::from_secs(2000)).await;
    assert_eq!(m.runs("a.service"), 1);
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_crash_loop_are_merged_to_one_write_a_second() {
    let m = Machine::started().await;
    let text = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=100ms\nExecStart=/bin/sleep 2\n";
    let number = m.registry.launch("loop.service", text);
    m.until_done("loop.service", number).await;
    let began = Instant::now();
    m.pass(Duration::from_secs(20)).await;
    let writes: Vec<Instant> =
        m.registry.writes("loop.service").into_iter().filter(|at| *at > began).collect();
    assert!((5..=20).contains(&writes.len()), "{} writes", writes.len());
    for pair in writes.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_secs(1), "{:?}", pair[1] - pair[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_boots_without_the_registry_starts_what_was_launched() {
    let mut m = Machine::started().await;
    m.registry.order("loaded.service", SERVICE, Wanted::Loaded, counters(0, 0, 0));
    m.registry.launch("once.service", ONESHOT);
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.pass(Duration::from_secs(1)).await;
    m.kill().await;
    m.systemd.boot();
    m.registry.connect(false);
    m.start().await;
    let began = Instant::now();
    m.pass(Duration::from_secs(7)).await;
    assert_eq!(m.runs("a.service"), 1, "waits for the registry first");
    m.until("runs", |m| m.runs("a.service") == 2 && m.runs("once.service") == 2).await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(m.status().is_offline && m.status().units.contains_key("a.service"));
    m.registry.connect(true);
    m.until("connected", |m| m.status().is_connected()).await;
    m.pass(Duration::from_secs(30)).await;
    assert_eq!((m.runs("a.service"), m.runs("once.service"), m.runs("loaded.service")), (2, 2, 0));
    assert_eq!(m.systemd.counters().stops, 0);
}

#[tokio::test(start_paused = true)]
async fn a_boot_launches_once_more_and_a_restart_of_fleetd_does_not() {
    let mut m = Machine::started().await;
    m.registry.launch("once.service", ONESHOT);
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.pass(Duration::from_secs(1)).await;
    for (expected, reboots) in [(1, false), (2, true), (2, false), (3, true)] {
        m.kill().await;
        if reboots {
            m.systemd.boot();
        }
        m.start().await;
        m.pass(Duration::from_secs(10)).await;
        assert_eq!((m.runs("a.service"), m.runs("once.service")), (expected, expected), "{reboots}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_orders_is_carried_out_in_few_passes() {
    let m = Machine::started().await;
    m.until("connected", |m| m.status().is_connected()).await;
    m.pass(Duration::from_secs(1)).await;
    let before = m.status().counters.passes;
    let mut orders = Vec::new();
    for n in 0..200 {
        let unit = format!("s{n}.service");
        let number = m.registry.launch(&unit, &format!("[Service]\nExecStart=/usr/bin/work {n}\n"));
        orders.push((unit, number));
    }
    for (unit, number) in &orders {
        m.until_done(unit, *number).await;
    }
    let passes = m.status().counters.passes - before;
    assert!(passes < 40, "{passes} passes");
    assert_eq!(m.status().counters.starts, 200);
}

/// The others pause the clock; this one shows that nothing relies on two looks at it being equal.
#[tokio::test]
async fn time_that_goes_on_by_itself_changes_nothing() {
    let m = Machine::started().await;
    for n in 0..3 {
        let unit = format!("s{n}.service");
        let number = m.registry.launch(&unit, SERVICE);
        m.until_done(&unit, number).await;
    }
    let number = m.registry.order("s0.service", SERVICE, Wanted::Launched, counters(0, 0, 1));
    m.until_done("s0.service", number).await;
    assert_eq!((m.runs("s0.service"), m.status().counters.starts), (2, 4));
    assert!(m.status().counters.passes < 100, "{:?}", m.status().counters);
}
