//! Quotation as Go's `%q` writes it, which the messages of fleet 1.0 use.
//!
//! For error messages only; nothing parses the result.

use std::fmt::Write;

/// `text` in double quotes with Go's backslash escapes.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        push_escaped(&mut out, c, '"');
    }
    out.push('"');
    out
}

/// `c` in single quotes, as Go quotes a rune.
pub(crate) fn go_quote_char(c: char) -> String {
    let mut out = String::from("'");
    push_escaped(&mut out, c, '\'');
    out.push('\'');
    out
}

fn push_escaped(out: &mut String, c: char, quote: char) {
    let short = match c {
        '\u{7}' => Some("\\a"),
        '\u{8}' => Some("\\b"),
        '\u{c}' => Some("\\f"),
        '\n' => Some("\\n"),
        '\r' => Some("\\r"),
        '\t' => Some("\\t"),
        '\u{b}' => Some("\\v"),
        '\\' => Some("\\\\"),
        _ => None,
    };
    if let Some(short) = short {
        out.push_str(short);
        return;
    }
    if c == quote {
        out.push('\\');
        out.push(c);
        return;
    }
    let code = u32::from(c);
    let written = if is_printable(c) {
        out.push(c);
        Ok(())
    } else if code < 0x80 {
        write!(out, "\\x{code:02x}")
    } else if code < 0x10000 {
        write!(out, "\\u{code:04x}")
    } else {
        write!(out, "\\U{code:08x}")
    };
    written.expect("writing to a String cannot fail");
}

/// Rust escapes what it holds unprintable, with nearly the same Unicode tables as Go.
fn is_printable(c: char) -> bool {
    matches!(c, '\'' | '"') || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_control_characters_are_escaped_as_go_does() {
        assert_eq!(
            go_quote("a\"b\\c\n\u{1}\u{7f}é\u{80}\u{e000}'"),
            "\"a\\\"b\\\\c\\n\\x01\\x7fé\\u0080\\ue000'\""
        );
        assert_eq!(go_quote_char('\''), "'\\''");
        assert_eq!(go_quote_char('"'), "'\"'");
        assert_eq!(go_quote_char('/'), "'/'");
    }
}
