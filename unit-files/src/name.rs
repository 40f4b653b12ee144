//! Unit names: what is accepted, and the parts of a name.
//!
//! A [`UnitName`] is validated where it is made and nowhere else; the API, the agent and the client all come
//! here.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::quote::{go_quote, go_quote_char};

/// Longest unit name in bytes; systemd's own limit.
const MAX_NAME_BYTES: usize = 256;

/// Types fleet 1.0 let through although its agent could not keep track of them.
const UNTRACKED: [&str; 6] = ["busname", "scope", "slice", "snapshot", "swap", "target"];

/// Types that may carry an `@`.
const TEMPLATE_TYPES: [&str; 5] = ["path", "service", "socket", "target", "timer"];

/// The seven kinds of units that fleet runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitType {
    Service,
    Socket,
    Timer,
    Path,
    Device,
    Mount,
    Automount,
}

impl UnitType {
    pub const ALL: [UnitType; 7] = [
        UnitType::Service,
        UnitType::Socket,
        UnitType::Timer,
        UnitType::Path,
        UnitType::Device,
        UnitType::Mount,
        UnitType::Automount,
    ];

    /// The suffix of the name, without its dot.
    pub fn as_str(self) -> &'static str {
        match self {
            UnitType::Service => "service",
            UnitType::Socket => "socket",
            UnitType::Timer => "timer",
            UnitType::Path => "path",
            UnitType::Device => "device",
            UnitType::Mount => "mount",
            UnitType::Automount => "automount",
        }
    }

    fn from_suffix(suffix: &str) -> Option<UnitType> {
        UnitType::ALL.into_iter().find(|kind| kind.as_str() == suffix)
    }
}

impl fmt::Display for UnitType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no unit name. The first eight messages are those of fleet 1.0, which clients compare.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("unit name cannot be empty")]
    Empty,
    #[error("unit name exceeds maximum length ({MAX_NAME_BYTES})")]
    TooLong,
    #[error("unit name must contain \".\"")]
    NoDot,
    #[error("unit name cannot end in \".\"")]
    EndsInDot,
    #[error("invalid unit type: {}", go_quote(suffix))]
    UnknownType { suffix: String },
    #[error("invalid unit type for template: {}", go_quote(suffix))]
    NotATemplateType { suffix: String },
    #[error("invalid character {} in unit name", go_quote_char(*character))]
    InvalidCharacter { character: char },
    #[error("unit name cannot start in \"@\"")]
    StartsInAt,
    /// Known to systemd, and accepted by fleet 1.0, whose agent then never stopped or removed them.
    #[error(
        "unit type {} cannot be run by fleet; it runs service, socket, timer, path, device, mount and automount units",
        go_quote(suffix)
    )]
    UntrackedType { suffix: String },
}

/// The name of a unit, such as `web@1.service`. Cheap to clone; ordered byte by byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(Arc<str>);

impl UnitName {
    /// Checks `text` in the order of fleet 1.0, so that a name with several faults gets the same answer as
    /// there.
    ///
    /// # Errors
    /// The first test that fails.
    pub fn parse(text: &str) -> Result<UnitName, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong);
        }
        let (stem, suffix) = text.rsplit_once('.').ok_or(NameError::NoDot)?;
        if suffix.is_empty() {
            return Err(NameError::EndsInDot);
        }
        let kind = UnitType::from_suffix(suffix);
        if kind.is_none() && !UNTRACKED.contains(&suffix) {
            return Err(NameError::UnknownType { suffix: suffix.to_owned() });
        }
        if stem.contains('@') && !TEMPLATE_TYPES.contains(&suffix) {
            return Err(NameError::NotATemplateType { suffix: suffix.to_owned() });
        }
        if let Some(character) = stem.chars().find(|&c| !is_name_character(c)) {
            return Err(NameError::InvalidCharacter { character });
        }
        if text.starts_with('@') {
            return Err(NameError::StartsInAt);
        }
        if kind.is_none() {
            return Err(NameError::UntrackedType { suffix: suffix.to_owned() });
        }
        Ok(UnitName(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn unit_type(&self) -> UnitType {
        UnitType::from_suffix(self.split().1).expect("the suffix was checked when the name was made")
    }

    /// The name without its suffix; `%N`.
    pub fn stem(&self) -> &str {
        self.split().0
    }

    /// The stem up to its first `@`, or all of it; `%p`.
    pub fn prefix(&self) -> &str {
        self.stem().split_once('@').map_or(self.stem(), |(prefix, _)| prefix)
    }

    /// What follows the first `@`, if that is not empty; `%i`.
    pub fn instance(&self) -> Option<&str> {
        let (_, instance) = self.stem().split_once('@')?;
        (!instance.is_empty()).then_some(instance)
    }

    /// The template that an instance is made from. None for a template itself and for plain names.
    pub fn template(&self) -> Option<UnitName> {
        self.instance()?;
        Some(UnitName(format!("{}@.{}", self.prefix(), self.split().1).into()))
    }

    /// Whether instances can be made from this name: `web@.service`.
    pub fn is_template(&self) -> bool {
        self.stem().split_once('@').is_some_and(|(_, instance)| instance.is_empty())
    }

    pub fn is_instance(&self) -> bool {
        self.instance().is_some()
    }

    fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('.').expect("the dot was checked when the name was made")
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@')
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for UnitName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<UnitName, NameError> {
        UnitName::parse(text)
    }
}

impl TryFrom<String> for UnitName {
    type Error = NameError;

    fn try_from(text: String) -> Result<UnitName, NameError> {
        UnitName::parse(&text)
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> String {
        name.0.as_ref().to_owned()
    }
}

impl Borrow<str> for UnitName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for UnitName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for UnitName {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

/// The unit that an argument of the client means: its last path component, with `.service` added unless it
/// ends in one of the seven suffixes. The result is not validated.
pub fn client_unit_name(argument: &str) -> String {
    let base = argument.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let has_suffix = base.rsplit_once('.').is_some_and(|(_, suffix)| UnitType::from_suffix(suffix).is_some());
    if has_suffix { base.to_owned() } else { format!("{base}.service") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        UnitName::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn refusals_have_the_messages_and_the_order_of_fleet_1() {
        assert_eq!(message(""), "unit name cannot be empty");
        assert_eq!(message(&"a".repeat(257)), "unit name exceeds maximum length (256)");
        assert_eq!(message("foo"), "unit name must contain \".\"");
        assert_eq!(message("foo."), "unit name cannot end in \".\"");
        assert_eq!(message("foo.bar\"x"), "invalid unit type: \"bar\\\"x\"");
        assert_eq!(message("a@/.mount"), "invalid unit type for template: \"mount\"");
        assert_eq!(message("@a/b.service"), "invalid character '/' in unit name");
        assert_eq!(message("a\n.service"), "invalid character '\\n' in unit name");
        assert_eq!(message("é.service"), "invalid character 'é' in unit name");
        assert_eq!(message("@a.service"), "unit name cannot start in \"@\"");
    }

    #[test]
    fn names_of_256_bytes_and_odd_but_legal_names_pass() {
        for name in [
            format!("{}.service", "a".repeat(248)),
            ".service".into(),
            "a@b@c.service".into(),
            "a\\x2d:_-.b.path".into(),
        ] {
            assert_eq!(UnitName::parse(&name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn types_that_cannot_be_tracked_are_refused_last_and_clearly() {
        for suffix in UNTRACKED {
            let error = UnitName::parse(&format!("foo.{suffix}")).unwrap_err();
            assert_eq!(error, NameError::UntrackedType { suffix: suffix.into() });
            assert!(error.to_string().contains("it runs service, socket"), "{error}");
        }
        assert_eq!(message("a b.target"), "invalid character ' ' in unit name");
    }

    #[test]
    fn parts_of_instance_template_and_plain_name() {
        let instance = UnitName::parse("a.b@c@d.timer").unwrap();
        assert_eq!(
            (instance.stem(), instance.prefix(), instance.instance()),
            ("a.b@c@d", "a.b", Some("c@d"))
        );
        assert_eq!(instance.unit_type(), UnitType::Timer);
        assert_eq!(instance.template().unwrap().as_str(), "a.b@.timer");
        assert!(instance.is_instance() && !instance.is_template());

        let template = UnitName::parse("a@.service").unwrap();
        assert_eq!((template.stem(), template.prefix(), template.instance()), ("a@", "a", None));
        assert!(template.is_template() && !template.is_instance() && template.template().is_none());

        let plain = UnitName::parse("a.service").unwrap();
        assert_eq!((plain.stem(), plain.prefix(), plain.instance()), ("a", "a", None));
        assert!(!plain.is_template() && !plain.is_instance() && plain.template().is_none());
    }

    #[test]
    fn json_form_is_a_string_and_is_validated() {
        let name: UnitName = serde_json::from_str("\"a.service\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"a.service\"");
        assert!(serde_json::from_str::<UnitName>("\"a/b.service\"").is_err());
    }

    #[test]
    fn client_arguments_become_base_names_with_a_suffix() {
        for (argument, name) in [
            ("foo", "foo.service"),
            ("dir/foo", "foo.service"),
            ("/a/b/foo.timer", "foo.timer"),
            ("dir/", "dir.service"),
            ("foo.target", "foo.target.service"),
            ("foo@1", "foo@1.service"),
            ("foo.automount", "foo.automount"),
        ] {
            assert_eq!(client_unit_name(argument), name);
        }
    }
}
