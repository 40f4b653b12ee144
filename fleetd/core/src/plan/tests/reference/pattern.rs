//! Go's `path.Match`, the slow way: every length that a `*` might take is tried. Only the reference uses it.

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub text: String,
    /// None if malformed: then nothing matches.
    parts: Option<Vec<Part>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Star,
    One,
    Char(char),
    Set { inverted: bool, spans: Vec<(char, char)> },
}

impl Pattern {
    pub fn new(text: &str) -> Pattern {
        let chars: Vec<char> = text.chars().collect();
        Pattern { text: text.to_owned(), parts: parts(&chars) }
    }

    pub fn matches(&self, name: &str) -> bool {
        let chars: Vec<char> = name.chars().collect();
        self.parts.as_ref().is_some_and(|parts| is_match(parts, &chars))
    }
}

fn parts(text: &[char]) -> Option<Vec<Part>> {
    let Some((first, rest)) = text.split_first() else { return Some(Vec::new()) };
    let (part, rest) = match first {
        '*' => (Part::Star, rest),
        '?' => (Part::One, rest),
        '\\' => (Part::Char(*rest.first()?), &rest[1..]),
        '[' => set(rest)?,
        other => (Part::Char(*other), rest),
    };
    let mut all = vec![part];
    all.extend(parts(rest)?);
    Some(all)
}

fn set(text: &[char]) -> Option<(Part, &[char])> {
    let inverted = text.first() == Some(&'^');
    let mut rest = if inverted { &text[1..] } else { text };
    let mut spans = Vec::new();
    loop {
        if rest.first() == Some(&']') && !spans.is_empty() {
            return Some((Part::Set { inverted, spans }, &rest[1..]));
        }
        let (low, after) = member(rest)?;
        let (high, after) = if after.first() == Some(&'-') { member(&after[1..])? } else { (low, after) };
        spans.push((low, high));
        rest = after;
    }
}

fn member(text: &[char]) -> Option<(char, &[char])> {
    match text {
        ['\\', escaped, rest @ ..] => Some((*escaped, rest)),
        ['-' | ']' | '\\', ..] | [] => None,
        [plain, rest @ ..] => Some((*plain, rest)),
    }
}

fn is_match(parts: &[Part], name: &[char]) -> bool {
    let Some((part, later)) = parts.split_first() else { return name.is_empty() };
    if *part == Part::Star {
        let longest = name.iter().position(|c| *c == '/').unwrap_or(name.len());
        return (0..=longest).any(|taken| is_match(later, &name[taken..]));
    }
    let Some((c, rest)) = name.split_first() else { return false };
    let fits = match part {
        Part::Star | Part::One => *c != '/',
        Part::Char(wanted) => wanted == c,
        Part::Set { inverted, spans } => {
            spans.iter().any(|(low, high)| (low..=high).contains(&c)) != *inverted
        }
    };
    fits && is_match(later, rest)
}
