//! What the agent reads off a unit's text: how its start is ordered, and what is put in place for it.

use std::sync::Arc;

use fleet_core::reconcile::TextFacts;
use fleet_systemd::Install;
use tracing::warn;
use unit_files::{ContentHash, RunHash, UnitFile, UnitName, after, before, requires, wants};

/// # Errors
/// Why the bytes are not the text that `hash` names, in one sentence.
pub(super) fn facts(hash: ContentHash, bytes: &[u8]) -> Result<TextFacts, String> {
    let found = ContentHash::of(bytes);
    if found != hash {
        return Err(format!("contents/{hash} holds other bytes (their hash is {found})"));
    }
    let file = UnitFile::parse_bytes(bytes).map_err(|error| format!("contents/{hash}: {error}"))?;
    let mut later_than = after(&file);
    later_than.extend(requires(&file));
    later_than.extend(wants(&file));
    Ok(TextFacts { after: later_than, before: before(&file) })
}

/// What is installed for `name`, and the aliases that its text asks for.
///
/// # Errors
/// The text does not parse.
pub(super) fn install(
    name: &UnitName,
    bytes: Vec<u8>,
    run_hash: RunHash,
) -> Result<(Install, Vec<String>), String> {
    let file = UnitFile::parse_bytes(&bytes).map_err(|error| error.to_string())?;
    let targets = file.install_targets().expanded(name);
    if !targets.also.is_empty() || targets.default_instance.is_some() {
        warn!(unit = %name, "Also= and DefaultInstance= in [Install] have no effect");
    }
    let units = |list: &[String], option: &str| -> Vec<String> {
        let is_unit = |text: &&String| {
            let is_unit = !text.is_empty() && !text.contains(|c: char| c == '/' || c.is_whitespace());
            if !is_unit {
                warn!(unit = %name, %text, "{option}= names no unit that a link can be made for");
            }
            is_unit
        };
        list.iter().filter(is_unit).cloned().collect()
    };
    let install = Install {
        name: name.clone(),
        wanted_by: units(&targets.wanted_by, "WantedBy"),
        required_by: units(&targets.required_by, "RequiredBy"),
        text: Arc::from(bytes),
        run_hash,
        drop_in: String::new(),
    };
    Ok((install, targets.aliases))
}
