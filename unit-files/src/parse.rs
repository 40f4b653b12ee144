//! The unit-file reader.
//!
//! Called by [`UnitFile::parse`](crate::UnitFile::parse) only. It follows the option reader of fleet 1.0
//! rune by rune, because hashes are compared with those of old clients; it is stricter in three places: text
//! before the first section is an error, the line limit is exact, and CRLF counts as a newline.

use std::borrow::Cow;
use std::fmt;

use crate::quote::go_quote;
use crate::serialize::UnitOption;

/// A line may have one byte less than this, so that it fits with its newline; systemd's old `LINE_MAX`.
pub const MAX_LINE_BYTES: usize = 2048;

/// A text that is no unit file. Line and column are 1-based; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub line: usize,
    pub column: usize,
    pub kind: ParseErrorKind,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.kind)
    }
}

impl std::error::Error for ParseError {}

/// What is wrong at that place. Each message begins with the text of fleet 1.0, where it had one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseErrorKind {
    #[error(
        "line too long (max {MAX_LINE_BYTES} bytes); shorten it, or break a value with a backslash at the end of the line"
    )]
    LineTooLong,
    #[error(
        "text before the first section: {}; put it below a section such as [Service], or begin the line with #",
        go_quote(text)
    )]
    TextBeforeSection { text: String },
    #[error("unable to find end of section; close the section name with ]")]
    UnterminatedSection,
    #[error("found garbage after section name [{section}]: {}; put it on a line of its own", go_quote(text))]
    GarbageAfterSection { section: String, text: String },
    #[error(
        "unexpected newline encountered while parsing option name {}; write Name=Value, or end the line above with a backslash if this continues it",
        go_quote(text)
    )]
    NewlineInOptionName { text: String },
    #[error("EOF while parsing option name {}; write Name=Value", go_quote(text))]
    EndInOptionName { text: String },
    #[error("not UTF-8; save the file as UTF-8")]
    NotUtf8,
}

/// Decodes `bytes`, saying where they stop being UTF-8.
pub(crate) fn decode(bytes: &[u8]) -> Result<&str, ParseError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid =
            std::str::from_utf8(&bytes[..error.valid_up_to()]).expect("valid up to here, says the decoder");
        error_at(valid, valid.len(), ParseErrorKind::NotUtf8)
    })
}

/// Reads the options of `text` in their order, each with the line on which it begins.
pub(crate) fn parse(text: &str) -> Result<Vec<(usize, UnitOption)>, ParseError> {
    // A byte order mark was skipped as text before the first section, and editors still write it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text =
        if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) };
    let options = Reader { text: &text, at: 0, line: 1 }.read();
    match (options, first_long_line(&text)) {
        (Err(error), Some(long)) if error.line < long => Err(error),
        (_, Some(line)) => {
            Err(ParseError { line, column: MAX_LINE_BYTES, kind: ParseErrorKind::LineTooLong })
        }
        (options, None) => options,
    }
}

fn first_long_line(text: &str) -> Option<usize> {
    text.split('\n').position(|line| line.len() >= MAX_LINE_BYTES).map(|index| index + 1)
}

fn error_at(text: &str, offset: usize, kind: ParseErrorKind) -> ParseError {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    ParseError {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        kind,
    }
}

struct Reader<'a> {
    text: &'a str,
    /// Byte offset of what is read next; always on a character boundary.
    at: usize,
    /// The line in which `at` is, from 1.
    line: usize,
}

impl<'a> Reader<'a> {
    fn read(mut self) -> Result<Vec<(usize, UnitOption)>, ParseError> {
        let mut options = Vec::new();
        let mut section: Option<&str> = None;
        loop {
            self.skip_white_space();
            match (self.rest().chars().next(), section) {
                (None, _) => return Ok(options),
                (Some('['), _) => section = Some(self.section()?),
                (Some('#' | ';'), _) => self.skip_comment(),
                (Some(_), Some(section)) => options.push((self.line, self.option(section)?)),
                (Some(_), None) => {
                    let text = first_line(self.rest());
                    return Err(self.error(self.at, ParseErrorKind::TextBeforeSection { text }));
                }
            }
        }
    }

    /// The name may span lines and is not trimmed; old hashes depend on it.
    fn section(&mut self) -> Result<&'a str, ParseError> {
        let start = self.at + 1;
        let Some(length) = self.text[start..].find(']') else {
            return Err(self.error(self.at, ParseErrorKind::UnterminatedSection));
        };
        let section = &self.text[start..start + length];
        self.line += section.matches('\n').count();
        self.at = start + length + 1;
        let after = self.at;
        let (line, _) = self.take_line();
        let garbage = line.trim();
        if garbage.is_empty() {
            return Ok(section);
        }
        let kind =
            ParseErrorKind::GarbageAfterSection { section: section.to_owned(), text: garbage.to_owned() };
        Err(self.error(after + (line.len() - line.trim_start().len()), kind))
    }

    /// A backslash at the end of a comment takes the next line with it.
    fn skip_comment(&mut self) {
        loop {
            let (line, newline) = self.take_line();
            if !newline || !line.strip_suffix(' ').unwrap_or(line).ends_with('\\') {
                return;
            }
        }
    }

    fn option(&mut self, section: &str) -> Result<UnitOption, ParseError> {
        let rest = self.rest();
        let name = match rest.find(['=', '\n', '\r']) {
            Some(end) if rest[end..].starts_with('=') => {
                self.at += end + 1;
                rest[..end].trim()
            }
            Some(end) => {
                let kind = ParseErrorKind::NewlineInOptionName { text: rest[..end].to_owned() };
                return Err(self.error(self.at, kind));
            }
            None => {
                return Err(self.error(self.at, ParseErrorKind::EndInOptionName { text: rest.to_owned() }));
            }
        };
        Ok(UnitOption { section: section.to_owned(), name: name.to_owned(), value: self.value() })
    }

    /// A continued value keeps its backslashes and newlines as they stand in the file. After a continuation
    /// that a blank line or the end of the file cuts off, one newline stays at its end.
    fn value(&mut self) -> String {
        let mut value = String::new();
        loop {
            let (line, newline) = self.take_line();
            if line.trim().is_empty() {
                break;
            }
            value.push_str(line);
            if !line.ends_with('\\') || !newline {
                break;
            }
            value.push('\n');
        }
        let trimmed = value.trim();
        if value.ends_with('\n') { format!("{trimmed}\n") } else { trimmed.to_owned() }
    }

    /// The rest of the line, and whether a newline ended it.
    fn take_line(&mut self) -> (&'a str, bool) {
        let rest = self.rest();
        match rest.find('\n') {
            Some(end) => {
                self.at += end + 1;
                self.line += 1;
                (&rest[..end], true)
            }
            None => {
                self.at = self.text.len();
                (rest, false)
            }
        }
    }

    fn skip_white_space(&mut self) {
        let rest = self.rest();
        let blank = &rest[..rest.len() - rest.trim_start().len()];
        self.line += blank.matches('\n').count();
        self.at += blank.len();
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, offset: usize, kind: ParseErrorKind) -> ParseError {
        error_at(self.text, offset, kind)
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end().to_owned()
}
