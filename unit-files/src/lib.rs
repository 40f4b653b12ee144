//! Unit names, unit-file syntax, `[X-Fleet]` options, templates and hashes.
//!
//! Every other crate reads unit files through this one, the client included, so that a text is judged once
//! and in one way. Pure: no clock, no environment, no files, no network. The syntax is that of fleet 1.0,
//! which is systemd's with a few historic differences; where this crate is stricter, its errors carry line
//! and column.

mod dependencies;
mod glob;
mod hash;
mod install;
mod name;
mod parse;
mod quote;
mod serialize;
mod specifier;
mod submit;
mod value;
mod warning;
mod xfleet;

pub use dependencies::{after, before, is_oneshot, remains_after_exit, requires, wants};
pub use glob::Glob;
pub use hash::{ContentHash, HashError, RunHash, UnitHash};
pub use install::InstallTargets;
pub use name::{NameError, UnitName, UnitType, client_unit_name};
pub use parse::{MAX_LINE_BYTES, ParseError, ParseErrorKind};
pub use quote::go_quote;
pub use serialize::{OptionsError, UnitFile, UnitOption};
pub use specifier::expand_specifiers;
pub use submit::{Checked, MAX_UNIT_BYTES, SubmitError, check_submit};
pub use warning::Warning;
pub use xfleet::{OnPartition, RequirementError, Requirements};
