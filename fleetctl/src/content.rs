//! Where the text of a unit comes from: the registry, a local file, or a template of either.
//!
//! For `submit`, `load`, `start` and `restart`. Everything is looked up and judged before anything is sent, so that a
//! mistake in one argument leaves the cluster as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use fleet_api::client::ClientError;
use fleet_api::v2::{Action, UnitView, Verb};
use unit_files::{NameError, ParseError, SubmitError, UnitFile, UnitName, check_submit, client_unit_name};

use crate::connection::Connection;
use crate::output;

/// Why an argument cannot become a unit; printed after `Error creating units: `. The words are those of fleet 1.0.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Api(#[from] ClientError),
    #[error("failed getting Unit({path}) from file: {reason}")]
    File { path: String, reason: FileError },
    #[error(
        "failed getting Unit({argument}) from template: unable to find template Unit({template}) in Registry or on filesystem"
    )]
    NoTemplate { argument: String, template: String },
    #[error("unable to find Unit({0}) in Registry or on filesystem")]
    Nowhere(String),
    #[error("error Unit {0} does not seem to be a template unit")]
    NothingToReplaceWith(String),
    #[error("can not replace Unit({unit}) in state '{state}' with {verb}; nothing was sent: {remedy}")]
    NotInThisState { unit: String, state: String, verb: &'static str, remedy: String },
    #[error("{first} and {other} are different texts for Unit({unit}); nothing was sent: name one of them")]
    TwoTexts { unit: String, first: String, other: String },
    /// The API says the same; nothing needs to be sent for it.
    #[error(
        "failed creating unit {0}: googleapi: Error 409: unit does not exist and options field empty; write at least one section with one Name=Value"
    )]
    Empty(String),
    #[error(transparent)]
    Refused(#[from] SubmitError),
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{}", read_error(path, source))]
    Read { path: String, source: io::Error },
    #[error("{0}")]
    Parse(#[from] ParseError),
}

/// In the words of the program that scripts know.
fn read_error(path: &str, source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::IsADirectory => format!("read {path}: is a directory"),
        io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        _ => format!("open {path}: {source}"),
    }
}

/// One argument, ready to be sent.
#[derive(Debug)]
pub struct Prepared {
    pub action: Action,
    /// As the registry had it before; none if it is new.
    pub before: Option<UnitView>,
    /// What was said about the text already.
    pub warnings: Vec<String>,
}

/// Looks up the content for `arguments`, in their order; a unit named twice is taken once. `quiet` is for programs, which
/// get what is said here in the results.
pub async fn prepare(
    connection: &Connection,
    arguments: &[String],
    verb: Verb,
    replace: bool,
    quiet: bool,
) -> Result<Vec<Prepared>, ContentError> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut places: BTreeMap<UnitName, usize> = BTreeMap::new();
    for argument in arguments {
        let name = UnitName::parse(&client_unit_name(argument))?;
        let path = local_path(argument);
        match places.get(&name) {
            Some(&place) => wanted[place].others.push(path),
            None => {
                places.insert(name.clone(), wanted.len());
                wanted.push(Wanted { argument: argument.clone(), path, name, others: Vec::new() });
            }
        }
    }
    let mut names: BTreeSet<String> = BTreeSet::new();
    for one in &wanted {
        names.insert(one.name.to_string());
        names.extend(one.name.template().map(|template| template.to_string()));
    }
    let names: Vec<String> = names.into_iter().collect();
    let mut known = connection.units(&names).await?;
    let mut prepared = Vec::with_capacity(wanted.len());
    for one in wanted {
        let text = match known.get(one.name.as_str()) {
            Some(unit) => one.of_known(unit, verb, replace, quiet)?,
            None => one.of_new(&known)?,
        };
        let mut action = Action::new(one.name.as_str(), verb);
        let mut warnings = Vec::new();
        if let Some(bytes) = text {
            let checked = check_submit(&one.name, &bytes).map_err(|refusal| match refusal {
                SubmitError::Empty { unit } if !known.contains_key(unit.as_str()) => {
                    ContentError::Empty(unit.to_string())
                }
                refusal => refusal.into(),
            })?;
            warnings = checked.warnings.iter().map(ToString::to_string).collect();
            if !quiet {
                for warning in &warnings {
                    output::log!("WARN", "Unit {}: {warning}", one.name);
                }
            }
            action.replace = replace;
            action.text = Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        prepared.push(Prepared { action, before: known.remove(one.name.as_str()), warnings });
    }
    Ok(prepared)
}

struct Wanted {
    argument: String,
    path: PathBuf,
    name: UnitName,
    /// Of further arguments that mean the same unit.
    others: Vec<PathBuf>,
}

impl Wanted {
    /// The text at `path`, which is to be sent; no other argument may have another one for the unit.
    fn read(&self, path: &Path) -> Result<(Vec<u8>, UnitFile), ContentError> {
        let (bytes, file) = read_unit(path)?;
        for other in self.others.iter().filter_map(|other| self.local(other)) {
            if read_unit(&other)?.0 != bytes {
                return Err(ContentError::TwoTexts {
                    unit: self.name.to_string(),
                    first: path.display().to_string(),
                    other: other.display().to_string(),
                });
            }
        }
        Ok((bytes, file))
    }

    /// The text that is to replace the stored one, if any.
    fn of_known(
        &self,
        unit: &UnitView,
        verb: Verb,
        replace: bool,
        quiet: bool,
    ) -> Result<Option<Vec<u8>>, ContentError> {
        let local = self.local(&self.path);
        if !replace {
            if let Some(path) = local {
                warn_if_different(unit, &path, path == self.path, &self.path);
            }
            return Ok(None);
        }
        let path = &local.ok_or_else(|| ContentError::NothingToReplaceWith(self.name.to_string()))?;
        let (bytes, file) = self.read(path)?;
        if file.unit_hash().to_string() == unit.hash {
            if !quiet {
                output::line(format!("Found same Unit({}) in Registry, nothing to do", self.name))
                    .map_err(|source| file_error(path, FileError::Read { path: "stdout".into(), source }))?;
            }
            return Ok(None);
        }
        if let Some(remedy) = remedy_for_replacing(verb, &unit.desired, self.name.as_str()) {
            let (unit, state) = (self.name.to_string(), unit.desired.clone());
            return Err(ContentError::NotInThisState { unit, state, verb: verb.as_str(), remedy });
        }
        Ok(Some(bytes))
    }

    /// The text of a unit that the registry does not have: its file, or its template's. None: the registry has the
    /// template and makes the unit from it.
    fn of_new(&self, known: &BTreeMap<String, UnitView>) -> Result<Option<Vec<u8>>, ContentError> {
        if self.path.exists() {
            return Ok(Some(self.read(&self.path)?.0));
        }
        let Some(template) = self.name.template() else {
            return Err(ContentError::Nowhere(self.name.to_string()));
        };
        let local = self.template_beside(&self.path).filter(|path| path.exists());
        match (known.get(template.as_str()), local) {
            (Some(unit), local) => {
                if let Some(path) = local {
                    warn_if_different(unit, &path, false, &self.path);
                }
                Ok(None)
            }
            (None, Some(path)) => Ok(Some(self.read(&path)?.0)),
            (None, None) => Err(ContentError::NoTemplate {
                argument: self.argument.clone(),
                template: template.to_string(),
            }),
        }
    }

    /// The file for the unit at `path`, or that of its template.
    fn local(&self, path: &Path) -> Option<PathBuf> {
        let paths = [Some(path.to_path_buf()), self.template_beside(path)];
        paths.into_iter().flatten().find(|path| path.exists())
    }

    /// The template's file beside the argument's.
    fn template_beside(&self, path: &Path) -> Option<PathBuf> {
        Some(path.with_file_name(self.name.template()?.as_str()))
    }
}

/// What to do where `verb` may not replace the text of a unit that is wanted so; none where it may. fleet 1.0 warned and
/// went on without the new text: `load` then stopped the unit that was to be renewed.
fn remedy_for_replacing(verb: Verb, desired: &str, unit: &str) -> Option<String> {
    let renewing = match (verb, desired) {
        (Verb::Submit, "loaded") => format!("fleetctl load --replace {unit} keeps it loaded"),
        (Verb::Submit | Verb::Load, "launched") => {
            format!("fleetctl start --replace {unit} runs the new text")
        }
        _ => return None,
    };
    Some(format!("{renewing}, and after fleetctl unload {unit} it can be replaced without running"))
}

/// The file that an argument means: the argument itself, with the suffix that its unit's name got.
fn local_path(argument: &str) -> PathBuf {
    let name = client_unit_name(argument);
    if argument.ends_with(&name) {
        PathBuf::from(argument)
    } else {
        PathBuf::from(format!("{argument}.service"))
    }
}

fn read_unit(path: &Path) -> Result<(Vec<u8>, UnitFile), ContentError> {
    let read = || -> Result<_, FileError> {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| FileError::Read { path: shown, source })?;
        let file = UnitFile::parse_bytes(&bytes)?;
        Ok((bytes, file))
    };
    read().map_err(|reason| file_error(path, reason))
}

fn file_error(path: &Path, reason: FileError) -> ContentError {
    ContentError::File { path: path.display().to_string(), reason }
}

/// Warns when stored and local text differ; nothing else changes. fleet 1.0 names the instance's path in both cases.
fn warn_if_different(unit: &UnitView, path: &Path, is_own_file: bool, shown: &Path) {
    match read_unit(path) {
        Ok((_, file)) if file.unit_hash().to_string() == unit.hash => {}
        Ok(_) => {
            let kind = if is_own_file { "local unit file" } else { "local template unit file" };
            output::note(format!(
                "WARNING: Unit {} in registry differs from {kind} {}. Add --replace to override.",
                unit.name,
                shown.display()
            ));
        }
        Err(error) => output::note(format!(
            "WARNING: Unit {} in registry cannot be compared with the local file: {error}",
            unit.name
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_paths_that_get_the_suffix_of_their_unit() {
        for (argument, path) in [
            ("foo", "foo.service"),
            ("x/foo", "x/foo.service"),
            ("x/foo.timer", "x/foo.timer"),
            ("foo.target", "foo.target.service"),
        ] {
            assert_eq!(local_path(argument), PathBuf::from(path));
        }
    }

    #[test]
    fn the_template_lies_beside_the_instance() {
        let one = Wanted {
            argument: "d/web@1".into(),
            path: local_path("d/web@1"),
            name: UnitName::parse("web@1.service").unwrap(),
            others: Vec::new(),
        };
        assert_eq!(one.template_beside(&one.path), Some(PathBuf::from("d/web@.service")));
    }

    #[test]
    fn a_directory_is_refused_in_the_words_of_fleet_1() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dir.service");
        std::fs::create_dir(&path).unwrap();
        let shown = path.display();
        assert_eq!(
            read_unit(&path).unwrap_err().to_string(),
            format!("failed getting Unit({shown}) from file: read {shown}: is a directory")
        );
    }
}
