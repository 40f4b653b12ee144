//! One etcd member: its connection, made when it is needed and made anew when it broke.
//!
//! Called by the fail-over. At most one connection is being made at a time, in a task of its own that goes on when its
//! first caller has given up: etcd spends a tenth of a second on a password, and many machines that all start over
//! after a time-out would keep it from ever answering.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::{Instant, timeout};

use super::belonging::{Belonging, Stranger};
use super::classify::{Asked, Failure, classify, is_authentication_off};
use super::credentials::{Credentials, Pems};
use super::options::EtcdOptions;
use super::place::Place;
use crate::store::{Operation, StoreError};

/// etcd hangs up on clients that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// A member that does not answer a ping within this is given up, with its watches.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// For a password check behind those of all the other machines, after a member's start.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// When it ended, and how.
type Opening = Shared<BoxFuture<'static, (Instant, Result<Arc<Client>, Failure>)>>;

enum Slot {
    Closed,
    Opening(Opening),
    Open(Arc<Client>),
}

pub(super) struct Member {
    login: Arc<Login>,
    slot: Mutex<Slot>,
}

impl Member {
    pub fn new(url: &str, options: &EtcdOptions) -> Result<Self, StoreError> {
        let login = Login {
            place: Place::parse(url, options.tls.is_some())?,
            connect: connect_options(options),
            user: options.user.clone(),
            tls: options.tls.clone().map(Credentials::new),
            belonging: options.belonging.clone(),
            endpoints: options.endpoints.len(),
            answers_within: options.request_timeout,
        };
        Ok(Self { login: Arc::new(login), slot: Mutex::new(Slot::Closed) })
    }

    pub fn url(&self) -> &str {
        self.login.place.url()
    }

    /// # Errors
    /// It belongs to another cluster than the one in use. Zero is none.
    pub fn judge(&self, cluster: u64) -> Result<(), Stranger> {
        self.login.judge(cluster)
    }

    pub fn place(&self) -> &Place {
        &self.login.place
    }

    /// The connection, made first if there is none. `patience`: how long this caller waits for that.
    ///
    /// # Errors
    /// Nothing was sent then.
    pub async fn client(&self, patience: Duration) -> Result<Arc<Client>, Failure> {
        let began = Instant::now();
        loop {
            let opening = match self.connection() {
                Ok(client) => return Ok(client),
                Err(opening) => opening,
            };
            let left = patience.saturating_sub(began.elapsed());
            let Ok((ended, outcome)) = timeout(left, opening.clone()).await else {
                return Err(Failure::NotApplied(format!("no connection within {patience:?}")));
            };
            let mut slot = self.lock();
            if matches!(&*slot, Slot::Opening(current) if current.ptr_eq(&opening)) {
                *slot = outcome.as_ref().map_or(Slot::Closed, |client| Slot::Open(Arc::clone(client)));
            }
            // An attempt that failed when nobody waited any more says nothing of now.
            if outcome.is_ok() || ended >= began {
                return outcome;
            }
        }
    }

    /// The connection, or the one that is being made.
    fn connection(&self) -> Result<Arc<Client>, Opening> {
        let mut slot = self.lock();
        match &*slot {
            Slot::Open(client) if !self.login.belonging.is_stranger(self.url()) => Ok(Arc::clone(client)),
            Slot::Opening(opening) => Err(opening.clone()),
            Slot::Open(_) | Slot::Closed => {
                let login = Arc::clone(&self.login);
                let task = tokio::spawn(async move {
                    let outcome = login.open().await;
                    (Instant::now(), outcome)
                });
                let opening = async move {
                    task.await.unwrap_or_else(|_| {
                        (Instant::now(), Err(Failure::NotApplied("fleetd is ending".to_owned())))
                    })
                };
                let opening = opening.boxed().shared();
                *slot = Slot::Opening(opening.clone());
                Err(opening)
            }
        }
    }

    /// A connection of its own without a user, which also a member without a leader answers.
    pub async fn probe(&self) -> Result<Client, Failure> {
        let connect = self.login.connect.clone().with_require_leader(false);
        self.login.connect(connect).await.map_err(|error| failure(&error))
    }

    /// A connection of its own with the user, which also a member without a leader answers.
    pub async fn reader(&self) -> Result<Client, Failure> {
        let connect = self.login.connect.clone().with_require_leader(false);
        self.login.log_in(connect).await.map_err(|error| failure(&error))
    }

    /// The next call makes a new connection, unless another caller has made one since `client` was given.
    pub fn forget(&self, client: &Arc<Client>) {
        let mut slot = self.lock();
        if matches!(&*slot, Slot::Open(current) if Arc::ptr_eq(current, client)) {
            *slot = Slot::Closed;
        }
    }

    #[cfg(test)]
    pub fn has_failed(&self) -> bool {
        matches!(&*self.lock(), Slot::Opening(opening)
            if matches!(opening.clone().now_or_never(), Some((_, Err(_)))))
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().expect("nobody panics while holding it")
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("url", &self.url()).finish_non_exhaustive()
    }
}

struct Login {
    place: Place,
    connect: ConnectOptions,
    user: Option<(String, String)>,
    tls: Option<Credentials>,
    belonging: Belonging,
    /// How many there are of which this is one.
    endpoints: usize,
    answers_within: Duration,
}

impl Login {
    async fn open(self: Arc<Self>) -> Result<Arc<Client>, Failure> {
        match timeout(LOGIN_TIMEOUT, self.log_in(self.connect.clone())).await {
            Ok(Ok(client)) => self.of_our_cluster(client).await.map(Arc::new),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::NotApplied(format!("no connection within {LOGIN_TIMEOUT:?}"))),
        }
    }

    async fn log_in(&self, options: ConnectOptions) -> Result<Client, etcd_client::Error> {
        let Some((name, password)) = &self.user else { return self.connect(options).await };
        match self.connect(options.clone().with_user(name, password)).await {
            Err(error) if is_authentication_off(&error) => self.connect(options).await,
            outcome => outcome,
        }
    }

    /// Asks before anything else is sent. Every member answers that by itself, whoever asks.
    async fn of_our_cluster(&self, client: Client) -> Result<Client, Failure> {
        let mut maintenance = client.maintenance_client();
        let Ok(status) = timeout(self.answers_within, maintenance.status()).await else {
            let detail = format!("connected, but no answer within {:?}", self.answers_within);
            return Err(Failure::NotApplied(detail));
        };
        let status = status.map_err(|error| failure(&error))?;
        let cluster = status.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
        self.judge(cluster).map_err(|stranger| Failure::NotApplied(stranger.to_string()))?;
        Ok(client)
    }

    fn judge(&self, cluster: u64) -> Result<(), Stranger> {
        if cluster == 0 {
            return Ok(());
        }
        self.belonging.judge(self.place.url(), cluster, self.endpoints)
    }

    async fn connect(&self, mut options: ConnectOptions) -> Result<Client, etcd_client::Error> {
        let url = self.place.next_url().await.map_err(etcd_client::Error::EndpointError)?;
        if let Some(tls) = &self.tls {
            // The address stands in the URL, the certificate names the host.
            let pems = tls.read().await.map_err(etcd_client::Error::EndpointError)?;
            options = options.with_tls(tls_options(&pems).domain_name(self.place.host()));
        }
        Client::connect([url], Some(options)).await
    }
}

/// While a connection is only being made, the call itself cannot have been sent.
fn failure(error: &etcd_client::Error) -> Failure {
    match classify(Asked::new(Operation::Connect), error) {
        Failure::Ambiguous(detail) | Failure::Broken { detail, .. } => Failure::NotApplied(detail),
        other => other.without_token(Operation::Connect),
    }
}

fn connect_options(options: &EtcdOptions) -> ConnectOptions {
    ConnectOptions::new()
        .with_connect_timeout(options.connect_timeout())
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        // etcd counts pings on a connection without calls as abuse.
        .with_keep_alive_while_idle(false)
        .with_require_leader(true)
        // The fail-over authenticates anew: one for all callers, and not within the time of one of them.
        .with_auto_token_refresh(false)
}

fn tls_options(pems: &Pems) -> TlsOptions {
    let wire = match &pems.ca {
        Some(ca) => TlsOptions::new().ca_certificate(Certificate::from_pem(ca)),
        None => TlsOptions::new().with_enabled_roots(),
    };
    match &pems.identity {
        Some((certificate, key)) => wire.identity(Identity::from_pem(certificate, key)),
        None => wire,
    }
}
