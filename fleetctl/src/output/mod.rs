//! Everything that is printed goes through here: stdout for what was asked for, stderr for the rest.

pub mod colour;
pub mod json;
pub mod list;
pub mod order;
pub mod progress;
pub mod table;
pub mod watch;

use std::io::{self, Write};

use crate::exit::Exit;

/// One line of the result. Fails when the reader has gone, which ends the command.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    raw(format!("{}\n", text.as_ref()))
}

/// Text of the result as it is.
pub fn raw(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_ref())?;
    stdout.flush()
}

/// A line about the result. That nobody reads it changes nothing.
pub fn note(text: impl AsRef<str>) {
    let mut stderr = io::stderr().lock();
    let _unread = writeln!(stderr, "{}", text.as_ref());
}

/// A log line in the layout of fleet 1.0's client.
pub fn log_line(level: &str, file: &str, line: u32, text: &str) {
    let now = jiff::Timestamp::now().strftime("%Y/%m/%d %H:%M:%S");
    let file = file.rsplit('/').next().unwrap_or(file);
    note(format!("{now} {level} {file}:{line}: {text}"));
}

/// `log!("WARN", "text {}", value)`
macro_rules! log {
    ($level:literal, $($text:tt)+) => {
        $crate::output::log_line($level, file!(), line!(), &format!($($text)+))
    };
}
pub(crate) use log;

/// Prints what ended the command, if an error did.
pub fn finish(result: anyhow::Result<Exit>) -> Exit {
    let error = match result {
        Ok(exit) => return exit,
        Err(error) => error,
    };
    let closed =
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if closed {
        return Exit::OUTPUT_CLOSED;
    }
    note(format!("Error: {error:#}"));
    Exit::FAILED
}

/// A machine as lists show it: eight characters and the address, `-` if there is none.
pub fn machine_text(id: &str, ip: &str, full: bool) -> String {
    if id.is_empty() {
        return "-".to_owned();
    }
    let id = machine_id(id, full);
    if ip.is_empty() { id } else { format!("{id}/{ip}") }
}

/// Eight characters and `...`, or all of it.
pub fn machine_id(id: &str, full: bool) -> String {
    if full { id.to_owned() } else { format!("{}...", id.chars().take(8).collect::<String>()) }
}

pub fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// A point in time, in Unix milliseconds, as people read it; UTC.
pub fn time_text(ms: u64) -> String {
    let timestamp = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    timestamp.map_or_else(|| "-".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// How long ago a point in time was, by this machine's clock.
pub fn ago(ms: u64) -> String {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    span_text(now.saturating_sub(ms))
}

/// A length of time in its two largest units.
pub fn span_text(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_shown_with_eight_characters_and_their_address() {
        assert_eq!(machine_text("1111111111111111", "10.0.0.1", false), "11111111.../10.0.0.1");
        assert_eq!(machine_text("1111111111111111", "", false), "11111111...");
        assert_eq!(machine_text("m1", "10.0.0.1", false), "m1.../10.0.0.1");
        assert_eq!(machine_text("1111111111111111", "10.0.0.1", true), "1111111111111111/10.0.0.1");
        assert_eq!(machine_text("", "", false), "-");
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(time_text(1_700_000_000_123), "2023-11-14 22:13:20Z");
        assert_eq!((span_text(61_000), span_text(90_000_000)), ("1m1s".to_owned(), "1d1h".to_owned()));
    }
}
