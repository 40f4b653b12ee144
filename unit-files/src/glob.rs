//! Name patterns of `Conflicts=` and `Replaces=`, with the meaning of Go's `path.Match`.
//!
//! The engine, the agent and the refusals at submit match with the same code. A malformed pattern matches
//! nothing.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

/// A compiled pattern: `*` and `?` stop at `/`, `[a-z]`, `[^a-z]`, `\x`; the whole name has to match.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Glob {
    pattern: String,
    /// None if the pattern is malformed.
    terms: Option<Vec<Term>>,
}

#[derive(Clone, Debug)]
enum Term {
    /// `*`
    AnyRun,
    /// `?`
    AnyOne,
    Exactly(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Term {
    fn takes(&self, c: char) -> bool {
        match self {
            Term::AnyRun | Term::AnyOne => c != '/',
            Term::Exactly(wanted) => c == *wanted,
            Term::Class { negated, ranges } => {
                ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated
            }
        }
    }
}

impl Glob {
    /// Never fails: a malformed pattern is kept, shown as written, and matches nothing.
    pub fn new(pattern: impl Into<String>) -> Glob {
        let pattern = pattern.into();
        let terms = compile(&pattern);
        Glob { pattern, terms }
    }

    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    pub fn is_malformed(&self) -> bool {
        self.terms.is_none()
    }

    /// Whether the pattern is a plain name, so that [`as_str`](Glob::as_str) is the only text it matches.
    pub fn is_literal(&self) -> bool {
        !self.pattern.contains(['*', '?', '[', '\\'])
    }

    /// Time is at most the product of both lengths; nothing is allocated.
    pub fn matches(&self, name: &str) -> bool {
        let Some(terms) = &self.terms else { return false };
        let next = |at: usize| name[at..].chars().next();
        let (mut term, mut at) = (0, 0);
        // The term after the last `*`, and where in the name what the star swallows ends for now. Earlier
        // stars are never tried again, as in Go.
        let mut retry: Option<(usize, usize)> = None;
        while at < name.len() || term < terms.len() {
            let taken = match terms.get(term) {
                Some(Term::AnyRun) => {
                    term += 1;
                    retry = Some((term, at));
                    continue;
                }
                Some(other) => next(at).filter(|&c| other.takes(c)),
                None => None,
            };
            if let Some(c) = taken {
                term += 1;
                at += c.len_utf8();
                continue;
            }
            let Some((after_star, swallowed)) = retry else { return false };
            let Some(c) = next(swallowed).filter(|&c| Term::AnyRun.takes(c)) else { return false };
            (term, at) = (after_star, swallowed + c.len_utf8());
            retry = Some((term, at));
        }
        true
    }
}

fn compile(pattern: &str) -> Option<Vec<Term>> {
    let mut rest = pattern.chars().peekable();
    let mut terms = Vec::new();
    while let Some(c) = rest.next() {
        terms.push(match c {
            '*' => Term::AnyRun,
            '?' => Term::AnyOne,
            '\\' => Term::Exactly(rest.next()?),
            '[' => {
                let negated = rest.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
                    let low = class_member(&mut rest)?;
                    let high = if rest.next_if_eq(&'-').is_some() { class_member(&mut rest)? } else { low };
                    ranges.push((low, high));
                }
                Term::Class { negated, ranges }
            }
            literal => Term::Exactly(literal),
        });
    }
    Some(terms)
}

/// One end of a range; `-` and `]` have to be escaped.
fn class_member(rest: &mut impl Iterator<Item = char>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        c => Some(c),
    }
}

impl From<String> for Glob {
    fn from(pattern: String) -> Glob {
        Glob::new(pattern)
    }
}

impl From<&str> for Glob {
    fn from(pattern: &str) -> Glob {
        Glob::new(pattern)
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> String {
        glob.pattern
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.pattern)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({:?})", self.pattern)
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Glob) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Glob {}

impl PartialOrd for Glob {
    fn partial_cmp(&self, other: &Glob) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Glob {
    fn cmp(&self, other: &Glob) -> Ordering {
        self.pattern.cmp(&other.pattern)
    }
}

impl Hash for Glob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pattern.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Glob::new(pattern).matches(name)
    }

    #[test]
    fn wildcards_and_classes_match_whole_names() {
        assert!(matches("web@*.service", "web@1.service"));
        assert!(!matches("web@*.service", "xweb@1.service"));
        assert!(matches("*", "") && matches("*b*c", "abbc") && !matches("*b*c", "abcd"));
        assert!(matches("a?c", "aéc") && !matches("a?c", "ac"));
        assert!(matches("[a-cx]1", "b1") && matches("[a-cx]1", "x1") && !matches("[a-cx]1", "d1"));
        assert!(matches("[^a-c]", "d") && !matches("[^a-c]", "a") && !matches("[!a]", "b"));
        assert!(matches("a\\*", "a*") && !matches("a\\*", "ab"));
        assert!(matches("[\\]\\-]", "]") && matches("[\\]\\-]", "-"));
    }

    #[test]
    fn star_and_question_mark_stop_at_a_slash() {
        assert!(
            !matches("*", "a/b")
                && !matches("a?b", "a/b")
                && matches("a[^x]b", "a/b")
                && matches("*/*", "a/b")
        );
    }

    #[test]
    fn malformed_patterns_match_nothing() {
        for pattern in
            ["[", "[]", "[]a]", "[a", "[a-", "[a-]", "[-a]", "[^]", "a\\", "[a\\", "ab[", "[a-b-c]"]
        {
            let glob = Glob::new(pattern);
            assert!(glob.is_malformed(), "{pattern}");
            assert!(!glob.matches(pattern) && !glob.matches("a") && !glob.matches(""), "{pattern}");
        }
    }

    #[test]
    fn an_empty_pattern_matches_the_empty_name_only() {
        assert!(matches("", "") && !matches("", "a"));
        assert!(Glob::new("a.service").is_literal() && !Glob::new("a*").is_literal());
    }
}
