//! `--watch`: a list is printed again when something in it has changed.
//!
//! On a terminal it is drawn in place. Elsewhere each print stands for itself, behind an empty line; documents for
//! programs stand one a line.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use clap::Args;

use crate::flags::go_bool;
use crate::output;

#[derive(Args, Clone, Copy, Debug, Default)]
pub struct WatchFlag {
    /// Print the list again whenever something in it changes, until Ctrl-C.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Terminal,
    /// For whoever reads lines.
    Pipe,
    /// One document a line.
    Documents,
}

/// Where the list is shown.
#[derive(Debug)]
pub struct Screen {
    place: Place,
    /// What stands there.
    shown: Option<String>,
}

impl Screen {
    pub fn new(has_documents: bool) -> Screen {
        let place = match has_documents {
            true => Place::Documents,
            false if io::stdout().is_terminal() => Place::Terminal,
            false => Place::Pipe,
        };
        Screen { place, shown: None }
    }

    pub fn is_empty(&self) -> bool {
        self.shown.is_none()
    }

    /// Shows the list, unless it stands there already.
    pub fn show(&mut self, text: String) -> io::Result<()> {
        if self.shown.as_ref() == Some(&text) {
            return Ok(());
        }
        let is_first = self.shown.is_none();
        match self.place {
            Place::Terminal => output::raw(frame(&text, is_first, height()))?,
            Place::Pipe if !is_first => output::raw(format!("\n{text}"))?,
            Place::Pipe | Place::Documents => output::raw(&text)?,
        }
        self.shown = Some(text);
        Ok(())
    }

    /// Says something about the list; on a terminal it stands below until the list is drawn again.
    pub fn note(&mut self, text: &str) {
        output::note(text);
        if self.place == Place::Terminal {
            // So that it is.
            self.shown = self.shown.take().map(|_| String::new());
        }
    }
}

/// The text over what stood there. Lines end at the terminal's edge, so that each takes one of its own.
fn frame(text: &str, is_first: bool, height: usize) -> String {
    let mut frame = String::from(if is_first { "\x1b[2J\x1b[H\x1b[?7l" } else { "\x1b[H\x1b[?7l" });
    let lines: Vec<&str> = text.lines().collect();
    // The cursor needs a line too.
    let room = height.saturating_sub(1).max(2);
    let shown = if lines.len() > room { room - 1 } else { lines.len() };
    for line in &lines[..shown] {
        let _infallible = writeln!(frame, "{line}\x1b[K");
    }
    if lines.len() > shown {
        let _infallible = writeln!(frame, "and {} more\x1b[K", lines.len() - shown);
    }
    frame.push_str("\x1b[J\x1b[?7h");
    frame
}

fn height() -> usize {
    terminal_size::terminal_size_of(io::stdout())
        .map_or(24, |(_, terminal_size::Height(rows))| usize::from(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_drawn_over_the_one_before_and_cut_where_the_terminal_ends() {
        assert_eq!(frame("A\nb\n", true, 24), "\x1b[2J\x1b[H\x1b[?7lA\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
        let text: String = (0..30).map(|number| format!("u{number}\n")).collect();
        let drawn = frame(&text, false, 10);
        assert!(drawn.starts_with("\x1b[H\x1b[?7lu0\x1b[K\n") && !drawn.contains("2J"), "{drawn:?}");
        assert!(drawn.contains("u7\x1b[K\nand 22 more\x1b[K\n\x1b[J"), "{drawn:?}");
        assert_eq!(drawn.lines().count(), 10);
    }
}
