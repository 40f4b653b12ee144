//! The live view on a terminal: one line per unit that is waited for, with what it waits for.
//!
//! Drawn on stderr below what is printed; taken away before each line of the result and at the end. Elsewhere than on a
//! terminal nothing of this is printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// More lines would push the result out of sight.
const MOST_LINES: usize = 12;

#[derive(Debug)]
pub struct Live {
    is_on: bool,
    /// Pending units and what they wait for.
    waiting: BTreeMap<String, String>,
    drawn: usize,
}

impl Live {
    /// On if both outputs are terminals and the result is for people.
    pub fn new(for_people: bool) -> Live {
        let is_on = for_people && io::stderr().is_terminal() && io::stdout().is_terminal();
        Live { is_on, waiting: BTreeMap::new(), drawn: 0 }
    }

    pub fn set(&mut self, unit: &str, text: String) {
        self.waiting.insert(unit.to_owned(), text);
    }

    pub fn remove(&mut self, unit: &str) {
        self.waiting.remove(unit);
    }

    pub fn clear(&mut self) {
        if self.is_on && self.drawn > 0 {
            show(&format!("\x1b[{}A\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }

    pub fn draw(&mut self) {
        if !self.is_on {
            return;
        }
        self.clear();
        let text = block(&self.waiting, width());
        self.drawn = text.lines().count();
        show(&text);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.clear();
    }
}

fn show(text: &str) {
    let mut stderr = io::stderr().lock();
    // A terminal that went away shows nothing; the result is not affected.
    let _unread = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Lines are cut at the width, so that one line of text is one line of the screen.
fn block(waiting: &BTreeMap<String, String>, width: usize) -> String {
    let mut out = String::new();
    let shown = if waiting.len() > MOST_LINES { MOST_LINES - 1 } else { waiting.len() };
    for (unit, text) in waiting.iter().take(shown) {
        let line: String = format!("{unit}: {text}")
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(width)
            .collect();
        let _infallible = writeln!(out, "{line}");
    }
    if waiting.len() > shown {
        let _infallible = writeln!(out, "and {} more", waiting.len() - shown);
    }
    out
}

/// Columns of the terminal, less one: a full line would wrap on some.
fn width() -> usize {
    let size = terminal_size::terminal_size_of(io::stderr());
    size.map_or(80, |(terminal_size::Width(columns), _)| usize::from(columns)).max(2) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_units_are_cut_to_what_fits_and_the_rest_is_counted() {
        let waiting: BTreeMap<String, String> =
            (0..30).map(|n| (format!("u{n:02}.service"), "starting\non m".to_owned())).collect();
        let text = block(&waiting, 20);
        assert_eq!(text.lines().count(), MOST_LINES);
        assert!(text.starts_with("u00.service: startin\n"));
        assert!(text.ends_with("and 19 more\n"));
    }
}
