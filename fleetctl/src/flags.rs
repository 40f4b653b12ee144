//! Flags that several commands share, and how their values are read.

use std::time::Duration;

use clap::{Args, ValueEnum};

/// Default of `--timeout`.
const TIMEOUT: &str = "90s";
/// Length of one attempt in fleet 1.0, which `--block-attempts` counts.
const ATTEMPT: Duration = Duration::from_secs(2);

/// A boolean as Go's flag library reads it: `--flag` or `--flag=value`.
pub fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Far beyond every wait, and far below what a clock cannot add.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// `90s`, `2m30s`, or a plain number of seconds. Not zero: every wait ends, and `--no-block` is how not to wait.
pub fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().map(Duration::try_from_secs_f64);
    let read = match seconds {
        Some(read) => read.map_err(|error| error.to_string()),
        None => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }?;
    if read.is_zero() {
        Err("expected more than zero; use --no-block not to wait".to_owned())
    } else if read > LONGEST {
        Err("expected at most a year".to_owned())
    } else {
        Ok(read)
    }
}

/// Length of a machine id; anything shorter is the beginning of one.
pub const MACHINE_ID_LENGTH: usize = 32;

/// The beginning of a machine's id in what someone has typed or copied from a list: `1f0c44d2`, `1f0c44d2...`,
/// `1f0c44d2.../10.0.0.1`. None if it names no machine: nothing is the beginning of every id.
pub fn machine_beginning(text: &str) -> Option<&str> {
    let id = match text.split_once('/') {
        Some((id, _)) if id.is_empty() || id.ends_with("...") || id.len() >= MACHINE_ID_LENGTH => id,
        _ => text,
    };
    let id = id.trim_end_matches('.');
    (!id.is_empty()).then_some(id)
}

/// Where the text of a unit may come from.
#[derive(Args, Clone, Debug, Default)]
pub struct ContentFlags {
    /// Replace the stored unit if the local file differs.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub replace: bool,
    /// New content of a global unit reaches all machines at once, not one after the other.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub all_at_once: bool,
    /// Accepted and ignored, as in fleet 1.0.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, hide = true)]
    pub sign: bool,
}

/// How long to wait for the cluster.
#[derive(Args, Clone, Debug)]
pub struct WaitFlags {
    /// Do not wait; the cluster goes on by itself.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = go_bool, value_name = "BOOL", hide_default_value = true)]
    pub no_block: bool,
    /// Wait for N attempts of two seconds each; 0 leaves it to --timeout.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub block_attempts: u32,
    /// Wait at most this long (90s, 2m30s, or seconds), then exit with 4.
    #[arg(long, value_name = "TIME", value_parser = duration, help = format!("Wait at most this long (90s, 2m30s, or seconds), then exit with 4 [default: {TIMEOUT}]"))]
    pub timeout: Option<Duration>,
}

impl WaitFlags {
    /// How long to wait in all.
    pub fn limit(&self) -> Duration {
        let default = duration(TIMEOUT).expect("the default is a duration");
        match (self.block_attempts, self.timeout) {
            (0, timeout) => timeout.unwrap_or(default),
            (attempts, None) => ATTEMPT * attempts,
            (attempts, Some(timeout)) => timeout.min(ATTEMPT * attempts),
        }
    }
}

/// How commands print what is no list; lists have `output::list::Format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    #[default]
    #[value(alias = "table")]
    Text,
    Json,
}

#[derive(Args, Clone, Copy, Debug, Default)]
pub struct OutputFlag {
    /// How to print the result.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text", hide_default_value = true)]
    pub output: Form,
}

impl OutputFlag {
    pub fn is_json(self) -> bool {
        self.output == Form::Json
    }
}

/// What goes into the cluster's events.
#[derive(Args, Clone, Debug, Default)]
pub struct ReasonFlag {
    /// Why, in your words; shown by `fleetctl events`.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(attempts: u32, timeout: Option<u64>) -> WaitFlags {
        WaitFlags { no_block: false, block_attempts: attempts, timeout: timeout.map(Duration::from_secs) }
    }

    #[test]
    fn the_shorter_of_attempts_and_timeout_bounds_a_wait() {
        assert_eq!(flags(0, None).limit(), Duration::from_secs(90));
        assert_eq!(flags(0, Some(5)).limit(), Duration::from_secs(5));
        assert_eq!(flags(3, None).limit(), Duration::from_secs(6));
        assert_eq!(flags(100, None).limit(), Duration::from_secs(200));
        assert_eq!(flags(3, Some(4)).limit(), Duration::from_secs(4));
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m30s"), Ok(Duration::from_secs(150)));
        assert!(duration("0").is_err() && duration("-1").is_err() && duration("soon").is_err());
        assert!(duration("1e19").is_err() && duration("365d").is_ok());
    }

    #[test]
    fn machines_are_named_as_lists_show_them_and_nothing_names_none() {
        for text in ["1f0c44d2", "1f0c44d2...", "1f0c44d2.../10.0.0.1", "1f0c44d2.../fd00::1"] {
            assert_eq!(machine_beginning(text), Some("1f0c44d2"), "{text}");
        }
        let full = "1f0c44d2".repeat(4);
        assert_eq!(machine_beginning(&format!("{full}/10.0.0.1")), Some(full.as_str()));
        assert_eq!(machine_beginning("units/web"), Some("units/web"));
        for text in ["", "...", "/10.0.0.1", "/units/web"] {
            assert_eq!(machine_beginning(text), None, "{text}");
        }
    }

    #[test]
    fn booleans_are_read_as_go_reads_them() {
        assert_eq!((go_bool("T"), go_bool("0")), (Ok(true), Ok(false)));
        assert!(go_bool("yes").is_err());
    }
}
