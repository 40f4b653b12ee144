//! What ends an agent. Everything else is reported in rows and in its status, and tried again.

use std::path::PathBuf;

use fleet_core::records::READS;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot {operation} {}: {source}; check that the state directory exists and can be written", path.display())]
    Disk { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is in use by another fleetd; stop that one, or set `state_directory` to another path", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{}, line {line}: a record with schema {schema}, this fleetd reads up to {READS}; install the newer fleetd again. \
         The way back is one release at a time",
        path.display()
    )]
    Newer { path: PathBuf, line: usize, schema: u32 },
    #[error("systemd gave a boot id that is none ({text:?})")]
    BootId { text: String },
    #[error("the events of systemd have ended; fleetd cannot see what happens to units")]
    EventsEnded,
}
