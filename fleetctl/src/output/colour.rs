//! Colours, for people at a terminal only: what goes into a pipe or a file has no escape, byte for byte.
//!
//! `anstream` decides, by the conventions that other programs follow: `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE`, `TERM`.

use std::borrow::Cow;
use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    #[default]
    Auto,
    Always,
    Never,
}

/// What a word of a list means to whoever looks over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    /// On its way, or not known.
    Unsettled,
    Bad,
    Plain,
}

/// Takes the operator's word; said once, before anything is printed.
pub fn choose(when: When) {
    match when {
        When::Auto => ColorChoice::Auto,
        When::Always => ColorChoice::Always,
        When::Never => ColorChoice::Never,
    }
    .write_global();
}

/// Whether standard output takes colours.
pub fn is_on() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// The tone of a state, of systemd, of fleet or of a machine.
pub fn of_state(word: &str) -> Tone {
    match word {
        "failed" | "lost" | "refused" | "error" | "bad-setting" | "not-found" | "orphan" => Tone::Bad,
        "active" | "running" | "listening" | "mounted" | "plugged" | "launched" | "present" | "success" => {
            Tone::Good
        }
        "activating" | "deactivating" | "reloading" | "auto-restart" | "unknown" | "missing" | "expected"
        | "loading" | "starting" | "stopping" | "retrying" => Tone::Unsettled,
        _ => Tone::Plain,
    }
}

pub fn paint(text: &str, tone: Tone) -> Cow<'_, str> {
    let color = match tone {
        Tone::Plain => return Cow::Borrowed(text),
        Tone::Good => AnsiColor::Green,
        Tone::Unsettled => AnsiColor::Yellow,
        Tone::Bad => AnsiColor::Red,
    };
    let style = Style::new().fg_color(Some(color.into()));
    Cow::Owned(format!("{style}{text}{style:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_failed_is_red_and_what_says_nothing_stays_as_it_is() {
        assert_eq!(paint("failed", of_state("failed")), "\x1b[31mfailed\x1b[0m");
        assert_eq!(paint("inactive", of_state("inactive")), "inactive");
    }
}
