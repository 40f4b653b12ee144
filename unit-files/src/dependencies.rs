//! What `[Unit]` and `[Service]` say about the order and the nature of a start.
//!
//! The agent orders the starts of a pass with it. Lists are as written: instances expand theirs with
//! [`expand_specifiers`](crate::expand_specifiers).

use crate::serialize::UnitFile;
use crate::value::{boolean, joined, words};

/// Units of all `After=` lines. An empty assignment resets nothing here, as in systemd.
pub fn after(file: &UnitFile) -> Vec<String> {
    list(file, "After")
}

/// Units of all `Before=` lines.
pub fn before(file: &UnitFile) -> Vec<String> {
    list(file, "Before")
}

/// Units of all `Wants=` lines.
pub fn wants(file: &UnitFile) -> Vec<String> {
    list(file, "Wants")
}

/// Units of all `Requires=` lines.
pub fn requires(file: &UnitFile) -> Vec<String> {
    list(file, "Requires")
}

fn list(file: &UnitFile, name: &str) -> Vec<String> {
    file.get("Unit", name).flat_map(words).collect()
}

/// Whether the service ends by itself once it has done its work: `Type=oneshot`, which is also systemd's
/// reading of a service with neither `Type=`, `BusName=` nor `ExecStart=`. False for files without a
/// `[Service]` section.
pub fn is_oneshot(file: &UnitFile) -> bool {
    match last(file, "Type") {
        Some(kind) => kind == "oneshot",
        None => {
            let is_service = file.options().iter().any(|option| option.section == "Service");
            is_service && last(file, "BusName").is_none() && last(file, "ExecStart").is_none()
        }
    }
}

/// Whether the unit stays active after its processes ended: `RemainAfterExit=yes`.
pub fn remains_after_exit(file: &UnitFile) -> bool {
    file.get("Service", "RemainAfterExit").filter_map(boolean).last().unwrap_or(false)
}

/// The last value of a `[Service]` option; None if it is absent or was reset by an empty assignment.
fn last(file: &UnitFile, name: &str) -> Option<String> {
    file.get("Service", name).last().map(joined).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> UnitFile {
        UnitFile::parse(text).unwrap()
    }

    #[test]
    fn dependency_lists_join_all_lines() {
        let unit = file(
            "[Unit]\nAfter=a.service b.service\nAfter=\nAfter=c.service\nWants=d.service\nRequires=e.service\nBefore=f.service\n",
        );
        assert_eq!(after(&unit), ["a.service", "b.service", "c.service"]);
        assert_eq!(
            (wants(&unit), requires(&unit), before(&unit)),
            (vec!["d.service".into()], vec!["e.service".into()], vec!["f.service".into()])
        );
    }

    #[test]
    fn oneshot_is_the_last_type_or_a_service_without_a_command() {
        assert!(is_oneshot(&file("[Service]\nType=simple\nType=oneshot\nExecStart=/bin/true\n")));
        assert!(!is_oneshot(&file("[Service]\nExecStart=/bin/true\n")));
        assert!(is_oneshot(&file("[Service]\nExecStop=/bin/true\nRemainAfterExit=yes\n")));
        assert!(!is_oneshot(&file("[Socket]\nListenStream=1\n")));
    }

    #[test]
    fn remain_after_exit_takes_the_last_boolean() {
        assert!(remains_after_exit(&file(
            "[Service]\nRemainAfterExit=no\nRemainAfterExit=True\nRemainAfterExit=what\n"
        )));
        assert!(!remains_after_exit(&file("[Service]\nType=oneshot\n")));
    }
}
