//! What the agent does when systemd or the disk is not as it should be: links to be read, a bus that is cut, names that are
//! the host's, texts that are lost, a disk that is full.

use std::time::Duration;

use fleet_core::reconcile::FLEET_1_RUNS;
use fleet_core::records::Wanted;
use fleet_systemd::SystemdError;
use fleet_systemd::fake::Call;
use unit_files::UnitName;

use super::harness::{Machine, counters, name};

const SERVICE: &str = "[Service]\nExecStart=/usr/bin/work\n";

#[tokio::test(start_paused = true)]
async fn links_toward_a_loaded_target_cost_one_reload_and_go_with_the_unit() {
    let mut m = Machine::new();
    m.systemd.load_target("multi-user.target");
    let wanted = |n: usize| format!("{SERVICE}# {n}\n[Install]\nWantedBy=multi-user.target idle.target\n");
    let units: Vec<String> = (0..50).map(|n| format!("w{n}.service")).collect();
    let mut last = None;
    for (n, unit) in units.iter().enumerate() {
        last = Some(m.registry.launch(unit, &wanted(n)));
    }
    m.start().await;
    m.until_done("w49.service", last.unwrap()).await;
    let pulled = |m: &Machine| m.systemd.pulled_by("multi-user.target").len();
    m.until("all are pulled", |m| pulled(m) == 50).await;
    assert!(m.systemd.counters().reloads <= 2, "{:?}", m.systemd.counters());
    // A new process, and audits, find nothing to read.
    let reloads = m.systemd.counters().reloads;
    m.kill().await;
    m.start().await;
    m.pass(Duration::from_secs(4000)).await;
    assert_eq!(m.systemd.counters().reloads, reloads);
    for (n, unit) in units.iter().enumerate() {
        m.registry.order(unit, &wanted(n), Wanted::Gone, counters(0, 1, 0));
    }
    m.until("nothing is pulled", |m| pulled(m) == 0 && units.iter().all(|u| !m.registry.has_order(u))).await;
    assert!(m.systemd.counters().reloads <= reloads + 5, "{:?}", m.systemd.counters());
    assert_eq!(m.active("w0.service").await, "unloaded");
}

#[tokio::test(start_paused = true)]
async fn links_that_a_process_left_unread_are_read_by_the_next() {
    let mut m = Machine::started().await;
    m.systemd.load_target("multi-user.target");
    let timed_out =
        SystemdError::TimedOut { operation: "look for unread links", after: Duration::from_secs(25) };
    m.systemd.fail(Call::UnreadLinks, None, None, timed_out);
    let number = m.registry.launch("a.service", &format!("{SERVICE}[Install]\nWantedBy=multi-user.target\n"));
    m.until_done("a.service", number).await;
    m.kill().await;
    m.systemd.clear_failures();
    m.start().await;
    m.until("pulled", |m| m.systemd.pulled_by("multi-user.target") == [name("a.service")]).await;
    assert_eq!((m.systemd.counters().reloads, m.runs("a.service")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_cut_is_waited_for() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.systemd.set_connected(false);
    let number = m.registry.launch("b.service", SERVICE);
    m.pass(Duration::from_secs(20)).await;
    assert!(m.status().systemd_error.is_some() && m.runs("b.service") == 0);
    m.systemd.set_connected(true);
    m.until_done("b.service", number).await;
    assert_eq!((m.runs("a.service"), m.runs("b.service")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_name_of_the_host_is_refused_with_its_path() {
    let m = Machine::started().await;
    m.systemd.add_host_unit(&name("ssh.service"), "/usr/lib/systemd/system/ssh.service", SERVICE);
    m.registry.launch("ssh.service", SERVICE);
    m.until("refused", |m| m.registry.row("ssh.service").is_some_and(|row| row.refused.is_some())).await;
    let refused = m.registry.row("ssh.service").unwrap().refused.unwrap();
    assert!(refused.reason.text.contains("/usr/lib/systemd/system/ssh.service"), "{}", refused.reason.text);
    assert_eq!(m.runs("ssh.service"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_cannot_load_counts_as_carried_out_with_its_error() {
    let m = Machine::started().await;
    let number = m.registry.launch("bad.service", "[Service]\nType=simple\nEnvironment=A=b\n");
    m.until_done("bad.service", number).await;
    let row = m.registry.row("bad.service").unwrap();
    assert_eq!(row.last_error.map(|error| error.code), Some("bad-setting".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_lost_text_is_refused_and_taken_once_it_is_there() {
    let m = Machine::started().await;
    m.registry.order_without_text("a.service", SERVICE, Wanted::Launched, counters(0, 0, 0));
    let is_refused = |m: &Machine| m.registry.row("a.service").is_some_and(|row| row.refused.is_some());
    m.until("refused", is_refused).await;
    let number = m.registry.order("a.service", SERVICE, Wanted::Launched, counters(1, 0, 0));
    m.until_done("a.service", number).await;
    assert_eq!(m.active("a.service").await, "active");
}

#[tokio::test(start_paused = true)]
async fn a_text_that_was_damaged_on_disk_is_fetched_again() {
    let m = Machine::started().await;
    let number = m.registry.order("a.service", SERVICE, Wanted::Loaded, counters(0, 0, 0));
    m.until_done("a.service", number).await;
    m.registry.order("a.service", SERVICE, Wanted::Gone, counters(0, 0, 0));
    m.until("gone", |m| !m.registry.has_order("a.service")).await;
    let hash = unit_files::ContentHash::of(SERVICE.as_bytes());
    std::fs::write(m.directory.path().join("contents").join(hash.to_string()), "torn").unwrap();
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    assert_eq!(m.active("a.service").await, "active");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_all_action_and_no_unit_and_is_left_behind() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    m.fill_disk(true);
    m.registry.order("a.service", SERVICE, Wanted::Gone, counters(0, 0, 0));
    m.registry.launch("b.service", SERVICE);
    let says_so = |unit: &'static str| {
        move |m: &Machine| {
            let error = m.registry.row(unit).and_then(|row| row.last_error);
            error.is_some_and(|error| error.code == "state-directory")
        }
    };
    m.until("a says so", says_so("a.service")).await;
    m.until("b says so", says_so("b.service")).await;
    m.pass(Duration::from_secs(60)).await;
    assert!(m.status().line().contains("can be written"));
    assert_eq!((m.active("a.service").await.as_str(), m.runs("b.service")), ("active", 0));
    m.fill_disk(false);
    m.until("b runs", |m| m.runs("b.service") == 1).await;
    m.until("a is gone", |m| !m.registry.has_order("a.service")).await;
}

/// The daemon of fleet 1.0, as far as systemd can tell.
fn fleet_1(m: &Machine) -> UnitName {
    let fleet_1 = name("fleet.service");
    m.systemd.add_host_unit(&fleet_1, "/usr/lib/systemd/system/fleet.service", SERVICE);
    m.systemd.admin_start(&fleet_1).unwrap();
    fleet_1
}

fn error_of(m: &Machine, unit: &str) -> Option<String> {
    m.registry.row(unit).and_then(|row| row.last_error).map(|error| error.code)
}

#[tokio::test(start_paused = true)]
async fn while_fleet_1_runs_another_text_a_start_and_an_end_of_a_unit_wait_for_its_end() {
    let m = Machine::started().await;
    for unit in ["text.service", "gone.service", "stop.service"] {
        let number = m.registry.launch(unit, SERVICE);
        m.until_done(unit, number).await;
    }
    let fleet_1 = fleet_1(&m);
    let other = format!("{SERVICE}Nice=1\n");
    let text = m.registry.launch("text.service", &other);
    let gone = m.registry.order("gone.service", SERVICE, Wanted::Gone, counters(1, 0, 0));
    let stop = m.registry.order("stop.service", SERVICE, Wanted::Loaded, counters(1, 1, 0));
    let new = m.registry.launch("new.service", SERVICE);
    let all = [("text.service", text), ("gone.service", gone), ("stop.service", stop), ("new.service", new)];
    for (unit, number) in all {
        m.until("it waits", |m| error_of(m, unit).as_deref() == Some(FLEET_1_RUNS)).await;
        assert!(!m.registry.has_done(unit, number), "{unit}");
    }
    m.pass(Duration::from_secs(60)).await;
    assert_eq!((m.systemd.counters().stops, m.runs("text.service"), m.runs("new.service")), (0, 1, 0));
    assert!(m.systemd.on_disk(&name("gone.service")).is_some());
    m.systemd.admin_stop(&fleet_1);
    for (unit, number) in all {
        m.until("it is done", |m| m.registry.has_done(unit, number) || !m.registry.has_order(unit)).await;
    }
    assert_eq!((m.runs("text.service"), m.runs("gone.service"), m.runs("new.service")), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_does_not_say_whether_fleet_1_runs_is_asked_again_before_anything_is_done() {
    let m = Machine::started().await;
    let number = m.registry.launch("a.service", SERVICE);
    m.until_done("a.service", number).await;
    let timed_out = SystemdError::TimedOut { operation: "read unit", after: Duration::from_secs(25) };
    m.systemd.fail(Call::Inspect, Some(&name("fleet.service")), None, timed_out);
    let number = m.registry.order("a.service", SERVICE, Wanted::Gone, counters(1, 0, 0));
    m.until("it waits", |m| error_of(m, "a.service").as_deref() == Some("systemd-timed-out")).await;
    assert_eq!(m.systemd.counters().stops, 0);
    m.systemd.clear_failures();
    m.until("it is gone", |m| m.registry.has_done("a.service", number) || !m.registry.has_order("a.service"))
        .await;
}
