//! Placeholders: what differs from run to run, and characters that do not show. The list is in
//! `tests/conformance/README.md`.

/// Values that are known before a case runs; they are put in wherever they stand.
#[derive(Debug, Default)]
pub struct Known(pub Vec<(String, String)>);

impl Known {
    /// With `<VERSION>`, `<M1>` and the like put in, and `<256×a>` written out.
    pub fn fill(&self, text: &str) -> String {
        let filled = self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
        repetitions(&filled)
    }
}

/// Placeholders that [`Known`] replaces.
const KNOWN: [&str; 6] = ["<M1>", "<M2>", "<M1.8>", "<M2.8>", "<VERSION>", "<DIR>"];

/// Pieces of a line that stand for many texts: name, which characters, how many.
type Class = (&'static str, fn(char) -> bool, usize, usize);
const CLASSES: [Class; 6] = [
    ("<MACHINE>", |c| c.is_ascii_hexdigit() || matches!(c, '.' | '/'), 22, 22),
    ("<ID>", |c| c.is_ascii_hexdigit(), 32, 32),
    ("<SHA1>", |c| c.is_ascii_hexdigit(), 40, 40),
    ("<TIME>", |c| c.is_ascii_digit() || matches!(c, '/' | ':' | ' '), 19, 19),
    ("<NUMBER>", |c| c.is_ascii_digit(), 1, 20),
    ("<...>", |_| true, 0, usize::MAX),
];

/// At the end of a line: nothing, or `; ` and what to do next.
const REMEDY: &str = "<REMEDY>";

/// A line of an expected text that stands for any number of lines.
const ANY_LINES: &str = "...";

/// The characters that signs stand for. `¬` is left to those who write files.
pub fn characters(text: &str) -> String {
    text.replace('⇥', "\t").replace('␠', " ").replace('␍', "\r")
}

/// Refuses what looks like a placeholder and is none.
pub fn check(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('<') {
        let rest = &text[at..];
        let Some(end) = rest.find('>') else { continue };
        let (whole, name) = (&rest[..=end], &rest[1..end]);
        let looks_like_one = name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '.');
        let is_one =
            KNOWN.contains(&whole) || whole == REMEDY || CLASSES.iter().any(|(class, ..)| *class == whole);
        if looks_like_one && !is_one {
            return Err(format!("unknown placeholder: {whole}"));
        }
    }
    Ok(())
}

/// `<256×a>` is 256 times `a`.
fn repetitions(text: &str) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, from) = rest.split_at(at);
        done.push_str(before);
        let piece = from.find('>').and_then(|end| {
            let (count, what) = from[1..end].split_once('×')?;
            Some((what.repeat(count.parse().ok()?), end + 1))
        });
        match piece {
            Some((text, end)) => {
                done.push_str(&text);
                rest = &from[end..];
            }
            None => {
                done.push('<');
                rest = &from[1..];
            }
        }
    }
    done + rest
}

/// Whether a line is what the pattern, in which known values are filled in, stands for.
pub fn is_line(pattern: &str, line: &str) -> bool {
    if let Some(pattern) = pattern.strip_suffix(REMEDY) {
        return is_line(pattern, line) || is_line(&format!("{pattern}; <...>"), line);
    }
    let found = CLASSES
        .iter()
        .filter_map(|class| pattern.find(class.0).map(|at| (at, class)))
        .min_by_key(|(at, _)| *at);
    let Some((at, (name, is_of, least, most))) = found else { return pattern == line };
    let (literal, rest) = (&pattern[..at], &pattern[at + name.len()..]);
    let Some(line) = line.strip_prefix(literal) else { return false };
    let mut ends = vec![0];
    ends.extend(line.char_indices().take_while(|(_, c)| is_of(*c)).map(|(at, c)| at + c.len_utf8()));
    let counted = ends.iter().enumerate().filter(|(count, _)| (*least..=*most).contains(count));
    counted.rev().any(|(_, end)| is_line(rest, &line[*end..]))
}

/// Whether these are the lines that the patterns stand for.
pub fn are_lines(patterns: &[String], lines: &[&str]) -> bool {
    match patterns.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == ANY_LINES => {
            (0..=lines.len()).any(|skipped| are_lines(rest, &lines[skipped..]))
        }
        Some((first, rest)) => match lines.split_first() {
            Some((line, others)) => is_line(first, line) && are_lines(rest, others),
            None => false,
        },
    }
}

/// As [`are_lines`], in any order.
pub fn are_lines_mixed(patterns: &[String], lines: &[&str]) -> bool {
    let mut left = lines.to_vec();
    patterns.iter().all(|pattern| match left.iter().position(|line| is_line(pattern, line)) {
        Some(at) => {
            left.remove(at);
            true
        }
        None => false,
    }) && left.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn placeholders_stand_for_what_differs_and_for_nothing_else() {
        assert!(is_line("Unit a on <MACHINE>", "Unit a on 11111111.../10.77.0.12"));
        assert!(!is_line("Unit a on <MACHINE>", "Unit a on 11111111.../10.77.0.12 "));
        assert!(is_line("<TIME> INFO <...>: x", "2026/11/24 10:00:00 INFO a.rs:12: x"));
        assert!(is_line("<SHA1>-<NUMBER>", &format!("{}-7", "a".repeat(40))));
        assert!(!is_line("<SHA1>", &"a".repeat(39)));
        assert!(is_line("a <b> c", "a <b> c"));
        assert!(is_line("no a<REMEDY>", "no a") && is_line("no a<REMEDY>", "no a; try b"));
        assert!(!is_line("no a<REMEDY>", "no ab"));
    }

    #[test]
    fn three_dots_are_any_lines_and_mixed_lines_come_in_any_order() {
        assert!(are_lines(&lines("a\n...\nb"), &["a", "x", "y", "b"]));
        assert!(are_lines(&lines("a\n..."), &["a"]));
        assert!(!are_lines(&lines("a\n...\nb"), &["a", "x"]));
        assert!(are_lines_mixed(&lines("a\nb"), &["b", "a"]));
        assert!(!are_lines_mixed(&lines("a\nb"), &["b", "a", "a"]));
    }

    #[test]
    fn known_values_and_repetitions_are_written_out() {
        let known = Known(vec![("<M1>".to_owned(), "abc".to_owned())]);
        assert_eq!(known.fill("x<M1><3×ab><b>"), "xabcababab<b>");
    }
}
