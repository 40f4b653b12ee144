//! `docs/usage/remote.md` can be followed: its commands make certificates with which a fleetd, configured as the page
//! says, is used by the real `fleetctl` over TCP.
//!
//! Of the page only names and places are replaced: those of the machine, and the port. fleetd runs in this process, with
//! a store in memory and a fake systemd.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use fleet_core::{BootId, MachineId};
use fleet_registry::lease::{LeaseKeeper, LeaseOptions};
use fleet_registry::memory::MemoryStore;
use fleet_systemd::Systemd;
use fleet_systemd::fake::FakeSystemd;
use fleetd::clock::Clock;
use fleetd::config::{Config, Listen, Sources, read};
use fleetd::identity::Identity;
use fleetd::wire::{Daemon, DaemonOptions};
use tokio::process::Command;

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The block that opens with `fence`.
fn block<'t>(page: &'t str, fence: &str) -> &'t str {
    let opening = format!("\n```{fence}\n");
    let rest = page.split(&opening).nth(1).expect("the page has the block");
    rest.split("\n```").next().expect("the block ends")
}

/// Runs a block in `directory`, where `fleetctl` is the one of this build.
async fn run(directory: &Path, block: &str) -> Output {
    let binaries = Path::new(env!("CARGO_BIN_EXE_fleet-lab")).parent().expect("a binary lies in a directory");
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-ec", block]).current_dir(directory).env("PATH", path).kill_on_drop(true);
    command.output().await.expect("sh runs")
}

async fn succeed(directory: &Path, block: &str) -> String {
    let output = run(directory, block).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "`{block}` ended with {}\n--- stdout\n{out}\n--- stderr\n{err}",
        output.status
    );
    out.into_owned()
}

/// fleetd as the page configures it.
async fn start(directory: &Path, listen: &str) -> Daemon {
    let place = directory.display().to_string();
    let listen = listen
        .replace("/etc/fleet/tls", &place)
        .replace("/run/fleet.sock", &format!("{place}/fleet.sock"))
        .replace(":49153", ":0");
    let file = directory.join("fleetd.toml");
    std::fs::write(&file, format!("etcd_servers = [\"http://127.0.0.1:1\"]\n{listen}\n")).expect("a file");
    let sources = Sources { file: Some(file), ..Sources::default() };
    let config = read(&sources).usable().expect("the page's configuration can be used").config;
    assert!(config.listen.iter().any(|one| matches!(one, Listen::Tcp(at) if !at.ip().is_loopback())));
    let config = Config {
        state_directory: directory.join("state"),
        runtime_directory: directory.join("run"),
        peer_listen: None,
        ..config
    };
    let systemd = FakeSystemd::new("node1");
    let boot = systemd.environment().await.expect("the fake has an environment").boot_id;
    let identity = Identity {
        machine: MachineId::parse("node1").expect("an id"),
        boot: BootId::parse(&boot).expect("an id"),
        nonce: fleet_core::Nonce::parse("node1-1").expect("a nonce"),
        hostname: "node1".to_owned(),
    };
    let store = MemoryStore::new(7);
    let leases = store.clone();
    Daemon::start(DaemonOptions {
        config,
        identity,
        store: Arc::new(store),
        lease: Arc::new(move |name, ttl| {
            Ok(LeaseKeeper::on_task(LeaseOptions::new(name, ttl, 1), leases.clone()))
        }),
        systemd: Arc::new(systemd),
        clock: Clock::Wall,
        passed: Vec::new(),
    })
    .await
    .expect("fleetd starts")
}

#[tokio::test]
async fn the_page_about_certificates_can_be_followed() {
    let page =
        std::fs::read_to_string(PathBuf::from(TOP).join("docs/usage/remote.md")).expect("the page is there");
    let page = page.replace("node1.example.org", "localhost").replace("IP:10.0.0.1", "IP:127.0.0.1");
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    for part in ["sh authority", "sh machine", "sh person"] {
        succeed(place, block(&page, part)).await;
    }
    let hello = Path::new(TOP).join("examples/hello/hello@.service");
    std::fs::copy(hello, place.join("hello.service")).expect("the example is there");
    let daemon = start(place, block(&page, "toml listen")).await;
    let port = daemon.api.tcp.first().expect("it listens on TCP").port();

    let used = block(&page, "sh use").replace(":49153", &format!(":{port}"));
    let told = succeed(place, &used).await;
    assert!(told.contains("Unit hello.service launched on "), "{told}");
    assert!(told.contains("alice ("), "the event log names the certificate: {told}");
    let by_address = used.replace("https://localhost", "https://127.0.0.1");
    succeed(place, &by_address).await;

    for (change, words) in [
        ("unset FLEETCTL_CERT_FILE FLEETCTL_KEY_FILE", "it answers only clients with a certificate"),
        (
            "export SSL_CERT_FILE=alice.pem; unset FLEETCTL_CA_FILE",
            "signed by nobody that this client trusts",
        ),
        (
            "export FLEETCTL_CERT_FILE=node1.pem FLEETCTL_KEY_FILE=node1.key",
            "does not accept this client's certificate",
        ),
        ("export FLEETCTL_ENDPOINT=https://127.0.0.2:${FLEETCTL_ENDPOINT##*:}", "is not for this name"),
    ] {
        let changed =
            used.replacen("fleetctl list-machines", &format!("{change}\nfleetctl list-machines"), 1);
        let output = run(place, &changed).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains(words), "{words}: {told}");
        assert!(page.contains(words), "the page does not explain: {words}");
    }
    daemon.stop().await;
}
