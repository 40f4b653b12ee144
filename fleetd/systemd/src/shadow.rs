//! Finds what of the host stands where a unit of ours would go, before anything is written. Reads the unit
//! directories only; what systemd has loaded is asked by the D-Bus implementation.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::SystemdError,
    files::UnitFiles,
    types::{Shadow, ShadowKind, UnitName},
};

/// The first thing in `unit_path` (systemd's own search path) that has the name of the unit, of its template,
/// or of one of its aliases, and is not ours.
pub(crate) fn on_disk(
    files: &UnitFiles,
    unit_path: &[PathBuf],
    name: &UnitName,
    aliases: &[String],
) -> Result<Option<Shadow>, SystemdError> {
    for taken in std::iter::once(name.as_str()).chain(aliases.iter().map(String::as_str)) {
        let template = template_of(taken);
        for directory in unit_path {
            if let Some(shadow) = entry(files, directory, taken)?
                && !leads_to(files, &shadow.path, name)
            {
                return Ok(Some(shadow));
            }
            if let Some(template) = &template
                && let Some(shadow) = entry(files, directory, template)?
            {
                return Ok(Some(Shadow { kind: ShadowKind::Template, ..shadow }));
            }
        }
    }
    Ok(None)
}

/// `web@.service` for `web@1.service`. For text, since an alias may have a type that no unit of fleet has.
pub(crate) fn template_of(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let (prefix, instance) = stem.split_once('@')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{kind}"))
}

/// Whether it is an alias of the unit itself, made by whoever enabled it: a link to the unit's link, which is ours.
fn leads_to(files: &UnitFiles, alias: &Path, name: &UnitName) -> bool {
    let link = files.link_directory.join(name.as_str());
    let (Ok(target), Some(directory)) = (fs::read_link(files.real(alias)), alias.parent()) else {
        return false;
    };
    directory.join(target) == link && fs::read_link(files.real(&link)).is_ok_and(|text| files.is_ours(&text))
}

fn entry(files: &UnitFiles, directory: &Path, name: &str) -> Result<Option<Shadow>, SystemdError> {
    let path = directory.join(name);
    let real = files.real(&path);
    let metadata = match fs::symlink_metadata(&real) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(SystemdError::file("look for", path, error)),
    };
    let kind = if metadata.is_symlink() {
        let target = fs::read_link(&real).map_err(|error| SystemdError::file("read link", &path, error))?;
        if files.is_ours(&target) {
            return Ok(None);
        }
        if target == Path::new("/dev/null") {
            ShadowKind::Masked
        } else if target.file_name().is_some_and(|file| file == name) {
            ShadowKind::HostUnit
        } else {
            ShadowKind::Alias
        }
    } else if metadata.len() == 0 {
        ShadowKind::Masked
    } else {
        ShadowKind::HostUnit
    };
    Ok(Some(Shadow { kind, name: name.to_owned(), path }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn look(root: &Path, name: &str, aliases: &[&str]) -> Option<(ShadowKind, String)> {
        let files = UnitFiles {
            root: root.to_owned(),
            units_directory: "/run/fleet/units".into(),
            link_directory: "/run/systemd/system".into(),
        };
        let unit_path =
            [PathBuf::from("/etc/s"), PathBuf::from("/run/systemd/system"), PathBuf::from("/absent")];
        let aliases: Vec<String> = aliases.iter().map(|&name| name.to_owned()).collect();
        let found = on_disk(&files, &unit_path, &name.parse().unwrap(), &aliases).unwrap();
        found.map(|shadow| (shadow.kind, shadow.path.display().to_string()))
    }

    #[test]
    fn every_kind_of_host_unit_is_found_with_its_path() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc/s");
        let run = root.path().join("run/systemd/system");
        fs::create_dir_all(&etc).unwrap();
        fs::create_dir_all(&run).unwrap();
        fs::write(etc.join("app.service"), "[Service]").unwrap();
        fs::write(etc.join("tty@.service"), "[Service]").unwrap();
        fs::write(etc.join("empty.service"), "").unwrap();
        symlink("/dev/null", etc.join("masked.service")).unwrap();
        symlink("/etc/s/app.service", etc.join("al.service")).unwrap();
        symlink("/run/fleet/units/ours.service", run.join("ours.service")).unwrap();
        let path = |name: &str| format!("/etc/s/{name}");
        let root = root.path();
        assert_eq!(look(root, "app.service", &[]), Some((ShadowKind::HostUnit, path("app.service"))));
        assert_eq!(look(root, "tty@1.service", &[]), Some((ShadowKind::Template, path("tty@.service"))));
        assert_eq!(look(root, "empty.service", &[]), Some((ShadowKind::Masked, path("empty.service"))));
        assert_eq!(look(root, "masked.service", &[]), Some((ShadowKind::Masked, path("masked.service"))));
        assert_eq!(look(root, "al.service", &[]), Some((ShadowKind::Alias, path("al.service"))));
        assert_eq!(
            look(root, "x.service", &["app.service"]),
            Some((ShadowKind::HostUnit, path("app.service")))
        );
        assert_eq!(look(root, "ours.service", &[]), None);
        symlink("ours.service", run.join("own.service")).unwrap();
        assert_eq!(look(root, "ours.service", &["own.service"]), None);
        let of_another = Some((ShadowKind::Alias, "/run/systemd/system/own.service".to_owned()));
        assert_eq!(look(root, "x.service", &["own.service"]), of_another);
        assert_eq!(look(root, "free.service", &[]), None);
    }
}
