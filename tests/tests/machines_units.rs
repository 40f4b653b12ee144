//! What becomes of units on a real systemd: P7, stopping, replacing, names that are taken, and bad input.

use std::time::{Duration, Instant};

use fleet_tests::cluster::{Cluster, SOON, run_of, runs_of, succeeded};
use fleet_tests::lab::{LabOptions, Machine, wait_until};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep infinity\n";
/// What one unit may cost another: nothing but the time of an ordinary start on a busy host.
const IN_TIME: Duration = Duration::from_secs(5);

fn one_machine(subject: &str) -> Cluster {
    Cluster::up(LabOptions::for_test(subject).machines(1))
}

fn text_of(machine: &Machine<'_>, path: &str) -> String {
    std::fs::read_to_string(machine.disk_path(path)).unwrap_or_default()
}

fn is_installed(machine: &Machine<'_>, unit: &str) -> bool {
    let places = ["/run/fleet/units/", "/run/systemd/system/"];
    places.iter().any(|place| {
        machine.live_path(&format!("{place}{unit}")).is_ok_and(|path| path.symlink_metadata().is_ok())
    })
}

fn pinned(text: &str, machine: &Machine<'_>) -> String {
    format!("{text}[X-Fleet]\nMachineID={}\n", machine.machine_id())
}

/// Runs `work`, which must not have had to wait for the units in trouble.
#[track_caller]
fn in_time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    assert!(began.elapsed() < IN_TIME, "{what} took {:?}", began.elapsed());
    done
}

#[test]
fn p7_units_that_cannot_load_start_for_minutes_or_hang_in_their_stop_delay_no_other() {
    let cluster = one_machine("p7");
    let m1 = cluster.machine("m1");
    let cannot_load = "[Service]\nType=simple\n";
    let starts_for_minutes =
        "[Service]\nTimeoutStartSec=infinity\nExecStartPre=/bin/sleep 600\nExecStart=/bin/sleep infinity\n";
    let hangs = "[Service]\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 600; done'\nKillMode=process\nTimeoutStopSec=infinity\n";
    cluster.start("hangs.service", hangs);
    cluster.ok(&[
        "start",
        "--no-block",
        &cluster.file("bad.service", cannot_load),
        &cluster.file("slow.service", starts_for_minutes),
    ]);
    cluster.ok(&["stop", "--no-block", "hangs.service"]);
    wait_until(SOON, "one to be starting", || run_of(&m1, "slow.service").active == "activating");
    wait_until(SOON, "one to be stopping", || run_of(&m1, "hangs.service").active == "deactivating");
    cluster.await_row("bad.service", "the first to be reported", |row| {
        row.last_error.is_some() || row.active == "failed"
    });

    let others: Vec<_> = (0..10).map(|n| format!("other{n}.service")).collect();
    let names: Vec<_> = others.iter().map(String::as_str).collect();
    in_time("starting", || cluster.start_all(names.iter().map(|name| (*name, SLEEPS))));
    let before = runs_of(&m1, &names);
    in_time("restarting", || cluster.ok(&[&["restart"], names.as_slice()].concat()));
    let after = runs_of(&m1, &names);
    assert!(names.iter().all(|name| before[*name].invocation != after[*name].invocation));
    in_time("stopping", || cluster.ok(&[&["stop"], names.as_slice()].concat()));
    in_time("destroying", || cluster.ok(&[&["destroy"], names.as_slice()].concat()));

    // The three themselves can be given up in time, as far as systemd lets go of them.
    in_time("cancelling a start", || cluster.ok(&["destroy", "slow.service", "bad.service"]));
    assert!(!m1.is_unit_populated("slow.service") && !is_installed(&m1, "bad.service"));
    let pending = in_time("giving up", || cluster.ctl(&["destroy", "--timeout", "1s", "hangs.service"]));
    assert_eq!(pending.status.code(), Some(4), "{}{}", pending.stdout, pending.stderr);
    assert_eq!(run_of(&m1, "hangs.service").active, "deactivating");
    m1.systemctl(&["kill", "--signal=SIGKILL", "hangs.service"]).unwrap();
    wait_until(SOON, "it to be gone", || {
        !is_installed(&m1, "hangs.service") && cluster.unit("hangs.service").is_none()
    });
}

#[test]
fn stop_means_stopped_on_destroy_and_on_a_move() {
    let options = LabOptions::for_test("stopped").machines(2);
    let cluster = Cluster::up(options.metadata("m1", "site=one").metadata("m2", "site=two"));
    let (m1, m2) = (cluster.machine("m1"), cluster.machine("m2"));
    let slow = "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sh -c 'sleep 0.5; echo stop >> /var/lib/%n'\n\
                ExecStopPost=/bin/sh -c 'sleep 0.5; echo post >> /var/lib/%n'\n";
    let on = |site: &str| format!("{slow}[X-Fleet]\nMachineMetadata=site={site}\n");
    cluster.start("a.service", &on("one"));
    cluster.ok(&["destroy", "a.service"]);
    assert_eq!(text_of(&m1, "/var/lib/a.service"), "stop\npost\n", "destroy returned too early");
    assert!(!is_installed(&m1, "a.service"));
    assert_eq!(m1.property("a.service", "LoadState").unwrap(), "not-found");
    assert!(cluster.rows_of("a.service").is_empty());

    cluster.start("b.service", &on("one"));
    cluster.ok(&["start", "--replace", &cluster.file("b.service", &on("two"))]);
    cluster.await_row("b.service", "b.service to run on m2", |row| {
        row.active == "active" && row.machine == m2.machine_id()
    });
    wait_until(SOON, "the old copy to be gone", || !is_installed(&m1, "b.service"));
    assert_eq!(text_of(&m1, "/var/lib/b.service"), "stop\npost\n", "its file went before its stop had ended");
    assert_eq!(text_of(&m2, "/var/lib/b.service"), "");
    wait_until(SOON, "one row", || cluster.rows_of("b.service").len() == 1);
}

#[test]
fn replaced_content_runs_and_the_old_texts_stop_command_has_run() {
    let cluster = one_machine("replaced");
    let m1 = cluster.machine("m1");
    let version = |n: u8| {
        format!(
            "[Service]\nExecStart=/bin/sh -c 'echo start{n} >> /var/lib/log; exec sleep infinity'\nExecStop=/bin/sh -c 'echo stop{n} >> /var/lib/log'\n"
        )
    };
    cluster.start("a.service", &version(1));
    let first = run_of(&m1, "a.service");
    // Nothing that would run differently: a comment.
    cluster.ok(&["start", "--replace", &cluster.file("a.service", &format!("# why\n{}", version(1)))]);
    assert_eq!(run_of(&m1, "a.service"), first);
    // Without --replace the stored text stays.
    cluster.ok(&["start", &cluster.file("a.service", &version(2))]);
    assert_eq!(run_of(&m1, "a.service"), first);

    cluster.ok(&["start", "--replace", &cluster.file("a.service", &version(2))]);
    wait_until(SOON, "the new text to run", || text_of(&m1, "/var/lib/log") == "start1\nstop1\nstart2\n");
    assert_eq!(run_of(&m1, "a.service").active, "active");
    cluster.ok(&["destroy", "a.service"]);
    assert_eq!(text_of(&m1, "/var/lib/log"), "start1\nstop1\nstart2\nstop2\n");
}

#[test]
fn install_section_becomes_links_while_the_unit_is_loaded() {
    let cluster = one_machine("install");
    let m1 = cluster.machine("m1");
    let text = format!("{SLEEPS}[Install]\nWantedBy=multi-user.target\nRequiredBy=graphical.target\n");
    let links = ["multi-user.target.wants", "graphical.target.requires"];
    let is_link = |link: &str| {
        let path = m1.live_path(&format!("/run/systemd/system/{link}/linked.service")).unwrap();
        path.symlink_metadata().is_ok_and(|file| file.is_symlink())
    };
    cluster.ok(&["load", &cluster.file("linked.service", &text)]);
    for link in links {
        wait_until(SOON, link, || is_link(link));
    }
    assert!(!m1.is_unit_populated("linked.service"));
    cluster.ok(&["start", "linked.service"]);
    assert!(links.iter().all(|link| is_link(link)));
    cluster.ok(&["unload", "linked.service"]);
    wait_until(SOON, "the links to be gone", || !links.iter().any(|link| is_link(link)));
    assert!(!m1.is_unit_populated("linked.service"));
    cluster.ok(&["destroy", "linked.service"]);
}

#[test]
fn name_that_the_host_provides_is_refused_with_its_path_and_placed_elsewhere() {
    let cluster = Cluster::up(LabOptions::for_test("shadowed").machines(2));
    let (m1, m2) = (cluster.machine("m1"), cluster.machine("m2"));
    let host = "[Service]\nExecStart=/bin/sleep 1000000\n";
    std::fs::write(m1.disk_path("/etc/systemd/system/taken.service"), host).unwrap();
    m1.systemctl(&["daemon-reload"]).unwrap();
    m1.systemctl(&["start", "taken.service"]).unwrap();
    let before = run_of(&m1, "taken.service");
    // m2 is the busier one, so that m1 is asked first.
    cluster.start("load.service", &pinned(SLEEPS, &m2));

    cluster.start("taken.service", SLEEPS);
    assert_eq!(cluster.place_of("taken.service").name(), "m2");
    assert!(m2.is_unit_populated("taken.service"));
    let why = cluster.ok(&["why", "taken.service"]);
    assert!(why.contains("/etc/systemd/system/taken.service"), "{why}");
    // Where nowhere else is allowed, it is said and nothing is touched.
    std::fs::write(m1.disk_path("/etc/systemd/system/mine.service"), host).unwrap();
    m1.systemctl(&["daemon-reload"]).unwrap();
    m1.systemctl(&["start", "mine.service"]).unwrap();
    let mine = run_of(&m1, "mine.service");
    let refused =
        cluster.ctl(&["start", "--timeout", "10s", &cluster.file("mine.service", &pinned(SLEEPS, &m1))]);
    assert_eq!(refused.status.code(), Some(5), "{}{}", refused.stdout, refused.stderr);
    let told = format!("{}{}", refused.stdout, refused.stderr);
    assert!(told.contains("/etc/systemd/system/mine.service"), "{told}");
    cluster.ok(&["destroy", "mine.service", "taken.service"]);
    assert_eq!(run_of(&m1, "taken.service"), before);
    assert_eq!(run_of(&m1, "mine.service"), mine);
    assert_eq!(text_of(&m1, "/etc/systemd/system/mine.service"), host);
}

#[test]
fn bad_input_is_refused_with_the_next_step_and_loses_nothing() {
    let cluster = one_machine("bad-input");
    let m1 = cluster.machine("m1");
    cluster.start("good.service", SLEEPS);
    let before = run_of(&m1, "good.service");
    let refused = |name: &str, text: &str, says: &[&str]| {
        let output = cluster.ctl(&["start", &cluster.file(name, text)]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}{}", output.stdout, output.stderr);
        for word in says {
            assert!(output.stderr.contains(word), "{name} should say {word}: {}", output.stderr);
        }
        assert!(cluster.unit(name).is_none(), "{name} was stored");
    };
    refused("unparsable.service", "[Service\nExecStart=/bin/true\n", &["line 1"]);
    refused("no-section.service", "ExecStart=/bin/true\n", &["line 1"]);
    refused(
        "huge.service",
        &format!("{SLEEPS}{}", "# padding of a unit that is far too large\n".repeat(7000)),
        &["262144"],
    );
    refused("exclusive.service", &format!("{SLEEPS}[X-Fleet]\nOnPartition=stop\n"), &["not yet supported"]);
    refused("circle.service", &format!("{SLEEPS}[X-Fleet]\nMachineOf=circle.service\n"), &["MachineOf"]);
    refused("bad.service", &format!("{SLEEPS}[X-Fleet]\nGlobal=true\nMachineOf=good.service\n"), &["Global"]);
    let name = cluster.ctl(&["start", &cluster.file("wrong.type", SLEEPS)]);
    assert_eq!(name.status.code(), Some(1), "{}{}", name.stdout, name.stderr);

    // With Type=exec the start itself fails. A Type=simple counts as started before its program is executed, for
    // systemctl as well: whether the start sees the failure is a matter of microseconds, the row has it in any case.
    let no_binary = "[Service]\nType=exec\nExecStart=/bin/there-is-no-such\n";
    let output = cluster.ctl(&["start", &cluster.file("no-binary.service", no_binary)]);
    assert_eq!(output.status.code(), Some(1), "{}{}", output.stdout, output.stderr);
    let told = format!("{}{}", output.stdout, output.stderr);
    assert!(told.contains("exit-code") || told.contains("203"), "{told}");
    cluster.ctl(&["start", &cluster.file("simple.service", "[Service]\nExecStart=/bin/there-is-no-such\n")]);
    for unit in ["no-binary.service", "simple.service"] {
        let row = cluster.await_row(unit, "the failure to be shown", |row| row.active == "failed");
        assert_eq!((row.result.as_str(), row.exit_status), ("exit-code", Some(203)), "{unit}");
    }
    let output = cluster.ctl(&[
        "start",
        &cluster.file("fails.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 7'\n"),
    ]);
    assert_eq!(output.status.code(), Some(1), "{}{}", output.stdout, output.stderr);
    let told = format!("{}{}", output.stdout, output.stderr);
    assert!(told.contains('7') || told.contains("exit-code"), "{told}");
    let row = cluster.await_row("fails.service", "the failure to be shown", |row| row.active == "failed");
    assert_eq!((row.result.as_str(), row.exit_status), ("exit-code", Some(7)));

    assert_eq!(run_of(&m1, "good.service"), before);
    // Corrected, both run.
    cluster.ok(&["start", "--replace", &cluster.file("no-binary.service", SLEEPS)]);
    let corrected = cluster.file("fails.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n");
    cluster.ok(&["start", "--replace", &corrected]);
}

/// One request as it stands on the wire; the status line of the answer and its body.
fn request(machine: &Machine<'_>, head: &str, body: &[u8]) -> (String, String) {
    use std::io::{Read, Write};
    let socket = machine.fleet_socket().expect("the machine runs");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("fleetd listens");
    stream.set_read_timeout(Some(SOON)).expect("it is not zero");
    let head = format!(
        "{head}\r\nHost: fleet\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("fleetd reads");
    // A server that refuses a body for its size need not read it to the end.
    drop(stream.write_all(body));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[test]
fn requests_that_make_no_sense_are_refused_and_the_next_one_is_served() {
    let cluster = one_machine("requests");
    let m1 = cluster.machine("m1");
    let (status, body) = request(&m1, "PUT /fleet/v1/units/a.service HTTP/1.1", b"this is not JSON");
    assert!(status.contains(" 400 ") && body.contains("error"), "{status}: {body}");
    let option =
        format!(r##"{{"section":"Service","name":"Environment","value":"A={}"}}"##, "x".repeat(1000));
    let options = vec![option; 300].join(",");
    let large = format!(r#"{{"desiredState":"launched","options":[{options}]}}"#);
    let (status, body) = request(&m1, "PUT /fleet/v1/units/a.service HTTP/1.1", large.as_bytes());
    assert!(status.contains(" 413 "), "{status}: {body}");
    let (status, _) = request(&m1, "GET /fleet/v1/nothing HTTP/1.1", b"");
    assert!(status.contains(" 404 "), "{status}");
    assert!(cluster.unit("a.service").is_none());
    cluster.start("a.service", SLEEPS);
    let status = succeeded(&["status"], m1.fleetctl(&["status", "a.service"]).unwrap());
    assert!(status.contains("active (running)"), "{status}");
}
