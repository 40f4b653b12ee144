//! One connection to the bus that is replaced when it dies, and the calls over it. Every call is bounded in
//! time and in number in flight; nothing here knows what a unit is for.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout_at},
};
use zbus::{Connection, DynamicType, Message, OwnedObjectPath, OwnedVariant, Type, fdo};

use crate::{error::SystemdError, types::UnitName};

pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
pub(super) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
pub(super) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
pub(super) const BUS: &str = "org.freedesktop.DBus";
pub(super) const BUS_PATH: &str = "/org/freedesktop/DBus";

/// Whom a call goes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub destination: &'static str,
    pub path: &'a str,
    pub interface: &'static str,
}

pub(super) const TO_MANAGER: Target<'static> =
    Target { destination: SYSTEMD, path: MANAGER_PATH, interface: MANAGER };

/// What is said in an error: the operation and the unit it was about.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub operation: &'static str,
    pub unit: Option<&'a UnitName>,
}

impl<'a> About<'a> {
    pub(super) fn unit(operation: &'static str, unit: &'a UnitName) -> Self {
        Self { operation, unit: Some(unit) }
    }

    pub(super) fn machine(operation: &'static str) -> Self {
        Self { operation, unit: None }
    }
}

#[derive(Debug)]
pub(super) struct Bus {
    /// `None` while disconnected.
    current: watch::Receiver<Option<Connection>>,
    in_flight: Arc<Semaphore>,
    call_timeout: Duration,
}

impl Bus {
    pub(super) fn new(
        current: watch::Receiver<Option<Connection>>,
        in_flight: usize,
        call_timeout: Duration,
    ) -> Self {
        Self { current, in_flight: Arc::new(Semaphore::new(in_flight)), call_timeout }
    }

    /// Calls a method and reads its answer.
    pub(super) async fn call<B, A>(
        &self,
        about: About<'_>,
        target: Target<'_>,
        method: &'static str,
        body: &B,
    ) -> Result<A, SystemdError>
    where
        B: Serialize + DynamicType + Sync,
        A: DeserializeOwned + Type,
    {
        let disconnected = |message: &str| SystemdError::Disconnected {
            operation: about.operation,
            message: message.to_owned(),
        };
        let timed_out = SystemdError::TimedOut { operation: about.operation, after: self.call_timeout };
        let deadline = Instant::now() + self.call_timeout;
        let Ok(permit) = timeout_at(deadline, self.in_flight.acquire()).await else { return Err(timed_out) };
        let connection = self.current.borrow().clone().ok_or_else(|| disconnected("the bus is gone"))?;
        let call = call_on(&connection, target, method, body);
        let answer = timeout_at(deadline, call).await;
        drop(permit);
        let message = answer.map_err(|_| timed_out)?.map_err(|error| translate(about, error))?;
        message.body().deserialize().map_err(|error| SystemdError::Malformed {
            operation: about.operation,
            message: error.to_string(),
        })
    }

    /// Reads one property.
    pub(super) async fn get<T>(
        &self,
        about: About<'_>,
        path: &str,
        interface: &str,
        property: &'static str,
    ) -> Result<T, SystemdError>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: std::fmt::Display,
    {
        let target = Target { destination: SYSTEMD, path, interface: PROPERTIES };
        let value: OwnedVariant = self.call(about, target, "Get", &(interface, property)).await?;
        T::try_from(value).map_err(|error| SystemdError::Malformed {
            operation: about.operation,
            message: format!("{property}: {error}"),
        })
    }

    /// Object path of a loaded unit; `None` when it is not loaded.
    pub(super) async fn loaded_path(
        &self,
        about: About<'_>,
        name: &str,
    ) -> Result<Option<OwnedObjectPath>, SystemdError> {
        match self.call(about, TO_MANAGER, "GetUnit", &(name,)).await {
            Ok(path) => Ok(Some(path)),
            Err(SystemdError::NoSuchUnit { .. }) => Ok(None),
            // Said so where the call is not about a unit of fleet's.
            Err(SystemdError::Refused { name, .. }) if name.ends_with("NoSuchUnit") => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }
}

/// A bare call, without bounds.
pub(super) async fn call_on<B>(
    connection: &Connection,
    target: Target<'_>,
    method: &'static str,
    body: &B,
) -> zbus::Result<Message>
where
    B: Serialize + DynamicType + Sync,
{
    connection.call_method(Some(target.destination), target.path, Some(target.interface), method, body).await
}

/// D-Bus's errors in our words.
pub(super) fn translate(about: About<'_>, error: zbus::Error) -> SystemdError {
    let operation = about.operation;
    match error {
        zbus::Error::MethodError(name, message, _) => {
            refused(about, name.as_str(), message.unwrap_or_default())
        }
        zbus::Error::FDO(error) => match *error {
            fdo::Error::AccessDenied(message)
            | fdo::Error::InteractiveAuthorizationRequired(message)
            | fdo::Error::AuthFailed(message) => SystemdError::AccessDenied { operation, message },
            // A unit that was unloaded under the read of one of its properties.
            fdo::Error::UnknownObject(message) => refused(about, "NoSuchUnit", message),
            fdo::Error::LimitsExceeded(message) => SystemdError::RateLimited { operation, message },
            fdo::Error::NoReply(message)
            | fdo::Error::Disconnected(message)
            | fdo::Error::ServiceUnknown(message)
            | fdo::Error::NameHasNoOwner(message)
            | fdo::Error::NoServer(message)
            | fdo::Error::Timeout(message)
            | fdo::Error::TimedOut(message) => SystemdError::Disconnected { operation, message },
            other => refused(about, "org.freedesktop.DBus.Error", other.to_string()),
        },
        zbus::Error::InputOutput(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_) => {
            SystemdError::Disconnected { operation, message: error.to_string() }
        }
        other => SystemdError::Malformed { operation, message: other.to_string() },
    }
}

fn refused(about: About<'_>, name: &str, message: String) -> SystemdError {
    let operation = about.operation;
    let short = name.strip_prefix("org.freedesktop.systemd1.").unwrap_or(name);
    let Some(unit) = about.unit.cloned() else {
        let subject = "the machine".to_owned();
        return SystemdError::Refused { operation, subject, name: name.to_owned(), message };
    };
    match short {
        "NoSuchUnit" => SystemdError::NoSuchUnit { unit },
        "UnitMasked" => SystemdError::UnitMasked { unit },
        "BadUnitSetting" => SystemdError::BadSetting { unit, message },
        "LoadFailed" => SystemdError::LoadFailed { unit, message },
        "TransactionIsDestructive" => SystemdError::TransactionIsDestructive { unit, message },
        "TransactionJobsConflicting" | "TransactionOrderIsCyclic" => {
            SystemdError::TransactionConflict { unit, message }
        }
        "OnlyByDependency" => SystemdError::OnlyByDependency { unit },
        "JobTypeNotApplicable" => SystemdError::JobTypeNotApplicable { unit, message },
        _ => SystemdError::Refused { operation, subject: unit.to_string(), name: name.to_owned(), message },
    }
}
