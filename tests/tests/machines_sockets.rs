//! The API of a real fleetd on sockets that a real systemd has bound for it, unix and TCP with client certificates: it
//! serves them, leaves them alone, and is started by whoever connects.
//!
//! The certificates are made by the commands of `docs/usage/remote.md`.

use std::path::Path;
use std::process::Command;

use fleet_tests::cluster::{Cluster, SOON};
use fleet_tests::lab::{LabOptions, Machine, wait_until};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/usage/remote.md");

/// Runs the commands of the page for a machine at this address, in `directory`.
fn make_certificates(directory: &Path, machine: &Machine<'_>) {
    let page = std::fs::read_to_string(PAGE).expect("the page is there");
    let page = page
        .replace("node1.example.org", machine.name())
        .replace("IP:10.0.0.1", &format!("IP:{}", machine.address()));
    for part in ["authority", "machine", "person"] {
        let rest = page.split(&format!("\n```sh {part}\n")).nth(1).expect("the page has the block");
        let commands = rest.split("\n```").next().expect("the block ends");
        let done =
            Command::new("sh").args(["-ec", commands]).current_dir(directory).output().expect("sh runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// fleetctl on the machine, with alice's certificate.
fn as_alice(machine: &Machine<'_>, endpoint: &str, words: &str) -> String {
    let flags = "--ca-file ca.pem --cert-file alice.pem --key-file alice.key";
    let line = format!("cd /etc/fleet/tls && fleetctl --endpoint {endpoint} {flags} {words}");
    machine.run(&["sh", "-ec", &line]).expect("fleetctl is answered")
}

#[test]
fn sockets_of_systemd_are_served_left_alone_and_start_fleetd() {
    let cluster = Cluster::up(LabOptions::for_test("sockets").machines(1));
    let m1 = cluster.machine("m1");
    let live = |path: &str| m1.live_path(path).expect("m1 runs");
    std::fs::create_dir_all(live("/etc/fleet/tls")).expect("a directory");
    std::fs::create_dir_all(live("/etc/fleet/fleetd.d")).expect("a directory");
    make_certificates(&live("/etc/fleet/tls"), &m1);
    let address = m1.address();
    let unit =
        format!("[Socket]\nListenStream=/run/fleet.sock\nSocketMode=0660\nListenStream={address}:49160\n");
    std::fs::write(live("/etc/systemd/system/fleetd.socket"), unit).expect("a file");
    let keys = "listen = [\"unix:///run/fleet.sock\", \"tcp://0.0.0.0:49153\"]\n\
                listen_certfile = \"/etc/fleet/tls/node1.pem\"\nlisten_keyfile = \"/etc/fleet/tls/node1.key\"\n\
                listen_cafile = \"/etc/fleet/tls/ca.pem\"\n";
    std::fs::write(live("/etc/fleet/fleetd.d/tls.toml"), keys).expect("a file");
    m1.systemctl(&["daemon-reload"]).expect("systemd reads its units");
    m1.systemctl(&["stop", "fleetd.service"]).expect("fleetd stops");
    m1.systemctl(&["start", "fleetd.socket"]).expect("the sockets are bound");
    let inode = || m1.run(&["stat", "--format=%i", "/run/fleet.sock"]).expect("the socket is there");
    let bound = inode();

    let told = as_alice(&m1, &format!("https://{address}:49160"), "list-machines");
    assert!(told.contains(&address.to_string()), "{told}");
    let pid = || m1.main_pid("fleetd.service").expect("systemd answers");
    assert!(pid().is_some(), "the connection has started fleetd");
    std::fs::write(live("/etc/fleet/tls/hello.service"), "[Service]\nExecStart=/bin/sleep 1d\n")
        .expect("a file");
    as_alice(&m1, "https://m1:49153", "start hello.service");
    let events = m1.run(&["fleetctl", "events"]).expect("the unix socket is served");
    assert!(events.contains("alice ("), "{events}");

    let before = pid();
    m1.systemctl(&["kill", "--signal=SIGKILL", "fleetd.service"]).expect("fleetd dies");
    wait_until(SOON, "another fleetd", || pid().is_some_and(|now| Some(now) != before));
    m1.run(&["fleetctl", "list-machines"]).expect("the socket has outlived its fleetd");
    m1.systemctl(&["stop", "fleetd.service"]).expect("fleetd stops");
    assert_eq!(inode(), bound);
    let stranger =
        format!("fleetctl --endpoint https://{address}:49160 --ca-file /etc/fleet/tls/ca.pem list-machines");
    let refused = m1.exec(&["sh", "-c", &stranger]).expect("the command runs");
    assert!(format!("{refused:?}").contains("only clients with a certificate"), "{refused:?}");
}
