//! Reaching machines with the system's OpenSSH: `fleetctl ssh`, and `--tunnel` for the API itself.
//!
//! fleet 1.0 brought its own SSH client; the flags and the known-hosts file are kept, keys, prompts and messages are
//! OpenSSH's. Only arguments are made here; nothing is decided about what to run.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use fleet_api::client::{Client, Endpoint, Timeouts, Tls};
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf, join};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// An answer through a tunnel, and with TLS already the connection, may have to wait for a person who confirms a host key.
const TUNNELED_RESPONSE: Duration = Duration::from_secs(60);

/// Where the ssh behind a `ProxyCommand` connects to: the outer one puts the machine's address and port there.
const MACHINE: &str = "[%h]:%p";

/// The flags of fleet 1.0 about SSH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshOptions {
    pub username: String,
    pub timeout: Duration,
    pub known_hosts_file: PathBuf,
    pub strict_host_key_checking: bool,
    /// `host` or `host:port`.
    pub tunnel: Option<String>,
}

impl SshOptions {
    /// `ssh` with all options but the destination.
    fn base(&self) -> Vec<String> {
        let strict = if self.strict_host_key_checking { "ask" } else { "no" };
        let seconds = self.timeout.as_secs().max(1);
        let mut words = vec!["ssh".to_owned(), "-l".to_owned(), self.username.clone()];
        for option in [
            format!("ConnectTimeout={seconds}"),
            format!("UserKnownHostsFile={}", file_value(&self.known_hosts_file)),
            format!("StrictHostKeyChecking={strict}"),
        ] {
            words.extend(["-o".to_owned(), option]);
        }
        words
    }

    /// The words that reach `tunnel`; a command for it may follow.
    fn to_tunnel(&self, tunnel: &str, forward_to: Option<&str>) -> Vec<String> {
        let (host, port) = host_and_port(tunnel);
        let mut words = self.base();
        words.extend(port.map(|port| ["-p".to_owned(), port.to_owned()]).into_iter().flatten());
        words.extend(forward_to.map(|to| ["-W".to_owned(), to.to_owned()]).into_iter().flatten());
        words.extend(destination(host));
        words
    }

    /// The words that run `command` on the machine at `address`, or open a shell there.
    pub fn to_machine(
        &self,
        address: &str,
        port: Option<&str>,
        forward_agent: bool,
        command: &[String],
    ) -> Vec<String> {
        let mut words = self.base();
        if let Some(tunnel) = &self.tunnel {
            let proxy: Vec<String> = self
                .to_tunnel(tunnel, Some(MACHINE))
                .iter()
                // The outer ssh fills in its tokens before the shell reads the line.
                .map(|word| quoted(&if word == MACHINE { word.clone() } else { without_tokens(word) }))
                .collect();
            words.extend(["-o".to_owned(), format!("ProxyCommand={}", proxy.join(" "))]);
        }
        if forward_agent {
            words.push("-A".to_owned());
        }
        words.extend(port.map(|port| ["-p".to_owned(), port.to_owned()]).into_iter().flatten());
        words.extend(destination(address));
        if !command.is_empty() {
            // Unquoted, as fleet 1.0: the remote shell reads the line.
            words.push(command.join(" "));
        }
        words
    }

    /// The words that connect standard input and output with the API at `endpoint`, through `tunnel`.
    fn forward(&self, tunnel: &str, endpoint: &Endpoint) -> Vec<String> {
        match endpoint {
            Endpoint::Unix { path } => {
                let mut words = self.to_tunnel(tunnel, None);
                words.push(format!("fleetctl fd-forward {}", quoted(&path.display().to_string())));
                words
            }
            Endpoint::Tcp { host, port, .. } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                self.to_tunnel(tunnel, Some(&format!("{host}:{port}")))
            }
        }
    }

    /// A client whose connections go through the tunnel, one `ssh` each.
    pub fn client(&self, tunnel: &str, endpoint: &Endpoint, tls: Option<Tls>, timeouts: Timeouts) -> Client {
        let words = self.forward(tunnel, endpoint);
        let known_hosts = self.known_hosts_file.clone();
        let timeouts = Timeouts {
            connect: timeouts.connect.max(TUNNELED_RESPONSE),
            response: timeouts.response.max(TUNNELED_RESPONSE),
            ..timeouts
        };
        let dial = move || {
            let started = make_directory_of(&known_hosts).and_then(|()| Tunneled::start(&words));
            async move { started }
        };
        let name = format!("{endpoint} through {tunnel}");
        Client::through(name, endpoint.clone(), tls, dial, timeouts)
    }

    /// Runs `words` with this terminal; the exit code of what ran there, 255 if it was not reached.
    pub async fn run(&self, words: &[String]) -> io::Result<i32> {
        make_directory_of(&self.known_hosts_file)?;
        let status = command(words).status().await?;
        Ok(status.code().unwrap_or(255))
    }
}

fn command(words: &[String]) -> Command {
    let (program, arguments) = words.split_first().expect("a command line begins with its program");
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command
}

/// OpenSSH makes the file, but not its directory.
fn make_directory_of(file: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() && !directory.exists() => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
        }
        _ => Ok(()),
    }
}

/// `host`, `host:port`, `[address]:port`; an address of several colons is a host.
fn host_and_port(text: &str) -> (&str, Option<&str>) {
    if let Some(rest) = text.strip_prefix('[')
        && let Some((host, port)) = rest.split_once(']')
    {
        return (host, port.strip_prefix(':'));
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

/// The host as the end of ssh's options: whatever it is called, it is none, and neither is the command behind it.
fn destination(host: &str) -> [String; 2] {
    ["--".to_owned(), host.to_owned()]
}

/// A file as the value of an option of OpenSSH, which reads quotes, backslashes and tokens in it.
fn file_value(path: &Path) -> String {
    let text = without_tokens(&path.display().to_string());
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', r#"\""#))
}

/// `text` where OpenSSH would take `%h` and its like for something else.
fn without_tokens(text: &str) -> String {
    text.replace('%', "%%")
}

/// One word for a shell. It may be any: OpenSSH runs a `ProxyCommand` with the one of the user, and zsh takes brackets
/// that match no file for an error.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The input and output of a program as one stream; the program ends with it.
struct Tunneled {
    io: Join<ChildStdout, ChildStdin>,
    _child: Child,
}

impl Tunneled {
    fn start(words: &[String]) -> io::Result<Tunneled> {
        let mut child = command(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdout, stdin) = (child.stdout.take(), child.stdin.take());
        let (Some(stdout), Some(stdin)) = (stdout, stdin) else {
            return Err(io::Error::other("ssh started without its pipes"));
        };
        Ok(Tunneled { io: join(stdout, stdin), _child: child })
    }
}

impl AsyncRead for Tunneled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tunneled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(tunnel: Option<&str>) -> SshOptions {
        SshOptions {
            username: "core".into(),
            timeout: Duration::from_secs(10),
            known_hosts_file: "/h/known_hosts".into(),
            strict_host_key_checking: true,
            tunnel: tunnel.map(str::to_owned),
        }
    }

    const BASE: &str = "ssh -l core -o ConnectTimeout=10 -o UserKnownHostsFile=\"/h/known_hosts\" -o StrictHostKeyChecking=ask";

    #[test]
    fn a_machine_is_reached_directly_or_through_the_tunnel() {
        let command = ["uptime".to_owned(), "-p".to_owned()];
        let words = options(None).to_machine("10.0.0.1", Some("2222"), true, &command);
        assert_eq!(words.join(" "), format!("{BASE} -A -p 2222 -- 10.0.0.1 uptime -p"));
        assert_eq!(
            options(None).to_machine("10.0.0.1", None, false, &[]).join(" "),
            format!("{BASE} -- 10.0.0.1")
        );
        let words = options(Some("bastion:2200")).to_machine("10.0.0.1", None, false, &[]);
        let proxy = words.iter().find(|word| word.starts_with("ProxyCommand=")).unwrap();
        assert!(
            proxy.starts_with(
                "ProxyCommand=ssh -l core -o ConnectTimeout=10 -o 'UserKnownHostsFile=\"/h/known_hosts\"'"
            ),
            "{proxy}"
        );
        assert!(proxy.ends_with("-p 2200 -W '[%h]:%p' -- bastion"), "{proxy}");
    }

    #[test]
    fn a_host_is_never_an_option() {
        let host = "-oProxyCommand=x";
        let before = |words: &[String]| {
            let at = words.iter().position(|word| word == host).expect("the host is a word of its own");
            words[at - 1].clone()
        };
        assert_eq!(before(&options(None).to_machine(host, None, false, &["ls".to_owned()])), "--");
        let endpoints = ["unix:///run/fleet.sock", "http://10.0.0.2:49153"];
        for endpoint in endpoints.map(|text| Endpoint::parse(text).unwrap()) {
            assert_eq!(before(&options(None).forward(host, &endpoint)), "--", "{endpoint}");
        }
        let words = options(Some(host)).to_machine("10.0.0.1", None, false, &[]);
        let proxy = words.iter().find(|word| word.starts_with("ProxyCommand=")).unwrap();
        assert!(proxy.ends_with(&format!(" -- {host}")), "{proxy}");
    }

    /// Each OpenSSH that reads a value takes one layer of `%%` away: the inner one of its files, the outer one of the
    /// whole command.
    #[test]
    fn a_percent_sign_of_a_value_is_no_token_of_openssh() {
        let with_percent = |tunnel| SshOptions {
            username: "a%h".into(),
            known_hosts_file: "/h/50% \"off\"/known_hosts".into(),
            ..options(tunnel)
        };
        let words = with_percent(None).to_machine("10.0.0.1", None, false, &[]);
        assert!(
            words.contains(&"UserKnownHostsFile=\"/h/50%% \\\"off\\\"/known_hosts\"".to_owned()),
            "{words:?}"
        );
        assert_eq!(words[2], "a%h");
        let words = with_percent(Some("fe80::1%eth0")).to_machine("10.0.0.1", None, false, &[]);
        let proxy = words.iter().find(|word| word.starts_with("ProxyCommand=")).unwrap();
        assert!(proxy.starts_with("ProxyCommand=ssh -l 'a%%h' "), "{proxy}");
        assert!(proxy.contains("/h/50%%%% "), "{proxy}");
        assert!(proxy.ends_with(" -W '[%h]:%p' -- 'fe80::1%%eth0'"), "{proxy}");
    }

    #[test]
    fn the_api_is_forwarded_by_fd_forward_or_by_a_channel() {
        let unix = Endpoint::parse("unix:///run/my fleet.sock").unwrap();
        let words = options(None).forward("bastion", &unix);
        assert_eq!(words.join(" "), format!("{BASE} -- bastion fleetctl fd-forward '/run/my fleet.sock'"));
        let tcp = Endpoint::parse("http://10.0.0.2:49153").unwrap();
        assert_eq!(
            options(None).forward("bastion:22", &tcp).join(" "),
            format!("{BASE} -p 22 -W 10.0.0.2:49153 -- bastion")
        );
    }

    #[test]
    fn hosts_may_have_ports() {
        for (text, expected) in [
            ("h", ("h", None)),
            ("h:22", ("h", Some("22"))),
            ("[fd00::1]:22", ("fd00::1", Some("22"))),
            ("fd00::1", ("fd00::1", None)),
        ] {
            assert_eq!(host_and_port(text), expected);
        }
    }
}
