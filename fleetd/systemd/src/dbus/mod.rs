//! systemd over D-Bus. The agent's real `Systemd`; also driven from outside a machine by the tests, which
//! point it at the machine's bus socket and file tree.

mod bus;
mod inspect;
mod pin;
mod signals;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, task::JoinHandle};
use zbus::OwnedObjectPath;

use crate::{
    Systemd,
    dbus::{
        bus::{About, Bus, MANAGER, MANAGER_PATH, TO_MANAGER, UNIT},
        pin::Pins,
    },
    error::SystemdError,
    events::{EventSender, Events},
    files::{InstallLinks, UnitFiles},
    shadow,
    types::{
        CALL_TIMEOUT, Environment, Install, InstalledUnit, JobId, LoadState, Shadow, ShadowKind, UnitDetail,
        UnitName, UnitStatus,
    },
};

/// Where systemd and its files are.
#[derive(Debug, Clone)]
pub struct Options {
    /// D-Bus address; `None` = the system bus.
    pub bus_address: Option<String>,
    /// The machine's file tree as seen from here; `/` unless it is another machine's.
    pub root: PathBuf,
    /// Where unit texts are written, as seen on the machine.
    pub units_directory: PathBuf,
    /// The unit directory that gets links, drop-ins and pins, as seen on the machine.
    pub link_directory: PathBuf,
    /// Time-out of one call.
    pub call_timeout: Duration,
    /// Calls in flight at most. The bus drops a connection with more than 128 pending replies.
    pub in_flight: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bus_address: None,
            root: "/".into(),
            units_directory: "/run/fleet/units".into(),
            link_directory: "/run/systemd/system".into(),
            call_timeout: CALL_TIMEOUT,
            in_flight: 64,
        }
    }
}

/// The real systemd of one machine. Reconnects by itself; dropping it ends its task.
#[derive(Debug)]
pub struct DbusSystemd {
    bus: Bus,
    files: UnitFiles,
    events: EventSender,
    /// systemd's search path, with the number of the `Resync` after which it was read: it changes by reloads.
    unit_path: Mutex<Option<(u64, Vec<PathBuf>)>>,
    /// A group of pins is split by one caller at a time: two would each keep what the other lets go.
    pinning: tokio::sync::Mutex<()>,
    keeper: JoinHandle<()>,
}

impl Drop for DbusSystemd {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl DbusSystemd {
    /// Connects and subscribes. Later losses of the connection are repaired by itself.
    ///
    /// # Errors
    /// `Disconnected` or `TimedOut` when there is no bus or systemd does not answer, `AccessDenied`.
    pub async fn connect(options: Options) -> Result<Self, SystemdError> {
        let Options { bus_address, root, units_directory, link_directory, call_timeout, in_flight } = options;
        let first = signals::open(bus_address.as_deref(), call_timeout).await?;
        let (sender, current) = watch::channel(Some(first.0.clone()));
        let events = EventSender::new();
        let keeper = tokio::spawn(signals::keep(first, bus_address, call_timeout, sender, events.clone()));
        Ok(Self {
            bus: Bus::new(current, in_flight, call_timeout),
            files: UnitFiles { root, units_directory, link_directory },
            events,
            unit_path: Mutex::new(None),
            pinning: tokio::sync::Mutex::new(()),
            keeper,
        })
    }

    fn pins(&self) -> Pins<'_> {
        Pins { bus: &self.bus, files: &self.files, events: &self.events }
    }

    /// Runs file work off the async threads. On a tmpfs it takes well under a millisecond.
    async fn on_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&UnitFiles) -> Result<T, SystemdError> + Send + 'static,
    ) -> Result<T, SystemdError> {
        let files = self.files.clone();
        let done = tokio::task::spawn_blocking(move || work(&files)).await;
        done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    async fn unit_path(&self, about: About<'_>) -> Result<Vec<PathBuf>, SystemdError> {
        let now = self.events.resyncs();
        let cached = self.unit_path.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((read_after, path)) = cached
            && read_after == now
        {
            return Ok(path);
        }
        let path: Vec<String> = self.bus.get(about, MANAGER_PATH, MANAGER, "UnitPath").await?;
        let path: Vec<PathBuf> = path.into_iter().map(PathBuf::from).collect();
        *self.unit_path.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, path.clone()));
        Ok(path)
    }

    /// What systemd has loaded under the name, if it is not ours.
    async fn foreign(&self, unit: &UnitName, name: &str) -> Result<Option<Shadow>, SystemdError> {
        let about = About::unit("check the name", unit);
        let Some(path) = self.bus.loaded_path(about, name).await? else { return Ok(None) };
        let get = |property| self.bus.get::<String>(about, path.as_str(), UNIT, property);
        let (id, load, fragment) = tokio::try_join!(get("Id"), get("LoadState"), get("FragmentPath"))?;
        let fragment = PathBuf::from(fragment);
        if name != unit.as_str() && id == unit.as_str() && self.files.is_our_fragment(&fragment, &id) {
            // An alias of this very unit, which somebody has enabled.
            return Ok(None);
        }
        let kind = if id != name {
            ShadowKind::Alias
        } else if LoadState::from(load.as_str()) == LoadState::Loaded
            && !self.files.is_our_fragment(&fragment, name)
        {
            ShadowKind::Loaded
        } else {
            return Ok(None);
        };
        Ok(Some(Shadow { kind, name: name.to_owned(), path: fragment }))
    }
}

#[async_trait]
impl Systemd for DbusSystemd {
    async fn list(&self, names: &[UnitName]) -> Result<Vec<UnitStatus>, SystemdError> {
        inspect::list(&self.bus, names).await
    }

    async fn inspect(&self, name: &UnitName) -> Result<Option<UnitDetail>, SystemdError> {
        let Some(mut detail) = inspect::inspect(&self.bus, name).await? else { return Ok(None) };
        // systemd names the link, which would also be the path of a file of the host in the same directory.
        let link = PathBuf::from(&detail.fragment_path);
        if link.parent() == Some(&self.files.link_directory) {
            let has_marker = detail.loaded_run_hash.is_some();
            let resolved = self.on_files(move |files| Ok(files.resolve(&link, has_marker))).await?;
            if let Some(text) = resolved {
                detail.fragment_path = text.display().to_string();
            }
        }
        Ok(Some(detail))
    }

    async fn start(&self, name: &UnitName) -> Result<JobId, SystemdError> {
        let about = About::unit("start", name);
        let path: OwnedObjectPath =
            self.bus.call(about, TO_MANAGER, "StartUnit", &(name.as_str(), "fail")).await?;
        job_of(about, &path)
    }

    async fn stop(&self, name: &UnitName) -> Result<Option<JobId>, SystemdError> {
        let about = About::unit("stop", name);
        // `StopUnit` alone would load a unit that is only on disk.
        if self.bus.loaded_path(about, name.as_str()).await?.is_none() {
            return Ok(None);
        }
        let stopped: Result<OwnedObjectPath, _> =
            self.bus.call(about, TO_MANAGER, "StopUnit", &(name.as_str(), "replace")).await;
        match stopped {
            Ok(path) => job_of(about, &path).map(Some),
            Err(SystemdError::NoSuchUnit { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn reset_failed(&self, name: &UnitName) -> Result<(), SystemdError> {
        let about = About::unit("reset failed", name);
        match self.bus.call(about, TO_MANAGER, "ResetFailedUnit", &(name.as_str(),)).await {
            Err(SystemdError::NoSuchUnit { .. }) => Ok(()),
            other => other,
        }
    }

    async fn reload(&self) -> Result<(), SystemdError> {
        self.bus.call(About::machine("daemon-reload"), TO_MANAGER, "Reload", &()).await
    }

    async fn pin(&self, names: &[UnitName]) -> Result<(), SystemdError> {
        let _one_at_a_time = self.pinning.lock().await;
        self.pins().pin(names).await
    }

    async fn unpin(&self, names: &[UnitName]) -> Result<(), SystemdError> {
        let _one_at_a_time = self.pinning.lock().await;
        self.pins().unpin(names).await
    }

    async fn pinned(&self) -> Result<Vec<UnitName>, SystemdError> {
        self.pins().pinned().await
    }

    async fn install(&self, unit: &Install) -> Result<(), SystemdError> {
        let unit = unit.clone();
        self.on_files(move |files| files.install(&unit)).await
    }

    async fn uninstall(&self, name: &UnitName) -> Result<(), SystemdError> {
        let name = name.clone();
        self.on_files(move |files| files.uninstall(&name)).await
    }

    async fn unread_links(&self) -> Result<Vec<String>, SystemdError> {
        let about = About::machine("look for unread links");
        let mut unread = Vec::new();
        for links in self.on_files(UnitFiles::install_links).await? {
            let InstallLinks { by, kind, names } = links;
            let Some(path) = self.bus.loaded_path(about, &by).await? else { continue };
            let property = if kind == "wants" { "Wants" } else { "Requires" };
            let load: String = self.bus.get(about, path.as_str(), UNIT, "LoadState").await?;
            if LoadState::from(load.as_str()) != LoadState::Loaded {
                continue;
            }
            let read: Vec<String> = self.bus.get(about, path.as_str(), UNIT, property).await?;
            let is_read = |name: &String| read.contains(name);
            unread.extend(
                names.into_iter().filter(|name| !is_read(name)).map(|name| format!("{by}.{kind}/{name}")),
            );
        }
        unread.sort();
        Ok(unread)
    }

    async fn installed(&self) -> Result<Vec<InstalledUnit>, SystemdError> {
        self.on_files(UnitFiles::installed).await
    }

    async fn shadowed(&self, name: &UnitName, aliases: &[String]) -> Result<Option<Shadow>, SystemdError> {
        let about = About::unit("check the name", name);
        let unit_path = self.unit_path(about).await?;
        let owned = (name.clone(), aliases.to_vec());
        let on_disk = move |files: &UnitFiles| shadow::on_disk(files, &unit_path, &owned.0, &owned.1);
        if let Some(shadow) = self.on_files(on_disk).await? {
            return Ok(Some(shadow));
        }
        for taken in std::iter::once(name.as_str()).chain(aliases.iter().map(String::as_str)) {
            if let Some(shadow) = self.foreign(name, taken).await? {
                return Ok(Some(shadow));
            }
        }
        Ok(None)
    }

    fn events(&self) -> Events {
        self.events.subscribe()
    }

    async fn environment(&self) -> Result<Environment, SystemdError> {
        let about = About::machine("read environment");
        let version = self.bus.get(about, MANAGER_PATH, MANAGER, "Version").await?;
        // When this systemd began to run units. A service whose /proc/sys is protected sees the host's boot id in a
        // container, which then outlives the container's boots, and a soft reboot keeps the kernel's; a re-execution
        // keeps both.
        let since: u64 = self.bus.get(about, MANAGER_PATH, MANAGER, "UserspaceTimestamp").await?;
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = fs::read_to_string(self.files.real(path))
            .map_err(|error| SystemdError::file("read", path, error))?;
        Ok(Environment { boot_id: format!("{}-{since:x}", boot_id.trim().replace('-', "")), version })
    }
}

fn job_of(about: About<'_>, path: &OwnedObjectPath) -> Result<JobId, SystemdError> {
    signals::job_of_path(path.as_str()).ok_or_else(|| SystemdError::Malformed {
        operation: about.operation,
        message: format!("{} is not a job", path.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(socket: &Path) -> Options {
        Options {
            bus_address: Some(format!("unix:path={}", socket.display())),
            call_timeout: Duration::from_millis(200),
            ..Options::default()
        }
    }

    #[tokio::test]
    async fn missing_bus_is_an_error_at_once() {
        let answer = DbusSystemd::connect(options(Path::new("/nonexistent/bus"))).await;
        assert!(matches!(answer, Err(SystemdError::Disconnected { .. })), "{answer:?}");
    }

    #[tokio::test]
    async fn bus_that_never_answers_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let answer = DbusSystemd::connect(options(&socket)).await;
        assert!(matches!(answer, Err(SystemdError::TimedOut { .. })), "{answer:?}");
        drop(listener);
    }
}
