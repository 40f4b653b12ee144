//! Real etcd of either version, secured in every way that fleetd knows, on loopback ports that the kernel gave.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use fleet_registry::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use fleet_registry::store::{Range, Store};

use super::certificates::Certificates;
use super::until;

#[derive(Clone, Copy, Debug)]
pub enum Version {
    V3_4,
    V3_5,
}

impl Version {
    fn binary(self) -> &'static str {
        static NEWER: OnceLock<String> = OnceLock::new();
        match self {
            Version::V3_4 => "/usr/bin/etcd",
            Version::V3_5 => NEWER.get_or_init(|| {
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/etcd-3.5.sh");
                let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
                assert!(output.status.success(), "{script} gives no etcd 3.5");
                String::from_utf8(output.stdout).unwrap().trim().to_owned()
            }),
        }
    }

    pub fn number(self) -> &'static str {
        match self {
            Version::V3_4 => "3.4.",
            Version::V3_5 => "3.5.",
        }
    }
}

/// How clients prove who they are, and etcd who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Security {
    pub tls: bool,
    /// etcd asks for a certificate.
    pub client_certificate: bool,
    /// etcd's authentication is on, and machines give a password.
    pub password: bool,
    /// etcd's authentication is on, and the name in the certificate is the user.
    pub certificate_user: bool,
}

pub const USER: &str = "fleet-machines";
/// Whatever a URL, a shell, or etcdctl's `NAME:PASSWORD` might read otherwise.
pub const PASSWORD: &str = "long: p%40ss/w#rd?&=+\\ \"$(x)' ;ö€";

struct Member {
    child: Option<Child>,
    name: String,
    client_port: u16,
    peer_port: u16,
    data: PathBuf,
    /// New members of an old cluster start otherwise.
    initial: String,
}

pub struct Etcd {
    members: Vec<Member>,
    version: Version,
    security: Security,
    certificates: Option<Certificates>,
    extra: Vec<String>,
    home: PathBuf,
}

/// Ports that were free a moment ago. etcd takes no listening socket from its parent.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Member {
    fn peer(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }
}

impl Etcd {
    pub async fn start(
        home: &Path,
        version: Version,
        members: usize,
        security: Security,
        extra: &[&str],
    ) -> Etcd {
        let certificates = security.tls.then(|| Etcd::certificates(home));
        let extra = extra.iter().map(|word| (*word).to_owned()).collect();
        let mut etcd =
            Etcd { members: Vec::new(), version, security, certificates, extra, home: home.to_owned() };
        for number in 0..members {
            etcd.push(number);
        }
        let initial: Vec<String> =
            etcd.members.iter().map(|member| format!("{}={}", member.name, member.peer())).collect();
        for member in &mut etcd.members {
            member.initial = initial.join(",");
        }
        for index in 0..members {
            etcd.spawn(index, "new");
        }
        etcd.await_answer().await;
        if security.password || security.certificate_user {
            etcd.enable_authentication();
        }
        etcd
    }

    fn certificates(home: &Path) -> Certificates {
        let certificates = Certificates::new(&home.join("certificates"));
        certificates.server(&["localhost", "127.0.0.1"]);
        certificates.client(USER);
        certificates.client("root");
        certificates
    }

    /// Puts certificates of a new authority where the old ones are. Members read them at their start.
    pub fn renew_certificates(&mut self) {
        self.certificates = Some(Etcd::certificates(&self.home));
    }

    fn push(&mut self, number: usize) {
        let ports = free_ports(2);
        self.members.push(Member {
            child: None,
            name: format!("e{number}"),
            client_port: ports[0],
            peer_port: ports[1],
            data: self.home.join(format!("e{number}")),
            initial: String::new(),
        });
    }

    /// As an operator reaches it: by name, if certificates have to name it.
    pub fn endpoint(&self, index: usize) -> String {
        let (scheme, host) = if self.security.tls { ("https", "localhost") } else { ("http", "127.0.0.1") };
        format!("{scheme}://{host}:{}", self.members[index].client_port)
    }

    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|index| self.endpoint(index)).collect()
    }

    fn spawn(&mut self, index: usize, state: &str) {
        let url = self.endpoint(index).replace("localhost", "127.0.0.1");
        let member = &mut self.members[index];
        let log = File::options().create(true).append(true).open(member.data.with_extension("log")).unwrap();
        // Dies with the test even if that is killed; setpriv becomes etcd, so that the process id is etcd's.
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .args(["--pdeathsig", "KILL", self.version.binary()])
            .arg(format!("--name={}", member.name))
            .arg(format!("--data-dir={}", member.data.display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls={}", member.peer()))
            .arg(format!("--initial-advertise-peer-urls={}", member.peer()))
            .arg(format!("--initial-cluster={}", member.initial))
            .arg(format!("--initial-cluster-state={state}"))
            .args(["--heartbeat-interval=50", "--election-timeout=500", "--unsafe-no-fsync", "--logger=zap"])
            .args(&self.extra);
        if let Some(certificates) = &self.certificates {
            let directory = certificates.authority();
            let directory = directory.parent().unwrap();
            command
                .arg(format!("--cert-file={}", directory.join("server.pem").display()))
                .arg(format!("--key-file={}", directory.join("server-key.pem").display()));
            if self.security.client_certificate {
                command
                    .arg("--client-cert-auth")
                    .arg(format!("--trusted-ca-file={}", certificates.authority().display()));
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        member.child = Some(command.spawn().expect("etcd is installed (Debian: etcd-server)"));
    }

    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            // It may have died by itself; either way it is reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn restart(&mut self, index: usize) {
        self.spawn(index, "existing");
    }

    /// Where a member keeps what it knows.
    pub fn data(&self, index: usize) -> &Path {
        &self.members[index].data
    }

    pub fn log(&self, index: usize) -> String {
        std::fs::read_to_string(self.members[index].data.with_extension("log")).unwrap_or_default()
    }

    /// Which member leads, by its index.
    pub async fn leader(&self) -> Option<usize> {
        let health = self.store().health().await;
        health.endpoints.iter().position(|report| {
            report
                .status
                .as_ref()
                .is_ok_and(|member| member.status.leader == Some(member.status.header.member_id))
        })
    }

    /// As an operator replaces a dead member, by one at the same address or at another. The endpoint of the new one.
    pub async fn replace(&mut self, index: usize, same_address: bool) -> String {
        let name = self.members[index].name.clone();
        let health = self.store().health().await;
        let id = health.members.iter().find(|member| member.name == name).expect("it is a member").id;
        self.retried(&["member", "remove", &format!("{id:x}")]).await;
        self.kill(index);
        let number = self.members.len();
        let fresh = if same_address {
            std::fs::remove_dir_all(&self.members[index].data).unwrap();
            index
        } else {
            self.push(number);
            number
        };
        let (name, peer) = (self.members[fresh].name.clone(), self.members[fresh].peer());
        self.retried(&["member", "add", &name, &format!("--peer-urls={peer}")]).await;
        let gone = (!same_address).then_some(index);
        let initial: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .filter(|(index, _)| Some(*index) != gone)
            .map(|(_, member)| format!("{}={}", member.name, member.peer()))
            .collect();
        self.members[fresh].initial = initial.join(",");
        self.spawn(fresh, "existing");
        let endpoint = self.endpoint(fresh);
        let store = EtcdStore::new(&EtcdOptions::new(vec![endpoint.clone()])).unwrap();
        until("the new member answers", async || store.range(Range::key("/")).await.ok().map(drop)).await;
        endpoint
    }

    /// etcd takes changes of its members only while all is quiet.
    async fn retried(&self, words: &[&str]) {
        // Not on the runtime's thread, on which the fleetds run: a refusal takes etcdctl five seconds.
        until(&words.join(" "), async || {
            let mut command = self.command(words);
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
            output.status.success().then_some(())
        })
        .await;
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/etcdctl");
        command.envs(self.environment("root")).args(words);
        command
    }

    pub fn etcdctl(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("etcdctl is installed (Debian: etcd-client)");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {}: {error}", words.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What etcdctl has to know to reach it, with the certificate of this name.
    pub fn environment(&self, name: &str) -> Vec<(String, String)> {
        let mut variables = vec![
            ("ETCDCTL_API".to_owned(), "3".to_owned()),
            ("ETCDCTL_ENDPOINTS".to_owned(), self.living_endpoints().join(",")),
        ];
        if let Some(certificates) = &self.certificates {
            let file = |name: String| certificates.authority().with_file_name(name).display().to_string();
            variables.push(("ETCDCTL_CACERT".to_owned(), file("ca.pem".to_owned())));
            if self.security.client_certificate {
                variables.push(("ETCDCTL_CERT".to_owned(), file(format!("{name}.pem"))));
                variables.push(("ETCDCTL_KEY".to_owned(), file(format!("{name}-key.pem"))));
            }
        }
        variables
    }

    fn living_endpoints(&self) -> Vec<String> {
        let living = (0..self.members.len()).filter(|index| self.members[*index].child.is_some());
        living.map(|index| self.endpoint(index)).collect()
    }

    fn enable_authentication(&self) {
        self.etcdctl(&["user", "add", "root:root"]);
        self.etcdctl(&["user", "grant-role", "root", "root"]);
        self.etcdctl(&["user", "add", &format!("{USER}:{PASSWORD}")]);
        self.etcdctl(&["role", "add", "fleet"]);
        self.etcdctl(&["role", "grant-permission", "--prefix=true", "fleet", "readwrite", "/fleet/"]);
        self.etcdctl(&["user", "grant-role", USER, "fleet"]);
        self.etcdctl(&["auth", "enable"]);
    }

    /// As fleetd's configuration gives them.
    pub fn options(&self) -> EtcdOptions {
        let tls = self.certificates.as_ref().map(|certificates| {
            let file = |name: String| certificates.authority().with_file_name(name);
            EtcdTls {
                ca: Some(certificates.authority()),
                identity: self
                    .security
                    .client_certificate
                    .then(|| (file(format!("{USER}.pem")), file(format!("{USER}-key.pem")))),
            }
        });
        let user = self.security.password.then(|| (USER.to_owned(), PASSWORD.to_owned()));
        EtcdOptions { tls, user, ..EtcdOptions::new(self.endpoints()) }
    }

    pub fn store(&self) -> EtcdStore {
        EtcdStore::new(&self.options()).unwrap()
    }

    pub async fn await_answer(&self) {
        let store = self.store();
        until("etcd answers", async || store.range(Range::key("/fleet/cluster")).await.ok().map(drop)).await;
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}
