//! Reads units: many in one call, or one in full by single `Get`s (`GetAll` costs PID 1 a hundred times as
//! much, because it looks up the enablement state on disk).

use serde::Deserialize;
use zbus::{OwnedObjectPath, OwnedVariant, Type};

use crate::{
    dbus::bus::{About, Bus, TO_MANAGER, UNIT},
    error::SystemdError,
    files::MARKER,
    types::{InvocationId, JobId, JobStatus, RunHash, UnitDetail, UnitName, UnitStatus},
};

/// Above this many names it is cheaper for PID 1 to list everything than to match each unit with each name.
const MOST_PATTERNS: usize = 16;
/// Reads of a unit that changes all the time are given up after this many.
const MOST_READS: usize = 4;

#[derive(Debug, Deserialize, Type)]
pub(super) struct Row {
    pub name: String,
    _description: String,
    pub load: String,
    pub active: String,
    pub sub: String,
    pub following: String,
    pub path: OwnedObjectPath,
    job: u32,
    job_kind: String,
    _job_path: OwnedObjectPath,
}

impl Row {
    pub(super) fn is_starting_or_active(&self) -> bool {
        self.active == "active" || (self.job != 0 && self.job_kind == "start")
    }
}

/// Loaded units whose names match one of the patterns; all loaded units for no pattern.
pub(super) async fn rows(bus: &Bus, patterns: &[String]) -> Result<Vec<Row>, SystemdError> {
    let about = About::machine("list units");
    let no_states: [&str; 0] = [];
    bus.call(about, TO_MANAGER, "ListUnitsByPatterns", &(&no_states[..], patterns)).await
}

pub(super) async fn list(bus: &Bus, names: &[UnitName]) -> Result<Vec<UnitStatus>, SystemdError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let patterns: Vec<String> = if names.len() <= MOST_PATTERNS {
        // systemd matches with FNM_NOESCAPE, so a name is its own pattern.
        names.iter().map(UnitName::to_string).collect()
    } else {
        Vec::new()
    };
    let wanted: std::collections::HashSet<&str> = names.iter().map(UnitName::as_str).collect();
    let rows = rows(bus, &patterns).await?;
    Ok(rows.into_iter().filter(|row| wanted.contains(row.name.as_str())).filter_map(status).collect())
}

fn status(row: Row) -> Option<UnitStatus> {
    Some(UnitStatus {
        name: row.name.parse().ok()?,
        load: row.load.as_str().into(),
        active: row.active.as_str().into(),
        sub: row.sub,
        job: (row.job != 0).then_some(JobStatus { id: JobId(row.job), kind: row.job_kind }),
        following: (!row.following.is_empty()).then_some(row.following),
    })
}

/// Reads until a picture is consistent: the time of the last state change is the same before and after.
pub(super) async fn inspect(bus: &Bus, name: &UnitName) -> Result<Option<UnitDetail>, SystemdError> {
    let about = About::unit("read unit", name);
    let mut last = None;
    for _ in 0..MOST_READS {
        let Some(path) = bus.loaded_path(about, name.as_str()).await? else { return Ok(None) };
        let (detail, is_consistent) = match read(bus, about, path.as_str(), name).await {
            Ok(read) => read,
            Err(SystemdError::NoSuchUnit { .. }) => continue,
            Err(error) => return Err(error),
        };
        // A unit that was unloaded just after `GetUnit` is loaded anew by the `Get`s and looks as if it had
        // never run; systemd unloads it again at once, and the next round sees that.
        let may_be_fresh = detail.active.is_at_rest() && detail.state_change == 0;
        if is_consistent && (!may_be_fresh || last.as_ref() == Some(&detail)) {
            return Ok(Some(detail));
        }
        last = Some(detail);
    }
    Ok(last)
}

async fn read(
    bus: &Bus,
    about: About<'_>,
    path: &str,
    name: &UnitName,
) -> Result<(UnitDetail, bool), SystemdError> {
    let unit = Properties { bus, about, path, interface: UNIT };
    let kind = name.unit_type().as_str();
    let own = Properties { interface: interface_of(kind), ..unit };
    // Each `Get` is a message of its own, all under way at once; PID 1 answers in order.
    let (before, state, identity, conditions, process, after) = tokio::try_join!(
        unit.get::<u64>("StateChangeTimestampMonotonic"),
        async {
            tokio::try_join!(
                unit.get::<String>("LoadState"),
                unit.get::<String>("ActiveState"),
                unit.get::<String>("SubState"),
                unit.get::<u64>("ActiveEnterTimestampMonotonic"),
                unit.get::<u64>("StateChangeTimestamp"),
            )
        },
        async {
            tokio::try_join!(
                unit.get::<String>("Id"),
                unit.get::<Vec<u8>>("InvocationID"),
                unit.get::<String>("FragmentPath"),
                unit.get::<bool>("NeedDaemonReload"),
                unit.get::<Vec<String>>("Documentation"),
            )
        },
        async {
            tokio::try_join!(unit.get::<bool>("ConditionResult"), unit.get::<u64>("ConditionTimestamp"))
        },
        own.process(kind),
        unit.get::<u64>("StateChangeTimestampMonotonic"),
    )?;
    let (load, active, sub, active_enter_monotonic, state_change) = state;
    let (id, invocation, fragment_path, need_daemon_reload, documentation) = identity;
    let detail = UnitDetail {
        id,
        load: load.as_str().into(),
        active: active.as_str().into(),
        sub,
        result: process.result,
        invocation_id: <[u8; 16]>::try_from(invocation).ok().filter(|id| *id != [0; 16]).map(InvocationId),
        condition_result: conditions.0,
        condition_timestamp: conditions.1,
        fragment_path,
        exec_main_status: process.status,
        exec_main_code: process.code,
        n_restarts: process.restarts,
        main_pid: process.main_pid,
        control_group: process.control_group,
        active_enter_monotonic,
        state_change,
        need_daemon_reload,
        loaded_run_hash: run_hash(&documentation),
    };
    Ok((detail, before == after))
}

/// The last marker counts: our drop-in is read after the text.
fn run_hash(documentation: &[String]) -> Option<RunHash> {
    documentation.iter().rev().find_map(|link| link.strip_prefix(MARKER))?.parse().ok()
}

fn interface_of(kind: &str) -> &'static str {
    match kind {
        "service" => "org.freedesktop.systemd1.Service",
        "socket" => "org.freedesktop.systemd1.Socket",
        "timer" => "org.freedesktop.systemd1.Timer",
        "path" => "org.freedesktop.systemd1.Path",
        "mount" => "org.freedesktop.systemd1.Mount",
        "automount" => "org.freedesktop.systemd1.Automount",
        "swap" => "org.freedesktop.systemd1.Swap",
        "scope" => "org.freedesktop.systemd1.Scope",
        _ => "",
    }
}

/// What only some types of unit have.
#[derive(Debug, Default)]
struct Process {
    result: String,
    status: i32,
    code: i32,
    restarts: u32,
    main_pid: u32,
    control_group: String,
}

#[derive(Debug, Clone, Copy)]
struct Properties<'a> {
    bus: &'a Bus,
    about: About<'a>,
    path: &'a str,
    interface: &'static str,
}

impl Properties<'_> {
    async fn get<T>(&self, property: &'static str) -> Result<T, SystemdError>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: std::fmt::Display,
    {
        self.bus.get(self.about, self.path, self.interface, property).await
    }

    async fn process(&self, kind: &str) -> Result<Process, SystemdError> {
        match kind {
            "service" => {
                let (result, status, code, restarts, main_pid, control_group) = tokio::try_join!(
                    self.get::<String>("Result"),
                    self.get::<i32>("ExecMainStatus"),
                    self.get::<i32>("ExecMainCode"),
                    self.get::<u32>("NRestarts"),
                    self.get::<u32>("MainPID"),
                    self.get::<String>("ControlGroup"),
                )?;
                Ok(Process { result, status, code, restarts, main_pid, control_group })
            }
            "socket" | "mount" | "swap" | "scope" => {
                let (result, control_group) =
                    tokio::try_join!(self.get::<String>("Result"), self.get::<String>("ControlGroup"))?;
                Ok(Process { result, control_group, ..Process::default() })
            }
            "timer" | "path" | "automount" => {
                Ok(Process { result: self.get("Result").await?, ..Process::default() })
            }
            _ => Ok(Process { result: "success".to_owned(), ..Process::default() }),
        }
    }
}
