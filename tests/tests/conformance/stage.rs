//! Where cases are played: a directory for each, the binaries, and a lab that they share and find empty.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fleet_tests::cluster::{Cluster, fleetd};
use fleet_tests::lab::{ExecOutput, wait_for};

use super::case::{Act, Case, Command, Request, Step};
use super::pattern::Known;
use super::request::{self, Reply};
use super::verdict::{self, Failure};

/// For what the cluster does by itself.
const LATER: Duration = Duration::from_secs(20);
/// In seconds: a command that takes longer hangs.
const COMMAND_LIMIT: &str = "45";
/// What commands of the host find beside the binaries under test.
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

pub struct Stage<'c> {
    cluster: &'c Cluster,
    known: Known,
    path: String,
    /// The API of the first machine.
    socket: PathBuf,
    files: tempfile::TempDir,
}

impl<'c> Stage<'c> {
    pub fn new(cluster: &'c Cluster) -> Self {
        let directory =
            |program: &Path| program.parent().expect("a program lies in a directory").display().to_string();
        let m1 = cluster.machine("m1");
        let client = m1.fleetctl_command().expect("m1 runs");
        let client = directory(Path::new(client.get_program()));
        let path = format!("{client}:{}:{SYSTEM_PATH}", directory(&fleetd()));
        let socket = m1.fleet_socket().expect("m1 runs");
        let mut known = Known(vec![("<VERSION>".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
        for (name, machine) in [("M1", m1), ("M2", cluster.machine("m2"))] {
            let id = machine.machine_id();
            known.0.push((format!("<{name}.8>"), id[..8].to_owned()));
            known.0.push((format!("<{name}>"), id));
        }
        let files = tempfile::tempdir().expect("a directory");
        Self { cluster, known, path, socket, files }
    }

    /// Plays the steps up to the first that differs, then removes what the case left.
    pub fn play(&self, case: &Case) -> Vec<Failure> {
        let directory = self.files.path().join(format!("{}-{}", case.cites.replace('§', ""), case.line));
        std::fs::create_dir_all(&directory).expect("a directory");
        let failed = case.steps.iter().find_map(|step| self.step(step, &directory));
        let left = self.clean();
        failed.into_iter().chain(left).collect()
    }

    fn step(&self, step: &Step, directory: &Path) -> Option<Failure> {
        let mut last = None;
        let mut once = || {
            last = match &step.act {
                Act::File { name, text } => {
                    self.write(&directory.join(name), text);
                    None
                }
                Act::Command(command) => self.command(command, directory, step.line),
                Act::Request(request) => self.request(request, step.line),
            };
            last.is_none().then_some(())
        };
        if step.is_later {
            let outcome = wait_for(LATER, "the answer of the specification", once);
            drop(outcome);
        } else {
            once();
        }
        last
    }

    fn write(&self, path: &Path, text: &str) {
        let parent = path.parent().expect("a file lies in a directory");
        std::fs::create_dir_all(parent).expect("a directory");
        std::fs::write(path, self.known.fill(text)).expect("the case's directory takes files");
        let is_script = text.starts_with("#!");
        if is_script {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own file");
        }
    }

    fn command(&self, command: &Command, directory: &Path, line: usize) -> Option<Failure> {
        let text = self.known.fill(&command.text).replace("<DIR>", &directory.display().to_string());
        let output = match &command.machine {
            Some(machine) => {
                self.cluster.machine(machine).exec(&["sh", "-c", &text]).expect("the machine runs")
            }
            None => self.on_host(&text, directory),
        };
        let fill = |lines: &[String]| -> Vec<String> {
            let here = directory.display().to_string();
            lines.iter().map(|line| self.known.fill(line).replace("<DIR>", &here)).collect()
        };
        verdict::output(command, &fill(&command.stdout), &fill(&command.stderr), &output)
            .map(|text| Failure::new(line, format!("$ {}\n{text}", command.text)))
    }

    fn on_host(&self, text: &str, directory: &Path) -> ExecOutput {
        let mut shell = std::process::Command::new("timeout");
        shell.args([COMMAND_LIMIT, "sh", "-c", text]).current_dir(directory).stdin(Stdio::null());
        shell.env_clear().env("PATH", &self.path).env("HOME", directory).env("LANG", "C.UTF-8");
        shell.env("FLEETCTL_ENDPOINT", format!("unix://{}", self.socket.display()));
        let output = shell.output().expect("a shell runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        ExecOutput { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn request(&self, request: &Request, line: usize) -> Option<Failure> {
        let path = self.known.fill(&request.path);
        let body = self.known.fill(&request.body.join("\n"));
        let mut headers: Vec<(String, String)> = request
            .headers
            .iter()
            .filter(|(_, value)| value != "-")
            .map(|(name, value)| (name.clone(), self.known.fill(value)))
            .collect();
        let says_type = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !body.is_empty() && !says_type {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        let what = format!("> {} {}", request.method, request.path);
        let reply = match self.send(&request.method, &path, &headers, &body) {
            Ok(reply) => reply,
            Err(error) => return Some(Failure::new(line, format!("{what}\n      {error}\n"))),
        };
        verdict::answer(request, &self.known, &reply)
            .map(|text| Failure::new(line, format!("{what}\n{text}")))
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: &str,
    ) -> std::io::Result<Reply> {
        request::send(&self.socket, method, path, headers, body)
    }

    /// Destroys every unit and waits until no machine has one. What cannot be removed is the case's fault.
    fn clean(&self) -> Option<Failure> {
        let outcome = wait_for(LATER, "every unit to be gone", || {
            let units = self.names("/fleet/v1/units", "units");
            for unit in &units {
                let path = format!("/fleet/v1/units/{}", escaped(unit));
                // Tried again as long as the list has it.
                drop(self.send("DELETE", &path, &[], ""));
            }
            (units.is_empty() && self.names("/fleet/v1/state", "states").is_empty()).then_some(())
        });
        outcome.err().map(|error| Failure::new(0, format!("cleaning up: {error}\n")))
    }

    /// Names in the first page of a list; a placeholder while there is no answer.
    fn names(&self, path: &str, list: &str) -> Vec<String> {
        let page = self.send("GET", path, &[], "").ok().filter(|reply| reply.status == 200);
        let page = page.and_then(|reply| serde_json::from_str::<serde_json::Value>(&reply.body).ok());
        let Some(page) = page else { return vec!["unanswered.service".to_owned()] };
        let names = page[list].as_array().into_iter().flatten();
        names.filter_map(|item| item["name"].as_str().map(str::to_owned)).collect()
    }
}

/// A unit's name in a path: `\` and the like do not stand there as they are.
fn escaped(name: &str) -> String {
    name.bytes()
        .map(|byte| {
            let is_plain = byte.is_ascii_alphanumeric() || b":-_.@".contains(&byte);
            if is_plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
        })
        .collect()
}
