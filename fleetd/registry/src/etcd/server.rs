//! Real etcd servers for tests: loopback ports that the kernel gave, data in a temporary directory,
//! killed by their process id when dropped.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{EtcdOptions, EtcdStore};
use crate::store::{Range, Store};

/// Which etcd: the host's package, or the newer one that `scripts/etcd-3.5.sh` unpacks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Version {
    V3_4,
    V3_5,
}

impl Version {
    fn binary(self) -> &'static str {
        static NEWER: OnceLock<String> = OnceLock::new();
        match self {
            Version::V3_4 => "/usr/bin/etcd",
            Version::V3_5 => NEWER.get_or_init(|| {
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/etcd-3.5.sh");
                let output =
                    Command::new(script).stderr(Stdio::inherit()).output().expect("a script of ours");
                assert!(output.status.success(), "{script} gives no etcd 3.5");
                String::from_utf8(output.stdout).expect("a path").trim().to_owned()
            }),
        }
    }
}

struct Server {
    child: Option<Child>,
    args: Vec<String>,
    client_url: String,
}

pub(crate) struct EtcdServers {
    servers: Vec<Server>,
    version: Version,
    directory: TempDir,
}

/// A port that was free a moment ago. etcd takes no listening socket from its parent.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback has free ports")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound").port()).collect()
}

impl EtcdServers {
    pub async fn start(members: usize) -> Self {
        Self::start_with(members, &[]).await
    }

    pub async fn start_with(members: usize, extra: &[&str]) -> Self {
        Self::start_version(Version::V3_4, members, extra).await
    }

    pub async fn start_version(version: Version, members: usize, extra: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ports = free_ports(2 * members);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> =
            (0..members).map(|i| format!("m{i}={}", url(ports[members + i]))).collect();
        let mut servers = Vec::new();
        for i in 0..members {
            let (client_url, peer_url) = (url(ports[i]), url(ports[members + i]));
            let data = directory.path().join(format!("m{i}"));
            let mut args = vec![
                format!("--name=m{i}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={client_url}"),
                format!("--advertise-client-urls={client_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster={}", cluster.join(",")),
                // Quick elections; still ten heartbeats, for a loaded machine.
                "--heartbeat-interval=50".to_owned(),
                "--election-timeout=500".to_owned(),
            ];
            args.extend(extra.iter().map(|arg| (*arg).to_owned()));
            servers.push(Server { child: None, args, client_url });
        }
        let mut cluster = Self { servers, version, directory };
        for i in 0..members {
            cluster.spawn(i);
        }
        cluster.wait_for_leader().await;
        cluster
    }

    fn spawn(&mut self, index: usize) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join(format!("m{index}.log")))
            .expect("the directory is writable");
        let binary = self.version.binary();
        let server = &mut self.servers[index];
        // Dies with the test even if that is killed; setpriv becomes etcd, so the process id is etcd's.
        let child = Command::new("/usr/bin/setpriv")
            .args(["--pdeathsig", "KILL", binary])
            .args(&server.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd is installed (Debian: etcd-server)");
        server.child = Some(child);
    }

    pub fn options(&self) -> EtcdOptions {
        let endpoints = self.servers.iter().map(|server| server.client_url.clone()).collect();
        EtcdOptions { request_timeout: Duration::from_secs(2), ..EtcdOptions::new(endpoints) }
    }

    /// A store that knows all members.
    pub fn store(&self) -> EtcdStore {
        EtcdStore::new(&self.options()).expect("the endpoints are well formed")
    }

    /// A store that knows all members and authenticates.
    pub fn store_of(&self, user: &str, password: &str) -> EtcdStore {
        let user = Some((user.to_owned(), password.to_owned()));
        EtcdStore::new(&EtcdOptions { user, ..self.options() }).expect("the endpoints are well formed")
    }

    /// `etcdctl` as an operator types it, against the first member.
    pub fn etcdctl(&self, words: &[&str]) {
        let status = Command::new("/usr/bin/etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.servers[0].client_url))
            .args(words)
            .stdout(Stdio::null())
            .status()
            .expect("etcdctl is installed (Debian: etcd-client)");
        assert!(status.success(), "etcdctl {}", words.join(" "));
    }

    /// Waits until the cluster answers a linearizable read.
    pub async fn wait_for_leader(&self) {
        let store = self.store();
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = store.range(Range::key("/fleet/")).await {
            assert!(Instant::now() < deadline, "etcd does not come up: {error}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self, index: usize) -> String {
        std::fs::read_to_string(self.directory.path().join(format!("m{index}.log"))).unwrap_or_default()
    }

    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.servers[index].child.take() {
            // It may have died by itself; either way it is reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The member as a cluster of its own at the same address, empty.
    pub async fn begin_anew(&mut self, index: usize) {
        self.kill(index);
        let server = &mut self.servers[index];
        let data = self.directory.path().join("anew");
        server.args.retain(|arg| !arg.starts_with("--data-dir="));
        server.args.push(format!("--data-dir={}", data.display()));
        server.args.push("--initial-cluster-token=anew".to_owned());
        self.restart(index).await;
    }

    pub async fn restart(&mut self, index: usize) {
        self.spawn(index);
        self.wait_for_leader().await;
    }

    pub fn signal(&self, index: usize, signal: Signal) {
        let child = self.servers[index].child.as_ref().expect("the member runs");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids fit"));
        kill(pid, signal).expect("it is our child");
    }
}

impl Drop for EtcdServers {
    fn drop(&mut self) {
        for index in 0..self.servers.len() {
            self.kill(index);
        }
    }
}
