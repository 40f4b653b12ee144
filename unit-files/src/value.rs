//! How systemd reads the value of an option: continuation lines, words and booleans.
//!
//! For `[Unit]`, `[Service]` and `[Install]`; values of `[X-Fleet]` have a syntax of their own, but share
//! the joining.

/// A continued value as one line: each backslash-newline with the white space around it is one space, and
/// comment lines inside the continuation are dropped.
pub(crate) fn joined(value: &str) -> String {
    if !value.contains("\\\n") {
        return value.trim().to_owned();
    }
    let lines = value.split("\\\n").map(str::trim);
    let kept = lines
        .enumerate()
        .filter(|(index, line)| !line.is_empty() && (*index == 0 || !line.starts_with(['#', ';'])));
    kept.map(|(_, line)| line).collect::<Vec<_>>().join(" ")
}

/// The words of a list value. Quotes, single or double, keep white space and are removed; a quote that is
/// never closed runs to the end.
pub(crate) fn words(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in joined(value).chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A boolean as systemd spells it; None for anything else.
pub(crate) fn boolean(value: &str) -> Option<bool> {
    match joined(value).to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continued_lists_are_words_of_one_line() {
        assert_eq!(words("a.service \\\n  # not this one \\\n\t\"b c\" 'd'"), ["a.service", "b c", "d"]);
        assert_eq!(words("  "), Vec::<String>::new());
        assert_eq!(words("\"\" x"), ["", "x"]);
    }
}
