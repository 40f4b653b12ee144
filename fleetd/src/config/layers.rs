//! Which files make up the configuration, lowest first. Looks at directories only; what is in a file is not its business.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::problem::ConfigError;
use super::source::Sources;

const VENDOR: &str = "usr/lib/fleet/fleetd.d";
const LOCAL: &str = "etc/fleet/fleetd.d";
const RUNTIME: &str = "run/fleet/fleetd.d";
const FLEET_1_FILE: &str = "etc/fleet/fleet.conf";
const MAIN_FILE: &str = "etc/fleet/fleetd.toml";

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    Toml,
    /// `fleet.conf` of fleet 1.0.
    Fleet1,
}

/// A file that takes part, or would if no other of its name stood above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub path: PathBuf,
    pub grammar: Grammar,
    /// The file of the same name that keeps this one from being read.
    pub masked_by: Option<PathBuf>,
    /// A file that nobody made is no fault.
    pub may_be_missing: bool,
}

impl Sources {
    /// The file that an operator would edit.
    #[must_use]
    pub fn main_file(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(|| self.below_root(MAIN_FILE))
    }

    fn below_root(&self, path: &str) -> PathBuf {
        self.root.as_deref().unwrap_or(Path::new("/")).join(path)
    }
}

/// All layers but the environment, lowest first, and the directories that cannot be listed.
pub(super) fn layers(sources: &Sources) -> (Vec<Layer>, Vec<ConfigError>) {
    let mut problems = Vec::new();
    let mut list = |directory| {
        let path = sources.below_root(directory);
        names(&path).unwrap_or_else(|source| {
            problems.push(ConfigError::Read { path, source });
            BTreeMap::new()
        })
    };
    let [vendor, local, runtime] = [VENDOR, LOCAL, RUNTIME].map(&mut list);
    let mut layers = Vec::new();
    drop_ins(&mut layers, &vendor, &[&runtime, &local]);
    layers.extend(main_files(sources));
    drop_ins(&mut layers, &local, &[&runtime]);
    drop_ins(&mut layers, &runtime, &[]);
    (layers, problems)
}

fn main_files(sources: &Sources) -> Vec<Layer> {
    let layer = |path, grammar, may_be_missing| Layer { path, grammar, masked_by: None, may_be_missing };
    match &sources.file {
        Some(file) => {
            let is_old = file.extension().is_some_and(|extension| extension == "conf");
            let grammar = if is_old { Grammar::Fleet1 } else { Grammar::Toml };
            vec![layer(file.clone(), grammar, false)]
        }
        None => vec![
            layer(sources.below_root(FLEET_1_FILE), Grammar::Fleet1, true),
            layer(sources.below_root(MAIN_FILE), Grammar::Toml, true),
        ],
    }
}

/// File names ending in `.toml`, sorted, with their paths. A directory that is not there has none.
fn names(directory: &Path) -> io::Result<BTreeMap<OsString, PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut names = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".toml") && !text.starts_with('.') {
            names.insert(entry.file_name(), entry.path());
        }
    }
    Ok(names)
}

/// Adds a directory's files in the order of their names. `above`: the directories whose files of the same name win,
/// highest first.
fn drop_ins(
    layers: &mut Vec<Layer>,
    directory: &BTreeMap<OsString, PathBuf>,
    above: &[&BTreeMap<OsString, PathBuf>],
) {
    for (name, path) in directory {
        // Such a link is there to mask, and says nothing itself.
        if leads_to_nothing(path) {
            continue;
        }
        let masked_by = above.iter().find_map(|higher| higher.get(name)).cloned();
        layers.push(Layer { path: path.clone(), grammar: Grammar::Toml, masked_by, may_be_missing: false });
    }
}

/// A link to `/dev/null`, also below a root where no `/dev` is mounted.
fn leads_to_nothing(path: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null"))
        || std::fs::metadata(path).is_ok_and(|found| found.file_type().is_char_device())
}
