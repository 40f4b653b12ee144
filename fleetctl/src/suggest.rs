//! What may have been meant by a name that does not exist. Pure; the commands say it, on a line of its own.

use std::collections::BTreeMap;

/// More would be a list to read, not a hint.
const MOST: usize = 3;

/// Those of `known` that differ from `word` by a slip of the fingers, the nearest first.
pub fn nearest(word: &str, known: &[impl AsRef<str>]) -> Vec<String> {
    let limit = slips(word);
    take(known.iter().map(AsRef::as_ref).filter(|candidate| *candidate != word).filter_map(|candidate| {
        let distance = strsim::damerau_levenshtein(word, candidate);
        (distance <= limit).then(|| (distance, candidate.to_owned()))
    }))
}

/// The same for names of units: the type counts as one slip, and so does an instance that was left out. A pattern means
/// no unit.
pub fn nearest_units(name: &str, known: &[impl AsRef<str>]) -> Vec<String> {
    if name.contains(['*', '?', '[']) {
        return Vec::new();
    }
    let (stem, suffix) = split(name);
    let limit = slips(stem);
    take(known.iter().map(AsRef::as_ref).filter(|candidate| *candidate != name).filter_map(|candidate| {
        let (other, other_suffix) = split(candidate);
        let is_instance = other.strip_prefix(stem).is_some_and(|rest| rest.starts_with('@'));
        let distance = if is_instance { 1 } else { strsim::damerau_levenshtein(stem, other) };
        (distance <= limit).then(|| (distance + usize::from(suffix != other_suffix), candidate.to_owned()))
    }))
}

/// `Did you mean a, b or c?`, if there is something to mean.
pub fn line(found: &[String]) -> Option<String> {
    let (last, others) = found.split_last()?;
    Some(if others.is_empty() {
        format!("Did you mean {last}?")
    } else {
        format!("Did you mean {} or {last}?", others.join(", "))
    })
}

/// How many slips a word of this length may have and still be taken for another.
fn slips(word: &str) -> usize {
    (word.chars().count() / 4).clamp(1, 3)
}

fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or((name, ""))
}

fn take(found: impl Iterator<Item = (usize, String)>) -> Vec<String> {
    let found: BTreeMap<(usize, String), ()> = found.map(|near| (near, ())).collect();
    found.into_keys().take(MOST).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_is_found_and_another_word_is_not() {
        let known = ["unit", "hash", "machine", "metadata"];
        assert_eq!(nearest("unti", &known), ["unit"]);
        assert_eq!(nearest(" hash", &known), ["hash"]);
        assert_eq!(nearest("machnie", &known), ["machine"]);
        assert!(nearest("nothing", &known).is_empty() && nearest("unit", &known).is_empty());
    }

    #[test]
    fn units_are_found_by_slips_in_their_name_their_type_and_their_instance() {
        let known = ["web@1.service", "web@2.service", "backup.timer", "database.service", "cache.service"];
        assert_eq!(nearest_units("databse.service", &known), ["database.service"]);
        assert_eq!(nearest_units("backup.service", &known), ["backup.timer"]);
        assert_eq!(nearest_units("web.service", &known), ["web@1.service", "web@2.service"]);
        assert_eq!(nearest_units("web@3.service", &known), ["web@1.service", "web@2.service"]);
        // The common type makes no two names alike.
        assert!(nearest_units("nothing.service", &known).is_empty());
        assert!(nearest_units("cache*.service", &known).is_empty());
    }

    #[test]
    fn a_hint_names_all_that_may_be_meant() {
        let found = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(line(&found).as_deref(), Some("Did you mean a, b or c?"));
        assert_eq!(line(&found[..1]).as_deref(), Some("Did you mean a?"));
        assert_eq!(line(&[]), None);
    }
}
