//! The order of a list, for `--sort`: by what a cell means, not by its text. Pure.

use std::cmp::Ordering;

/// What a cell means. None of it, where the cell shows a dash, comes last in either direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Number(u64),
    /// Names, addresses and versions, a part for each character and each number: digits count as the number that they
    /// are, and stand where digits stand among characters.
    Text(Vec<(char, u64)>),
}

impl Key {
    /// None for what lists show as a dash.
    pub fn text(text: &str) -> Option<Key> {
        if text.is_empty() || text == "-" {
            return None;
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            // More digits than a number has are characters.
            let (part, length) = match rest[..digits].parse() {
                Ok(number) => (('0', number), digits),
                Err(_) => ((first, 0), first.len_utf8()),
            };
            parts.push(part);
            rest = &rest[length..];
        }
        Some(Key::Text(parts))
    }

    /// The place of a state among the states that follow each other; one that is not among them comes behind.
    pub fn state(word: &str, course: &[&str]) -> Option<Key> {
        let place = course.iter().position(|known| *known == word).unwrap_or(course.len());
        (!word.is_empty()).then(|| Key::Number(u64::try_from(place).unwrap_or(u64::MAX)))
    }

    /// How long ago a point in time was, in Unix milliseconds: the youngest comes first. Zero is no time.
    pub fn age(since_ms: u64) -> Option<Key> {
        (since_ms != 0).then(|| Key::Number(u64::MAX - since_ms))
    }
}

/// A key and its direction.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub key: Option<Key>,
    pub is_descending: bool,
}

impl Ord for Place {
    fn cmp(&self, other: &Place) -> Ordering {
        match (&self.key, &other.key) {
            (Some(one), Some(two)) if self.is_descending => two.cmp(one),
            (Some(one), Some(two)) => one.cmp(two),
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
        }
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Place) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_in_names_count_as_numbers() {
        for (less, more) in [
            ("web@2.service", "web@10.service"),
            ("web@.service", "web@2.service"),
            ("web.service", "web@.service"),
            ("10.0.0.9", "10.0.0.10"),
            ("0.9.12", "0.10.1"),
        ] {
            assert!(Key::text(less) < Key::text(more), "{less} {more}");
        }
        assert!(Key::text(&"8".repeat(40)) < Key::text(&"9".repeat(40)));
    }

    #[test]
    fn states_follow_their_course_and_strange_ones_come_behind() {
        let course = ["inactive", "loaded", "launched"];
        assert!(Key::state("loaded", &course) < Key::state("launched", &course));
        assert!(Key::state("launched", &course) < Key::state("dreaming", &course));
        assert_eq!(Key::state("", &course), None);
    }

    #[test]
    fn what_is_missing_comes_last_in_either_direction() {
        for is_descending in [false, true] {
            let mut places: Vec<Place> = [Key::text("-"), Key::age(2_000), Key::age(1_000), None]
                .into_iter()
                .map(|key| Place { key, is_descending })
                .collect();
            places.sort();
            let first = if is_descending { 1_000 } else { 2_000 };
            assert_eq!(places[0].key, Key::age(first));
            assert!(places[2].key.is_none() && places[3].key.is_none());
        }
    }
}
