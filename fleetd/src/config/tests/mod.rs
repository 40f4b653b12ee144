//! What a person who mistypes is told, and which of several values counts.

mod fleet_conf;
mod layers;
mod listen;
mod problems;
mod reload;
mod report;

use std::path::{Path, PathBuf};

use super::*;

const ETCD: &str = "etcd_servers = [\"http://127.0.0.1:2379\"]\n";

/// A machine's files, and nothing of the machine that runs the test.
struct Machine {
    root: tempfile::TempDir,
    file: Option<PathBuf>,
    environment: BTreeMap<String, std::ffi::OsString>,
}

impl Machine {
    fn new() -> Machine {
        let root = tempfile::tempdir().unwrap();
        Machine { root, file: None, environment: BTreeMap::new() }
    }

    /// A machine that has etcd and this in `fleetd.toml`.
    fn with(text: &str) -> Machine {
        let machine = Machine::new();
        machine.write("etc/fleet/fleetd.toml", &format!("{ETCD}{text}"));
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn allow(&self, path: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    fn set(&mut self, variable: &str, text: impl Into<std::ffi::OsString>) {
        self.environment.insert(variable.to_owned(), text.into());
    }

    fn sources(&self) -> Sources {
        Sources {
            file: self.file.clone(),
            root: Some(self.root.path().to_owned()),
            environment: self.environment.clone(),
        }
    }

    fn read(&self) -> Loaded {
        read(&self.sources())
    }

    fn config(&self) -> Config {
        load(&self.sources()).unwrap()
    }

    /// Every problem, with the root cut off.
    fn problems(&self) -> Vec<String> {
        self.read().problems.iter().map(|problem| self.without_root(&problem.told())).collect()
    }

    fn warnings(&self) -> Vec<String> {
        self.read().warnings.iter().map(|warning| self.without_root(&warning.to_string())).collect()
    }

    fn origin(&self, key: &str) -> String {
        self.without_root(&self.read().origin(key).to_string())
    }

    fn without_root(&self, text: &str) -> String {
        text.replace(&self.root.path().display().to_string(), "")
    }
}

/// A certificate of its own making with its key, PEM.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// The root of the repository.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
