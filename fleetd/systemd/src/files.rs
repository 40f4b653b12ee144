//! The files of a unit of ours: text, link, drop-in, `.wants`/`.requires` links. Called by the D-Bus
//! implementation off the async threads; touches nothing that fleet did not make, and never tells systemd.
//!
//! Everything lies on a tmpfs, so there is no fsync. The order of the steps makes a crash harmless: the text
//! comes first and goes last (it is what `installed` lists), and the drop-in names the extra links for as
//! long as they may exist.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    error::SystemdError,
    types::{ContentHash, Install, InstalledUnit, RunHash, UnitName},
};

/// Where the loaded text is named by hash; nothing needs to lie there.
pub(crate) const MARKER: &str = "file:/run/fleet/text/";
/// Well above the largest text that is accepted anywhere.
const LARGEST_TEXT: u64 = 4 * 1024 * 1024;
const DROP_IN: &str = "10-fleet.conf";
const LINKS_LINE: &str = "# Links: ";
const MARKER_LINE: &str = "Documentation=file:/run/fleet/text/";

/// The directories, as seen on the machine, below `root`.
#[derive(Debug, Clone)]
pub(crate) struct UnitFiles {
    pub root: PathBuf,
    pub units_directory: PathBuf,
    pub link_directory: PathBuf,
}

/// Links of ours in one directory.
#[derive(Debug)]
pub(crate) struct InstallLinks {
    /// The unit that they are for, usually a target of the host.
    pub by: String,
    /// `wants` or `requires`.
    pub kind: &'static str,
    pub names: Vec<String>,
}

impl UnitFiles {
    /// Where a path of the machine is for us.
    pub(crate) fn real(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether a link of the machine is one of ours.
    pub(crate) fn is_ours(&self, link_target: &Path) -> bool {
        link_target.starts_with(&self.units_directory)
    }

    /// Whether a fragment path that systemd reports is a unit of ours.
    pub(crate) fn is_our_fragment(&self, fragment: &Path, name: &str) -> bool {
        fragment.parent() == Some(self.units_directory.as_path())
            || fragment == self.link_directory.join(name)
    }

    /// The text behind a link of ours; `None` for a path that is not ours. A link that is gone counts as ours if
    /// systemd has loaded our drop-in (`has_marker`).
    pub(crate) fn resolve(&self, link: &Path, has_marker: bool) -> Option<PathBuf> {
        match fs::read_link(self.real(link)) {
            Ok(target) => self.is_ours(&target).then_some(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound && has_marker => {
                link.file_name().map(|name| self.units_directory.join(name))
            }
            Err(_) => None,
        }
    }

    pub(crate) fn install(&self, unit: &Install) -> Result<(), SystemdError> {
        let name = unit.name.as_str();
        refuse_paths(unit)?;
        let links = self.real(&self.link_directory);
        self.refuse_foreign(&links.join(name))?;
        let units = self.real(&self.units_directory);
        write_if_changed(&units, name, &unit.text)?;

        let drop_in_directory = links.join(format!("{name}.d"));
        let wanted = extra_links(unit);
        let stale = self.extra_links_of(&drop_in_directory);
        for link in stale.iter().filter(|link| !wanted.contains(link)) {
            self.remove_link(&links.join(link).join(name))?;
        }
        write_if_changed(&drop_in_directory, DROP_IN, drop_in(unit, &wanted).as_bytes())?;
        for link in &wanted {
            self.link(&links.join(link), name, name)?;
        }
        self.link(&links, name, name)
    }

    pub(crate) fn uninstall(&self, name: &UnitName) -> Result<(), SystemdError> {
        let name = name.as_str();
        let links = self.real(&self.link_directory);
        self.remove_link(&links.join(name))?;
        let drop_in_directory = links.join(format!("{name}.d"));
        for link in self.extra_links_of(&drop_in_directory) {
            let directory = links.join(link);
            self.remove_link(&directory.join(name))?;
            remove_if_empty(&directory)?;
        }
        remove(&drop_in_directory.join(DROP_IN))?;
        remove_if_empty(&drop_in_directory)?;
        remove(&self.real(&self.units_directory).join(name))
    }

    pub(crate) fn installed(&self) -> Result<Vec<InstalledUnit>, SystemdError> {
        let units = self.real(&self.units_directory);
        let links = self.real(&self.link_directory);
        let entries = match fs::read_dir(&units) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(SystemdError::file("list", units, error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| SystemdError::file("list", &units, error))?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().and_then(|name| name.parse::<UnitName>().ok()) else {
                continue;
            };
            // One bad entry hides no other; what is no file of a unit's size (a pipe would block) is not ours.
            let path = entry.path();
            let is_text =
                fs::symlink_metadata(&path).is_ok_and(|entry| entry.is_file() && entry.len() <= LARGEST_TEXT);
            let Some(bytes) = is_text.then(|| fs::read(&path).ok()).flatten() else {
                tracing::warn!(path = %path.display(), "not a unit file of fleet's, left alone");
                continue;
            };
            let target = fs::read_link(links.join(name.as_str())).ok();
            let drop_in = fs::read_to_string(links.join(format!("{name}.d")).join(DROP_IN)).ok();
            found.push(InstalledUnit {
                content: ContentHash::of(&bytes),
                is_linked: target == Some(self.units_directory.join(name.as_str())),
                run_hash: drop_in.as_deref().and_then(run_hash_in),
                name,
            });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Links of `[Install]` that lie on disk.
    pub(crate) fn install_links(&self) -> Result<Vec<InstallLinks>, SystemdError> {
        let links = self.real(&self.link_directory);
        let entries = match fs::read_dir(&links) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(SystemdError::file("list", links, error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| SystemdError::file("list", &links, error))?;
            let directory = entry.file_name();
            let Some((by, kind)) = directory.to_str().and_then(link_directory) else { continue };
            let Ok(inside) = fs::read_dir(entry.path()) else { continue };
            let is_ours = |path: PathBuf| fs::read_link(path).is_ok_and(|target| self.is_ours(&target));
            let ours = inside.filter_map(Result::ok).filter(|link| is_ours(link.path()));
            let mut names: Vec<String> =
                ours.filter_map(|link| link.file_name().into_string().ok()).collect();
            names.sort();
            if !names.is_empty() {
                found.push(InstallLinks { by: by.to_owned(), kind, names });
            }
        }
        Ok(found)
    }

    /// Writes a file of ours straight into the unit directory (pins).
    pub(crate) fn write_pin(&self, name: &str, text: &str) -> Result<(), SystemdError> {
        write_if_changed(&self.real(&self.link_directory), name, text.as_bytes())
    }

    pub(crate) fn remove_pin(&self, name: &str) -> Result<(), SystemdError> {
        remove(&self.real(&self.link_directory).join(name))
    }

    fn extra_links_of(&self, drop_in_directory: &Path) -> Vec<String> {
        let text = fs::read_to_string(drop_in_directory.join(DROP_IN)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(LINKS_LINE)).unwrap_or_default();
        line.split_whitespace().filter(|link| !link.contains('/')).map(str::to_owned).collect()
    }

    fn link(&self, directory: &Path, link: &str, name: &str) -> Result<(), SystemdError> {
        let path = directory.join(link);
        let target = self.units_directory.join(name);
        match fs::read_link(&path) {
            Ok(existing) if existing == target => return Ok(()),
            Ok(existing) if self.is_ours(&existing) => remove(&path)?,
            Ok(_) => return Err(SystemdError::NotOurs { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return Err(SystemdError::NotOurs { path }),
        }
        let make = || std::os::unix::fs::symlink(&target, &path);
        match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(directory)
                    .map_err(|error| SystemdError::file("create directory", directory, error))?;
                make().map_err(|error| SystemdError::file("make link", &path, error))
            }
            other => other.map_err(|error| SystemdError::file("make link", &path, error)),
        }
    }

    fn refuse_foreign(&self, path: &Path) -> Result<(), SystemdError> {
        match fs::read_link(path) {
            Ok(target) if self.is_ours(&target) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => Err(SystemdError::NotOurs { path: path.to_owned() }),
        }
    }

    /// Removes a link if it is ours.
    fn remove_link(&self, path: &Path) -> Result<(), SystemdError> {
        match fs::read_link(path) {
            Ok(target) if self.is_ours(&target) => remove(path),
            _ => Ok(()),
        }
    }
}

/// What would lead out of the unit directory, or could not be read back from the drop-in.
fn refuse_paths(unit: &Install) -> Result<(), SystemdError> {
    let is_name = |by: &&String| !by.is_empty() && !by.contains(|c: char| c == '/' || c.is_whitespace());
    match unit.wanted_by.iter().chain(&unit.required_by).find(|by| !is_name(by)) {
        None => Ok(()),
        Some(by) => Err(SystemdError::BadSetting {
            unit: unit.name.clone(),
            message: format!("WantedBy= or RequiredBy= names {by:?}, which is not a unit"),
        }),
    }
}

/// `multi-user.target` and `wants` for `multi-user.target.wants`.
fn link_directory(name: &str) -> Option<(&str, &'static str)> {
    let wants = name.strip_suffix(".wants").map(|by| (by, "wants"));
    wants.or_else(|| name.strip_suffix(".requires").map(|by| (by, "requires")))
}

fn extra_links(unit: &Install) -> Vec<String> {
    let wants = unit.wanted_by.iter().map(|by| format!("{by}.wants"));
    wants.chain(unit.required_by.iter().map(|by| format!("{by}.requires"))).collect()
}

fn drop_in(unit: &Install, links: &[String]) -> String {
    let mut text = String::from("# Made by fleetd. Do not edit.\n");
    if !links.is_empty() {
        text.push_str(LINKS_LINE);
        text.push_str(&links.join(" "));
        text.push('\n');
    }
    text.push_str("[Unit]\n");
    text.push_str(MARKER_LINE);
    text.push_str(&unit.run_hash.to_string());
    text.push('\n');
    text.push_str(&unit.drop_in);
    text
}

fn run_hash_in(drop_in: &str) -> Option<RunHash> {
    drop_in.lines().find_map(|line| line.strip_prefix(MARKER_LINE))?.parse().ok()
}

/// Temp file and rename, unless the bytes are there already: an unchanged directory costs PID 1 no rescan.
fn write_if_changed(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), SystemdError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let path = directory.join(name);
    if fs::read(&path).is_ok_and(|existing| existing == bytes) {
        return Ok(());
    }
    // The leading dot and the missing type keep systemd and `installed` from taking it for a unit.
    let temp =
        directory.join(format!(".fleet-{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let written = match fs::write(&temp, bytes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(directory)
                .map_err(|error| SystemdError::file("create directory", directory, error))?;
            fs::write(&temp, bytes)
        }
        other => other,
    };
    written.and_then(|()| fs::rename(&temp, &path)).map_err(|error| {
        drop(fs::remove_file(&temp));
        SystemdError::file("write", path, error)
    })
}

fn remove(path: &Path) -> Result<(), SystemdError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SystemdError::file("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn remove_if_empty(directory: &Path) -> Result<(), SystemdError> {
    match fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(SystemdError::file("remove directory", directory, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(root: &tempfile::TempDir) -> UnitFiles {
        UnitFiles {
            root: root.path().to_owned(),
            units_directory: "/run/fleet/units".into(),
            link_directory: "/run/systemd/system".into(),
        }
    }

    fn unit(name: &str, wanted_by: &[&str]) -> Install {
        Install {
            name: name.parse().unwrap(),
            text: b"[Service]\nExecStart=/bin/true"[..].into(),
            run_hash: "11".repeat(32).parse().unwrap(),
            drop_in: String::new(),
            wanted_by: wanted_by.iter().map(|&name| name.to_owned()).collect(),
            required_by: Vec::new(),
        }
    }

    fn tree(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![root.to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    pending.push(entry.path());
                } else {
                    found.push(entry.path().strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn install_then_uninstall_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let files = files(&root);
        let unit = unit("a@1.service", &["multi-user.target"]);
        files.install(&unit).unwrap();
        assert_eq!(
            tree(root.path()),
            [
                "run/fleet/units/a@1.service",
                "run/systemd/system/a@1.service",
                "run/systemd/system/a@1.service.d/10-fleet.conf",
                "run/systemd/system/multi-user.target.wants/a@1.service",
            ]
        );
        let installed = files.installed().unwrap();
        assert_eq!(installed.len(), 1);
        assert!(installed[0].is_linked);
        assert_eq!(installed[0].run_hash, Some(unit.run_hash));
        assert_eq!(installed[0].content, ContentHash::of(&unit.text));
        files.uninstall(&unit.name).unwrap();
        files.uninstall(&unit.name).unwrap();
        assert!(tree(root.path()).is_empty());
    }

    #[test]
    fn second_install_changes_no_directory() {
        let root = tempfile::tempdir().unwrap();
        let files = files(&root);
        files.install(&unit("a.service", &["b.target"])).unwrap();
        let changed = || {
            let path = root.path().join("run/systemd/system");
            fs::metadata(path).unwrap().modified().unwrap()
        };
        let before = changed();
        files.install(&unit("a.service", &["b.target"])).unwrap();
        assert_eq!(changed(), before);
    }

    #[test]
    fn links_no_longer_asked_for_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let files = files(&root);
        files.install(&unit("a.service", &["b.target", "c.target"])).unwrap();
        files.install(&unit("a.service", &["c.target"])).unwrap();
        let links = root.path().join("run/systemd/system");
        assert!(!links.join("b.target.wants/a.service").is_symlink());
        assert!(links.join("c.target.wants/a.service").is_symlink());
    }

    #[test]
    fn target_that_is_a_path_is_refused_before_anything_is_written() {
        let root = tempfile::tempdir().unwrap();
        let answer = files(&root).install(&unit("a.service", &["../../etc/x"]));
        assert!(matches!(answer, Err(SystemdError::BadSetting { .. })));
        assert!(tree(root.path()).is_empty());
    }

    #[test]
    fn entries_that_are_no_texts_hide_no_unit() {
        let root = tempfile::tempdir().unwrap();
        let files = files(&root);
        files.install(&unit("a.service", &[])).unwrap();
        let units = root.path().join("run/fleet/units");
        fs::create_dir(units.join("directory.service")).unwrap();
        std::os::unix::fs::symlink("loop.service", units.join("loop.service")).unwrap();
        let pipe = units.join("pipe.service");
        assert!(process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let installed = files.installed().unwrap();
        let names: Vec<&str> = installed.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(names, ["a.service"]);
    }

    #[test]
    fn a_link_is_resolved_only_if_it_is_ours() {
        let root = tempfile::tempdir().unwrap();
        let files = files(&root);
        files.install(&unit("a.service", &[])).unwrap();
        let links = root.path().join("run/systemd/system");
        fs::write(links.join("host.service"), "[Service]").unwrap();
        let resolve = |name: &str, has_marker| {
            let text = files.resolve(&files.link_directory.join(name), has_marker);
            text.map(|path| path.display().to_string())
        };
        assert_eq!(resolve("a.service", false).as_deref(), Some("/run/fleet/units/a.service"));
        assert_eq!(resolve("host.service", true), None);
        assert_eq!(resolve("gone.service", false), None);
        assert_eq!(resolve("gone.service", true).as_deref(), Some("/run/fleet/units/gone.service"));
    }

    #[test]
    fn foreign_file_of_the_name_is_neither_replaced_nor_removed() {
        let root = tempfile::tempdir().unwrap();
        let files = files(&root);
        let path = root.path().join("run/systemd/system/a.service");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "host").unwrap();
        let unit = unit("a.service", &[]);
        assert!(matches!(files.install(&unit), Err(SystemdError::NotOurs { .. })));
        files.uninstall(&unit.name).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "host");
        assert!(files.installed().unwrap().is_empty());
    }
}
