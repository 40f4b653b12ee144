//! Real machines on an etcd 3.5 that asks for certificates and is known by a name, which then moves to another address.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[path = "etcd_matrix/certificates.rs"]
mod certificates;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use certificates::Certificates;
use fleet_api::v2::HealthView;
use fleet_tests::cluster::{Cluster, SOON};
use fleet_tests::lab::{LabOptions, wait_until};

const NAME: &str = "etcd.lab";
/// Of the lab's network.
const BRIDGE: &str = "lab0";
const SLEEP: &str = "[Service]\nExecStart=/usr/bin/sleep infinity\n";

/// An etcd of one member in the lab's network.
struct Etcd {
    child: Child,
}

impl Etcd {
    fn start(cluster: &Cluster, binary: &str, address: &str, files: &Path) -> Etcd {
        let log = File::options().create(true).append(true).open(files.join("etcd.log")).unwrap();
        let file = |name: &str| files.join(name).display().to_string();
        // Dies with the test even if that is killed.
        let child = cluster
            .lab
            .network_command("setpriv")
            .args(["--pdeathsig", "KILL", binary, "--name=one"])
            .arg(format!("--data-dir={}", file("data")))
            .arg(format!("--listen-client-urls=https://{address}:2379"))
            .arg(format!("--advertise-client-urls=https://{NAME}:2379"))
            .args(["--listen-peer-urls=http://10.77.0.1:2380", "--initial-cluster=one=http://10.77.0.1:2380"])
            .arg("--initial-advertise-peer-urls=http://10.77.0.1:2380")
            .arg(format!("--cert-file={}", file("server.pem")))
            .arg(format!("--key-file={}", file("server-key.pem")))
            .arg(format!("--trusted-ca-file={}", file("ca.pem")))
            .arg("--client-cert-auth")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Etcd { child }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have died by itself; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn newer_etcd() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/etcd-3.5.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{script} gives no etcd 3.5");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn know(cluster: &Cluster, address: &str) {
    for machine in cluster.lab.machines() {
        let hosts = machine.live_path("/etc/hosts").unwrap();
        let text = std::fs::read_to_string(&hosts).unwrap();
        let others = text.lines().filter(|line| !line.ends_with(NAME)).map(|line| format!("{line}\n"));
        std::fs::write(&hosts, others.chain([format!("{address} {NAME}\n")]).collect::<String>()).unwrap();
    }
}

fn health(cluster: &Cluster) -> (HealthView, bool) {
    let output = cluster.ctl(&["cluster", "health", "-o", "json"]);
    (serde_json::from_str(&output.stdout).unwrap_or_default(), output.status.success())
}

#[test]
fn p1_machines_with_certificates_follow_the_name_of_etcd_to_another_address() {
    let options = LabOptions::for_test("etcd mtls")
        .machines(2)
        .etcd(0)
        .fleetd_may_fail()
        .config_key("etcd_servers", &format!("[\"https://{NAME}:2379\"]"))
        .config_key("etcd_cafile", "\"/etc/fleet/etcd-ca.pem\"")
        .config_key("etcd_certfile", "\"/etc/fleet/etcd.pem\"")
        .config_key("etcd_keyfile", "\"/etc/fleet/etcd-key.pem\"");
    let cluster = Cluster::boot(options);
    let files: PathBuf = cluster.lab.directory().join("secured");
    let certificates = Certificates::new(&files);
    certificates.server(&[NAME]);
    let (binary, bridge) = (newer_etcd(), "10.77.0.1");
    let mut etcd = Etcd::start(&cluster, &binary, bridge, &files);
    know(&cluster, bridge);
    for machine in cluster.lab.machines() {
        let (certificate, key) = certificates.client(machine.name());
        let put = |from: &Path, to: &str| std::fs::copy(from, machine.live_path(to).unwrap()).unwrap();
        put(&certificates.authority(), "/etc/fleet/etcd-ca.pem");
        put(&certificate, "/etc/fleet/etcd.pem");
        put(&key, "/etc/fleet/etcd-key.pem");
        // It may wait for its next attempt, or have given up.
        machine.systemctl(&["reset-failed", "fleetd.service"]).unwrap();
        machine.fleetd_restart().unwrap();
    }
    cluster.await_present(2);
    cluster.start_all([("a1.service", SLEEP), ("a2.service", SLEEP)]);
    let (view, is_well) = health(&cluster);
    assert!(is_well && view.healthy && view.endpoints[0].version.starts_with("3.5."), "{view:#?}");
    let seen = || {
        ["m1", "m2"].map(|name| {
            let machine = cluster.machine(name);
            let invocation = |unit| machine.invocation_id(unit).unwrap();
            let fleetd = machine.main_pid("fleetd.service").unwrap();
            (invocation("a1.service"), invocation("a2.service"), fleetd)
        })
    };
    let before = seen();

    drop(etcd);
    wait_until(SOON, "the health to say that nobody answers", || {
        let (view, is_well) = health(&cluster);
        !is_well && view.problems.iter().any(|problem| problem.code == "no-answer")
    });
    let other = "10.77.0.2";
    let mut add = cluster.lab.network_command("ip");
    assert!(add.args(["addr", "add", "10.77.0.2/24", "dev", BRIDGE]).status().unwrap().success());
    etcd = Etcd::start(&cluster, &binary, other, &files);
    know(&cluster, other);
    cluster.await_present(2);
    cluster.start("b.service", SLEEP);
    assert_eq!(seen(), before, "no unit and no fleetd was started or stopped");
    assert!(health(&cluster).1);
    drop(etcd);
}
