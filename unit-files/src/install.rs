//! The `[Install]` section: which links make a unit part of another one.
//!
//! The agent makes the links; the API and the agent refuse aliases of known names.

use std::collections::HashSet;

use crate::name::UnitName;
use crate::serialize::UnitFile;
use crate::specifier::expand_specifiers;
use crate::value::{joined, words};

const SECTION: &str = "Install";

/// What `[Install]` asks for, as written. Duplicates are dropped, the order is that of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstallTargets {
    pub wanted_by: Vec<String>,
    pub required_by: Vec<String>,
    pub aliases: Vec<String>,
    pub also: Vec<String>,
    pub default_instance: Option<String>,
}

impl InstallTargets {
    /// The same with specifiers replaced for the unit `name`.
    pub fn expanded(&self, name: &UnitName) -> InstallTargets {
        let all = |list: &[String]| list.iter().map(|text| expand_specifiers(text, name)).collect();
        InstallTargets {
            wanted_by: all(&self.wanted_by),
            required_by: all(&self.required_by),
            aliases: all(&self.aliases),
            also: all(&self.also),
            default_instance: self.default_instance.as_deref().map(|text| expand_specifiers(text, name)),
        }
    }
}

impl UnitFile {
    /// Whether the file has any option in `[Install]`.
    pub fn has_install(&self) -> bool {
        self.options().iter().any(|option| option.section == SECTION)
    }

    /// An empty assignment resets `WantedBy=`, `RequiredBy=`, `Alias=` and `DefaultInstance=`, but not
    /// `Also=`, as in systemd.
    pub fn install_targets(&self) -> InstallTargets {
        InstallTargets {
            wanted_by: self.install_list("WantedBy", true),
            required_by: self.install_list("RequiredBy", true),
            aliases: self.install_list("Alias", true),
            also: self.install_list("Also", false),
            default_instance: self
                .get(SECTION, "DefaultInstance")
                .last()
                .map(joined)
                .filter(|text| !text.is_empty()),
        }
    }

    fn install_list(&self, name: &str, empty_resets: bool) -> Vec<String> {
        let mut list: Vec<String> = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        for value in self.get(SECTION, name) {
            if empty_resets && joined(value).is_empty() {
                list.clear();
                seen.clear();
            }
            for word in words(value) {
                if seen.insert(word.clone()) {
                    list.push(word);
                }
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_reset_and_deduplicated() {
        let file = UnitFile::parse(
            "[Install]\nWantedBy=a.target\nWantedBy=\nWantedBy=b.target \"c.target\"\nWantedBy=b.target\nRequiredBy=%i.target\n\
             Alias=x.service\nAlias=\nAlso=y.socket\nAlso=\nDefaultInstance=1\nDefaultInstance=2\n",
        )
        .unwrap();
        let targets = file.install_targets();
        assert!(file.has_install());
        assert_eq!(targets.wanted_by, ["b.target", "c.target"]);
        assert_eq!(targets.aliases, Vec::<String>::new());
        assert_eq!(targets.also, ["y.socket"]);
        assert_eq!(targets.default_instance.as_deref(), Some("2"));
        let instance = UnitName::parse("web@7.service").unwrap();
        assert_eq!(targets.expanded(&instance).required_by, ["7.target"]);
    }

    #[test]
    fn a_file_without_install_asks_for_nothing() {
        let file = UnitFile::parse("[Service]\nExecStart=/bin/true\n[Install]\n").unwrap();
        assert!(!file.has_install());
        assert_eq!(file.install_targets(), InstallTargets::default());
    }
}
