//! What a lab shall be: given to [`super::Lab::up`], written to `lab.json`, read by the supervisor and by
//! [`super::Lab::attach`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::base_tree::{Kind, Release};
use super::{LabError, layout};

/// Differences of one machine from the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineOptions {
    /// Keys of `fleetd.toml` with their values as TOML text; they win over [`LabOptions::config`].
    pub config: BTreeMap<String, String>,
    /// 32 hexadecimal digits; without it one derived from the names of lab and machine.
    pub machine_id: Option<String>,
}

/// A lab to boot. [`LabOptions::new`] gives three machines, one etcd member, bookworm, and the fleetd and fleetctl
/// built beside this program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabOptions {
    pub name: String,
    pub machines: u8,
    /// Members of etcd: 0 (none), 1 or 3.
    pub etcd: u8,
    pub release: Release,
    /// The machines have podman, and are allowed what it takes to run containers. Needs trixie.
    #[serde(default)]
    pub containers: bool,
    /// Without it: `FLEETD_BIN`, else the file beside this program.
    pub fleetd_binary: Option<PathBuf>,
    /// Without it: `FLEETCTL_BIN`, else the file beside this program.
    pub fleetctl_binary: Option<PathBuf>,
    /// Only systemd: neither fleetd nor fleetctl is put on the machines.
    pub systemd_only: bool,
    /// Boot without waiting for fleetd: for tests in which it is not able to start.
    pub fleetd_may_fail: bool,
    /// Keys of `fleetd.toml` on every machine, with their values as TOML text.
    pub config: BTreeMap<String, String>,
    pub per_machine: BTreeMap<String, MachineOptions>,
    /// Further arguments of etcd, such as `--quota-backend-bytes=…`.
    pub etcd_arguments: Vec<String>,
}

impl LabOptions {
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            machines: 3,
            etcd: 1,
            release: Release::Bookworm,
            containers: false,
            fleetd_binary: None,
            fleetctl_binary: None,
            systemd_only: false,
            fleetd_may_fail: false,
            config: BTreeMap::new(),
            per_machine: BTreeMap::new(),
            etcd_arguments: Vec::new(),
        }
    }

    /// For a test: the name gets a random tail, so that runs never meet. `subject` is shortened to what a name takes.
    #[must_use]
    pub fn for_test(subject: &str) -> Self {
        let subject: String = subject
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(28)
            .collect();
        Self::new(format!("t-{}-{:06x}", subject.trim_matches('-'), rand::random::<u32>() & 0x00ff_ffff))
    }

    #[must_use]
    pub fn machines(mut self, machines: u8) -> Self {
        self.machines = machines;
        self
    }

    #[must_use]
    pub fn etcd(mut self, members: u8) -> Self {
        self.etcd = members;
        self
    }

    #[must_use]
    pub fn release(mut self, release: Release) -> Self {
        self.release = release;
        self
    }

    /// Machines that run containers, on trixie: bookworm's podman knows no Quadlet.
    #[must_use]
    pub fn containers(mut self) -> Self {
        self.containers = true;
        self.release(Release::Trixie)
    }

    #[must_use]
    pub fn systemd_only(mut self) -> Self {
        self.systemd_only = true;
        self
    }

    #[must_use]
    pub fn fleetd_may_fail(mut self) -> Self {
        self.fleetd_may_fail = true;
        self
    }

    /// `metadata` of one machine, as fleet writes it: `role=web,disk=ssd`.
    #[must_use]
    pub fn metadata(self, machine: &str, metadata: &str) -> Self {
        self.machine_config(machine, "metadata", &toml_string(metadata))
    }

    /// `agent_ttl` of every machine, such as `15s`.
    #[must_use]
    pub fn agent_ttl(self, ttl: &str) -> Self {
        self.config_key("agent_ttl", &toml_string(ttl))
    }

    /// A key of `fleetd.toml` on every machine; `value` is TOML text, a string therefore with its quotes.
    #[must_use]
    pub fn config_key(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A key of `fleetd.toml` on one machine; `value` is TOML text.
    #[must_use]
    pub fn machine_config(mut self, machine: &str, key: &str, value: &str) -> Self {
        let options = self.per_machine.entry(machine.to_owned()).or_default();
        options.config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Gives a machine this id instead of its own, for tests of cloned machines.
    #[must_use]
    pub fn machine_id(mut self, machine: &str, id: &str) -> Self {
        self.per_machine.entry(machine.to_owned()).or_default().machine_id = Some(id.to_owned());
        self
    }

    /// Names of the machines: m1, m2, …
    #[must_use]
    pub fn machine_names(&self) -> Vec<String> {
        (1..=self.machines).map(machine_name).collect()
    }

    pub(super) fn kind_of_tree(&self) -> Kind {
        Kind { release: self.release, containers: self.containers }
    }

    pub(super) fn id_of(&self, machine: &str) -> String {
        let given = self.per_machine.get(machine).and_then(|options| options.machine_id.clone());
        given.unwrap_or_else(|| {
            let digest = Sha256::digest(format!("fleet-lab/{}/{machine}", self.name));
            hex::encode(&digest[..16])
        })
    }

    /// Refuses what cannot be booted, before anything is touched.
    pub(super) fn validate(&self) -> Result<(), LabError> {
        validate_name(&self.name)?;
        if self.machines > layout::MACHINES_MAX {
            return Err(LabError::BadOption {
                what: "number of machines",
                value: self.machines.to_string(),
                expected: format!("at most {}", layout::MACHINES_MAX),
            });
        }
        if ![0, 1, 3].contains(&self.etcd) {
            return Err(LabError::BadOption {
                what: "number of etcd members",
                value: self.etcd.to_string(),
                expected: "0, 1 or 3".to_owned(),
            });
        }
        if self.containers && self.release != Release::Trixie {
            return Err(LabError::BadOption {
                what: "release of machines with containers",
                value: self.release.name().to_owned(),
                expected: Release::Trixie.name().to_owned(),
            });
        }
        let names = self.machine_names();
        for (machine, options) in &self.per_machine {
            if !names.contains(machine) {
                return Err(LabError::NoSuchMachine {
                    lab: self.name.clone(),
                    machine: machine.clone(),
                    known: known_machines(self.machines),
                });
            }
            if let Some(id) = &options.machine_id
                && (id.len() != 32 || !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            {
                return Err(LabError::BadOption {
                    what: "machine id",
                    value: id.clone(),
                    expected: "32 digits of 0-9 and a-f".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The text of `/etc/fleet/fleetd.toml` on `machine` (number `n`).
    pub(super) fn fleetd_toml(&self, machine: &str, n: u8) -> String {
        let mut keys = BTreeMap::new();
        let endpoints: Vec<_> = (1..=self.etcd)
            .map(|member| toml_string(&format!("http://{}:2379", layout::etcd_address(member))))
            .collect();
        keys.insert("etcd_servers".to_owned(), format!("[{}]", endpoints.join(", ")));
        keys.insert("public_ip".to_owned(), toml_string(&layout::machine_address(n).to_string()));
        keys.extend(self.config.clone());
        if let Some(options) = self.per_machine.get(machine) {
            keys.extend(options.config.clone());
        }
        keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
    }
}

/// Name of machine number `n`, from 1.
#[must_use]
pub fn machine_name(n: u8) -> String {
    format!("m{n}")
}

pub(super) fn known_machines(machines: u8) -> String {
    match machines {
        0 => "no machines".to_owned(),
        1 => "m1".to_owned(),
        n => format!("m1 to m{n}"),
    }
}

pub(super) fn validate_name(name: &str) -> Result<(), LabError> {
    let begins_well = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if begins_well && is_plain && name.len() <= 40 {
        Ok(())
    } else {
        Err(LabError::BadName { name: name.to_owned() })
    }
}

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_of_one_machine_wins_over_that_of_all() {
        let options = LabOptions::new("x").agent_ttl("30s").metadata("m2", "role=web").machine_config(
            "m2",
            "agent_ttl",
            "\"5s\"",
        );
        assert_eq!(
            options.fleetd_toml("m2", 2),
            "agent_ttl = \"5s\"\netcd_servers = [\"http://10.77.0.1:2379\"]\nmetadata = \"role=web\"\npublic_ip = \"10.77.0.12\"\n"
        );
    }

    #[test]
    fn names_for_tests_are_accepted_and_differ() {
        let (one, two) = (LabOptions::for_test("P1: wiped_store!"), LabOptions::for_test("P1: wiped_store!"));
        one.validate().unwrap();
        assert!(one.name.starts_with("t-p1--wiped-store-"), "{}", one.name);
        assert_ne!(one.name, two.name);
    }

    #[test]
    fn what_cannot_be_booted_is_refused() {
        assert!(LabOptions::new("x").machines(2).metadata("m3", "a=b").validate().is_err());
        assert!(LabOptions::new("x").etcd(2).validate().is_err());
        assert!(LabOptions::new("x/../y").validate().is_err());
        assert!(LabOptions::new("x").containers().release(Release::Bookworm).validate().is_err());
    }

    #[test]
    fn machine_ids_differ_by_lab_and_machine_and_can_be_given() {
        let options = LabOptions::new("x").machine_id("m3", "0123456789abcdef0123456789abcdef");
        assert_ne!(options.id_of("m1"), options.id_of("m2"));
        assert_ne!(options.id_of("m1"), LabOptions::new("y").id_of("m1"));
        assert_eq!(options.id_of("m3"), "0123456789abcdef0123456789abcdef");
    }
}
