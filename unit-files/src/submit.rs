//! The one judgement of what may become a unit.
//!
//! The API asks it on every creation and replacement, the client before it sends, so both give the same
//! answer. It knows nothing of other units: circles of `MachineOf=` and features that a cluster lacks are
//! refused by the API.

use crate::name::UnitName;
use crate::parse::{self, ParseError};
use crate::serialize::{OptionsError, UnitFile, UnitOption};
use crate::warning::Warning;
use crate::xfleet::{RequirementError, Requirements};

/// Largest text that is stored, in bytes. Far above any real unit file, far below what the registry takes in
/// one value.
pub const MAX_UNIT_BYTES: usize = 256 * 1024;

/// Why a text is not taken as the content of a unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Over HTTP this is 413, all others are 400 or 409.
    #[error(
        "unit {unit} is too large: {size} bytes, at most {MAX_UNIT_BYTES}; keep data in files that the unit reads"
    )]
    TooLarge { unit: UnitName, size: usize },
    /// Fleet 1.0 answered 409.
    #[error("unit {unit} has no options; write at least one section with one Name=Value")]
    Empty { unit: UnitName },
    #[error("unit {unit}: {source}")]
    Parse { unit: UnitName, source: ParseError },
    #[error("unit {unit}: line {line}: {source}")]
    Options { unit: UnitName, line: usize, source: OptionsError },
    /// The message is that of fleet 1.0, which clients compare.
    #[error(transparent)]
    Requirements(#[from] RequirementError),
}

/// A text that may become a unit, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub file: UnitFile,
    pub requirements: Requirements,
    pub warnings: Vec<Warning>,
}

/// Judges `bytes` as the content of the unit `name`. Templates are judged leniently where an instance's name
/// decides.
///
/// # Errors
/// The first of: too large, unreadable, without options, not the same after being serialized, refused
/// requirements.
pub fn check_submit(name: &UnitName, bytes: &[u8]) -> Result<Checked, SubmitError> {
    if bytes.len() > MAX_UNIT_BYTES {
        return Err(SubmitError::TooLarge { unit: name.clone(), size: bytes.len() });
    }
    let parse_error = |source| SubmitError::Parse { unit: name.clone(), source };
    let text = parse::decode(bytes).map_err(parse_error)?;
    let file = UnitFile::parse(text).map_err(parse_error)?;
    if file.is_empty() {
        return Err(SubmitError::Empty { unit: name.clone() });
    }
    file.check_survives().map_err(|(option, source)| {
        let line = option.and_then(|option| line_of(text, option)).unwrap_or(1);
        SubmitError::Options { unit: name.clone(), line, source }
    })?;
    let judged = if name.is_template() {
        Requirements::of_template(&file, name)
    } else {
        Requirements::of(&file, name)
    };
    let (requirements, warnings) = judged?;
    Ok(Checked { file, requirements, warnings })
}

fn line_of(text: &str, wanted: &UnitOption) -> Option<usize> {
    let options = parse::parse(text).ok()?;
    options.into_iter().find(|(_, option)| option == wanted).map(|(line, _)| line)
}
