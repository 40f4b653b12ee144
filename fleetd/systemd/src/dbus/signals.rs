//! Keeps a connection alive and turns systemd's signals into events. One task; it always drains the
//! connection, because a stream that nobody reads stops all calls, and so it never awaits a call itself.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use rand::RngExt as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use zbus::{
    Connection, MessageStream, ObjectPath, OwnedObjectPath, Variant,
    connection::Builder,
    message::{Body, Message, Type},
};

use crate::{
    dbus::bus::{About, BUS, BUS_PATH, MANAGER, PROPERTIES, SYSTEMD, TO_MANAGER, Target, call_on, translate},
    error::SystemdError,
    events::EventSender,
    types::{JobId, SystemdEvent, UnitState},
};

const UNIT_PATHS: &str = "/org/freedesktop/systemd1/unit/";
const JOB_PATHS: &str = "/org/freedesktop/systemd1/job/";

/// Only what is read below. The `arg0` of the last one drops a third of the property signals.
const MATCH_RULES: [&str; 5] = [
    "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='org.freedesktop.systemd1'",
    "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='Reloading'",
    "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
    "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='UnitRemoved'",
    "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.DBus.Properties',\
     member='PropertiesChanged',path_namespace='/org/freedesktop/systemd1/unit',arg0='org.freedesktop.systemd1.Unit'",
];

/// Pause before the first attempt to reconnect; socket activation brings a bus back within 0.1 s.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Connects, subscribes, and returns a connection whose signals are already on their way into the stream.
pub(super) async fn open(
    address: Option<&str>,
    limit: Duration,
) -> Result<(Connection, MessageStream), SystemdError> {
    let about = About::machine("connecting to systemd");
    let attempt = async {
        let builder = address.map_or_else(Builder::system, Builder::address);
        let connection = builder.build().await?;
        let stream = MessageStream::from(&connection);
        // Replies land in the stream too; it is drained while these calls wait for theirs.
        let (subscribed, stream) = drain_while(subscribe(&connection), stream).await;
        subscribed?;
        zbus::Result::Ok((connection, stream))
    };
    match timeout(limit, attempt).await {
        Ok(opened) => opened.map_err(|error| translate(about, error)),
        Err(_) => Err(SystemdError::TimedOut { operation: about.operation, after: limit }),
    }
}

/// Runs `work` and throws away what arrives meanwhile: the caller lists everything afterwards anyway.
async fn drain_while<T>(work: impl Future<Output = T>, mut stream: MessageStream) -> (T, MessageStream) {
    tokio::pin!(work);
    loop {
        tokio::select! {
            // Cancel safe: `next` takes a message out of the queue only when it returns it.
            done = &mut work => return (done, stream),
            message = stream.next() => if message.is_none() { return (work.await, stream) },
        }
    }
}

async fn subscribe(connection: &Connection) -> zbus::Result<()> {
    let to_bus = Target { destination: BUS, path: BUS_PATH, interface: BUS };
    for rule in MATCH_RULES {
        call_on(connection, to_bus, "AddMatch", &(rule,)).await?;
    }
    match call_on(connection, TO_MANAGER, "Subscribe", &()).await {
        Err(zbus::Error::MethodError(name, ..)) if name.as_str().ends_with(".AlreadySubscribed") => Ok(()),
        other => other.map(drop),
    }
}

/// The task: reads one connection to its end, then opens the next, for ever. Ends when it is aborted.
pub(super) async fn keep(
    first: (Connection, MessageStream),
    address: Option<String>,
    limit: Duration,
    current: watch::Sender<Option<Connection>>,
    events: EventSender,
) {
    let (mut connection, mut stream) = first;
    loop {
        current.send_replace(Some(connection.clone()));
        events.send(SystemdEvent::Resync);
        read(&connection, stream, &events).await;
        current.send_replace(None);
        events.send(SystemdEvent::Disconnected);
        tracing::warn!("connection to systemd lost");
        drop(connection);
        (connection, stream) = reopen(address.as_deref(), limit).await;
        tracing::info!("connected to systemd again");
    }
}

async fn reopen(address: Option<&str>, limit: Duration) -> (Connection, MessageStream) {
    let mut pause = FIRST_PAUSE;
    loop {
        let jitter = rand::rng().random_range(0.75..1.25);
        sleep(pause.mul_f64(jitter)).await;
        match open(address, limit).await {
            Ok(opened) => return opened,
            Err(error) => tracing::debug!(%error, "no connection to systemd yet"),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn read(connection: &Connection, mut stream: MessageStream, events: &EventSender) {
    let mut is_reloading = false;
    while let Some(message) = stream.next().await {
        let Ok(message) = message else { return };
        if message.message_type() != Type::Signal {
            continue;
        }
        match classify(&message) {
            Some(Signal::Event(event)) => events.send(event),
            // Between the two `Reloading` signals every unit is reported as removed; none is.
            Some(Signal::UnitRemoved(unit)) if !is_reloading => {
                events.send(SystemdEvent::UnitChanged { unit, state: None });
            }
            Some(Signal::Reloading(active)) => {
                is_reloading = active;
                if !active {
                    events.send(SystemdEvent::Resync);
                }
            }
            Some(Signal::NewOwner) => {
                is_reloading = false;
                let connection = connection.clone();
                let events = events.clone();
                tokio::spawn(async move {
                    // Survives a re-execution; asked for again because nothing promises it.
                    if let Err(error) = call_on(&connection, TO_MANAGER, "Subscribe", &()).await {
                        tracing::debug!(%error, "subscribing anew");
                    }
                    events.send(SystemdEvent::Resync);
                });
            }
            Some(Signal::UnitRemoved(_)) | None => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Signal {
    Event(SystemdEvent),
    UnitRemoved(String),
    Reloading(bool),
    NewOwner,
}

fn classify(message: &Message) -> Option<Signal> {
    let header = message.header();
    let body = message.body();
    match (header.interface()?.as_str(), header.member()?.as_str()) {
        (PROPERTIES, "PropertiesChanged") => {
            let unit = unit_of_path(header.path()?.as_str())?;
            Some(Signal::Event(SystemdEvent::UnitChanged { unit, state: told_state(&body) }))
        }
        (MANAGER, "JobRemoved") => {
            let (id, _, unit, result): (u32, OwnedObjectPath, String, String) = body.deserialize().ok()?;
            let (job, result) = (JobId(id), result.as_str().into());
            Some(Signal::Event(SystemdEvent::JobRemoved { job, unit, result }))
        }
        (MANAGER, "UnitRemoved") => {
            let (unit, _): (String, OwnedObjectPath) = body.deserialize().ok()?;
            Some(Signal::UnitRemoved(unit))
        }
        (MANAGER, "Reloading") => body.deserialize().ok().map(Signal::Reloading),
        (BUS, "NameOwnerChanged") => {
            let (name, _, new): (String, String, String) = body.deserialize().ok()?;
            (name == SYSTEMD && !new.is_empty()).then_some(Signal::NewOwner)
        }
        _ => None,
    }
}

/// The state in a signal of changed properties, if it tells all of it and no job is queued.
fn told_state(body: &Body) -> Option<UnitState> {
    let (_, mut changed, _): (&str, HashMap<&str, Variant<'_>>, Vec<&str>) = body.deserialize().ok()?;
    let (job, _) = <(u32, ObjectPath<'_>)>::try_from(changed.remove("Job")?).ok()?;
    let active = String::try_from(changed.remove("ActiveState")?).ok()?;
    let sub = String::try_from(changed.remove("SubState")?).ok()?;
    let state_change = u64::try_from(changed.remove("StateChangeTimestamp")?).ok()?;
    (job == 0).then(|| UnitState { active: active.as_str().into(), sub, state_change })
}

/// `a@1.service` for `…/unit/a_401_2eservice`.
fn unit_of_path(path: &str) -> Option<String> {
    let label = path.strip_prefix(UNIT_PATHS)?;
    let mut name = Vec::with_capacity(label.len());
    let mut rest = label.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'_' && tail.len() >= 2 {
            let digits = std::str::from_utf8(&tail[..2]).ok()?;
            name.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            name.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(name).ok()
}

/// The number at the end of a job's path.
pub(super) fn job_of_path(path: &str) -> Option<JobId> {
    path.strip_prefix(JOB_PATHS)?.parse().ok().map(JobId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_name_is_read_from_an_object_path() {
        let path = "/org/freedesktop/systemd1/unit/web_401_2eservice";
        assert_eq!(unit_of_path(path).as_deref(), Some("web@1.service"));
        let path = "/org/freedesktop/systemd1/unit/a_5cx2db_2emount";
        assert_eq!(unit_of_path(path).as_deref(), Some("a\\x2db.mount"));
        assert_eq!(unit_of_path("/org/freedesktop/systemd1"), None);
    }

    #[test]
    fn job_number_is_read_from_an_object_path() {
        assert_eq!(job_of_path("/org/freedesktop/systemd1/job/42"), Some(JobId(42)));
        assert_eq!(job_of_path("/"), None);
    }
}
