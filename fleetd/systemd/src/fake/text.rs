//! What a unit text means to the fake: the few settings whose effect the agent can observe. Everything else
//! in a unit file is accepted and has no effect.

use std::time::Duration;

use unit_files::UnitFile;

use crate::types::UnitName;

/// `Restart=` as far as exit statuses matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    No,
    Always,
    OnSuccess,
    OnFailure,
}

impl Restart {
    pub(super) fn applies_to(self, status: i32) -> bool {
        match self {
            Self::No => false,
            Self::Always => true,
            Self::OnSuccess => status == 0,
            Self::OnFailure => status != 0,
        }
    }
}

/// When a unit counts as started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The job is done as soon as the process is forked; a missing binary shows later.
    Simple,
    /// The job is done when the program was executed.
    Exec,
    /// The job is done when the process says so (`notify`, `forking`, `dbus`).
    Notify,
    /// The job is done when the process has ended.
    Oneshot,
    /// No process: targets, timers, sockets and the like.
    Passive,
}

/// What the main process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    RunsOn,
    Exits { after: Duration, status: i32 },
    Missing,
}

/// Exit status systemd reports when the binary cannot be executed.
pub(super) const EXIT_EXEC: i32 = 203;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    pub kind: Kind,
    pub program: Program,
    pub remain_after_exit: bool,
    pub restart: Restart,
    pub restart_delay: Duration,
    /// `None` = no limit.
    pub start_timeout: Option<Duration>,
    pub stop_timeout: Duration,
    /// Time that `ExecStop=` takes.
    pub stop_takes: Duration,
    pub conditions_met: bool,
    pub assertions_met: bool,
    pub collects_failed: bool,
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(90);

impl Spec {
    /// Reads a text.
    ///
    /// # Errors
    /// What systemd would say beside `bad-setting`.
    pub(super) fn read(name: &UnitName, text: &str) -> Result<Self, String> {
        let file = &UnitFile::parse(text).map_err(|error| error.to_string())?;
        let is_service = name.as_str().ends_with(".service");
        let service = |key: &str| values(file, "Service", key).pop();
        let starts = values(file, "Service", "ExecStart");
        let kind = match service("Type").as_deref() {
            _ if !is_service => Kind::Passive,
            None if starts.is_empty() => Kind::Oneshot,
            None | Some("simple" | "idle" | "") => Kind::Simple,
            Some("exec") => Kind::Exec,
            Some("notify" | "notify-reload" | "forking" | "dbus") => Kind::Notify,
            Some("oneshot") => Kind::Oneshot,
            Some(other) => return Err(format!("Failed to parse service type: {other}")),
        };
        if is_service && starts.is_empty() {
            let has_other = service("ExecStop").is_some() || service("SuccessAction").is_some();
            if kind != Kind::Oneshot || !has_other {
                return Err("Service has no ExecStart=, ExecStop=, or SuccessAction=. Refusing.".to_owned());
            }
        }
        if starts.len() > 1 && kind != Kind::Oneshot {
            return Err(
                "Service has more than one ExecStart= setting, which is only allowed for Type=oneshot \
                        services. Refusing."
                    .to_owned(),
            );
        }
        let restart = match service("Restart").as_deref() {
            None | Some("no" | "") => Restart::No,
            Some("always") if kind != Kind::Oneshot => Restart::Always,
            Some("on-success") if kind != Kind::Oneshot => Restart::OnSuccess,
            Some("always" | "on-success") => {
                return Err(
                    "Service has Restart= set to either always or on-success, which isn't allowed for \
                            Type=oneshot services. Refusing."
                        .to_owned(),
                );
            }
            Some("on-failure") => Restart::OnFailure,
            // Only for signals, time-outs and watchdogs, which the fake's processes do not die of.
            Some(_) => Restart::No,
        };
        let default_start = (kind != Kind::Oneshot).then_some(DEFAULT_TIMEOUT);
        Ok(Self {
            kind,
            program: program(&starts, kind),
            remain_after_exit: service("RemainAfterExit").is_some_and(|v| is_true(&v)),
            restart,
            restart_delay: service("RestartSec").and_then(|v| span(&v)).unwrap_or(Duration::from_millis(100)),
            start_timeout: match service("TimeoutStartSec") {
                Some(value) => span(&value).filter(|limit| !limit.is_zero()),
                None => default_start,
            },
            stop_timeout: service("TimeoutStopSec").and_then(|v| span(&v)).unwrap_or(DEFAULT_TIMEOUT),
            stop_takes: match program(&values(file, "Service", "ExecStop"), Kind::Oneshot) {
                Program::Exits { after, .. } => after,
                Program::RunsOn => Duration::MAX,
                Program::Missing => Duration::ZERO,
            },
            conditions_met: checks(file, "ConditionPathExists"),
            assertions_met: checks(file, "AssertPathExists"),
            collects_failed: values(file, "Unit", "CollectMode").pop().as_deref()
                == Some("inactive-or-failed"),
        })
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "yes" | "true" | "1" | "on")
}

/// The fake's machine has every path except those under `/nonexistent`.
fn checks(file: &UnitFile, key: &str) -> bool {
    values(file, "Unit", key).iter().all(|value| {
        let (wanted, path) = value.strip_prefix('!').map_or((true, value.as_str()), |path| (false, path));
        path.starts_with("/nonexistent") != wanted
    })
}

/// The command lines one after the other; the first that fails or never ends decides.
fn program(starts: &[String], kind: Kind) -> Program {
    let mut total = Duration::ZERO;
    for line in starts {
        let command = line.trim_start_matches(['-', '@', ':', '+', '!']);
        let may_fail = line.starts_with('-');
        let mut words = command.split_whitespace();
        let binary = words.next().unwrap_or_default();
        if binary.starts_with("/nonexistent") {
            return Program::Missing;
        }
        match binary.rsplit('/').next().unwrap_or_default() {
            "true" | "echo" => {}
            "false" if may_fail => {}
            "false" => return Program::Exits { after: total, status: 1 },
            "sleep" => match words.next().and_then(span) {
                Some(time) => total += time,
                None => return Program::RunsOn,
            },
            _ if kind == Kind::Oneshot => {}
            _ => return Program::RunsOn,
        }
    }
    Program::Exits { after: total, status: 0 }
}

/// A time span such as `5`, `1.5`, `100ms`, `2min`; `None` for `infinity` and what is not understood.
fn span(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" | "hr" => 3600.0,
        _ => return None,
    };
    number.parse::<f64>().ok().and_then(|n| Duration::try_from_secs_f64(n * factor).ok())
}

/// All values of one key, an empty assignment clearing those before it, as systemd reads them.
fn values(file: &UnitFile, section: &str, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    for value in file.get(section, key) {
        match value {
            "" => found.clear(),
            value => found.push(value.to_owned()),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Spec, String> {
        Spec::read(&"a.service".parse().unwrap(), text)
    }

    #[test]
    fn service_without_program_is_refused() {
        assert!(read("[Service]\nType=simple\n").is_err());
        assert!(read("[Service]\nExecStop=/bin/true\n").is_ok());
    }

    #[test]
    fn missing_binary_and_failing_program_are_told_apart() {
        assert_eq!(read("[Service]\nExecStart=/nonexistent/x\n").unwrap().program, Program::Missing);
        let failing = Program::Exits { after: Duration::ZERO, status: 1 };
        assert_eq!(read("[Service]\nExecStart=/bin/false\n").unwrap().program, failing);
    }

    #[test]
    fn commands_of_a_oneshot_add_up() {
        let text = "[Service]\nType=oneshot\nExecStart=/bin/sleep 2\nExecStart=-/bin/false\nExecStart=/bin/sleep 500ms";
        let expected = Program::Exits { after: Duration::from_millis(2500), status: 0 };
        assert_eq!(read(text).unwrap().program, expected);
    }

    #[test]
    fn negated_condition_on_a_missing_path_is_met() {
        assert!(
            read("[Unit]\nConditionPathExists=!/nonexistent/x\n[Service]\nExecStart=/bin/true")
                .unwrap()
                .conditions_met
        );
        assert!(
            !read("[Unit]\nConditionPathExists=/nonexistent/x\n[Service]\nExecStart=/bin/true")
                .unwrap()
                .conditions_met
        );
    }
}
